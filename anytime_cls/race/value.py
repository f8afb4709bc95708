"""The rule `value`: stop when it no longer matters.

Two classes that cannot be told apart by dozens of orders are a coin toss, and scoring them does not make it
less of one. So this rule asks not whether the answer could still change, but what changing it would gain: a
class is scored on more orders while that raises the probability of the right answer by more than a *price*
λ a pass. One price stops hopeless classes and hopeless races alike; sweeping it draws the whole curve.

After n orders let g be the mean paired difference leader − class and v its variance shrunk to the prior
(`bounds.ModeratedT`), both known up to noise of d degrees of freedom. With flat priors on the differences:

    after h more orders   m ~ t_d(g, v (1/n − 1/(n+h)))              what the mean will then be
    after all K_max       D ~ N(m, v (1/(n+h) − 1/K_max))            given that
    P(class right) / P(leader right) = exp(−D / T)                   T: the soft-max's fitted temperature

The answer changes where m < 0, and is then right more often by p · E[tanh(−D / 2T)], p being the probability
that one of the two is right. So h orders gain

    gain(h) = p · E[ max(0, −tanh(m / 2T_h)) ],     T_h² = T² + (π/8) v (1/(n+h) − 1/K_max),

T_h by the probit approximation of a soft-max's mean (MacKay, *The evidence framework applied to
classification networks*, Neural Computation 1992). That is the knowledge gradient of ranking and selection
(Frazier, Powell & Dayanik, SIAM J. Control Optim. 2008), for correctness in place of a mean. A single order
often gains nothing where several would, so gain(h) / h is maximised over h: KG(*) of Frazier & Powell,
*Paradoxes in learning and the marginal value of information*, Decision Analysis 2010.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import gammaln, stdtr

from anytime_cls.race.bounds import ModeratedT, VariancePrior
from anytime_cls.race.rules import Rule, Seen, mean_scores, paired, sparse_looks

Array = np.ndarray
#: Accuracy a pass. On traces of the `cifar10` shipped until commit c42a17e, of whole orders and prefixes of
#: 8, 16 and 32 of their 64 tokens, dearer prices begin to cost accuracy from about here on; cheaper ones cost
#: passes only.
PRICE = 1e-4
PRICES = np.union1d(np.geomspace(1e-7, 0.1, 24), PRICE)  # past 0.1 nobody is worth a second order
_x, _w = np.polynomial.legendre.leggauss(16)
_NODES, _WEIGHTS = (_x + 1) / 2, _w / 2  # on (0, 1)
_CHUNK = 1 << 16  # pairs integrated at once: 8 MiB an array


@dataclass(frozen=True)
class ValueRule(Rule):
    """Drop a class when more orders of it would gain less accuracy per pass than `price`.

    prior : of paired variances; without one a variance is what was seen, and nothing leaves before two orders
    temperature : T in nats, at which the soft-max of the K_max means is a probability
    price : λ, accuracy a pass. A pass is one class on one order of the race at hand, whatever its length. The
        leader's passes, which every comparison needs, are shared by its rivals.
    """

    prior: VariancePrior | None = None
    temperature: float = 1.0
    price: float = PRICE
    name: str = "value"

    def __post_init__(self) -> None:
        if not 0 < self.price < 1:
            raise ValueError(f"price must lie between 0 and 1, got {self.price:g}")

    def looks(self, n_classes: int, k_max: int) -> tuple[int, ...]:
        return sparse_looks(k_max)

    def keep(self, seen: Seen) -> Array:
        scores, alive, k_max = seen.pulls, seen.alive, seen.k_max
        n, n_classes = seen.n, seen.n_classes
        if self.prior is None and n < 2:
            return alive
        gap, var = paired(scores, alive)
        df = n - 1.0
        if self.prior is not None:
            var, df = ModeratedT(self.prior).variance(gap, var, n)
        leader = mean_scores(scores, alive).argmax(axis=1)[:, None]
        rival = alive & (np.arange(n_classes) != leader)
        wide = np.sqrt(self.temperature**2 + np.pi / 8 * var * (1 / n - 1 / k_max))
        odds = np.where(alive, np.exp(-np.where(alive, gap / wide, 0.0)), 0.0)
        either = (1 + odds) / odds.sum(axis=1, keepdims=True)
        # of the leader's pass every rival pays an equal part
        living = alive.sum(axis=1, keepdims=True)
        cost = np.broadcast_to(living / np.maximum(living - 1, 1), rival.shape)
        gap, var, either, cost = gap[rival], var[rival], either[rival], cost[rival]
        ahead = [look - n for look in self.looks(n_classes, k_max) if look > n]
        # tanh ≤ 1: no gain exceeds the chance that K_max orders change the answer
        sd = np.sqrt(var * (1 / n - 1 / k_max))
        hope = either * stdtr(df, -_ratio(gap, sd)) / (cost * ahead[0]) >= self.price
        worth = np.zeros(len(gap), bool)
        open_ = np.flatnonzero(hope)
        for first in range(0, len(open_), _CHUNK):
            some = open_[first : first + _CHUNK]
            for h in ahead:
                if len(some) == 0:
                    break
                gain = either[some] * change_gain(gap[some], var[some], df, n, h, k_max, self.temperature)
                enough = gain / (h * cost[some]) >= self.price
                worth[some[enough]] = True
                some = some[~enough]
        kept = rival.copy()
        kept[rival] = worth
        found: Array = alive & (kept | ~rival)
        return found


def change_gain(gap: Array, var: Array, df: float, n: int, h: int, k_max: int, temperature: float) -> Array:
    """E[max(0, −tanh(m / 2T_h))]: what h more orders gain in a race of two, in probability of being right.

    gap, var : leader − rival over the n orders so far, mean ≥ 0 and shrunk variance of one order, nats: [P]
    df : degrees of freedom of `var`

    Integrates over how far m falls below 0, in standard deviations, by Gauss–Legendre quadrature on the scale
    on which the t density falls beyond the gap: to 1 % of itself.
    """
    sd = np.sqrt(var * (1 / n - 1 / (n + h)))
    z = _ratio(gap, sd)
    wide = np.sqrt(temperature**2 + np.pi / 8 * var * (1 / (n + h) - 1 / k_max))
    heavy = np.sqrt(1 + z**2 / df)
    scale = (heavy / (1 + (df + 1) * z / (df + z**2) * heavy))[:, None]
    below = scale * (_NODES / (1 - _NODES))
    density = np.exp(_log_density(z[:, None] + below, df))
    half = (sd / (2 * wide))[:, None]
    found: Array = (np.tanh(half * below) * density * scale * (_WEIGHTS / (1 - _NODES) ** 2)).sum(axis=1)
    return found


def _ratio(gap: Array, sd: Array) -> Array:
    """Gaps in standard deviations, cut at 1e6, where no chance is left; also where nothing varies."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.minimum(np.where(sd > 0, gap / sd, 1e6), 1e6)


def _log_density(x: Array, df: float) -> Array:
    """Of Student's t with df degrees of freedom."""
    norm = gammaln((df + 1) / 2) - gammaln(df / 2) - np.log(df * np.pi) / 2
    found: Array = norm - (df + 1) / 2 * np.log1p(x**2 / df)
    return found
