"""Races as they went: who led, what was spent and how many classes were in after every step.

From a live trace, whose missing scores say who had left; or from a full trace, on which a rule is raced. The
anytime curve (accuracy against a budget) and the picture of classes leaving come from this. Pure NumPy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from anytime_cls.curves import pass_cost
from anytime_cls.grids import Spec, parse_stages
from anytime_cls.orders import block_of
from anytime_cls.race import Outcomes, leave_rung, run, rungs_of
from anytime_cls.replay import STACK, Source, model_fields, trace_fields
from anytime_cls.replay import rule_of as rule_of_spec
from anytime_cls.rules import CALIBRATED, SETTINGS, Rule
from anytime_cls.trace import Scores, Trace

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class Progress:
    """I races step by step. A step is a rung inside the first order (the first `rungs` columns, if any), then
    an order; a row stays as it is once its race has ended.

    leader: int [I, S], the answer a race stopped there would give, −1 if none. spent: float [I, S], what it
    took so far, in whole passes (a pass over a prefix counts its share). racing: int [I, S], classes scored
    in the step; 1 once the race is decided.
    """

    leader: Array
    spent: Array
    racing: Array
    rungs: int = 0

    def at(self, budget: Array | float) -> Array:
        """The answers for so many passes (a number, or one an image): int [I]; −1 before a first step."""
        covered = (self.spent <= np.reshape(budget, (-1, 1))).sum(axis=1)  # spent ascends along a row
        answers = np.take_along_axis(self.leader, np.maximum(covered - 1, 0)[:, None], axis=1)[:, 0]
        return np.where(covered > 0, answers, -1)

    def first(self) -> Array:
        """What it took to have an answer: float [I]."""
        at = (self.leader >= 0).argmax(axis=1)
        return np.take_along_axis(self.spent, at[:, None], axis=1)[:, 0]

    def of(self, rows: Array) -> Progress:
        """The races of some images, by row."""
        return Progress(self.leader[rows], self.spent[rows], self.racing[rows], self.rungs)


@dataclass(frozen=True, eq=False)
class Scored:
    """What I races scored, NaN where a class was out or the race over.

    orders: [I, K, C]. rungs: of the first order, [I, R, C]. rung_cost: whole passes that each took, [I, R].
    """

    orders: Array
    rungs: Array
    rung_cost: Array


def progress(scored: Scored, block: int = 1, cost: float = 1.0) -> Progress:
    """The races that scored this.

    block: orders a pull (2 for antithetic pairs: an answer changes only when both are in). cost: of a pass,
    in whole passes.
    """
    n_images, k_max, n_classes = scored.orders.shape
    n_rungs = scored.rungs.shape[1]
    shape = (n_images, n_rungs + k_max)
    leader, racing = np.zeros(shape, int), np.zeros(shape, int)
    spent = np.zeros(shape)
    total = np.zeros((n_images, n_classes))
    taken = np.zeros(n_images)
    answer = np.full(n_images, -1)
    for step in range(n_rungs + k_max):
        k = step - n_rungs
        values = scored.rungs[:, step] if k < 0 else scored.orders[:, k]
        inside = ~np.isnan(values)
        going = inside.any(axis=1)
        if k < 0:
            taken += scored.rung_cost[:, step]
        else:
            total += np.where(inside, values, 0)
            values = total
            taken += inside.sum(axis=1) * cost
        if k < 0 or k % block == block - 1:  # the living share their orders, so sums rank as means do
            answer = np.where(going, np.where(inside, values, -np.inf).argmax(axis=1), answer)
        leader[:, step], spent[:, step] = answer, taken
        racing[:, step] = np.where(going, inside.sum(axis=1), 1)
    return Progress(leader, spent, racing, n_rungs)


def taken(outcome: Outcomes, pulls: int) -> Array:
    """Which pulls races took of each class: bool [I, pulls, C]."""
    until = np.where(outcome.left_at > 0, outcome.left_at, outcome.pulls[:, None])
    until = np.where(np.isnan(outcome.rung_gap), until, 0)
    return np.arange(pulls)[:, None] < until[:, None]


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


def recorded(trace: Trace, images: int = 256) -> Iterator[tuple[Array, Scored]]:
    """(images, what their races scored) of a trace as it was run, `images` of them at a time."""
    k_max, n_classes = int(trace.attrs["k_max"]), len(trace.labels)
    cost: dict[int, float] = {}
    held: list[tuple[Array, list[tuple[Array, float]]]] = []
    first = 0
    for number, (row, scores) in enumerate(trace):
        plane = np.full((k_max, n_classes), np.nan)
        # not an order that a budget cut short
        whole = (scores.prefix == trace.pass_tokens) & (scores.order < row.orders)
        plane[scores.order[whole], scores.cls[whole]] = scores.value[whole]
        for m in np.unique(scores.prefix).tolist():
            cost.setdefault(m, pass_cost(trace.attrs, m))
        held.append((plane, list(_rungs(scores, whole, cost, n_classes))))
        if len(held) == images or number == len(trace) - 1:
            n_rungs = max(len(rungs) for _, rungs in held)
            at_rungs = np.full((len(held), n_rungs, n_classes), np.nan)
            rung_cost = np.zeros((len(held), n_rungs))
            for i, (_, rungs) in enumerate(held):
                for r, (values, paid) in enumerate(rungs):
                    at_rungs[i, r], rung_cost[i, r] = values, paid
            yield np.arange(first, number + 1), Scored(np.stack([p for p, _ in held]), at_rungs, rung_cost)
            held, first = [], number + 1


def _rungs(
    scores: Scores, whole: Array, cost: Mapping[int, float], n_classes: int
) -> Iterator[tuple[Array, float]]:
    """The scores [C] of each rung of one race, and what it took: rounds that scored no whole pass.

    A prefix that was all a budget allowed counts as one. A prefix recorded beside whole passes does not.
    """
    for number in np.setdiff1d(scores.round, scores.round[whole]):
        mine = np.flatnonzero((scores.round == number) & (scores.order == 0))
        if len(mine):
            mine = mine[scores.prefix[mine] == scores.prefix[mine[-1]]]
            values = np.full(n_classes, np.nan)
            values[scores.cls[mine]] = scores.value[mine]
            yield values, len(mine) * cost[int(scores.prefix[mine[0]])]


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
