"""Elimination rules: which classes leave a race after n orders.

A rule is a few lines: `looks` says after how many orders it acts, `keep` says who stays. Everything works
on a stack of races at once (scores [I, n, C]), so that live races (I = 1) and replays of recorded traces
(I = thousands) run the same code. Pure NumPy; a rule never sees an image or a model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from anytime_cls.race.bounds import Bound

Array = np.ndarray


class Rule(Protocol):
    """Decides which classes stay in a race."""

    @property
    def name(self) -> str: ...

    def looks(self, n_classes: int, k_max: int) -> tuple[int, ...]:
        """Order counts, ascending, the last k_max, after which classes may leave.

        Orders between two looks are scored together, so sparse looks also mean fuller batches.
        """
        ...

    def keep(self, scores: Array, alive: Array, k_max: int) -> Array:
        """Who stays after n orders: scores [I, n, C] (nats, NaN for the dead), alive [I, C] → bool [I, C].

        Called at the rule's looks before k_max; at k_max only the leader stays, whatever the rule.
        """
        ...


def mean_scores(scores: Array, alive: Array) -> Array:
    """Order-averaged log-likelihood of the living, −inf for the dead: [I, n, C] → [I, C]."""
    return np.where(alive, scores.mean(axis=1), -np.inf)


def paired(scores: Array, alive: Array) -> tuple[Array, Array]:
    """Mean and variance over orders of leader − class: scores [I, n, C] → two [I, C], NaN for the dead.

    All classes are scored on the same orders, so what an order adds to every class cancels here
    (Clark & Jaini 2023 call it shared noise).
    """
    leader = mean_scores(scores, alive).argmax(axis=1)
    lead = scores[np.arange(len(scores)), :, leader][:, :, None]
    diff = lead - np.where(alive[:, None], scores, np.nan)
    return diff.mean(axis=1), sample_variance(diff)


def sample_variance(x: Array) -> Array:
    """Unbiased variance over axis 1, zero for a single order."""
    return x.var(axis=1, ddof=1) if x.shape[1] > 1 else np.zeros_like(x[:, 0])


def sparse_looks(k_max: int) -> tuple[int, ...]:
    """1, 2, 3, 4, 6, 8, 12, 16, 24, 32, ... k_max: each look costs δ, and late ones differ little."""
    steps = (1, *(f << i for i in range(31) for f in (2, 3)))
    return (*(n for n in steps if n < k_max), k_max)


@dataclass(frozen=True)
class PairedRule:
    """Drop a class when the bound on the paired difference leader − class excludes zero.

    δ is split over the C − 1 rivals (only pairs with the K_max winner can err, so a union bound over
    C − 1 pairs covers whoever leads) and, unless the bound is anytime-valid, over the looks. `each`, where
    given, is spent on every pair at every look instead: past δ's share it promises nothing.
    """

    bound: Bound
    delta: float = 0.05
    name: str = "paired"
    each: float | None = None

    def looks(self, n_classes: int, k_max: int) -> tuple[int, ...]:
        return sparse_looks(k_max)

    def alpha(self, n_classes: int, k_max: int, n: int = 1) -> float:
        """The error spent on one pair at the look after n orders."""
        if self.each is not None:
            return self.each
        looks = 1 if self.bound.anytime else max(1, len(self.looks(n_classes, k_max)) - 1)
        return self.delta / max(1, n_classes - 1) / looks

    def radius(self, scores: Array, alive: Array, k_max: int) -> tuple[Array, Array]:
        """Mean difference to the leader and the bound's half-width on it: two [I, C]."""
        gap, var = paired(scores, alive)
        n, n_classes = scores.shape[1:]
        return gap, self.bound.radius(gap, var, n, k_max, self.alpha(n_classes, k_max, n))

    def keep(self, scores: Array, alive: Array, k_max: int) -> Array:
        gap, radius = self.radius(scores, alive, k_max)
        return alive & ~(gap > radius)


@dataclass(frozen=True)
class CalibratedRule(PairedRule):
    """The paired rule with thresholds fitted on held-out traces (`calibrate`) to a risk, here `delta`.

    The guarantee is distribution-free: it needs images like those of the calibration, not normal
    differences or a right prior. `thresholds` are (orders scored, α at that look), for one K_max. `rungs`,
    (tokens, gap in nats) in rising tokens, are races inside the first order, which the risk covers too: who
    is more than `gap` behind the best after so many of its tokens leaves before the first pull.
    `temperature`, where it was fitted, makes probabilities of the soft-max at these races' decisions.
    """

    name: str = "calibrated"
    thresholds: tuple[tuple[int, float], ...] = ()
    rungs: tuple[tuple[int, float], ...] = ()
    temperature: float | None = None

    def looks(self, n_classes: int, k_max: int) -> tuple[int, ...]:
        return (*(n for n, _ in self.thresholds if n < k_max), k_max)

    def alpha(self, n_classes: int, k_max: int, n: int = 1) -> float:
        """The threshold of the last look up to n (intervals are asked for between looks too)."""
        passed = [alpha for look, alpha in self.thresholds if look <= n]
        return passed[-1] if passed else self.thresholds[0][1]


@dataclass(frozen=True)
class FixedRule:
    """No elimination: every class is scored on all K orders. The paper's classifier."""

    name: str = "fixed"

    def looks(self, n_classes: int, k_max: int) -> tuple[int, ...]:
        return (k_max,)

    def keep(self, scores: Array, alive: Array, k_max: int) -> Array:
        return alive
