"""One image's race, live: what it asks for, what came, and how sure it is of its answer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import final

import numpy as np
from scipy.special import softmax

from anytime_cls.race.bounds import Bound
from anytime_cls.race.races import Races, aggregate_scores
from anytime_cls.race.rules import Rule, Seen, mean_scores

Array = np.ndarray


@dataclass(frozen=True)
class Request:
    """Scores a race asks for next: these classes, on each of these orders."""

    orders: tuple[int, ...]
    classes: Array  # int64 [n]
    prefix: int | None = None  # tokens, at a rung; None for a whole pass

    @property
    def passes(self) -> int:
        return len(self.orders) * len(self.classes)


@final
class Race:
    """One row of a stack of :class:`Races`, at first of a stack of its own. Parameters as there."""

    def __init__(self, n_classes: int, k_max: int, rule: Rule, block: int = 1):
        self.races, self.row = Races(1, n_classes, k_max, rule, block), 0
        self.rule, self.k_max, self.block, self.n_classes = rule, k_max, block, n_classes
        self.passes = 0  # scores taken
        self._issued = 0
        self._stage_issued = False  # whether the stage it is at was asked for
        self._stage_scores = np.full(n_classes, np.nan)
        self._means: Array | None = None  # as they are now, once asked for

    @property
    def by_order(self) -> Array:
        """Log-likelihoods as they came, order by order: [K_max · block, C], NaN where there is none."""
        found: Array = self.races.scores[self.row]
        return found

    @property
    def alive(self) -> Array:
        """bool [C]."""
        found: Array = self.races.alive[self.row]
        return found

    @property
    def left_at(self) -> Array:
        """Pulls scored when a class left; 0 while it is in, and of who left at a stage: int [C]."""
        found: Array = self.races.left_at[self.row]
        return found

    @property
    def n(self) -> int:
        """Complete pulls: every living class has its score."""
        return int(self.races.n[self.row])

    @property
    def orders(self) -> int:
        """Whole orders used so far."""
        return self.n * self.block

    @property
    def pulls(self) -> Array:
        """Log-likelihoods averaged over each pull's orders: [n, C], NaN where a class was already out."""
        found: Array = self.races.pulls(slice(self.row, self.row + 1), self.n)[0]
        return found

    @property
    def estimated(self) -> bool:
        """Whether there is an answer before the first pull."""
        return bool(np.isfinite(self.races.estimate[self.row]).all())

    @property
    def done(self) -> bool:
        """One class left, or all orders used."""
        return self.n >= self.k_max or int(self.alive.sum()) <= 1

    # asking

    def request(self) -> Request:
        """Orders up to the rule's next look that were not asked for yet, for the living classes."""
        stage, alive = int(self.races.stage[self.row]), np.flatnonzero(self.alive)
        if stage < len(self.races.stages) and not self.done:
            asked, self._stage_issued = self._stage_issued, True
            source = self.races.stages[stage].source
            assert isinstance(source, int)  # a screen's estimate is there before anything is asked
            return Request(() if asked else (0,), alive, source)
        look = next((int(n) for n in self.races.looks if n > self.n), self.k_max)
        first, self._issued = self._issued, max(self._issued, look * self.block)
        return Request(tuple(range(first, self._issued)) if not self.done else (), alive)

    def request_ahead(self) -> Request:
        """The next order past what was asked for, of the living classes: scores in hand cut no look short.

        Decisions do not change; whoever leaves at a look before it was scored in vain.
        """
        orders: tuple[int, ...] = ()
        staged = self.races.stage[self.row] < len(self.races.stages)
        if not staged and not self.done and self._issued < self.k_max * self.block:
            orders = (self._issued,)
            self._issued += 1
        return Request(orders, np.flatnonzero(self.alive))

    # taking

    def record(self, order: int, classes: Array, values: Array, prefix: int | None = None) -> None:
        """Take log-likelihoods [n] of one order, and the looks that they allow. As :meth:`put`."""
        self.put(order, classes, values, prefix)
        advance([self])

    def put(self, order: int, classes: Array, values: Array, prefix: int | None = None) -> None:
        """Take log-likelihoods [n] of one order, for some or all of the classes asked for; looks wait.

        prefix : as in the request they answer. Raises ValueError for numbers that are not finite: NaN marks
        what was not scored.
        """
        values = np.asarray(values, float)
        if not np.isfinite(values).all():
            raise ValueError(f"log-likelihoods must be finite, and some of order {order} are not")
        self.passes += len(classes)
        self._means = None
        if prefix is None:
            self.by_order[order, classes] = values
            return
        self._stage_scores[classes] = values
        if np.isfinite(self._stage_scores[self.alive]).all():
            self.races.leave_stage(np.array([self.row]), self._stage_scores[None])
            self._stage_issued = False
            self._stage_scores = np.full(self.n_classes, np.nan)

    def screen(self, name: str, values: Array | None) -> None:
        """Take a screen's estimates [C]: the stage that waits for them, else the answer until there is a
        better one. None: there are none, and the stage lets everyone in."""
        races, at = self.races, int(self.races.stage[self.row])
        waits = at < len(races.stages) and races.stages[at].source == name
        self._means = None
        if values is None:
            races.stage[self.row] += waits
        elif waits:
            races.leave_stage(np.array([self.row]), values[None])
        elif not self.estimated:
            races.estimate[self.row] = values

    def best_first(self, classes: Array) -> Array:
        """These classes, the likeliest first by what is known so far; as they are while nothing is."""
        means = self.means()[classes]
        return classes[np.argsort(-means, kind="stable")] if np.isfinite(means).all() else classes

    def shortlist(self, classes: Array) -> None:
        """Go on with these of the living classes only, the leader among them."""
        means, races, row = self.means(), self.races, self.row
        out = self.alive.copy()
        out[classes] = False
        if self.n:
            races.left_at[row, out] = self.n
        else:
            races.left_stage[row, out] = 0
            races.behind[row, out] = np.max(means[self.alive]) - means[out]
        races.alive[row, out] = False
        self._means = None

    def record_prefix(self, values: Array) -> None:
        """Log-likelihoods [C] of a prefix of the first order: the answer until the first pull is in."""
        self.races.estimate[self.row], self._means = values, None

    def join(self, races: Races, row: int) -> None:
        """Go on as a row of another stack of such races."""
        self.races.move(self.row, races, row)
        self.races, self.row = races, row

    def leave(self) -> None:
        """Go on alone, so that the row can be another's."""
        self.join(Races(1, self.n_classes, self.k_max, self.rule, self.block), 0)

    # answering

    def means(self) -> Array:
        """`Races.means` of this race: [C]."""
        if self._means is None:
            alone = self.races
            if len(alone.n) > 1:
                alone = Races(1, self.n_classes, self.k_max, self.rule, self.block)
                self.races.move(self.row, alone, 0)
            self._means = alone.means()[0]
        return self._means.copy()

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
        stage is not counted: a calibration, not this bound, answers for that.
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
        looks = 1 if bound.anytime else max(1, len(self.races.looks) - 1)
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


def advance(races: Iterable[Race]) -> None:
    """Take the looks that the scores of these races allow, those of one stack together."""
    stacks: dict[int, list[Race]] = defaultdict(list)
    for race in races:
        race._means = None
        stacks[id(race.races)].append(race)
    for members in stacks.values():
        members[0].races.advance(np.unique([race.row for race in members]))
