"""The races of a trace as they went, live or replayed: what pictures of them are drawn from."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from anytime_cls.curves.file import CurveRun
from anytime_cls.curves.study import StudyError, StudyRun
from anytime_cls.plan.plan import RacePlan
from anytime_cls.plan.written import pull_of, read, read_race
from anytime_cls.race.races import run
from anytime_cls.replay.progress import Progress, Scored, progress, raced, recorded
from anytime_cls.replay.source import Source
from anytime_cls.traces.cost import pass_cost
from anytime_cls.traces.read import Trace

Array = np.ndarray


def replayed(trace: Trace, plan: RacePlan, images: Array | None = None) -> Iterator[tuple[Array, Scored]]:
    """(images, what a replayed run's races scored) over a full trace, a stack of images at a time.

    images: only these rows of the trace, one stack each; default all, without those that failed.
    """
    source, names = Source(trace), [stage.source for stage in plan.rule.first_stages]
    k_max, prefix = plan.design.k_max, plan.design.steps
    for rows, orders, first in _stacks(source, k_max, prefix, names, images):
        yield rows, raced(run(plan.rule, orders, first, source.block), first, trace.attrs)


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
    source: Source, k_max: int, prefix: int, names: list[int | str], images: Array | None
) -> Iterator[tuple[Array, Array, dict[int | str, Array]]]:
    """(images [i], their scores order by order [i, K, C], what each stage estimates [i, C])."""
    trace = source.trace
    if images is not None:
        for i in images.tolist():
            first = {name: source.estimates_of(i, name) for name in names}
            yield np.array([i]), trace.matrix(i, k_max, prefix)[None], first
        return
    at = 0
    others = [source.stage_stacks(name) for name in names]
    for stack in trace.full_matrix(source.batch, prefix, k_max):
        good = source.good[at : at + len(stack)]
        if good.any():
            first = {name: next(other) for name, other in zip(names, others, strict=True)}
            yield at + np.flatnonzero(good), stack[good], first
        at += len(stack)


def trace_progress(trace: Trace, plan: RacePlan | None = None) -> Progress:
    """`progress` of every image of a trace, in the order of the run; holds one stack of scores at a time.

    plan: of a replayed run (`plan_of`), raced over a full trace; None takes the trace's own races. Images
    that failed have rows without sense.
    """
    block = pull_of(trace.attrs)
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
