"""One race against the clock: no batch starts that is expected to end too late."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from anytime_cls.engine.job import Job
from anytime_cls.engine.passes import SHORTLIST_ORDERS, Rows, begin, score, score_prefix
from anytime_cls.engine.spending import Spending

if TYPE_CHECKING:
    from anytime_cls.engine.engine import Engine

SLICE = 0.05  # share of a time budget that one batch may take


def race_timed(engine: Engine, job: Job, on_update: Callable[[Job], None] | None) -> None:
    """Run a race under a budget in seconds to its end."""
    engine.calibrate()
    assert job.budget is not None
    spending = job.spending = Spending(job.budget, engine.cost, engine.n_tokens, job.started)
    begin(engine, job)
    if on_update is not None and job.race.estimated:
        on_update(job)
    ended = 0.0  # the last batch
    while not job.finished():
        engine.settle(spending.left)
        job.refill()
        if not job.scored:
            job.best_first()
        (order, classes), length = job.pending[0], job.next_length
        ahead = 0.0 if job.views is None else job.views.seconds_ahead(order)
        if not spending.fits(len(classes), length, seconds=ahead):
            if not _smaller(job, spending, ahead):
                _end(engine, job, on_update)
            continue
        # several orders of a short field may share a batch, as far as the clock allows
        allowed = max(SLICE * job.budget.amount, engine.cost.seconds(1, length))
        within = engine.cost.rows_within(min(allowed, spending.left - ahead), length)
        room = min(engine.rows(length), within)
        job.look_ahead(min(room, engine.cost.balanced_rows(length)))
        pieces: list[Rows] = []
        while room > 0 and (piece := job.take(room)) is not None:
            pieces.append((job, *piece))
            room -= len(piece[1])
            if job.views is not None:  # the clock is asked before every view
                break
        if ended:
            engine.cost.observe_rest(time.perf_counter() - ended)
        ended = score(engine, pieces, pad=False)
        rows = sum(len(piece[2]) for piece in pieces)
        spending.charge(rows, length, rows / max(1, len(classes)))
        if on_update is not None:
            on_update(job)
    job.seconds = time.perf_counter() - job.started


def _smaller(job: Job, spending: Spending, ahead: float) -> bool:
    """Where an order of all who are in does not fit, one of the best of them may: at least of two.

    An order that is begun is ended for as many as can be; of a new one so few are let in that
    `SHORTLIST_ORDERS` of them fit, or two. The answer is then no longer the whole race's: the job says so.
    """
    if not (job.race.n or job.race.estimated):
        return False  # nobody knows who is best
    rows = spending.most_rows(job.next_length, ahead)
    if job.scored:
        at_rung = job.next_length != job.length
        return (rows > 0 or not at_rung) and job.shortlist(rows)
    return rows >= 2 and job.shortlist(max(2, rows // SHORTLIST_ORDERS))


def _end(engine: Engine, job: Job, on_update: Callable[[Job], None] | None) -> None:
    """Nothing more fits, unless there was no answer yet: a prefix gives one, and may leave time."""
    (order, classes), length = job.pending[0], job.next_length
    begun = job.scored > 0
    job.write_down(order)
    if job.race.n == 0 and not job.race.estimated:
        score_prefix(engine, job, False, on_update)  # a first order that cannot be ended
        if not begun and not job.stop:
            return
    job.stop = job.stop or "budget"
    few = min(2, len(classes))
    takes = engine.cost.latest(few, length)
    who = "two classes" if few == 2 else "a class"
    job.unused = f"{length} tokens of {who} may take {takes * 1e3:.0f} ms"
