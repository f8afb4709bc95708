"""The rules that ours are measured against: Clark–Jaini, funnels, halving, marginal bounds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from anytime_cls.race.bounds import Bound, PlainT
from anytime_cls.race.rules import (
    Rule,
    Seen,
    mean_scores,
    paired,
    sample_variance,
    sparse_looks,
)

Array = np.ndarray


def stages_text(stages: Sequence[tuple[float, int]]) -> str:
    """Funnel stages for people and attributes: `0.0625:5,0.25:2`."""
    return ",".join(f"{share:g}:{kept}" for share, kept in stages)


def parse_stages(text: str) -> tuple[tuple[float, int], ...]:
    """`1/16:5,1/4:2` → shares of K_max and classes kept. Raises ValueError."""
    stages = []
    try:
        for part in text.split(","):
            share, kept = part.split(":")
            top, _, bottom = share.partition("/")
            stages.append((float(top) / float(bottom or 1), int(kept)))
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"stages are SHARE:CLASSES,..., as 1/16:5,1/4:2, not {text!r}") from None
    rising = all(a[0] < b[0] and a[1] > b[1] for a, b in pairwise(stages))
    if not rising or any(not 0 < share <= 1 or kept < 1 for share, kept in stages):
        raise ValueError(f"stages must rise in share (0 to 1) and fall in classes (from 1), not {text!r}")
    return tuple(stages)


@dataclass(frozen=True)
class MarginalRule(Rule):
    """Drop a class when its upper confidence bound is below the leader's lower bound.

    The bounds are on each class's own order-averaged log-likelihood, two-sided; δ is split over classes
    and looks; `each`, where given, is a class's at every look instead. What an order adds to every class
    does not cancel here, hence `paired`.
    """

    bound: Bound
    delta: float = 0.05
    name: str = "marginal"
    each: float | None = None

    def looks(self, n_classes: int, k_max: int) -> tuple[int, ...]:
        return sparse_looks(k_max)

    def half_widths(self, seen: Seen) -> Array:
        """Of each class's own confidence interval."""
        var = sample_variance(seen.pulls)
        alpha = self.alpha(seen.n_classes, seen.k_max) / 2
        return self.bound.radius(np.ones_like(var), var, seen.n, seen.k_max, alpha)

    def alpha(self, n_classes: int, k_max: int) -> float:
        """The error spent on one class at one look, both sides together."""
        if self.each is not None:
            return self.each
        return self.delta / n_classes / max(1, len(self.looks(n_classes, k_max)) - 1)

    def keep(self, seen: Seen) -> Array:
        mean, radius = mean_scores(seen.pulls, seen.alive), self.half_widths(seen)
        leader = mean.argmax(axis=1)[:, None]
        leaders_lower = np.take_along_axis(mean - radius, leader, axis=1)
        found: Array = seen.alive & ~(mean + radius < leaders_lower)
        return found


@dataclass(frozen=True)
class ClarkJainiRule(Rule):
    """Paired t-test without correction, p < 2e-3, once a class has at least 20 scores.

    Clark & Jaini, *Text-to-Image Diffusion Models are Zero-Shot Classifiers*, NeurIPS 2023.
    """

    p_value: float = 2e-3
    min_scores: int = 20
    name: str = "clark-jaini"

    def looks(self, n_classes: int, k_max: int) -> tuple[int, ...]:
        return (*range(self.min_scores, k_max), k_max)

    def keep(self, seen: Seen) -> Array:
        gap, var = paired(seen.pulls, seen.alive)
        radius = PlainT(finite=False).radius(gap, var, seen.n, seen.k_max, self.p_value / 2)
        return seen.alive & ~(gap > radius)


@dataclass(frozen=True)
class FunnelRule(Rule):
    """Keep the best m classes after each stage: no statistics, the same for every image.

    diffusion-classifier's `eval_prob_adaptive` (Li et al., ICCV 2023) and A-VARC+'s candidate stages.
    Stages are (share of K_max, classes kept).
    """

    stages: tuple[tuple[float, int], ...] = ((1 / 16, 5), (1 / 4, 2))
    name: str = "funnel"

    def _plan(self, k_max: int) -> dict[int, int]:
        return {max(1, math.ceil(share * k_max)): kept for share, kept in self.stages}

    def looks(self, n_classes: int, k_max: int) -> tuple[int, ...]:
        return (*(n for n in self._plan(k_max) if n < k_max), k_max)

    def keep(self, seen: Seen) -> Array:
        found: Array = seen.alive & top(mean_scores(seen.pulls, seen.alive), self._plan(seen.k_max)[seen.n])
        return found


@dataclass(frozen=True)
class HalvingRule(Rule):
    """Correlated sequential halving: ⌈log2 C⌉ rounds of equal cost, each keeping the better half.

    Baharav & Tse, *Ultra Fast Medoid Identification via Correlated Sequential Halving*, NeurIPS 2019
    (1906.04356): arms share their samples. The pass budget is C · K_max / `saving`, exceeded where a round's
    share of it is less than one order of the classes left.
    """

    saving: float = 16.0
    name: str = "halving"

    def _plan(self, n_classes: int, k_max: int) -> dict[int, int]:
        """Orders scored so far → classes kept."""
        rounds = max(1, math.ceil(math.log2(n_classes)))
        budget = n_classes * k_max / self.saving
        plan, left, n = {}, n_classes, 0
        while left > 1 and n < k_max:
            n = min(k_max, n + max(1, math.floor(budget / (left * rounds))))
            left = math.ceil(left / 2)
            plan[n] = left
        return plan

    def looks(self, n_classes: int, k_max: int) -> tuple[int, ...]:
        return (*(n for n in self._plan(n_classes, k_max) if n < k_max), k_max)

    def keep(self, seen: Seen) -> Array:
        kept = self._plan(seen.n_classes, seen.k_max)[seen.n]
        found: Array = seen.alive & top(mean_scores(seen.pulls, seen.alive), kept)
        return found


def top(mean: Array, m: int) -> Array:
    """Mask of the m best of each row (ties go to the lower class index): [I, C] → bool [I, C]."""
    best = np.argsort(-mean, axis=1, kind="stable")[:, :m]
    mask = np.zeros(mean.shape, bool)
    np.put_along_axis(mask, best, True, axis=1)
    return mask
