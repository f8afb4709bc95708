"""How fast a scorer of any kind is, through its own `score`: nothing is known of its network.

A pass is what it is everywhere: all steps of a draw for one class, or of a joint scorer for all classes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch

from anytime_cls.engine.bench import GAIN, Timed, peak_memory, repetitions, seconds_of
from anytime_cls.scorers.base import Encoded, Piece, Scorer, Shape

Array = np.ndarray
MOST_ROWS = 256  # that a search goes to


def pass_words(shape: Shape, classes: int) -> str:
    """What a pass is, for people: "a pass is one draw (a time and a noise) of one class"."""
    if shape.joint:
        return f"a pass gives all {classes} classes of a picture"
    if shape.unit == "loss":
        return "a pass is one draw (a time and a noise) of one class"
    return "a pass is one draw of one class" + (f", {shape.steps} steps" if shape.steps > 1 else "")


def pieces(scorer: Scorer, encoded: Encoded, classes: int, rows: int, steps: int) -> list[Piece]:
    """So many passes over the first draw's `steps`: one picture and many classes, or as many pictures of a
    joint scorer."""
    draw = scorer.shape.draws("uniform", steps).at(0, b"", 0)
    if scorer.shape.joint:
        return [Piece(encoded, draw, np.arange(classes))] * rows
    return [Piece(encoded, draw, np.arange(rows) % classes)]


def check_scores(scorer: Scorer, encoded: Encoded, classes: int) -> Array:
    """One picture scored for every class: float64 [C]. Raises ValueError for what cannot be raced."""
    steps = scorer.shape.steps
    rows = 1 if scorer.shape.joint else classes
    (found,) = scorer.score(pieces(scorer, encoded, classes, rows, steps), (steps,))
    if found.shape != (classes, 1) or not np.isfinite(found).all():
        raise ValueError(f"its scores of a picture are no {classes} finite numbers: {found.ravel()[:3]}")
    column: Array = found[:, 0]
    return column


def measure_scorer(
    scorer: Scorer, encoded: Encoded, classes: int, rows: Sequence[int], steps: Sequence[int], seconds: float
) -> list[Timed]:
    """A picture scored at every number of passes and steps, in turns, for about `seconds`; each at least 3
    times. Raises torch's error, or MemoryError, where one does not fit."""
    device, jobs = torch.device(scorer.device), []
    began = time.perf_counter()
    for m in steps:
        for n in sorted(rows):
            work = _work(scorer, encoded, classes, n, m)
            flops = n * scorer.shape.flops(m, 1) if scorer.shape.joint else scorer.shape.flops(m, n)
            jobs.append((Timed(n, m, flops, peak_memory(work, device)), work))
    for _ in repetitions(seconds, began):
        for row, work in jobs:
            row.seconds.append(seconds_of(work, device))
    return [row for row, _ in jobs]


def fastest_rows(scorer: Scorer, encoded: Encoded, classes: int, seconds: float) -> dict[int, float]:
    """Passes in a call, 1, 2, 4, ... → passes a second, until two doublings in a row bring nothing, memory
    ends or about `seconds` are over. The first is always tried."""
    device, speeds = torch.device(scorer.device), dict[int, float]()
    began, n, idle = time.perf_counter(), 1, 0
    while n <= MOST_ROWS and idle < 2:
        work = _work(scorer, encoded, classes, n, scorer.shape.steps)
        try:
            seconds_of(work, device)  # the first of a size pays for allocation
            took = seconds_of(work, device)
        except (RuntimeError, MemoryError):
            if not speeds:
                raise
            break
        idle = 0 if n / took > GAIN * max(speeds.values(), default=0.0) else idle + 1
        speeds[n] = n / took
        if time.perf_counter() - began + 4 * took > seconds:
            break
        n *= 2
    return speeds


def _work(scorer: Scorer, encoded: Encoded, classes: int, rows: int, steps: int) -> Callable[[], object]:
    return partial(scorer.score, pieces(scorer, encoded, classes, rows, steps), (steps,))
