"""Races as they went: who led, what was spent and how many classes were in after every step.

From a live trace, whose missing scores say who had left; or from a full trace, on which a rule is raced. The
anytime curve (accuracy against a budget) and the picture of classes leaving come from this. Pure NumPy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from anytime_cls.plan.written import read
from anytime_cls.race.decision import SCREENED
from anytime_cls.race.races import Races, Sources, effective_pulls
from anytime_cls.race.rules import blended, known_free
from anytime_cls.traces.cost import pass_cost, screens_of, stage_cost
from anytime_cls.traces.read import Trace
from anytime_cls.traces.schema import Scores

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

    orders: [I, K, C]. rungs: what came before the first whole order (a screen's estimate, some tokens of it),
    [I, R, C]. rung_cost: whole passes that each took, [I, R]. free, more: a screen's estimate [I, C] and the
    pulls [I, 1] it counts as in the answer; None: none.
    """

    orders: Array
    rungs: Array
    rung_cost: Array
    free: Array | None = None
    more: Array | None = None


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
        if k >= 0 and scored.free is not None and scored.more is not None:  # as `Races` has its leader
            n, pulls = (k + 1) / block, k_max // block
            tau = effective_pulls(np.array(n), pulls)
            values = blended(total / n, scored.free * block, tau, scored.more)
        if k < 0 or k % block == block - 1:  # the living share their orders, so sums rank as means do
            answer = np.where(going, np.where(inside, values, -np.inf).argmax(axis=1), answer)
        leader[:, step], spent[:, step] = answer, taken
        racing[:, step] = np.where(going, inside.sum(axis=1), 1)
    return Progress(leader, spent, racing, n_rungs)


def raced(races: Races, sources: Sources, attrs: Mapping[str, Any]) -> Scored:
    """What a stack of replayed races scored. sources: as `races.run` was given them; attrs: the trace's."""
    until = races.seen[:, None] * races.block
    orders = np.where(np.arange(races.scores.shape[1])[:, None] < until, races.scores, np.nan)
    rows, names = races.stage_rows, [stage.source for stage in races.stages]
    at_rungs = np.full((len(orders), len(names), races.n_classes), np.nan)
    for at, name in enumerate(names):
        inside = (races.left_stage < 0) | (races.left_stage >= at)
        at_rungs[:, at] = np.where(inside & (rows[:, at, None] > 0), sources[name], np.nan)
    free, more = known_free(races.free, races.rule.pseudo_pulls)
    return Scored(orders, at_rungs, stage_cost(attrs, names, rows), free, more)


def recorded(trace: Trace, images: int = 256) -> Iterator[tuple[Array, Scored]]:
    """(images, what their races scored) of a trace as it was run, `images` of them at a time."""
    k_max, n_classes = int(trace.attrs["k_max"]), len(trace.labels)
    cost: dict[int, float] = {}
    staged = [
        s.source for s in read(trace.attrs, trace.labels).rule.first_stages if isinstance(s.source, str)
    ]
    if "budget" in trace.attrs:  # a screen may have answered before the first order
        staged = staged or screens_of(trace.attrs)
    screen = stage_cost(trace.attrs, staged[:1], np.ones((1, 1)))[0, 0] if staged else None
    held: list[tuple[Array, list[tuple[Array, float]]]] = []
    first = 0
    for number, (row, scores) in enumerate(trace):
        plane = np.full((k_max, n_classes), np.nan)
        # not an order that a budget cut short
        whole = (scores.prefix == trace.pass_tokens) & (scores.order < row.orders)
        plane[scores.order[whole], scores.cls[whole]] = scores.value[whole]
        for m in np.unique(scores.prefix[scores.prefix != SCREENED]).tolist():
            cost.setdefault(m, pass_cost(trace.attrs, m))
        held.append((plane, list(_rungs(scores, whole, cost, n_classes, screen))))
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
    scores: Scores, whole: Array, cost: Mapping[int, float], n_classes: int, screen: float | None
) -> Iterator[tuple[Array, float]]:
    """The scores [C] of each stage of one race, and what it took: rounds that scored no whole pass.

    screen: what the race's first screen took; None where none was raced with.

    A prefix that was all a budget allowed counts as one. A prefix recorded beside whole passes does not.
    """
    for number in np.setdiff1d(scores.round, scores.round[whole]):
        mine = np.flatnonzero((scores.round == number) & (scores.order == 0))
        if len(mine) and scores.prefix[mine[0]] == SCREENED:
            if screen is not None:
                values = np.full(n_classes, np.nan)
                values[scores.cls[mine]] = scores.value[mine]
                yield values, screen
            continue
        if len(mine):
            mine = mine[scores.prefix[mine] == scores.prefix[mine[-1]]]
            values = np.full(n_classes, np.nan)
            values[scores.cls[mine]] = scores.value[mine]
            yield values, len(mine) * cost[int(scores.prefix[mine[0]])]
