"""Elimination rules: which classes leave a race after n orders.

A rule is a few lines: `looks` says after how many orders it acts, `keep` says who stays. Everything works
on a stack of races at once (scores [I, n, C]), so that live races (I = 1) and replays of recorded traces
(I = thousands) run the same code. Pure NumPy; a rule never sees an image or a model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from anytime_cls.race.bounds import Bound, ModeratedT, effective_n

Array = np.ndarray


@dataclass(frozen=True)
class Stage:
    """Before the first pull every class gets an estimate, and the hopeless leave."""

    source: int | str  # a rung inside draw 0, after so many steps; or a screen, by name
    gap: float  # nats behind the best beyond which a class leaves
    scale: float = 1.0  # of the estimate, to be in nats of a pull


@dataclass(frozen=True)
class Screening:
    """What a screen's estimate is to a race: a first look, then so many pulls that were free.

    A class's distance to another after all K_max pulls is `scale` times its distance by the screen, known as
    well as if it had been the mean of `weight` pulls (Gelman et al., *Bayesian Data Analysis*, 3.3).
    """

    screen: str  # its name
    scale: float  # nats of a pull per nat of the estimate
    gap: float  # nats (of a pull) behind the best beyond which a class leaves before the first pull
    weight: float = 0.0  # pulls

    @property
    def stage(self) -> Stage:
        return Stage(self.screen, self.gap, self.scale)


@dataclass(frozen=True, eq=False)
class Seen:
    """What I races know after n pulls. A new kind of evidence is a field, not a parameter."""

    pulls: Array  # [I, n, C], nats, NaN where a class was out
    alive: Array  # bool [I, C]
    k_max: int  # pulls
    free: Array | None = None  # [I, C], what a screen says of the K_max means, nats; NaN rows: nothing

    @property
    def n(self) -> int:
        """Pulls so far."""
        return int(self.pulls.shape[1])

    @property
    def n_classes(self) -> int:
        return int(self.pulls.shape[2])


class Rule(ABC):
    """Decides which classes stay in a race. Rules are frozen dataclasses, so that they can be compared and
    written down (`plan.written`); what is not abstract here is what most of them say."""

    name: str

    @property
    def first_stages(self) -> tuple[Stage, ...]:
        """Where classes may leave before the first pull, in rising steps."""
        return ()

    @property
    def pseudo_pulls(self) -> float:
        """Pulls that a screen's estimate counts as in every mean."""
        return 0.0

    @property
    def holds(self) -> float | None:
        """The risk that a decision was calibrated to; None: no such promise."""
        return None

    @property
    def own_temperature(self) -> float | None:
        """Fitted at this rule's own decisions; None: the design's serves."""
        return None

    @property
    def pair_bound(self) -> Bound | None:
        """The bound on paired differences that it decides by; None for rules that have none."""
        return None

    @abstractmethod
    def looks(self, n_classes: int, k_max: int) -> tuple[int, ...]:
        """Pull counts, ascending, the last k_max, after which classes may leave.

        Pulls between two looks are scored together, so sparse looks also mean fuller batches.
        """

    @abstractmethod
    def keep(self, seen: Seen) -> Array:
        """Who stays: bool [I, C]. Called at the rule's looks before k_max; at k_max only the leader stays,
        whatever the rule."""

    def half_widths(self, seen: Seen) -> Array | None:
        """How far each class's interval reaches to either side of its mean, for display: [I, C]; None: this
        rule has no intervals."""
        return None


def mean_scores(scores: Array, alive: Array) -> Array:
    """Order-averaged log-likelihood of the living, −inf for the dead: [I, n, C] → [I, C]."""
    return np.where(alive, scores.mean(axis=1), -np.inf)


def paired(scores: Array, alive: Array, leader: Array | None = None) -> tuple[Array, Array]:
    """Mean and variance over orders of leader − class: scores [I, n, C] → two [I, C], NaN for the dead.

    leader : int [I]; default the living class of highest mean.

    All classes are scored on the same orders, so what an order adds to every class cancels here
    (Clark & Jaini 2023 call it shared noise).
    """
    if leader is None:
        leader = mean_scores(scores, alive).argmax(axis=1)
    lead = scores[np.arange(len(scores)), :, leader][:, :, None]
    diff = lead - np.where(alive[:, None], scores, np.nan)
    return diff.mean(axis=1), sample_variance(diff)


def blended(means: Array, free: Array, tau: float | Array, more: Array) -> Array:
    """Means [I, C] of τ effective pulls (`bounds.effective_n`), with a screen's estimate as `more` pulls.

    more : [I, 1]. At τ = ∞, all K_max pulls, these are the means themselves.
    """
    with np.errstate(invalid="ignore"):
        share = more / (tau + more)
    found: Array = means * (1 - share) + share * free
    return found


def known_free(free: Array, weight: float) -> tuple[Array, Array]:
    """A screen's estimates [I, C], and the pulls [I, 1] they count as: none where nothing is known."""
    known = np.isfinite(free).all(axis=1, keepdims=True)
    return np.where(known, free, 0.0), np.where(known, weight, 0.0)


def sample_variance(x: Array) -> Array:
    """Unbiased variance over axis 1, zero for a single order."""
    return x.var(axis=1, ddof=1) if x.shape[1] > 1 else np.zeros_like(x[:, 0])


def sparse_looks(k_max: int) -> tuple[int, ...]:
    """1, 2, 3, 4, 6, 8, 12, 16, 24, 32, ... k_max: each look costs δ, and late ones differ little."""
    steps = (1, *(f << i for i in range(31) for f in (2, 3)))
    return (*(n for n in steps if n < k_max), k_max)


class _Paired(Rule):
    """Rules that drop a class when a bound on the paired difference leader − class excludes zero."""

    bound: Bound

    @property
    def pair_bound(self) -> Bound:
        return self.bound

    @abstractmethod
    def alpha(self, n_classes: int, k_max: int, n: int = 1) -> float:
        """The error spent on one pair at the look after n pulls."""

    def radius(self, seen: Seen) -> tuple[Array, Array]:
        """Mean difference to the leader and the bound's half-width on it: two [I, C]."""
        gap, var = paired(seen.pulls, seen.alive)
        alpha = self.alpha(seen.n_classes, seen.k_max, seen.n)
        return gap, self.bound.radius(gap, var, seen.n, seen.k_max, alpha)

    def keep(self, seen: Seen) -> Array:
        gap, radius = self.radius(seen)
        return seen.alive & ~(gap > radius)

    def half_widths(self, seen: Seen) -> Array:
        """The half-width on a class's difference to the leader; the leader's own: its closest rival's."""
        gap, radius = self.radius(seen)
        rows = np.arange(len(gap))
        lead = np.where(seen.alive, gap, np.inf).argmin(axis=1)
        rivals = np.where(np.isfinite(gap), gap, np.inf)
        rivals[rows, lead] = np.inf
        half = radius.copy()
        some = np.isfinite(rivals).any(axis=1)
        half[rows[some], lead[some]] = radius[rows[some], rivals[some].argmin(axis=1)]
        return half


@dataclass(frozen=True)
class PairedRule(_Paired):
    """Drop a class when the bound on the paired difference leader − class excludes zero.

    δ is split over the C − 1 rivals (only pairs with the K_max winner can err, so a union bound over
    C − 1 pairs covers whoever leads: that needs the deviations from the K_max means to be independent of
    these means, as they are of jointly normal scores) and, unless the bound is anytime-valid, over the looks.
    δ holds on average over the variance prior, not for each image: pairs of unusually high variance err more.
    `each`, where given, is spent on every pair at every look instead: past δ's share it promises nothing.
    """

    bound: Bound
    delta: float = 0.05
    name: str = "paired"
    each: float | None = None

    def looks(self, n_classes: int, k_max: int) -> tuple[int, ...]:
        return sparse_looks(k_max)

    def alpha(self, n_classes: int, k_max: int, n: int = 1) -> float:
        if self.each is not None:
            return self.each
        looks = 1 if self.bound.anytime else max(1, len(self.looks(n_classes, k_max)) - 1)
        return self.delta / max(1, n_classes - 1) / looks


@dataclass(frozen=True)
class CalibratedRule(_Paired):
    """The paired rule with thresholds fitted on held-out traces (`calibrate`) to a risk, here `delta`.

    The guarantee is distribution-free: it needs images like those of the calibration, not normal
    differences or a right prior. `thresholds` are (orders scored, α at that look), for one K_max. `rungs`,
    (tokens, gap in nats) in rising tokens, are races inside the first order, which the risk covers too: who
    is more than `gap` behind the best after so many of its tokens leaves before the first pull.
    `temperature`, where it was fitted, makes probabilities of the soft-max at these races' decisions.
    `screening`, where there is one, comes before the first order, and the risk covers it as well.
    """

    bound: Bound
    delta: float = 0.05
    name: str = "calibrated"
    thresholds: tuple[tuple[int, float], ...] = ()
    rungs: tuple[tuple[int, float], ...] = ()
    temperature: float | None = None
    screening: Screening | None = None

    @property
    def first_stages(self) -> tuple[Stage, ...]:
        first = () if self.screening is None else (self.screening.stage,)
        return (*first, *(Stage(tokens, gap) for tokens, gap in self.rungs))

    @property
    def pseudo_pulls(self) -> float:
        return 0.0 if self.screening is None else self.screening.weight

    def radius(self, seen: Seen) -> tuple[Array, Array]:
        if not self.pseudo_pulls or seen.free is None:
            return super().radius(seen)
        free, more = known_free(seen.free, self.pseudo_pulls)
        tau = effective_n(seen.n, seen.k_max)
        means = np.where(seen.alive, blended(seen.pulls.mean(axis=1), free, tau, more), -np.inf)
        gap = np.where(seen.alive, means.max(axis=1, keepdims=True) - means, np.nan)
        _, var = paired(seen.pulls, seen.alive, means.argmax(axis=1))
        assert isinstance(self.bound, ModeratedT)  # what calibrations are made of
        alpha = self.alpha(seen.n_classes, seen.k_max, seen.n)
        return gap, self.bound.radius(gap, var, seen.n, seen.k_max, alpha, more)

    @property
    def holds(self) -> float:
        return self.delta

    @property
    def own_temperature(self) -> float | None:
        return self.temperature

    def looks(self, n_classes: int, k_max: int) -> tuple[int, ...]:
        return (*(n for n, _ in self.thresholds if n < k_max), k_max)

    def alpha(self, n_classes: int, k_max: int, n: int = 1) -> float:
        """The threshold of the last look up to n (intervals are asked for between looks too)."""
        passed = [alpha for look, alpha in self.thresholds if look <= n]
        return passed[-1] if passed else self.thresholds[0][1]


@dataclass(frozen=True)
class ScreenRule(Rule):
    """The best by a screen's estimate, and no race: what every race is measured against.

    temperature : in nats, at which the soft-max of the estimates is a probability; None where none was fitted
    """

    name: str  # the screen's
    temperature: float | None = None

    @property
    def first_stages(self) -> tuple[Stage, ...]:
        return (Stage(self.name, 0.0),)

    @property
    def own_temperature(self) -> float | None:
        return self.temperature

    def looks(self, n_classes: int, k_max: int) -> tuple[int, ...]:
        return (k_max,)

    def keep(self, seen: Seen) -> Array:
        return seen.alive


@dataclass(frozen=True)
class FixedRule(Rule):
    """No elimination: every class is scored on all K orders. The paper's classifier."""

    name: str = "fixed"

    def looks(self, n_classes: int, k_max: int) -> tuple[int, ...]:
        return (k_max,)

    def keep(self, seen: Seen) -> Array:
        return seen.alive
