"""One image in the engine's hands: what its race asked for, what came, and what it has spent."""

from __future__ import annotations

import math
import time
from collections import deque
from dataclasses import dataclass, field

import numpy as np

from anytime_cls.draws.base import Draws
from anytime_cls.engine.encoded import Views
from anytime_cls.engine.spending import Spending
from anytime_cls.plan.budget import Budget
from anytime_cls.race.decision import SCREENED, Record
from anytime_cls.race.race import Race, advance
from anytime_cls.scorers.base import Encoded, Piece


@dataclass
class Job:
    """One image in the engine's hands.

    `length`: steps of every draw that a pass scores. `prefixes` (ascending, each shorter than a pass): a pass
    also gives the running score there, recorded before its own. `seconds` starts as what the image has cost
    before the engine had it. `views`: where every draw sees a view of its own; `encoded` is then what screens
    see, if there are any, else the first.
    """

    index: int  # position in the caller's sequence
    encoded: Encoded
    content: bytes  # decides the draws
    race: Race
    classes: np.ndarray  # int64 [C]: the model's class ids, in the race's order
    draws: Draws
    length: int
    seed: int = 0
    budget: Budget | None = None
    started: float = field(default_factory=time.perf_counter)
    prefixes: tuple[int, ...] = ()
    screens: tuple[str, ...] = ()  # names, as they are numbered in records
    fallback: str = ""  # a screen for a budget that allows no order of all classes; numbered after them
    views: Views | None = None
    short: int | None = None  # classes that it went on with because the budget allowed no more
    unused: str = ""  # what was left of a budget in seconds was too short for
    stop: str = ""
    error: str = ""  # why there is no answer
    seconds: float = 0.0
    records: list[Record] = field(default_factory=list)
    spending: Spending | None = None
    pending: deque[tuple[int, np.ndarray]] = field(default_factory=deque)  # (order, classes) not scored yet
    _rung: int | None = None  # tokens, while the race is at a rung
    _round: int = -1
    _asked: int = 0  # classes of the current request
    _partial: list[tuple[np.ndarray, np.ndarray]] = field(
        default_factory=list
    )  # (classes, values [n, prefixes + 1]) of a begun order
    _covariates: dict[int, float] = field(default_factory=dict)  # order → its draw's, where it has one
    _bought: tuple[int, int] = (-1, -1)  # (round, order) already charged to the budget

    @property
    def next_length(self) -> int:
        """Tokens that the next pass scores."""
        return self._rung or self.length

    @property
    def full_passes(self) -> float:
        """What all orders of every class come to, in whole passes; before it has a budget, in calls."""
        orders = self.race.k_max * self.race.block
        rows = self.race.n_classes * orders
        return float(rows) if self.spending is None else self.spending.cost.passes(rows, self.length, orders)

    def refill(self) -> None:
        """Queue what the race asks for next."""
        if not self.pending:
            request = self.race.request()
            if request.orders:
                self._round += 1
                self._asked, self._rung = len(request.classes), request.prefix
                self.pending.extend((order, request.classes) for order in request.orders)

    def look_ahead(self, rows: int) -> None:
        """Queue orders past the next look too, up to this many rows: the race is alone on the device."""
        while self.pending and not self._rung:
            queued = sum(len(classes) for _, classes in self.pending)
            if queued + self._asked > rows or not (request := self.race.request_ahead()).orders:
                return
            self.pending.append((request.orders[0], request.classes))

    def take(self, rows: int) -> tuple[int, np.ndarray] | None:
        """Up to `rows` rows of one order, off the queue."""
        if not self.pending or rows < 1:
            return None
        order, classes = self.pending.popleft()
        if len(classes) > rows:
            self.pending.appendleft((order, classes[rows:]))
        return order, classes[:rows]

    def receive(self, order: int, classes: np.ndarray, values: np.ndarray) -> None:
        """Take scores [n, prefixes + 1] ([n, 1] at a rung); they are written down when their order has all
        its classes, so that records do not show how rows were packed."""
        self._partial.append((classes, values))
        if self.scored == self._asked:
            self.write_down(order)
        self.race.put(order, classes, values[:, -1], self._rung)

    def bought(self, order: int) -> bool:
        """Whether the budget was charged for this order, as it was asked for last."""
        return self._bought == (self._round, order)

    def buy(self, order: int) -> None:
        self._bought = (self._round, order)

    def finished(self) -> bool:
        """Whether its race is over; `stop` then says why."""
        race = self.race
        if race.done and not self.stop:
            whole = "decided" if race.alive.sum() == 1 and race.n < race.k_max else "max-orders"
            self.stop = whole if self.short is None else "budget"
        return bool(self.stop)

    def best_first(self) -> None:
        """Score the likeliest classes of what is queued first: should the clock cut an order short, they are
        what it is worth most for."""
        self.pending = deque((order, self.race.best_first(classes)) for order, classes in self.pending)

    def shortlist(self, rows: int) -> bool:
        """Go on with fewer classes: those of the next order that are scored, and so many more, the likeliest.

        Returns whether that is a race: of at least two, the leader one of them.
        """
        (order, classes), race = self.pending[0], self.race
        some = np.concatenate([*(done for done, _ in self._partial), classes[:rows]])
        if len(some) < 2 or race.leader not in some:
            return False
        if len(some) < int(race.alive.sum()):
            race.shortlist(some)
            self.short = self._asked = len(some)
            left = ((number, wanted[race.alive[wanted]]) for number, wanted in self.pending)
            self.pending = deque((number, wanted) for number, wanted in left if len(wanted))
        if self.scored == self._asked:  # the order is ended
            self.write_down(order)
            advance([race])
        return True

    @property
    def scored(self) -> int:
        """Classes of the next order that have their score already."""
        return sum(len(some) for some, _ in self._partial)

    def screened(self, number: int, values: np.ndarray) -> None:
        """Write down a screen's estimates [C]."""
        self._round += 1
        before = self._round - 1 if self.pending else self._round  # what is asked for already comes after it
        self.records.append(Record(number, np.arange(len(values)), SCREENED, before, values))

    def record_prefix(self, prefix: int, values: np.ndarray) -> None:
        """Log-likelihoods [C] of so many tokens of the first order, all that its budget allowed."""
        # a first order that was begun may have recorded this prefix of some classes: not twice
        self.records = [record for record in self.records if record.prefix != prefix]
        covariate = self._covariates.get(0, math.nan)
        self.records.append(Record(0, np.arange(len(values)), prefix, self._round, values, covariate))
        self.race.record_prefix(values)

    def piece(self, order: int, classes: np.ndarray) -> Piece:
        """What the scorer is given: a draw of this image, for some classes of its race."""
        encoded = self.encoded if self.views is None else self.views.encoded(order)
        draw = self.draws.at(self.seed, self.content, order)
        if not math.isnan(draw.covariate):
            self._covariates[order] = draw.covariate
        return Piece(encoded, draw, self.classes[classes])

    def columns(self) -> tuple[int, ...]:
        """Tokens after which the next pass's log-likelihoods are wanted."""
        return (self._rung,) if self._rung else (*self.prefixes, self.length)

    def write_down(self, order: int) -> None:
        """Record what came of an order, all of it or (cut short by the clock) some classes."""
        if not self._partial:
            return
        classes = np.concatenate([some for some, _ in self._partial])
        values = np.concatenate([some for _, some in self._partial])
        self._partial.clear()
        for column, prefix in enumerate(self.columns()):
            covariate = self._covariates.get(order, math.nan)
            self.records.append(Record(order, classes, prefix, self._round, values[:, column], covariate))
