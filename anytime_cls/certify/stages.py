"""Rungs: how far behind, after a few tokens of the first order, a class is hopeless.

A prefix's log-likelihood is no unbiased estimate of a whole pass's, so no bound says how far. Traces do: the
K_max winner's own distance behind the best at the rung has a tail, and the gap that a small share of winners
exceed is read off it. That is a guess, made on a few images. So rungs and thresholds go from safe to loose
together, and the fixed-sequence test on other images (thresholds.py) says how far along: a bad guess costs
passes and not the guarantee.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

Array = np.ndarray
Rungs = tuple[tuple[int, float], ...]  # (tokens, gap in nats), in rising tokens
RISK_SHARE = 0.3  # of the risk that all rungs together may spend
_TAIL = 0.2  # share of the images whose excess is taken for exponential


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
    """The tail of `values` [n] ≥ 0, from their upper fifth; None with fewer than five positive in it."""
    values = np.asarray(values, float)
    start = float(np.quantile(values, 1 - _TAIL))
    excess = values[values > start] - start
    if len(excess) < 5:
        return None
    return Tail(start, len(excess) / len(values), float(excess.mean()))


def winners_behind(rung_scores: Array, full: Array) -> Array:
    """How far the K_max winner is behind the best at a rung, nats ≥ 0: [I, C], int [I] → [I]."""
    found: Array = rung_scores.max(axis=1) - np.take_along_axis(rung_scores, full[:, None], axis=1)[:, 0]
    return found


@dataclass(frozen=True)
class RungFit:
    """Rungs at these tokens, at any gap: their tails, and the threshold with which they spend their share."""

    risk: float
    tails: tuple[tuple[int, Tail], ...] = ()
    alpha: float = 1.0  # on the images the tails are of, races with this threshold are within the risk

    def at(self, alpha: float) -> Rungs:
        """The rungs to go with a threshold. Errors are about in proportion to it, so their shares are too."""
        share = RISK_SHARE * self.risk * alpha / self.alpha / max(1, len(self.tails))
        return tuple((m, tail.quantile(share)) for m, tail in self.tails)


def fit_rungs(
    rung_scores: Mapping[int, Array], full: Array, tokens: Sequence[int], risk: float
) -> RungFit | None:
    """Rungs at these tokens; None if one has no tail to see.

    rung_scores : tokens → log-likelihoods of order 0 after so many tokens, nats [I, C]. full : int [I], the
    K_max winners
    """
    tails = []
    for m in sorted(tokens):
        tail = fit_tail(winners_behind(rung_scores[m], full))
        if tail is None:
            return None
        tails.append((m, tail))
    return RungFit(risk, tuple(tails))


def candidates(tokens: Iterable[int]) -> list[tuple[int, ...]]:
    """All sets of rungs to choose from, none at all first."""
    tokens = sorted(set(tokens))
    return [chosen for size in range(len(tokens) + 1) for chosen in combinations(tokens, size)]
