"""What a batch costs: FLOPs by formula, seconds by measurement.

seconds(rows, m) ≈ overhead + slope · rows · share(m), fitted by a short calibration that is cached per
machine and model, then scaled to what the run itself observes. Predictions are deliberately high (the
90th percentile of the recent ratios), because a budget must not be overrun.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from anytime_cls.files import cache_folder, replace_file

LATE = 0.97  # of the recent batches: all but the latest of 32, since one stall of a machine is no rule
UNSURE = 1.25  # times what is expected: a cautious estimate before there are
ENOUGH = 4  # observations
SLOW = 0.5  # seconds of a single pass from which dozens of them are too many to learn from


def cache_file() -> Path:
    """Where calibrations are kept: $XDG_CACHE_HOME/anytime-cls/cost.json."""
    return cache_folder() / "cost.json"


@dataclass
class CostModel:
    """Predicts what passes cost on one device.

    Parameters
    ----------
    flops : FLOPs of a draw's first m steps for so many classes, a + b · classes (`Shape.flops`)
    n_tokens : N
    overhead : seconds a batch costs whatever it holds
    slope : seconds a whole pass adds
    """

    flops: Callable[[int, int], float]
    n_tokens: int
    overhead: float = 0.0
    slope: float = 0.0
    _ratios: deque[float] = field(default_factory=lambda: deque(maxlen=32))
    _late: deque[float] = field(default_factory=lambda: deque(maxlen=32))  # seconds, of the same batches
    _rest: deque[float] = field(default_factory=lambda: deque(maxlen=32))  # seconds between two batches
    _affine: dict[int, tuple[float, float]] = field(default_factory=dict)  # prefix → (a, b) of its FLOPs

    def affine(self, prefix: int) -> tuple[float, float]:
        """(a, b) of the a + b · classes FLOPs of a draw's first `prefix` steps."""
        if prefix not in self._affine:
            one, two = self.flops(prefix, 1), self.flops(prefix, 2)
            self._affine[prefix] = 2 * one - two, two - one
        return self._affine[prefix]

    @cached_property
    def whole(self) -> float:
        """FLOPs of a whole pass: of all steps for one class."""
        return self.flops(self.n_tokens, 1)

    def share(self, prefix: int) -> float:
        """What one more class adds to a draw's first `prefix` steps, in whole passes."""
        return self.affine(prefix)[1] / self.whole

    def shared(self, prefix: int) -> float:
        """What a draw's first `prefix` steps take whatever the classes, in whole passes."""
        return self.affine(prefix)[0] / self.whole

    def passes(self, rows: int, prefix: int, draws: float = 1) -> float:
        """So many draws' first `prefix` steps, for so many classes in all, in whole passes."""
        return rows * self.share(prefix) + draws * self.shared(prefix)

    def expected(self, rows: int, prefix: int) -> float:
        """The calibration's own estimate of a batch, seconds."""
        return self.overhead + self.slope * self.passes(rows, prefix)

    def seconds(self, rows: int, prefix: int) -> float:
        """A cautious estimate of a batch: rarely exceeded, seconds."""
        enough = len(self._ratios) >= ENOUGH
        caution = max(1.05, float(np.quantile(self._ratios, 0.9))) if enough else UNSURE
        return caution * self.expected(rows, prefix)

    def latest(self, rows: int, prefix: int) -> float:
        """The same for a batch after which nothing can be made up for: hardly ever exceeded.

        A machine that is busy with something else stalls a batch for a while, whatever its size: to what the
        batch takes comes what the last ones were late by, all of `LATE` of them.
        """
        expected = self.expected(rows, prefix)
        if len(self._ratios) < ENOUGH:
            return self.seconds(rows, prefix)
        usual, most = np.quantile(self._ratios, (0.5, LATE))
        late = float(np.quantile(self._late, LATE)) if self._late else 0.0
        return max(float(most) * expected, float(usual) * expected + late, self.seconds(rows, prefix))

    def observe(self, rows: int, prefix: int, seconds: float) -> None:
        """Learn from a batch that was run."""
        expected = self.expected(rows, prefix)
        if expected > 0:
            usual = float(np.median(self._ratios)) if self._ratios else 1.0
            self._late.append(seconds - usual * expected)
            self._ratios.append(seconds / expected)

    def observe_rest(self, seconds: float) -> None:
        """Learn what came between a batch and the next: looks, and a picture of the race."""
        self._rest.append(seconds)

    @property
    def rest(self) -> float:
        """What is rarely exceeded between two batches, seconds."""
        return float(np.quantile(self._rest, LATE)) if self._rest else 0.0

    def correct(self, rows: int, prefix: int, seconds: float) -> None:
        """Forget what was observed for the sake of a batch that was timed just now."""
        if self.expected(rows, prefix) > 0:
            self._ratios.clear()
            self._late.clear()
            self._ratios.extend([UNSURE * seconds / self.expected(rows, prefix)] * ENOUGH)

    def rows_within(self, seconds: float, prefix: int) -> int:
        """The most rows whose batch is expected to take at most `seconds`; at least 1."""
        per_row = self.seconds(1, prefix) - self.seconds(0, prefix)
        return max(1, int((seconds - self.seconds(0, prefix)) / per_row)) if per_row > 0 else 1 << 20

    def balanced_rows(self, prefix: int) -> int:
        """How many rows cost as much as the batch itself does: fewer leave the device idle."""
        each = self.slope * self.share(prefix)
        return int(self.overhead / each) if each > 0 else 0

    def calibrate(self, run: Callable[[int], float], rows: int) -> None:
        """Fit overhead and slope: `run(b)` runs a batch of b whole passes and returns its seconds."""
        run(1)  # the first batch pays for allocation and kernel selection
        if (second := run(1)) > SLOW:  # beside such a pass a batch's overhead is nothing
            self.overhead, self.slope = 0.0, (second + run(1)) / 2
            return
        small = float(np.median([second, run(1), run(1)]))
        large = float(np.median([run(rows) for _ in range(3)]))
        self.slope = max((large - small) / max(1, rows - 1), 1e-9)
        self.overhead = max(small - self.slope, 0.0)


def cache_key(*parts: object) -> str:
    """A short key for what a calibration depends on (weights, device, dtype, threads, versions)."""
    return hashlib.sha256("|".join(map(str, parts)).encode()).hexdigest()[:24]


def read_cached(key: str) -> tuple[float, float] | None:
    """(overhead, slope) of an earlier calibration, or None; a damaged cache is no cache."""
    try:
        entry = json.loads(cache_file().read_text())[key]
        overhead, slope = float(entry["overhead"]), float(entry["slope"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return (overhead, slope) if overhead >= 0 and slope > 0 else None


def write_cached(key: str, overhead: float, slope: float) -> None:
    """Remember a calibration; a cache that cannot be written is done without."""
    try:
        known = json.loads(cache_file().read_text())
    except (OSError, ValueError):
        known = {}
    if not isinstance(known, dict):
        known = {}
    known[key] = {"overhead": overhead, "slope": slope, "measured": time.strftime("%Y-%m-%dT%H:%M:%S")}
    try:
        path = cache_file()
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, json.dumps(known, indent=1).encode())
    except OSError:
        pass
