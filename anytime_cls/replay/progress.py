"""Races as they went: who led, what was spent and how many classes were in after every step.

From a live trace, whose missing scores say who had left; or from a full trace, on which a rule is raced. The
anytime curve (accuracy against a budget) and the picture of classes leaving come from this. Pure NumPy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from anytime_cls.race.races import Races
from anytime_cls.traces.cost import pass_cost
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


def raced(races: Races, rungs: Mapping[int, Array], rung_cost: Mapping[int, float]) -> Scored:
    """What a stack of replayed races scored.

    rungs: what `races.run` was given of order 0, tokens → [I, C]. rung_cost: tokens → a pass in whole ones.
    """
    until = races.seen[:, None] * races.block
    orders = np.where(np.arange(races.scores.shape[1])[:, None] < until, races.scores, np.nan)
    rows, tokens = races.stage_rows, [stage.source for stage in races.stages]
    at_rungs = np.full((len(orders), len(tokens), races.n_classes), np.nan)
    for at, m in enumerate(tokens):
        inside = (races.left_stage < 0) | (races.left_stage >= at)
        at_rungs[:, at] = np.where(inside & (rows[:, at, None] > 0), rungs[m], np.nan)
    return Scored(orders, at_rungs, rows * np.array([rung_cost[m] for m in tokens]))


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
