"""Commands tried on hostile files, each in a child of its own: what it answered, how long, how much memory.

A child is forked once everything is imported, so a case costs what its command does. It may write nothing
but its output, and is killed after a time.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache

LINE = 2000  # bytes that a line of an error may have


@dataclass(frozen=True)
class Answer:
    """code: the exit code, negative for the signal that ended it. seconds: of the processor, not the wall.
    peak: resident bytes that it took beyond what was imported before."""

    code: int
    out: str
    err: str
    seconds: float
    peak: int


def answer(arguments: Sequence[str], limit: float = 60) -> Answer:
    """`anytime-cls ARGUMENTS` in a child, killed after `limit` seconds of the wall."""
    from anytime_cls_cli.main import main

    return in_child(lambda: main(list(arguments)), limit)


def in_child(work: Callable[[], int], limit: float = 60) -> Answer:
    """work() in a child, which gives the exit code."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        before = baseline()
        pid = os.fork()
        if not pid:
            _child(work, out.fileno(), err.fileno())
        status, usage = _wait(pid, time.monotonic() + limit)
        seconds = usage.ru_utime + usage.ru_stime
        text = []
        for file in (out, err):
            file.seek(0)
            text.append(file.read().decode("utf-8", "replace"))
    peak = max(0, peak_of(usage) - before)
    return Answer(os.waitstatus_to_exitcode(status), text[0], text[1], seconds, peak)


def _child(work: Callable[[], int], out: int, err: int) -> None:
    code = 70
    try:
        for given, standard in ((os.open(os.devnull, os.O_RDONLY), 0), (out, 1), (err, 2)):
            os.dup2(given, standard)
        sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115
        code = work()
        sys.stdout.flush()
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _wait(pid: int, until: float) -> tuple[int, resource.struct_rusage]:
    while True:
        done, status, usage = os.wait4(pid, os.WNOHANG)
        if done:
            return status, usage
        if time.monotonic() > until:
            os.kill(pid, signal.SIGKILL)
            _, status, usage = os.wait4(pid, 0)
            return status, usage
        time.sleep(0.002)


@cache
def baseline() -> int:
    """Bytes of a child that does nothing."""
    pid = os.fork()
    if not pid:
        os._exit(0)
    return peak_of(os.wait4(pid, 0)[2])


def peak_of(usage: resource.struct_rusage) -> int:
    """The most bytes that a child had in memory."""
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


@dataclass
class Tally:
    """What the cases came to. seconds, peak: the most that one may take."""

    seconds: float = 30.0
    peak: int = 2 << 30
    tried: int = 0
    codes: dict[int, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    slowest: tuple[float, str] = (0.0, "")
    largest: tuple[int, str] = (0, "")

    def add(self, case: str, got: Answer, lines: int = 1, fault: str = "") -> None:
        """lines: of an error. fault: what else was found wrong."""
        self.tried += 1
        self.codes[got.code] = self.codes.get(got.code, 0) + 1
        self.slowest = max(self.slowest, (got.seconds, case))
        self.largest = max(self.largest, (got.peak, case))
        told = got.err.splitlines()
        wrong = [fault] if fault else []
        if got.code not in (0, 1, 2) or "Traceback" in got.err:
            wrong.append(f"exit code {got.code}, {told[-1] if told else 'nothing said'}")
        elif got.code and not told and not got.out:
            wrong.append(f"exit code {got.code}, and not a word")
        elif len(told) > lines or any(len(line.encode()) > LINE for line in told):
            wrong.append(f"{len(told)} lines, {len(got.err):,} characters: {got.err[:200]!r}")
        if got.seconds > self.seconds:
            wrong.append(f"{got.seconds:.1f} s")
        if got.peak > self.peak:
            wrong.append(f"{got.peak / 1e6:,.0f} MB")
        self.faults += [f"{case}: {what}" for what in wrong]
        for what in wrong:
            print(f"FAULT {case}: {what}", flush=True)

    def end(self, what: str) -> int:
        """Prints the figures; returns the exit code."""
        codes = ", ".join(f"{n} of exit code {code}" for code, n in sorted(self.codes.items()))
        print(f"{self.tried} {what}: {codes}")
        print(f"at most {self.slowest[0]:.1f} s ({self.slowest[1]})")
        print(f"at most {self.largest[0] / 1e6:,.0f} MB ({self.largest[1]})")
        print(f"{len(self.faults)} faults")
        return 1 if self.faults else 0
