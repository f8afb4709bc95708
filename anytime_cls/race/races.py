"""One image's race: from all classes to a decision, order by order.

    c* = argmax_c (1/K) Σ_k log p(x | π_k, c)                       (the paper's classifier, K fixed)

A :class:`Race` asks for scores (which orders of which classes), takes them in any order, and lets its
rule drop classes at the rule's looks. The answer is there at any moment. `run` does the same for a stack
of fully scored images. Pure NumPy and SciPy: no torch, no image.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp, softmax

from anytime_cls.race.bounds import Bound
from anytime_cls.race.rules import Rule, Seen, mean_scores

Array = np.ndarray
AGGREGATORS = ("mean", "logmeanexp", "softmax")


@dataclass(frozen=True)
class Request:
    """Scores a race asks for next: these classes, on each of these orders."""

    orders: tuple[int, ...]
    classes: Array  # int64 [n]
    prefix: int | None = None  # tokens, at a rung; None for a whole pass

    @property
    def passes(self) -> int:
        return len(self.orders) * len(self.classes)


class Race:
    """The elimination of one image's classes.

    Parameters
    ----------
    n_classes : C
    k_max : pulls after which the race ends; a pull is `block` orders
    rule : decides who leaves, at its looks
    block : orders averaged into one pull (2 for antithetic pairs, which depend on each other)

    A rule with `rungs`, (tokens, gap) of rising tokens, races inside the first order before the first pull:
    every class is scored on that many tokens of order 0, and who is more than `gap` nats behind the best
    leaves. Log-likelihoods are in nats, float64.
    """

    def __init__(self, n_classes: int, k_max: int, rule: Rule, block: int = 1):
        if n_classes < 2:
            raise ValueError(f"a race needs at least two classes, got {n_classes}")
        if k_max < 1:
            raise ValueError(f"a race needs at least one order, got {k_max}")
        self.rule, self.k_max, self.block = rule, k_max, block
        self.by_order = np.full((k_max * block, n_classes), np.nan)
        self.alive = np.ones(n_classes, bool)
        self.left_at = np.zeros(n_classes, int)  # pulls scored when a class left; 0 while it is in
        self.n = 0  # complete pulls: every living class has its score
        self.prefix_scores: Array | None = None  # [C], the answer before the first pull is complete
        self.rung_gap = np.full(n_classes, np.nan)  # nats behind the best, of who left at a rung
        self.passes = 0
        self._looks = rule.looks(n_classes, k_max)
        self._issued = 0
        self._rungs = rungs_of(rule)
        self._rung, self._rung_issued = 0, False  # how many rungs are done; whether the next was asked for
        self._rung_scores = np.full(n_classes, np.nan)
        self._means: Array | None = None  # as they are now, once asked for

    @property
    def n_classes(self) -> int:
        return len(self.alive)

    @property
    def orders(self) -> int:
        """Whole orders used so far."""
        return self.n * self.block

    @property
    def pulls(self) -> Array:
        """Log-likelihoods averaged over each pull's orders: [n, C], NaN where a class was already out."""
        scores = self.by_order[: self.orders]
        return scores if self.block == 1 else scores.reshape(self.n, self.block, -1).mean(axis=1)

    @property
    def done(self) -> bool:
        """One class left, or all orders used."""
        return self.n >= self.k_max or int(self.alive.sum()) <= 1

    def request(self) -> Request:
        """Orders up to the rule's next look that were not asked for yet, for the living classes."""
        if self._rung < len(self._rungs) and not self.done:
            asked, self._rung_issued = self._rung_issued, True
            return Request(() if asked else (0,), np.flatnonzero(self.alive), self._rungs[self._rung][0])
        look = next((n for n in self._looks if n > self.n), self.k_max)
        first, self._issued = self._issued, max(self._issued, look * self.block)
        orders = tuple(range(first, self._issued)) if not self.done else ()
        return Request(orders, np.flatnonzero(self.alive))

    def request_ahead(self) -> Request:
        """The next order past what was asked for, of the living classes: scores in hand cut no look short.

        Decisions do not change; whoever leaves at a look before it was scored in vain.
        """
        orders: tuple[int, ...] = ()
        if self._rung == len(self._rungs) and not self.done and self._issued < self.k_max * self.block:
            orders = (self._issued,)
            self._issued += 1
        return Request(orders, np.flatnonzero(self.alive))

    def record(self, order: int, classes: Array, values: Array, prefix: int | None = None) -> None:
        """Take log-likelihoods [n] of one order, for some or all of the classes asked for.

        prefix : as in the request they answer. Raises ValueError for numbers that are not finite: NaN marks
        what was not scored.
        """
        values = np.asarray(values, float)
        if not np.isfinite(values).all():
            raise ValueError(f"log-likelihoods must be finite, and some of order {order} are not")
        self.passes += len(classes)
        self._means = None
        if prefix is not None:
            self._rung_scores[classes] = values
            if np.isfinite(self._rung_scores[self.alive]).all():
                self._leave_rung()
            return
        self.by_order[order, classes] = values
        self._advance()

    def record_prefix(self, values: Array) -> None:
        """Log-likelihoods [C] of a prefix of the first order: the answer until the first pull is in."""
        self.prefix_scores, self._means = np.asarray(values, float), None

    def _leave_rung(self) -> None:
        """Drop who is hopeless at this rung; its scores are the answer until there are better ones."""
        scores, gap = self._rung_scores, self._rungs[self._rung][1]
        keep, behind = leave_rung(scores[None], self.alive[None], gap)
        self.rung_gap[self.alive & ~keep[0]] = behind[0][self.alive & ~keep[0]]
        self.alive = keep[0]
        self.prefix_scores = np.where(self.alive, scores, scores[self.alive].max() - self.rung_gap)
        self._rung, self._rung_issued = self._rung + 1, False
        self._rung_scores = np.full(self.n_classes, np.nan)

    def _advance(self) -> None:
        while not self.done:
            rows = self.by_order[self.orders : self.orders + self.block, self.alive]
            if np.isnan(rows).any():
                return
            self.n += 1
            if self.n in self._looks:
                self._look()

    def _look(self) -> None:
        scores, alive = self.pulls[None], self.alive[None]
        keep = decide(self.rule, scores, alive, self.k_max)[0]
        self.left_at[self.alive & ~keep] = self.n
        self.alive = keep

    def means(self) -> Array:
        """Order-averaged log-likelihood of every class, nats: [C]; −inf before anything was scored.

        A class that left has no score on later orders. Its mean is the leader's less their paired
        difference over the pulls they share (never above the leader's), so that the ups and downs of the
        later orders, which move every class, do not move its distance to the leader. Who left at a rung
        is as far behind as it was there.
        """
        if self._means is None:
            self._means = self._compute_means()
        return self._means.copy()

    def _compute_means(self) -> Array:
        if self.n == 0:
            empty = np.full(self.n_classes, -np.inf)
            return empty if self.prefix_scores is None else self.prefix_scores
        pulls = self.pulls
        means = pulls.mean(axis=0)  # NaN for who left early
        leader = int(np.where(self.alive, means, -np.inf).argmax())
        for n, members in self._cohorts():
            if n == 0:
                means[members] = means[leader] - self.rung_gap[members]
            elif n < self.n:
                gap = (pulls[:n, [leader]] - pulls[:n, members]).mean(axis=0)
                means[members] = means[leader] - np.maximum(gap, 0)
        found: Array = means
        return found

    @property
    def leader(self) -> int:
        """The answer now: the living class of highest mean."""
        return int(np.where(self.alive, self.means(), -np.inf).argmax())

    def intervals(self) -> tuple[Array, Array]:
        """Lower and upper bounds of every class's mean for display: two [C].

        `marginal`'s are its own confidence bounds. The paired rules bound differences, so theirs are the
        class's mean ± the half-width on its difference to the leader (the leader's own: that of its
        closest rival): a class leaves when its upper bound falls below the leader's mean. The bounds of a
        class that left are as wide as when it left, and move with its mean (:meth:`means`). Rules without
        bounds give (−inf, inf).
        """
        means = self.means()
        lower = np.full(self.n_classes, -np.inf)
        upper = np.full(self.n_classes, np.inf)
        pulls = self.pulls
        for n, members in self._cohorts():
            if n == 0:
                continue
            widths = self.rule.half_widths(Seen(pulls[None, :n], self._alive_at(n)[None], self.k_max))
            if widths is None:
                continue
            half = widths[0]
            lower[members], upper[members] = (means - half)[members], (means + half)[members]
        return lower, upper

    def separation(self, bound: Bound) -> float:
        """The smallest δ at which the leader is separated from every rival, in [0, 1].

        The largest, over rivals, of the bound's tail for the pair at the last pull that the rival was in
        (against the leader of that moment), times the union over rivals and (unless the bound is
        anytime-valid) looks. 0 when all K_max orders were scored; 1 before the first pull. Who left at a
        rung is not counted: a calibration, not this bound, answers for that.
        """
        if self.n == 0:
            return 1.0
        worst, pulls = 0.0, self.pulls
        for n, members in self._cohorts():
            if n == 0:
                continue
            leader = int(mean_scores(pulls[None, :n], self._alive_at(n)[None])[0].argmax())
            members = members[members != leader]
            if len(members) == 0 or n >= self.k_max:
                continue
            diff = pulls[:n, [leader]] - pulls[:n, members]
            var = diff.var(axis=0, ddof=1) if n > 1 else np.zeros(len(members))
            worst = max(worst, float(np.max(bound.tail(diff.mean(axis=0), var, n, self.k_max))))
        looks = 1 if bound.anytime else max(1, len(self._looks) - 1)
        return min(1.0, worst * (self.n_classes - 1) * looks)

    def _cohorts(self) -> list[tuple[int, Array]]:
        """Classes grouped by how many pulls they have."""
        pulls = np.where(self.alive, self.n, self.left_at)
        return [(int(n), np.flatnonzero(pulls == n)) for n in np.unique(pulls)]

    def _alive_at(self, n: int) -> Array:
        return self.alive | (self.left_at >= n)

    def aggregate(self, how: str, temperature: float = 1.0) -> Array:
        """Class probabilities [C] from what was scored.

        `mean`: soft-max of :meth:`means` over `temperature`. `logmeanexp` and `softmax`, the reference's
        alternatives: log of the mean likelihood, and the mean of each order's soft-max.
        """
        scores = self.pulls if self.n else self.means()[None]
        if how == "mean":
            means = self.means()
            nothing = np.isneginf(means).all()
            return np.full(len(means), 1 / len(means)) if nothing else softmax(means / temperature)
        if np.isnan(scores).any():
            raise ValueError(f"aggregation {how!r} needs every class scored on every order: use rule 'fixed'")
        scores = aggregate_scores(scores, how)
        return scores if how == "softmax" else softmax(scores / temperature)


def decide(rule: Rule, scores: Array, alive: Array, k_max: int) -> Array:
    """Who stays after the scores' n orders; at k_max the leader alone: bool [I, C]."""
    if scores.shape[1] < k_max:
        return rule.keep(Seen(scores, alive, k_max))
    leader = mean_scores(scores, alive).argmax(axis=1)
    found: Array = np.arange(scores.shape[2]) == leader[:, None]
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


def rungs_of(rule: Rule) -> tuple[tuple[int, float], ...]:
    """A rule's rungs, (tokens, gap in nats); none for most rules."""
    return tuple((stage.source, stage.gap) for stage in rule.first_stages)


def leave_rung(scores: Array, alive: Array, gap: float) -> tuple[Array, Array]:
    """Who stays at a rung, bool [I, C], and how far behind the best each is: from scores, alive [I, C]."""
    behind = np.where(alive, scores, -np.inf).max(axis=1, keepdims=True) - scores
    return alive & ~(behind > gap), behind


@dataclass(frozen=True)
class Outcomes:
    """What a rule did to a stack of I fully scored images."""

    prediction: Array  # int [I]
    pulls: Array  # int [I]: pulls used
    passes: Array  # int [I]: class scores taken, in pulls
    decided: Array  # bool [I]: one class left before k_max
    left_at: Array  # int [I, C]: pulls scored when a class left; 0 for the answer, and who left at a rung
    tokens: Array  # int [I]: tokens scored at rungs, over all classes
    rung_rows: Array  # int [I, rungs]: classes scored at each rung
    rung_gap: Array  # float [I, C]: nats behind the best, of who left at a rung; NaN for the others


def run(rule: Rule, scores: Array, rung_scores: Mapping[int, Array] | None = None) -> Outcomes:
    """Race every image of a full score tensor [I, K, C] at once: the live race's decisions, vectorised.

    rung_scores : of order 0 at each rung of the rule, tokens → [I, C]. Raises ValueError where one lacks.
    """
    scores = np.ascontiguousarray(scores, float)
    n_images, k_max, n_classes = scores.shape
    alive = np.ones((n_images, n_classes), bool)
    tokens = np.zeros(n_images, int)
    rung_gap = np.full((n_images, n_classes), np.nan)
    rung_rows = np.zeros((n_images, len(rungs_of(rule))), int)
    for at, (prefix, gap) in enumerate(rungs_of(rule)):
        if prefix not in (rung_scores or {}):
            raise ValueError(f"rule {rule.name!r} has a rung at {prefix} tokens, which was not scored")
        assert rung_scores is not None
        racing = alive.sum(axis=1) > 1
        rung_rows[racing, at] = alive[racing].sum(axis=1)
        tokens += rung_rows[:, at] * prefix
        keep, behind = leave_rung(rung_scores[prefix], alive, gap)
        leaving = alive & ~keep & racing[:, None]
        rung_gap[leaving] = behind[leaving]
        alive &= ~leaving
    at_rung = ~alive
    pulls = np.zeros(n_images, int)
    passes = np.zeros(n_images, int)
    left_at = np.zeros((n_images, n_classes), int)
    before = 0
    for look in rule.looks(n_classes, k_max):
        racing = alive.sum(axis=1) > 1
        if not racing.any():
            break
        passes[racing] += alive[racing].sum(axis=1) * (look - before)
        pulls[racing] = look
        alive[racing] = decide(rule, scores[racing, :look], alive[racing], k_max)
        left_at[~alive & ~at_rung & (left_at == 0)] = look
        before = look
    decided = pulls < k_max
    # the leader of the living; they share their pulls
    prediction = alive.argmax(axis=1)
    return Outcomes(prediction, pulls, passes, decided, left_at, tokens, rung_rows, rung_gap)
