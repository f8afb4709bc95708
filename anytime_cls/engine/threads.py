"""How many threads of the CPU a batch runs on: one, half of them or all, whichever is fastest now.

Threads of a batch wait for one another at every loop. Beside other busy processes one of them lacks a core,
and all wait for it: two threads were 7 times slower than one on two cores of which one was busy, and they
are 1.7 times faster where both are idle. Nothing but a trial tells the two apart.

Scores do not depend on the number: rows go through the model in tiles, and kernels cut a tile's rows, not
its sums, among 1, 2, 4, ... threads (docs/sweep.md).
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import final

import torch

LATE = 3.0  # times its forecast: a batch that takes so long has the number of threads looked at again
AGAIN = 60.0  # seconds after which it is looked at again in any case: the machine may have become idle
SHARE = 0.05  # of the time, at most, goes into trials
CLEAR = 1.5  # a choice this much faster is taken after one trial of each
TRIALS = 3  # of each otherwise


_ours: tuple[int, int] | None = None  # torch's number before a choice was made, and the choice


def _set(count: int) -> None:
    global _ours
    _ours = ambient(), count
    torch.set_num_threads(count)


def ambient() -> int:
    """Torch's number of threads, as it is when nobody chooses."""
    now = torch.get_num_threads()
    return now if _ours is None or _ours[1] != now else _ours[0]


def usable_cores() -> int:
    """Cores that this process may use: its affinity, and its container's quota (Linux)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(cores, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # no cgroup, or no quota ("max")
        return cores


def threads_each(count: int = 1) -> int:
    """Most CPU threads for each of `count` processes: a power of two, within their share of the cores.

    Kernels cut their work by threads. Cut in 1, 2, 4, 8 or 16 they give the same bits (measured with the
    embedded models), in 3 or 5 they need not; and a trace must not depend on how many workers there were.
    """
    most = max(1, min(ambient(), usable_cores() // count))
    return 1 << (most.bit_length() - 1)


@final
class Threads:
    """The number of threads, and whether it should be looked at again.

    Parameters
    ----------
    given : the caller's number, which is kept; None chooses. Either is torch's for the whole process

    Attributes
    ----------
    due, late : whether a trial is worth its time, and whether that is because a batch was late
    """

    def __init__(self, given: int | None = None):
        self.most = given or threads_each()
        self.count = self.most
        self.choices = (given,) if given else tuple(sorted({1, max(1, self.most // 2), self.most}))
        self.due, self.late = len(self.choices) > 1, False
        self.trial = 0.0  # seconds that one took on the number chosen
        self._flops = 0.0  # of a trial
        self._ended, self._took = -math.inf, 0.0  # when the last trials ended, and what all of them took
        if given:
            _set(given)

    def __str__(self) -> str:
        many = f"{self.count} thread{'s' * (self.count > 1)}"
        return many if self.count == self.most else f"{self.count} of {self.most} threads (faster now)"

    def choose(self, run: Callable[[], object], flops: float) -> None:
        """Time a batch of so many FLOPs on every number, and keep the fastest."""
        began, seconds = time.perf_counter(), dict.fromkeys(self.choices, 0.0)
        _set(1)
        run()  # the first pays for allocation
        trials = 0
        while trials < TRIALS:
            trials += 1
            for count in self.choices:
                _set(count)
                start = time.perf_counter()
                run()
                seconds[count] += time.perf_counter() - start
            best, second, *_ = sorted(seconds.values())
            if second > CLEAR * best:
                break
        self.count = min(self.choices, key=lambda count: seconds[count])
        _set(self.count)
        self.trial, self._flops, self.due = seconds[self.count] / trials, flops, False
        self.late = False
        self._ended = time.perf_counter()
        self._took = self._ended - began

    def watch(self, seconds: float, flops: float) -> None:
        """Learn what a batch took: a late one, or much time gone by, makes a trial due."""
        since = time.perf_counter() - self._ended
        if len(self.choices) == 1 or self.due or since * SHARE < self._took:
            return
        self.late = seconds > LATE * self.trial * max(1.0, flops / self._flops)
        self.due = self.late or since > AGAIN

    def retreat(self) -> None:
        """One thread, without a trial, if a batch was late: where many are late, one waits for nobody."""
        if self.late and self.count > 1:
            self.count = 1
            _set(1)
