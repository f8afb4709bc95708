"""Many races at once: rows of different races fill batches that keep the device busy.

One image: its rows (class, order) fill batches that shrink as classes leave; orders up to the rule's next
look go together, and further ones while the batch itself costs more than its rows. Many images: rows of
different races share a batch, and the looks they allow are taken together (`race.races`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, final

import numpy as np

from anytime_cls.engine.job import Job
from anytime_cls.engine.passes import Rows, begin, score, score_prefix
from anytime_cls.engine.spending import Spending
from anytime_cls.engine.timed import race_timed
from anytime_cls.race.races import Races

if TYPE_CHECKING:
    from anytime_cls.engine.engine import Engine

ACTIVE_RACES = 64  # races whose rows may share a batch, or more where batches are large
AHEAD = 4  # how many times as many may have begun since the oldest did: results wait for it, in order


@final
class Window:
    """Races that are under way; jobs join as there is room and leave as they end.

    on_update : watches races, one at a time, tile by tile
    pad : as `Engine.race`
    """

    def __init__(self, engine: Engine, on_update: Callable[[Job], None] | None, pad: bool):
        self.engine, self.on_update, self.pad = engine, on_update, pad
        self.most = ACTIVE_RACES if on_update is None else 1  # a watched race is not held up by others
        self.active: list[tuple[int, Job]] = []  # when each began, and it
        self._stacks: list[Races] = []
        self._free: list[list[int]] = []  # rows of each stack that are nobody's

    def run(self, jobs: Iterable[Job]) -> Iterator[Job]:
        """Every job, as it ends."""
        queue, begun, more = iter(jobs), 0, True
        while self.active or more:
            self.engine.settle()  # between two batches, and before the next image's clock begins
            while more and len(self.active) < self.most:
                if self.active and begun - self.active[0][0] >= AHEAD * self.most:
                    break
                if (job := next(queue, None)) is None:
                    more = False
                    break
                begun += 1
                if job.budget is not None and job.budget.unit == "seconds" and not job.stop:
                    race_timed(self.engine, job, self.on_update)
                if job.stop:
                    yield job
                    continue
                self._admit(begun, job)
            self._batch()
            yield from self._ended()

    def _admit(self, begun: int, job: Job) -> None:
        engine = self.engine
        if self.on_update is None and not engine.joint:
            # a race has two rows or more to offer: half a batch of races fills it
            self.most = max(self.most, engine.rows(job.length or engine.n_tokens) // 2)
        job.spending = Spending(job.budget, engine.cost, engine.n_tokens, job.started, job.length)
        began = time.perf_counter()
        begin(engine, job)
        job.seconds += time.perf_counter() - began
        if self.on_update is not None and job.race.estimated:
            self.on_update(job)  # a screen's answer is the first there is to see
        if self.pad:
            self._join(job)
        self.active.append((begun, job))

    def _join(self, job: Job) -> None:
        """A row of the stack of races like this one; races of another kind begin a stack of their own."""
        race = job.race
        kind = (race.rule, race.k_max, race.n_classes, race.block)
        for stack, free in zip(self._stacks, self._free, strict=True):
            if free and (stack.rule, stack.k_max, stack.n_classes, stack.block) == kind:
                return race.join(stack, free.pop())
        self._stacks.append(Races(self.most, race.n_classes, race.k_max, race.rule, race.block))
        self._free.append(list(range(self.most)))
        race.join(self._stacks[-1], self._free[-1].pop())

    def _leave(self, job: Job) -> None:
        for stack, free in zip(self._stacks, self._free, strict=True):
            if job.race.races is stack:
                free.append(job.race.row)
                job.race.leave()
                return

    def _batch(self) -> None:
        """Run one batch and share its seconds out."""
        began = time.perf_counter()
        if not self.pad and len(self.active) == 1 and self.active[0][1].budget is None:
            alone = self.active[0][1]
            alone.refill()
            length = alone.next_length
            alone.look_ahead(min(self.engine.rows(length), self.engine.cost.balanced_rows(length)))
        pieces = self._fill()
        if not pieces:
            return
        score(self.engine, pieces, self.pad)
        seconds, rows = time.perf_counter() - began, sum(len(classes) for _, _, classes in pieces)
        for job, _, classes in pieces:
            job.seconds += seconds * len(classes) / rows
        if self.on_update is not None:
            self.on_update(pieces[0][0])

    def _fill(self) -> list[Rows]:
        """Rows of the active races, oldest first, up to a full batch (watched: a tile); all of one length."""
        length, engine = self._next_length(), self.engine
        pieces: list[Rows] = []
        room = 0 if not length else engine.rows(length) if self.on_update is None else engine.tile(length)
        for _, job in self.active:
            while room > 0 and (piece := self._next_piece(job, room, length)) is not None:
                pieces.append((job, *piece))
                room -= len(piece[1])
        return pieces

    def _next_length(self) -> int:
        """The length that fills a batch best; the oldest race's where several do. 0: nobody wants any."""
        wanted: dict[int, int] = {}
        for _, job in self.active:
            job.refill()
            if not job.stop and job.pending:
                rows = sum(len(classes) for _, classes in job.pending)
                wanted[job.next_length] = wanted.get(job.next_length, 0) + rows
        return max(wanted, key=lambda m: min(1.0, wanted[m] / self.engine.rows(m)), default=0)

    def _next_piece(self, job: Job, room: int, length: int) -> tuple[int, np.ndarray] | None:
        """A job's next rows of this length; an order is begun only if the budget allows all of it."""
        assert job.spending is not None
        job.refill()
        if job.stop or not job.pending or job.next_length != length:
            return None
        order, classes = job.pending[0]
        if not job.bought(order):
            if not job.spending.fits(len(classes), length):
                job.stop = "budget"
                job.pending.clear()
                return None
            job.spending.charge(len(classes), length, 1.0)
            job.buy(order)
        return job.take(room)

    def _ended(self) -> Iterator[Job]:
        still = []
        for ticket, job in self.active:
            if not job.finished():
                still.append((ticket, job))
                continue
            self._leave(job)
            if job.stop == "budget" and job.race.n == 0 and not job.race.estimated:
                began = time.perf_counter()
                score_prefix(self.engine, job, self.pad, self.on_update)
                job.seconds += time.perf_counter() - began
            yield job
        self.active = still
