"""The races of a trace as they went, live or replayed: what pictures of them are drawn from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from anytime_cls.curves.full import rule_of as rule_of_spec
from anytime_cls.curves.grids import Spec
from anytime_cls.draws.orders import block_of
from anytime_cls.models.known import model_fields
from anytime_cls.race.peers import parse_stages
from anytime_cls.race.races import leave_rung, run, rungs_of
from anytime_cls.race.registry import CALIBRATED, SETTINGS
from anytime_cls.race.rules import Rule
from anytime_cls.replay.progress import (
    Progress,
    Scored,
    progress,
    recorded,
    taken,
)
from anytime_cls.replay.source import STACK, Source
from anytime_cls.traces.cost import pass_cost
from anytime_cls.traces.known import trace_fields
from anytime_cls.traces.read import Trace

Array = np.ndarray


def rule_of(trace: Trace, settings: Mapping[str, Any]) -> Rule:
    """The rule of a replayed run, from its settings and what is known of the trace's model (`model_fields`).

    Raises ValueError for a calibrated rule whose calibration is not at hand.
    """
    name = str(settings["rule"])
    own = {key: settings[key] for key in SETTINGS.get(name, ()) if key in settings}
    if "stages" in own:
        own["stages"] = parse_stages(own["stages"])
    if "delta" in settings:
        own["delta"] = float(settings["delta"])
    k_max, prefix = int(settings["k_max"]), int(settings.get("prefix", trace.pass_tokens))
    recorded_only = None if prefix == trace.pass_tokens else prefix
    spec = Spec(name, k_max, name, "k_max", float(k_max), own, recorded_only)
    # the trace has the priors of its own passes; to look for its model takes a second
    more = name in (CALIBRATED, "value") or recorded_only is not None
    return rule_of_spec(Source(trace), model_fields(trace) if more else trace_fields(trace), spec)


def replayed(trace: Trace, settings: Mapping[str, Any], images: Array | None = None) -> Iterator[
    tuple[Array, Scored]
]:  # fmt: skip
    """(images, what a replayed run's races scored) over a full trace, a stack of images at a time.

    images: only these rows of the trace, one stack each; default all, without those that failed.
    """
    source, rule, k_max = Source(trace), rule_of(trace, settings), int(settings["k_max"])
    prefix = int(settings.get("prefix", trace.pass_tokens))
    rungs = rungs_of(rule)
    for rows, orders, first in _stacks(source, k_max, prefix, [m for m, _ in rungs], images):
        pulls = orders.reshape(len(rows), k_max // source.block, source.block, -1).mean(axis=2)
        outcome = run(rule, pulls, first)
        mask = np.repeat(taken(outcome, pulls.shape[1]), source.block, axis=1)
        at_rungs = np.full((len(rows), len(rungs), source.n_classes), np.nan)
        alive = np.ones((len(rows), source.n_classes), bool)
        for at, (m, gap) in enumerate(rungs):
            alive &= alive.sum(axis=1, keepdims=True) > 1  # who is alone is asked no more
            at_rungs[:, at] = np.where(alive, first[m], np.nan)
            alive, _ = leave_rung(first[m], alive, gap)
        cost = (~np.isnan(at_rungs)).sum(axis=2) * np.array([pass_cost(trace.attrs, m) for m, _ in rungs])
        yield rows, Scored(np.where(mask, orders, np.nan), at_rungs, cost)


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


def trace_progress(trace: Trace, settings: Mapping[str, Any] | None = None) -> Progress:
    """`progress` of every image of a trace, in the order of the run; holds one stack of scores at a time.

    settings: of a replayed run (`CurveRun.settings`), raced over a full trace; None takes the trace's own
    races. Images that failed have rows without sense.
    """
    block = block_of(str(trace.attrs.get("order_sampler", "uniform")))
    prefix = None if settings is None else settings.get("prefix")
    cost = pass_cost(trace.attrs, prefix)
    stacks = recorded(trace) if settings is None else replayed(trace, settings)
    parts = [(images, progress(scored, block, cost)) for images, scored in stacks]
    n_rungs = max((part.rungs for _, part in parts), default=0)
    k_max = int((settings or trace.attrs)["k_max"])
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
