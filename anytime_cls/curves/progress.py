"""The races of a trace as they went, live or replayed: what pictures of them are drawn from."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from anytime_cls.curves.file import CurveRun
from anytime_cls.curves.study import StudyError, StudyRun
from anytime_cls.draws.orders import block_of
from anytime_cls.plan.plan import RacePlan
from anytime_cls.plan.written import read, read_race
from anytime_cls.race.races import run, rungs_of
from anytime_cls.replay.progress import Progress, Scored, progress, raced, recorded
from anytime_cls.replay.source import STACK, Source
from anytime_cls.traces.cost import pass_cost
from anytime_cls.traces.read import Trace

Array = np.ndarray


def replayed(trace: Trace, plan: RacePlan, images: Array | None = None) -> Iterator[tuple[Array, Scored]]:
    """(images, what a replayed run's races scored) over a full trace, a stack of images at a time.

    images: only these rows of the trace, one stack each; default all, without those that failed.
    """
    source, rungs = Source(trace), rungs_of(plan.rule)
    k_max, prefix = plan.design.k_max, plan.design.steps
    for rows, orders, first in _stacks(source, k_max, prefix, [m for m, _ in rungs], images):
        races = run(plan.rule, orders, first, source.block)
        yield rows, raced(races, first, {m: pass_cost(trace.attrs, m) for m, _ in rungs})


def plan_of(trace: Trace, run_: CurveRun | StudyRun) -> RacePlan | None:
    """How a replayed run of this trace was raced; None for the trace's own, live run.

    Raises StudyError for a run whose file does not say.
    """
    if run_.settings.get("source") == "live":
        return None
    if not run_.plan:
        raise StudyError("needs curves that say how each run was raced: replay the trace again")
    try:
        return read_race(read(trace.attrs, trace.labels), run_.plan)
    except ValueError as error:
        raise StudyError(f"cannot be drawn: {error}") from None


def _stacks(
    source: Source, k_max: int, prefix: int, rungs: list[int], images: Array | None
) -> Iterator[tuple[Array, Array, dict[int, Array]]]:
    """(images [i], their scores order by order [i, K, C], order 0 at each rung [i, C])."""
    trace = source.trace
    if images is not None:
        for i in images.tolist():
            first = {m: trace.matrix(i, 1, m) for m in rungs}
            yield np.array([i]), trace.matrix(i, k_max, prefix)[None], first
        return
    batch, at = max(1, STACK // source.full_cost), 0
    others = [trace.full_matrix(batch, m, 1) for m in rungs]
    for stack in trace.full_matrix(batch, prefix, k_max):
        first = {m: next(other)[:, 0] for m, other in zip(rungs, others, strict=True)}
        good = source.good[at : at + len(stack)]
        if good.any():
            yield at + np.flatnonzero(good), stack[good], {m: v[good] for m, v in first.items()}
        at += len(stack)


def trace_progress(trace: Trace, plan: RacePlan | None = None) -> Progress:
    """`progress` of every image of a trace, in the order of the run; holds one stack of scores at a time.

    plan: of a replayed run (`plan_of`), raced over a full trace; None takes the trace's own races. Images
    that failed have rows without sense.
    """
    block = block_of(str(trace.attrs.get("order_sampler", "uniform")))
    cost = pass_cost(trace.attrs, None if plan is None else plan.design.steps)
    stacks = recorded(trace) if plan is None else replayed(trace, plan)
    parts = [(images, progress(scored, block, cost)) for images, scored in stacks]
    n_rungs = max((part.rungs for _, part in parts), default=0)
    k_max = int(trace.attrs["k_max"]) if plan is None else plan.design.k_max
    shape = (len(trace), n_rungs + k_max)
    out = Progress(np.zeros(shape, int), np.zeros(shape), np.zeros(shape, int), n_rungs)
    for images, part in parts:  # a stack whose races all ended early has fewer rungs: its last one stays
        here = part.rungs
        last = np.full(n_rungs - here, max(0, here - 1))
        columns = np.concatenate([np.arange(here), last, np.arange(here, here + k_max)])
        for name in ("leader", "spent", "racing"):
            getattr(out, name)[images] = getattr(part, name)[:, columns]
        out.racing[np.ix_(images, np.arange(here, n_rungs))] = 1
    return out
