"""Stages before the first pull: how far behind, by a screen or after a few tokens, a class is hopeless.

A screen's estimate is regressed on the K_max means, and then counts as so many pulls: its gap is the race's
own test before the first of them. A prefix's log-likelihood is no unbiased estimate of a whole pass's, and no
bound says how far behind is hopeless. Traces do: the K_max winner's own distance behind the best has a tail,
and the gap that a small share of winners exceed is read off it. That is a guess, made on a few images. So
stages and thresholds go from safe to loose together, and the fixed-sequence test on other images
(thresholds.py) says how far along: a bad guess costs passes and not the guarantee.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from scipy.optimize import brentq
from scipy.special import stdtr

from anytime_cls.race.bounds import VariancePrior
from anytime_cls.race.rules import Screening

Array = np.ndarray
Source = int | str  # tokens of the first order, or a screen's name
Rungs = tuple[tuple[int, float], ...]  # (tokens, gap in nats), in rising tokens
RISK_SHARE = 0.3  # of the risk that all stages together may spend
_TAIL = 0.2  # share of the images whose excess is taken for exponential
_FEW = 5  # images past a tail's start that it needs


@dataclass(frozen=True)
class Tail:
    """A distribution's upper tail, exponential from `start` on: a share `beyond` is there, `mean` past it.

    Peaks over a threshold (Pickands, *Statistical inference using extreme order statistics*, Ann. Stat. 1975)
    with shape 0.
    """

    start: float
    beyond: float
    mean: float

    def quantile(self, share: float) -> float:
        """What a share of the distribution exceeds; `start` for shares larger than `beyond`."""
        return self.start + self.mean * max(0.0, float(np.log(self.beyond / share)))


def fit_tail(values: Array) -> Tail | None:
    """The tail of `values` [n], from their upper fifth; None with fewer than five past its start."""
    values = np.asarray(values, float)
    start = float(np.quantile(values, 1 - _TAIL))
    excess = values[values > start] - start
    if len(excess) < _FEW:
        return None
    return Tail(start, len(excess) / len(values), float(excess.mean()))


def winners_behind(scores: Array, full: Array) -> Array:
    """How far the K_max winner is behind the best at a stage, nats ≥ 0: [I, C], int [I] → [I]."""
    found: Array = scores.max(axis=1) - np.take_along_axis(scores, full[:, None], axis=1)[:, 0]
    return found


def winners_margin(scores: Array, full: Array) -> Array:
    """The same behind the best *other* class, so below 0 for a winner that leads: [I, C], int [I] → [I]."""
    others = scores.copy()
    np.put_along_axis(others, full[:, None], -np.inf, axis=1)
    found: Array = others.max(axis=1) - np.take_along_axis(scores, full[:, None], axis=1)[:, 0]
    return found


@dataclass(frozen=True)
class ScreenFit:
    """What a screen's estimate is worth in a race: `scale` and `weight` of a `Screening`, and the prior of
    paired differences by which its gap goes with a threshold."""

    name: str
    scale: float
    weight: float
    prior: VariancePrior

    def at(self, alpha: float) -> Screening:
        """The look before the first pull: who would leave by the race's own test at this α, n = 0.

        T_d0(−g / √(s0²(g) / weight)) = α. As safe or loose as the looks after it, so the family keeps its one
        parameter.
        """

        def off(gap: float) -> float:
            spread = np.sqrt(self.prior.variance(np.array(gap)) / self.weight)
            return float(stdtr(self.prior.df, -gap / spread)) - alpha

        low, high = 1e-9, 1e6
        if off(low) < 0:
            gap = 0.0
        elif off(high) > 0:  # a variance that grows with the gap's square tells nothing apart
            gap = high
        else:
            gap = float(brentq(off, low, high))
        return Screening(self.name, self.scale, gap, self.weight)


def fit_screen(name: str, estimate: Array, means: Array, prior: VariancePrior) -> ScreenFit:
    """Regress K_max means on a screen's estimate, class by class about each image's mean.

    estimate, means : [I, C], nats of an image, nats of a pull. The weight is the prior's variance of a pull
    over the regression's squared error, both of the winner's differences to its rivals, on average.
    """
    x, e = (v - v.mean(axis=1, keepdims=True) for v in (means, estimate))
    scale = max(0.0, float((x * e).sum() / max(float((e * e).sum()), 1e-12)))
    winner = means.argmax(axis=1)[:, None]
    gap = np.take_along_axis(x, winner, axis=1) - x
    error = gap - scale * (np.take_along_axis(e, winner, axis=1) - e)
    rival = np.arange(means.shape[1]) != winner
    off = float(np.mean(error[rival] ** 2 / prior.variance(gap[rival])))
    return ScreenFit(name, scale, 1 / max(off, 1e-9), prior)


@dataclass(frozen=True)
class StageFit:
    """Stages, at any gap: their tails, and the threshold with which they spend their share."""

    risk: float
    tails: tuple[tuple[int, Tail], ...] = ()  # of rungs
    alpha: float = 1.0  # on the images the tails are of, races with this threshold are within the risk
    screen: ScreenFit | None = None  # before them

    def at(self, alpha: float) -> tuple[Screening | None, Rungs]:
        """The stages to go with a threshold. Errors are about in proportion to it; so are their shares."""
        share = RISK_SHARE * self.risk * alpha / self.alpha / max(1, len(self.tails))
        rungs = tuple((m, max(0.0, tail.quantile(share))) for m, tail in self.tails)
        return None if self.screen is None else self.screen.at(alpha), rungs


def fit_stages(
    scores: Mapping[Source, Array],
    means: Array,
    chosen: Sequence[Source],
    prior: VariancePrior,
    risk: float,
    trust: float = 1.0,
) -> StageFit | None:
    """These stages, a screen first; None if a rung has no tail to see.

    scores : what each estimates, [I, C]. means : of K_max pulls, nats [I, C]. trust : times a screen's weight
    """
    full, tails, screen = means.argmax(axis=1), [], None
    for m in sorted(chosen, key=_order):
        values = scores[m]
        if isinstance(m, str):
            fitted = fit_screen(m, values, means, prior)
            screen = replace(fitted, weight=trust * fitted.weight)
            continue
        tail = fit_tail(winners_behind(values, full)) or fit_tail(winners_margin(values, full))
        if tail is None:
            return None
        tails.append((m, tail))
    return StageFit(risk, tuple(tails), screen=screen)


def _order(source: Source) -> tuple[int, str]:
    return (0, source) if isinstance(source, str) else (source, "")


def candidates(sources: Iterable[Source]) -> list[tuple[Source, ...]]:
    """All sets of stages to choose from, with one screen at most; none at all first."""
    named = sorted(set(sources), key=_order)
    sets = [chosen for size in range(len(named) + 1) for chosen in combinations(named, size)]
    return [chosen for chosen in sets if sum(isinstance(m, str) for m in chosen) <= 1]
