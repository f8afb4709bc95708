"""Confidence bounds on a mean of n ≤ K_max paired differences (or of one class's log-likelihoods).

The target is not an infinite mean but the mean over the K_max orders that a full run would score.
Sampling n of them without replacement shrinks the variance of the error from σ²/n to σ²/n · (1 − n/K_max)
(the finite-population factor), so every bound here works with the effective sample size

    τ = n / (1 − n / K_max),        τ = ∞ and a radius of 0 at n = K_max.

With normal differences this is exact: mean_n − mean_Kmax is N(0, σ²/τ) and independent of the sample
variance. A bound has two faces: `radius(...)`, the half-width at level α, and `tail(...)`, the smallest
α at which it still excludes zero. Everything broadcasts over arrays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np


@dataclass(frozen=True)
class VariancePrior:
    """What held-out traces say of a variance before it is measured: σ² ~ s0²(gap) · d0 / χ²(d0).

    s0²(gap) = scale · max(gap, gap_floor)^power. Fitted by :func:`fit_variance_prior`.
    """

    scale: float  # nats²
    power: float  # 0: the variance does not depend on the gap
    df: float  # d0, the prior's weight in observations
    gap_floor: float = 0.1  # nats

    def variance(self, gap: np.ndarray) -> np.ndarray:
        """s0² at these gaps, nats²."""
        found: np.ndarray = self.scale * np.maximum(np.abs(gap), self.gap_floor) ** self.power
        return found

    def to_dict(self) -> dict[str, float]:
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> VariancePrior:
        return cls(**{k: float(v) for k, v in fields.items()})


class Bound(Protocol):
    """A confidence bound for the mean of differences given their sample mean and variance."""

    anytime: bool  # True: one α covers every look; False: α must be split over looks

    def radius(self, gap: np.ndarray, var: np.ndarray, n: int, k_max: int, alpha: float) -> np.ndarray: ...

    def tail(self, gap: np.ndarray, var: np.ndarray, n: int, k_max: int) -> np.ndarray: ...


def effective_n(n: int, k_max: int | None) -> float:
    """τ = n / (1 − n/K_max); n itself when there is no finite population.

    Of independent orders. Stratified ones tile the image, so the error varies less than this says, most
    of all at a whole tiling: a bound is then wider than it need be, and safe. (A factor fitted a look gains a
    few per cent of the passes at most: docs/method.md.)
    """
    if k_max is None:
        return float(n)
    return np.inf if n >= k_max else n / (1 - n / k_max)


@lru_cache(maxsize=4096)
def _t_quantile(alpha: float, df: float) -> float:
    """The upper quantile of Student's t, as `stats.t.isf`."""
    from scipy.special import stdtrit  # here: who reads a card does not wait for SciPy

    return -float(stdtrit(df, alpha))


@dataclass(frozen=True)
class PlainT:
    """Student's one-sided t: gap > t_{1−α, n−1} · s / √τ. Says nothing before n = 2.

    Student, *The Probable Error of a Mean*, Biometrika 1908. `finite=False` drops the finite-population
    factor, as Clark & Jaini (*Text-to-Image Diffusion Models are Zero-Shot Classifiers*, NeurIPS 2023) do.
    """

    finite: bool = True
    anytime = False

    def radius(self, gap: np.ndarray, var: np.ndarray, n: int, k_max: int, alpha: float) -> np.ndarray:
        if n < 2:
            return np.full(np.shape(gap), np.inf)
        tau = effective_n(n, k_max if self.finite else None)
        return _t_quantile(alpha, n - 1) * np.sqrt(var / tau)

    def tail(self, gap: np.ndarray, var: np.ndarray, n: int, k_max: int) -> np.ndarray:
        if n < 2:
            return np.ones(np.shape(gap))
        return _t_tail(gap, var, effective_n(n, k_max if self.finite else None), n - 1)


@dataclass(frozen=True)
class ModeratedT:
    """t with the variance shrunk to a prior: s̃² = (d0 s0²(gap) + (n−1) s²) / (d0 + n − 1), d0 + n − 1 df.

    Smyth, *Linear models and empirical Bayes methods for assessing differential expression*, SAGMB 2004
    (limma), with the prior variance a function of the gap. Works from n = 1. Exact when σ² follows the
    prior and differences are normal given σ²; it can fail where a variance is far outside the prior
    (see tests/race/test_bounds.py for how badly).
    """

    prior: VariancePrior
    anytime = False

    def variance(self, gap: np.ndarray, var: np.ndarray, n: int) -> tuple[np.ndarray, float]:
        """Shrunk variances, and their degrees of freedom."""
        df = self.prior.df + n - 1
        return (self.prior.df * self.prior.variance(gap) + (n - 1) * var) / df, df

    def radius(
        self, gap: np.ndarray, var: np.ndarray, n: int, k_max: int, alpha: float,
        more: float | np.ndarray = 0.0,
    ) -> np.ndarray:  # fmt: skip
        """more : pulls that an estimate counts as, beside the n that were scored"""
        var, df = self.variance(gap, var, n)
        found: np.ndarray = _t_quantile(alpha, df) * np.sqrt(var / (effective_n(n, k_max) + more))
        return found

    def tail(self, gap: np.ndarray, var: np.ndarray, n: int, k_max: int) -> np.ndarray:
        var, df = self.variance(gap, var, n)
        return _t_tail(gap, var, effective_n(n, k_max), df)


@dataclass(frozen=True)
class NormalMixture:
    """Normal-mixture confidence sequence with a moderated variance: valid at all n at once.

    Robbins, *Statistical methods related to the law of the iterated logarithm*, Ann. Math. Stat. 1970;
    Howard et al., *Time-uniform, nonparametric, nonasymptotic confidence sequences*, Ann. Stat. 2021,
    eq. 14 (their mixture boundary is the limit d0 → ∞ here). The shift is mixed over N(0, σ²/ρ) and σ²
    over its prior; the likelihood ratio of the two is a martingale when there is no shift, so by Ville's
    inequality it exceeds 1/α with probability at most α, whenever one looks:

        LR = √(ρ/(τ+ρ)) · [(S + τ gap²) / (S + τ gap² ρ/(τ+ρ))]^{(d0+n)/2},   S = d0 s0² + (n−1) s².

    With K_max finite the deviations from the K_max mean form a Gaussian bridge, for which the same holds
    with the effective τ in place of n.
    """

    prior: VariancePrior
    rho: float = 0.1  # prior observations of the shift; small: tighter early, large: tighter late
    anytime = True

    def _sum_of_squares(self, gap: np.ndarray, var: np.ndarray, n: int) -> np.ndarray:
        found: np.ndarray = self.prior.df * self.prior.variance(gap) + (n - 1) * var
        return found

    def radius(self, gap: np.ndarray, var: np.ndarray, n: int, k_max: int, alpha: float) -> np.ndarray:
        tau = effective_n(n, k_max)
        if np.isinf(tau):
            return np.zeros(np.shape(gap))
        nu = self.prior.df + n
        q = (np.sqrt((tau + self.rho) / self.rho) / alpha) ** (2 / nu)
        slack = 1 - q * self.rho / (tau + self.rho)
        if slack <= 0:  # no gap, however large, can be told from a large variance yet
            return np.full(np.shape(gap), np.inf)
        found: np.ndarray = np.sqrt((q - 1) * self._sum_of_squares(gap, var, n) / (tau * slack))
        return found

    def tail(self, gap: np.ndarray, var: np.ndarray, n: int, k_max: int) -> np.ndarray:
        tau = effective_n(n, k_max)
        if np.isinf(tau):
            return np.where(np.asarray(gap) > 0, 0.0, 1.0)
        total = self._sum_of_squares(gap, var, n)
        moved = tau * np.square(gap)
        ratio = (total + moved * self.rho / (tau + self.rho)) / (total + moved)
        alpha = np.sqrt((tau + self.rho) / self.rho) * ratio ** ((self.prior.df + n) / 2)
        return np.where(np.asarray(gap) > 0, np.minimum(alpha, 1.0), 1.0)


def _t_tail(gap: np.ndarray, var: np.ndarray, tau: float, df: float) -> np.ndarray:
    from scipy.special import stdtr

    if np.isinf(tau):
        return np.where(np.asarray(gap) > 0, 0.0, 1.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.asarray(gap) / np.sqrt(var / tau)
    # the upper tail of Student's t, as stats.t.sf; no gap and no variance: no separation
    found: np.ndarray = stdtr(df, -np.where(np.isnan(t), 0.0, t))
    return found
