"""Rows of races through the engine, and their numbers back to the races."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from anytime_cls.engine.job import Job
from anytime_cls.race.race import advance

if TYPE_CHECKING:
    from anytime_cls.engine.engine import Engine

SHORTLIST_ORDERS = 2  # that a budget should allow of the classes it is spent on
Rows = tuple[Job, int, np.ndarray]  # of one job: an order, and classes of its race


def score(engine: Engine, pieces: list[Rows], pad: bool) -> float:
    """Run passes, all of one length, and hand the numbers to their races; returns when they were done."""
    at = tuple(sorted({m for job, _, _ in pieces for m in job.columns()}))
    wanted = [job.piece(order, classes) for job, order, classes in pieces]
    found, ended = engine.run(wanted, at, pad), time.perf_counter()
    for (job, order, classes), sums in zip(pieces, found, strict=True):
        values = sums[:, [at.index(m) for m in job.columns()]]
        if _usable(engine, job, values):
            job.receive(order, classes, values)
    advance(job.race for job, _, _ in pieces)
    return ended


def begin(engine: Engine, job: Job) -> None:
    """Estimate every class by the job's screens, before its first order.

    Where its budget does not allow one order of all classes, a screen's best are raced, few enough for
    `SHORTLIST_ORDERS` of them: a guess that nothing was calibrated for, so the decision says so.
    """
    for number, name in enumerate(job.screens):
        _screen(engine, job, number, name)
    budget, spending = job.budget, job.spending
    if budget is None or spending is None or budget.unit == "orders" or job.race.done or job.stop:
        return
    if budget.unit == "seconds" and job.fallback and engine.is_lookup(job.fallback, len(job.classes)):
        _screen(engine, job, len(job.screens), job.fallback)  # an answer, should the machine be stalled
    job.refill()
    length = job.next_length
    if spending.fits(len(job.pending[0][1]), length):
        return
    if not job.race.estimated and job.fallback:
        _screen(engine, job, len(job.screens), job.fallback)
    rows = spending.most_rows(length)
    if job.race.estimated and rows >= 2 and not job.stop:
        job.best_first()
        job.shortlist(max(2, rows // SHORTLIST_ORDERS))


def _screen(engine: Engine, job: Job, number: int, name: str) -> None:
    """One screen of one job; without it where its budget does not allow it, and allows something less."""
    assert job.spending is not None
    screen = engine.scorer.screens[name]
    flops = screen.flops(len(job.classes))
    least = engine.cost.passes(len(job.classes), 1) * engine.cost.whole  # a token of every class
    if flops > least and not job.spending.affords(flops):
        job.race.screen(name, None)
        return
    values = screen.estimate([job.encoded], job.seed, [job.content], job.classes)[0]
    job.spending.charge_flops(flops)
    if _usable(engine, job, values):
        job.screened(number, values)
        job.race.screen(name, values)


def score_prefix(engine: Engine, job: Job, pad: bool, on_update: Callable[[Job], None] | None) -> None:
    """Not even one whole pull fits: score as much of the first order as does, for every class."""
    assert job.spending is not None
    if np.isfinite(job.race.by_order[0]).all():  # half a block did
        job.race.record_prefix(job.race.by_order[0])
        return
    everyone = np.arange(job.race.n_classes)
    half = job.spending.left / 2
    spare = half if job.spending.fits(2, job.length, seconds=half) else 0.0  # for an order of the best two
    prefix = min(job.length, job.spending.longest_prefix(len(everyone), spare))
    values = np.empty(len(everyone))
    step = engine.rows(prefix) if on_update is None else engine.tile(prefix)
    for start in range(0, len(everyone), step):
        some = everyone[start : start + step]
        values[some] = engine.run([job.piece(0, some)], (prefix,), pad)[0][:, -1]
        if not _usable(engine, job, values[some]):
            return
        job.spending.charge(len(some), prefix, len(some) / len(everyone))
        if on_update is not None:
            on_update(job)
    job.record_prefix(prefix, values)


def _usable(engine: Engine, job: Job, values: np.ndarray) -> bool:
    """Whether these numbers can be raced; a job whose numbers overflowed ends with an error."""
    if not np.isfinite(values).all():
        job.error = f"the model's log-likelihoods are not finite in {engine.scorer.dtype}: use float32"
        job.stop = "failed"
        job.pending.clear()
    return not job.error
