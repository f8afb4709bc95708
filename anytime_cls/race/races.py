"""Races: from all classes to a decision, order by order, for a stack of images at once.

    c* = argmax_c (1/K) Σ_k log p(x | π_k, c)                       (the paper's classifier, K fixed)

:class:`Races` is a struct of arrays. It takes scores as they come and lets its rule drop classes at the
rule's looks. One image is a stack of one (`race.race.Race`); a sweep's window is a stack that images join
and leave; a replay (`run`) is a stack whose scores are all there. Pure NumPy and SciPy: no torch, no image.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.special import logsumexp, softmax

from anytime_cls.race.rules import FixedRule, Rule, Seen, blended, known_free, mean_scores

Array = np.ndarray
AGGREGATORS = ("mean", "logmeanexp", "softmax")


class Races:
    """The elimination of I images' classes by one rule.

    Parameters
    ----------
    n_races, n_classes : I, C
    k_max : pulls after which a race ends; a pull is `block` orders
    rule : decides who leaves, at its looks
    block : orders averaged into one pull (2 for antithetic pairs, which depend on each other)
    scores : log-likelihoods [I, K_max · block, C] in nats, where all are there already

    A rule with stages has classes leave before the first pull: whoever is more than the stage's gap behind
    the best by its estimate (:meth:`leave_stage`).

    Attributes
    ----------
    scores : float64 [I, K_max · block, C], NaN where nothing was scored
    alive : bool [I, C]
    n : int [I]: complete pulls, for which every living class has its score
    left_at : int [I, C]: pulls scored when a class left; 0 while it is in, and of who left at a stage
    stage : int [I]: stages done
    left_stage : int [I, C]: the stage at which a class left, −1 of the others
    behind : float [I, C]: nats behind the best, of who left at a stage
    estimate : float [I, C]: the answer before the first pull, NaN where there is none
    free : float [I, C]: what the rule's screen says of the K_max means, nats of a pull; NaN where it did not
    """

    scores: Array
    alive: Array
    n: Array
    left_at: Array
    stage: Array
    left_stage: Array
    behind: Array
    estimate: Array
    free: Array
    _ARRAYS = ("scores", "alive", "n", "left_at", "stage", "left_stage", "behind", "estimate", "free")

    def __init__(
        self, n_races: int, n_classes: int, k_max: int, rule: Rule, block: int = 1,
        scores: Array | None = None,
    ):  # fmt: skip
        if n_classes < 2:
            raise ValueError(f"a race needs at least two classes, got {n_classes}")
        if k_max < 1:
            raise ValueError(f"a race needs at least one order, got {k_max}")
        self.rule, self.k_max, self.block = rule, k_max, block
        self.n_classes = n_classes
        self.looks = np.array(rule.looks(n_classes, k_max))
        self.stages = rule.first_stages
        self._full = scores is not None
        each = (n_races, n_classes)
        self.scores = np.full((n_races, k_max * block, n_classes), np.nan) if scores is None else scores
        self.alive = np.ones(each, bool)
        self.n, self.stage = np.zeros(n_races, int), np.zeros(n_races, int)
        self.left_at, self.left_stage = np.zeros(each, int), np.full(each, -1)
        self.behind, self.estimate, self.free = np.full((3, *each), np.nan)

    @classmethod
    def recorded(cls, scores: Array, block: int = 1) -> Races:
        """Races as they ended, of which [I, K · block, C] was scored, NaN from where a class had left on."""
        self = cls(len(scores), scores.shape[2], scores.shape[1] // block, FixedRule(), block, scores)
        self.n[:] = self.k_max
        scored = ~np.isnan(self.pulls(slice(None), self.k_max))
        seen = np.where(scored.all(axis=1), self.k_max, scored.argmin(axis=1))  # up to the first gap
        self.alive = seen == self.k_max
        self.left_at = np.where(self.alive, 0, seen)
        self.left_stage = np.where(seen == 0, 0, -1)
        self.behind[seen == 0] = np.inf
        return self

    # what happens

    def done(self, rows: Array | slice = slice(None)) -> Array:
        """One class left, or all orders used: bool [rows]."""
        found: Array = (self.n[rows] >= self.k_max) | (self.alive[rows].sum(axis=1) <= 1)
        return found

    def leave_stage(self, rows: Array, scores: Array) -> None:
        """Drop who is hopeless by a stage's estimate; it is the answer until there is a better one.

        scores : of the stage that each of these races is at, nats: [rows, C], of the dead whatever
        """
        at, alive = self.stage[rows], self.alive[rows]
        gap, scale, screened = (
            np.array([value(stage) for stage in self.stages])[at][:, None]
            for value in (lambda s: s.gap, lambda s: s.scale, lambda s: isinstance(s.source, str))
        )
        scores = scores * scale
        self.free[rows] = np.where(screened, scores, self.free[rows])
        best = np.where(alive, scores, -np.inf).max(axis=1, keepdims=True)
        behind = best - scores
        left = alive & (behind > gap)
        self.alive[rows] = alive & ~left
        self.left_stage[rows] = np.where(left, at[:, None], self.left_stage[rows])
        self.behind[rows] = np.where(left, behind, self.behind[rows])
        self.estimate[rows] = np.where(self.alive[rows], scores, best - self.behind[rows])
        self.stage[rows] += 1

    def advance(self, rows: Array) -> None:
        """Take the looks that the scores of these races allow."""
        rows = rows[~self.done(rows)]
        while len(rows):
            ready = self._ready(rows)
            look = self.looks[np.searchsorted(self.looks, self.n[rows], side="right")]
            self.n[rows] = np.minimum(look, ready)
            rows, look = rows[ready >= look], look[ready >= look]
            for n in np.unique(look).tolist():
                self._look(rows[look == n], n)
            rows = rows[~self.done(rows)]

    def _ready(self, rows: Array) -> Array:
        """Pulls for which every living class has its score: int [rows]."""
        if self._full:
            return np.full(len(rows), self.k_max)
        lacks = (np.isnan(self.scores[rows]) & self.alive[rows][:, None]).any(axis=2)
        orders = np.where(lacks.any(axis=1), lacks.argmax(axis=1), lacks.shape[1])
        found: Array = orders // self.block
        return found

    def _look(self, rows: Array, n: int) -> None:
        alive = self.alive[rows]
        keep = self._decide(Seen(self.pulls(rows, n), alive, self.k_max, self.free[rows]))
        self.left_at[rows] = np.where(alive & ~keep, n, self.left_at[rows])
        self.alive[rows] = keep

    def _decide(self, seen: Seen) -> Array:
        """Who stays; at K_max the leader alone: bool [rows, C]."""
        if seen.n < self.k_max:
            return self.rule.keep(seen)
        leader = mean_scores(seen.pulls, seen.alive).argmax(axis=1)
        found: Array = np.arange(seen.n_classes) == leader[:, None]
        return found

    def move(self, row: int, to: Races, at: int) -> None:
        """Copy a race into another stack of such races."""
        for name in self._ARRAYS:
            getattr(to, name)[at] = getattr(self, name)[row]

    # what it has come to

    def pulls(self, rows: Array | slice, n: int) -> Array:
        """The first n pulls, averaged over their orders: [rows, n, C], NaN where a class was out."""
        scores: Array = self.scores[rows, : n * self.block]
        if self.block == 1:
            return scores
        found: Array = scores.reshape(len(scores), n, self.block, self.n_classes).mean(axis=2)
        return found

    @property
    def seen(self) -> Array:
        """Pulls that were scored of each class: int [I, C]."""
        until = np.where(self.left_at > 0, self.left_at, self.n[:, None])
        return np.where(self.left_stage < 0, until, 0)

    def means(self) -> Array:
        """Order-averaged log-likelihood of every class, nats: [I, C]; −∞ before anything was scored.

        A class that left has no score on later orders. Its mean is the leader's less their paired
        difference over the pulls they share (never above the leader's), so that the ups and downs of the
        later orders, which move every class, do not move its distance to the leader. Who left at a stage
        is as far behind as it was there.
        """
        most = int(self.n.max(initial=0))
        pulls, seen, n = self.pulls(slice(None), most), self.seen, self.n[:, None]
        k = np.arange(most)[:, None]
        inside = k < seen[:, None]
        with np.errstate(invalid="ignore", divide="ignore"):
            means = np.where(inside, pulls, 0).sum(axis=1) / n  # of who has all n pulls
            leader = self._leader(means)
            lead = np.take_along_axis(means, leader, axis=1)
            gap = np.where(inside, np.take_along_axis(pulls, leader[:, None], axis=2) - pulls, 0)
            gap = gap.sum(axis=1) / seen
            if self.rule.pseudo_pulls:
                free, more = known_free(self.free, self.rule.pseudo_pulls)
                away = np.take_along_axis(free, leader, axis=1) - free
                gap = blended(gap, away, effective_pulls(seen, self.k_max), more)
                means = lead - gap
        away = np.where(self.left_stage < 0, np.maximum(gap, 0), self.behind)
        means = np.where(seen < n, lead - away, means)
        nothing = np.where(np.isnan(self.estimate), -np.inf, self.estimate)
        return np.where(n > 0, means, nothing)

    def _leader(self, means: Array) -> Array:
        """The living class of highest mean, a screen's estimate counted in: int [I, 1]."""
        if self.rule.pseudo_pulls:
            free, more = known_free(self.free, self.rule.pseudo_pulls)
            means = blended(means, free, effective_pulls(self.n[:, None], self.k_max), more)
        found: Array = np.where(self.alive, means, -np.inf).argmax(axis=1)[:, None]
        return found

    @property
    def prediction(self) -> Array:
        """The answer now, the living class of highest mean: int [I]."""
        found: Array = np.where(self.alive, self.means(), -np.inf).argmax(axis=1)
        return found

    @property
    def decided(self) -> Array:
        """One class left before K_max: bool [I]."""
        found: Array = (self.alive.sum(axis=1) == 1) & (self.n < self.k_max)
        return found

    @property
    def passes(self) -> Array:
        """Class scores that the race took, in pulls: int [I]."""
        found: Array = self.seen.sum(axis=1)
        return found

    @property
    def stage_rows(self) -> Array:
        """Classes estimated at each stage: int [I, stages]; 0 where a race had ended by then."""
        at = np.arange(len(self.stages))
        there = (self.left_stage[:, :, None] < 0) | (self.left_stage[:, :, None] >= at)
        rows = there.sum(axis=1)
        return np.where((rows > 1) & (at < self.stage[:, None]), rows, 0)

    @property
    def tokens(self) -> Array:
        """Tokens scored at rungs, over all classes: int [I]."""
        each = [s.source if isinstance(s.source, int) else 0 for s in self.stages]
        found: Array = self.stage_rows @ np.array(each, int)
        return found


def evidence(means: Array) -> Array:
    """How far the best class stands above the average of all classes raced, nats: [..., C] → [...].

    A likelihood ratio of the answer to "one of these at random": what all classes gain from a picture that is
    easy to code cancels, as it does not in log p(x) itself (docs/abstain.md). 0 where there is no number.
    """
    known = np.isfinite(means).all(axis=-1)
    with np.errstate(invalid="ignore"):
        found: Array = np.where(known, means.max(axis=-1) - means.mean(axis=-1), 0.0)
    return found


def effective_pulls(n: Array, k_max: int) -> Array:
    """`bounds.effective_n` of arrays: τ = n / (1 − n/K_max), ∞ at K_max."""
    with np.errstate(divide="ignore"):
        found: Array = n / (1 - n / k_max)
    return found


def aggregate_scores(scores: Array, how: str) -> Array:
    """Order-averaged class scores [..., C] from log-likelihoods [..., K, C], as in the reference.

    `mean` = (1/K) Σ_k log p_k; `logmeanexp` = log (1/K) Σ_k p_k; `softmax` = (1/K) Σ_k softmax_c(log p_k).
    """
    if how == "mean":
        found: Array = scores.mean(axis=-2)
        return found
    if how == "logmeanexp":
        found = logsumexp(scores, axis=-2) - np.log(scores.shape[-2])
        return found
    if how == "softmax":
        found = softmax(scores, axis=-1).mean(axis=-2)
        return found
    raise ValueError(f"unknown aggregation {how!r}: choose from {', '.join(AGGREGATORS)}")


Sources = Mapping[int | str, Array]  # what stages estimate: of order 0 after so many tokens, or a screen's


def run(rule: Rule, scores: Array, sources: Sources | None = None, block: int = 1) -> Races:
    """Race every image of a full score tensor [I, K, C] to its end.

    sources : what the rule's stages estimate, each [I, C]. Raises ValueError where one lacks.
    block : orders a pull, as :class:`Races`
    """
    scores = np.ascontiguousarray(scores, float)
    races = Races(len(scores), scores.shape[2], scores.shape[1] // block, rule, block, scores)
    for stage in races.stages:
        if stage.source not in (sources or {}):
            where = f"{stage.source} tokens" if isinstance(stage.source, int) else f"screen {stage.source!r}"
            raise ValueError(f"rule {rule.name!r} has a stage at {where}, which was not scored")
        assert sources is not None
        racing = np.flatnonzero(races.alive.sum(axis=1) > 1)
        races.leave_stage(racing, sources[stage.source][racing])
    races.advance(np.arange(len(scores)))
    return races
