"""Races as they went: who led, what was spent and how many classes were in after every order.

From a live trace, whose missing scores say who had left; or from a full trace, on which a rule is raced. The
anytime curve (accuracy against a budget) and the picture of classes leaving come from this. Pure NumPy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from anytime_cls.grids import parse_stages
from anytime_cls.race import run
from anytime_cls.replay import STACK, Source, trace_fields
from anytime_cls.rules import SETTINGS, Rule, model_rule
from anytime_cls.trace import Trace

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class Progress:
    """I races order by order; column k is after k + 1 orders, and stays as it is once a race has ended.

    leader: int [I, K], the answer a race stopped there would give. spent: int [I, K], passes so far.
    racing: int [I, K], classes scored on order k + 1; 1 once the race is decided.
    """

    leader: Array
    spent: Array
    racing: Array

    def at(self, budget: Array | float) -> Array:
        """The answers for so many passes (a number, or one an image): int [I]; -1 before a first order."""
        covered = (self.spent <= np.reshape(budget, (-1, 1))).sum(axis=1)  # spent ascends along a row
        answers = np.take_along_axis(self.leader, np.maximum(covered - 1, 0)[:, None], axis=1)[:, 0]
        return np.where(covered > 0, answers, -1)

    def of(self, rows: Array) -> Progress:
        """The races of some images, by row."""
        return Progress(self.leader[rows], self.spent[rows], self.racing[rows])


def progress(scores: Array, block: int = 1) -> Progress:
    """Races from what they scored: [I, K, C], NaN where a class was out or the race over.

    block: orders a pull (2 for antithetic pairs: an answer changes only when both are in).
    """
    n_images, k_max, n_classes = scores.shape
    leader = np.zeros((n_images, k_max), int)
    spent = np.zeros((n_images, k_max), int)
    racing = np.zeros((n_images, k_max), int)
    total = np.zeros((n_images, n_classes))
    taken = np.zeros(n_images, int)
    answer = np.zeros(n_images, int)
    count = np.full(n_images, n_classes)
    for k in range(k_max):
        scored = ~np.isnan(scores[:, k])
        total += np.where(scored, scores[:, k], 0)
        going = scored.any(axis=1)
        taken += scored.sum(axis=1)
        if k % block == block - 1:  # the living share their orders, so sums rank as means do
            answer = np.where(going, np.where(scored, total, -np.inf).argmax(axis=1), answer)
        count = np.where(going, scored.sum(axis=1), 1)
        leader[:, k], spent[:, k], racing[:, k] = answer, taken, count
    return Progress(leader, spent, racing)


def taken(rule: Rule, pulls: Array) -> Array:
    """Which scores a rule's races would have taken of full ones [I, n, C]: bool, as `race.run` decides."""
    outcome = run(rule, pulls)
    until = np.where(outcome.left_at > 0, outcome.left_at, outcome.pulls[:, None])
    return np.arange(pulls.shape[1])[:, None] < until[:, None]


def rule_of(trace: Trace, settings: Mapping[str, Any]) -> Rule:
    """The rule of a replayed run, from its settings and the priors in the trace. Raises ValueError."""
    name = str(settings["rule"])
    own = {key: settings[key] for key in SETTINGS.get(name, ()) if key in settings}
    if "stages" in own:
        own["stages"] = parse_stages(own["stages"])
    sampler = str(trace.attrs.get("order_sampler", "uniform"))
    delta = float(settings.get("delta", 0.05))
    k_max = int(settings["k_max"])
    return model_rule(trace_fields(trace), name, delta, k_max, len(trace.labels), sampler, **own)


def replayed(trace: Trace, rule: Rule, k_max: int) -> Iterator[tuple[Array, Array]]:
    """(images, what their races by `rule` scored) over a full trace: [i], [i, K, C], NaN where not scored."""
    source = Source(trace)
    for (images, pulls), scores in zip(source.stacks(), _orders(source, k_max), strict=True):
        mask = taken(rule, pulls[:, : k_max // source.block])
        yield images, np.where(np.repeat(mask, source.block, axis=1), scores, np.nan)


def _orders(source: Source, k_max: int) -> Iterator[Array]:
    """The scores of `source.stacks` order by order, before blocks are averaged into pulls."""
    batch = max(1, STACK // source.full_cost)
    at = 0
    for stack in source.trace.full_matrix(batch, None, source.k_max):
        good = source.good[at : at + len(stack)]
        at += len(stack)
        if good.any():
            yield stack[good, :k_max]


def recorded(trace: Trace, images: int = 256) -> Iterator[tuple[Array, Array]]:
    """(images, what their races scored) of a trace as it was run, whole orders: [i], [i, K_max, C]."""
    k_max, n_classes, tokens = int(trace.attrs["k_max"]), len(trace.labels), int(trace.attrs["tokens"])
    planes: list[Array] = []
    first = 0
    for number, (row, scores) in enumerate(trace):
        plane = np.full((k_max, n_classes), np.nan)
        whole = (scores.prefix == tokens) & (
            scores.order < row.orders
        )  # not an order that a budget cut short
        plane[scores.order[whole], scores.cls[whole]] = scores.value[whole]
        planes.append(plane)
        if len(planes) == images or number == len(trace) - 1:
            yield np.arange(first, number + 1), np.stack(planes)
            planes, first = [], number + 1


def trace_progress(trace: Trace, settings: Mapping[str, Any] | None = None) -> Progress:
    """`progress` of every image of a trace, in the order of the run; holds one stack of scores at a time.

    settings: of a replayed run (`CurveRun.settings`), raced over a full trace; None takes the trace's own
    races. Images that failed have rows without sense.
    """
    block = 2 if trace.attrs.get("order_sampler") == "antithetic" else 1
    k_max = int(settings["k_max"] if settings else trace.attrs["k_max"])
    stacks = recorded(trace) if settings is None else replayed(trace, rule_of(trace, settings), k_max)
    out = Progress(*[np.zeros((len(trace), k_max), int) for _ in range(3)])
    for images, scores in stacks:
        part = progress(scores, block)
        for name in ("leader", "spent", "racing"):
            getattr(out, name)[images] = getattr(part, name)
    return out
