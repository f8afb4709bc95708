"""The engine: what many races ask for becomes full batches on one device.

One image: its rows (class, order) fill batches that shrink as classes leave; orders up to the rule's
next look go together, and further ones while the batch itself costs more than its rows. Many images: rows
of different races share a batch, so the device stays full. A budget in seconds is kept image by image;
anything else is packed.

Nothing depends on the packing, to the last bit: a batch reaches the model in tiles of a fixed number of
rows, the last one padded, because kernels may round differently for another number of rows. (One image alone
is not padded, which would cost it time, nor is a race under a budget in seconds, which depends on the clock.)
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch

from anytime_cls.engine import cost as costs
from anytime_cls.engine.job import Job
from anytime_cls.engine.spending import Spending
from anytime_cls.race.decision import Record
from anytime_cls.scorers.base import Encoded, Piece, Scorer

ACTIVE_RACES = 64  # races whose rows may share a batch, or more where batches are large
WINDOW = 4  # how many times as many may have begun since the oldest did: results wait for it, in order
SLICE = 0.05  # share of a time budget that one batch may take
UNCUT = 1 << 30  # rows: of a joint scorer, which gives all classes in one call
AUTO_ROWS = {"cpu": 32, "cuda": 256, "mps": 64}
# sequence positions in a tile: enough to keep the device busy, few enough to stay in a CPU's cache (32 rows
# of the embedded model at once are a fifth slower than 8 at a time) and to waste little on padding
TILE_POSITIONS = {"cpu": 1 << 10, "cuda": 1 << 13, "mps": 1 << 12}


Rows = tuple[Job, int, np.ndarray]  # of one job: an order, and classes of its race


class Stopped(Exception):
    """The caller's `stop` said so, between two batches."""


class Engine:
    """Runs races on a scorer and its device.

    Parameters
    ----------
    scorer : on its device
    batch_size : most whole passes in a batch (of shorter ones proportionally more); None chooses for the
        device. Any size of at least `tile`, the rows that go through the model at a time, gives the same
        bits. Out of memory halves the tile.
    identity : what a cached calibration belongs to (weights' hash); None: measure every time
    probe : an encoded image to calibrate the clock with, made when it is asked for
    """

    def __init__(
        self,
        scorer: Scorer,
        batch_size: int | None = None,
        identity: str | None = None,
        probe: Callable[[], Encoded] | None = None,
    ):
        self.scorer = scorer
        self.device = torch.device(scorer.device)
        self.batch_size = batch_size or AUTO_ROWS.get(self.device.type, 32)
        self._positions = TILE_POSITIONS.get(self.device.type, 1 << 10)
        self.cost = costs.CostModel(scorer.shape.flops, scorer.shape.steps)
        self.identity, self.probe = identity, probe
        self._joint = scorer.shape.joint
        self.passes = 0.0  # whole passes run so far
        self._stop: Callable[[], bool] | None = None

    @property
    def n_tokens(self) -> int:
        """Steps of a whole draw."""
        return self.scorer.shape.steps

    def rows(self, length: int) -> int:
        """Most passes of `length` tokens in a batch: a whole number of tiles."""
        if self._joint:
            return UNCUT
        most = self.batch_size * self.n_tokens // length
        return most - most % self.tile(length)

    def tile(self, length: int) -> int:
        """Passes of `length` tokens that go through the model at a time."""
        if self._joint:
            return UNCUT
        most = self.batch_size * self.n_tokens // length
        return min(most, max(1, self._positions // self.scorer.width(length)))

    def calibrate(self, fresh: bool = False) -> float:
        """Learn what a batch costs here; returns the seconds it took (0 from the cache)."""
        if self.cost.slope > 0 and not fresh:
            return 0.0
        key = self.identity and costs.cache_key(
            self.identity,
            self.device,
            _device_name(self.device),
            f"torch.{self.scorer.dtype}",
            torch.get_num_threads(),
            torch.__version__,
        )
        cached = costs.read_cached(key) if key and not fresh else None
        if cached:
            self.cost.overhead, self.cost.slope = cached
            return 0.0
        began = time.perf_counter()
        rows = min(self.batch_size, 16)
        if self.probe is None:
            raise ValueError("the engine has no image to calibrate its clock with")
        steps = self.n_tokens
        draw = self.scorer.shape.draws("uniform", steps).at(0, b"", 0)  # what a plan falls back to
        encoded = self.probe()

        def run(b: int) -> float:
            t = time.perf_counter()
            self._tiles([Piece(encoded, draw, np.zeros(b, int))], (steps,))
            return time.perf_counter() - t

        self.cost.calibrate(run, rows)
        if key:
            costs.write_cached(key, self.cost.overhead, self.cost.slope)
        return time.perf_counter() - began

    def race(
        self,
        jobs: Iterable[Job],
        on_update: Callable[[Job], None] | None = None,
        pad: bool = True,
        stop: Callable[[], bool] | None = None,
    ) -> Iterator[Job]:
        """Run every job's race; jobs come back as they finish, each with `stop` and `seconds` set.

        A job that has its `stop` already comes straight back. Few races are held at a time, however many
        jobs there are: none begins too long before the oldest ends. `on_update` watches races, one at a time;
        without `pad`, values may depend on the packing in their last bits. `stop` is asked before every
        batch: once it says True, the run ends with :class:`Stopped`.
        """
        self._stop = stop
        queue, active = iter(jobs), []  # type: ignore[var-annotated]
        begun, exhausted = 0, False
        most = ACTIVE_RACES if on_update is None else 1  # a watched race is not held up by others
        while active or not exhausted:
            while not exhausted and len(active) < most:
                if active and begun - active[0][0] >= WINDOW * most:
                    break
                job = next(queue, None)
                if job is None:
                    exhausted = True
                    break
                begun += 1
                if (
                    on_update is None and not self._joint
                ):  # a race has two rows or more to offer: half a batch of races fills it
                    most = max(most, self.rows(job.length or self.n_tokens) // 2)
                if job.budget is not None and job.budget.unit == "seconds" and not job.stop:
                    self._race_timed(job, on_update)
                if job.stop:
                    yield job
                    continue
                job.spending = Spending(job.budget, self.cost, self.n_tokens, job.started)
                active.append((begun, job))
            began = time.perf_counter()
            if not pad and len(active) == 1 and active[0][1].budget is None:
                alone = active[0][1]
                alone.refill()
                length = alone.next_length
                alone.look_ahead(min(self.rows(length), self.cost.balanced_rows(length)))
            pieces = self._fill([job for _, job in active], on_update is not None)
            if pieces:
                self._score(pieces, pad)
                self._share_out(pieces, time.perf_counter() - began)
                if on_update is not None:
                    on_update(pieces[0][0])
            still = []
            for ticket, job in active:
                if not self._finished(job):
                    still.append((ticket, job))
                    continue
                if job.stop == "budget" and job.race.n == 0 and job.race.prefix_scores is None:
                    began = time.perf_counter()
                    self._score_prefix(job, pad, on_update)
                    job.seconds += time.perf_counter() - began
                yield job
            active = still

    def _fill(self, active: list[Job], watched: bool) -> list[Rows]:
        """Rows of the active races, oldest first, up to a full batch (watched: a tile); all of one length."""
        length = self._next_length(active)
        pieces: list[Rows] = []
        room = 0 if not length else self.tile(length) if watched else self.rows(length)
        for job in active:
            while room > 0 and (piece := self._next_piece(job, room, length)) is not None:
                pieces.append((job, *piece))
                room -= len(piece[1])
        return pieces

    def _next_length(self, active: list[Job]) -> int:
        """The length that fills a batch best; the oldest race's where several do. 0: nobody wants any."""
        wanted: dict[int, int] = {}
        for job in active:
            job.refill()
            if not job.stop and job._pending:
                rows = sum(len(classes) for _, classes in job._pending)
                wanted[job.next_length] = wanted.get(job.next_length, 0) + rows
        return max(wanted, key=lambda length: min(1.0, wanted[length] / self.rows(length)), default=0)

    def _next_piece(self, job: Job, room: int, length: int) -> tuple[int, np.ndarray] | None:
        """A job's next rows of this length; an order is begun only if the budget allows all of it."""
        assert job.spending is not None
        job.refill()
        if job.stop or not job._pending or job.next_length != length:
            return None
        order, classes = job._pending[0]
        if (job._round, order) != job._bought:
            if not job.spending.fits(len(classes), length):
                job.stop = "budget"
                job._pending.clear()
                return None
            job.spending.charge(len(classes), length, 1.0)
            job._bought = (job._round, order)
        return job.take(room)

    def _finished(self, job: Job) -> bool:
        if job.race.done and not job.stop:
            job.stop = (
                "decided" if job.race.alive.sum() == 1 and job.race.n < job.race.k_max else "max-orders"
            )
        return bool(job.stop)

    @staticmethod
    def _share_out(pieces: list[Rows], seconds: float) -> None:
        """Charge a shared batch's wall time to its races, by rows."""
        rows = sum(len(classes) for _, _, classes in pieces)
        for job, _, classes in pieces:
            job.seconds += seconds * len(classes) / rows

    def _race_timed(self, job: Job, on_update: Callable[[Job], None] | None) -> None:
        """One race against the clock: no batch starts that is expected to end too late."""
        self.calibrate()
        assert job.budget is not None
        spending = job.spending = Spending(job.budget, self.cost, self.n_tokens, job.started)
        while not self._finished(job):
            job.refill()
            (order, classes), length = job._pending[0], job.next_length
            ahead = 0.0 if job.views is None else job.views.seconds_ahead(order)
            if not spending.fits(len(classes), length, seconds=ahead):
                job.write_down(order)
                if job.race.n == 0 and job.race.prefix_scores is None:
                    self._score_prefix(job, False, on_update)  # a first order that cannot be ended
                job.stop = "budget"
                continue
            # several orders of a short field may share a batch, as far as the clock allows
            allowed = max(SLICE * job.budget.amount, self.cost.seconds(1, length))
            within = self.cost.rows_within(min(allowed, spending.left - ahead), length)
            room = min(self.rows(length), within)
            job.look_ahead(min(room, self.cost.balanced_rows(length)))
            pieces: list[Rows] = []
            while room > 0 and (piece := job.take(room)) is not None:
                pieces.append((job, *piece))
                room -= len(piece[1])
                if job.views is not None:  # the clock is asked before every view
                    break
            self._score(pieces, pad=False)
            rows = sum(len(piece[2]) for piece in pieces)
            spending.charge(rows, length, rows / max(1, len(classes)))
            if on_update is not None:
                on_update(job)
        job.seconds = time.perf_counter() - job.started

    def _score(self, pieces: list[Rows], pad: bool) -> None:
        """Run passes, all of one length, and hand the numbers to their races."""
        at = tuple(sorted({m for job, _, _ in pieces for m in job.columns()}))
        wanted = [job.piece(order, classes) for job, order, classes in pieces]
        for (job, order, classes), sums in zip(pieces, self._run(wanted, at, pad), strict=True):
            values = sums[:, [at.index(m) for m in job.columns()]]
            if self._usable(job, values):
                job.receive(order, classes, values)

    def _score_prefix(self, job: Job, pad: bool, on_update: Callable[[Job], None] | None) -> None:
        """Not even one whole pull fits: score as much of the first order as does, for every class."""
        assert job.spending is not None
        if np.isfinite(job.race.by_order[0]).all():  # half a block did
            job.race.record_prefix(job.race.by_order[0])
            return
        everyone = np.arange(job.race.n_classes)
        prefix = min(job.length, job.spending.longest_prefix(len(everyone)))
        values = np.empty(len(everyone))
        step = self.rows(prefix) if on_update is None else self.tile(prefix)
        for start in range(0, len(everyone), step):
            some = everyone[start : start + step]
            values[some] = self._run([job.piece(0, some)], (prefix,), pad)[0][:, -1]
            if not self._usable(job, values[some]):
                return
            job.spending.charge(len(some), prefix, len(some) / len(everyone))
            if on_update is not None:
                on_update(job)
        # a first order that was begun may have recorded this prefix of some classes: not twice
        job.records = [record for record in job.records if record.prefix != prefix]
        job.records.append(Record(0, everyone, prefix, job._round, values))
        job.race.record_prefix(values)

    def _usable(self, job: Job, values: np.ndarray) -> bool:
        """Whether these numbers can be raced; a job whose numbers overflowed ends with an error."""
        if not np.isfinite(values).all():
            job.error = f"the model's log-likelihoods are not finite in {self.scorer.dtype}: use float32"
            job.stop = "failed"
            job._pending.clear()
        return not job.error

    def _run(self, pieces: list[Piece], at: tuple[int, ...], pad: bool) -> list[np.ndarray]:
        """Running scores of each piece's rows after these many steps (ascending): float64 [n, len(at)]."""
        if self._stop is not None and self._stop():
            raise Stopped
        steps, n = at[-1], sum(len(piece.classes) for piece in pieces)
        spare = -n % self.tile(steps) if pad and not self._joint else 0
        padding = [pieces[0]._replace(classes=np.zeros(spare, int))] if spare else []
        began = time.perf_counter()
        scores = self._tiles([*pieces, *padding], at)[: len(pieces)]
        self.cost.observe(n + spare, steps, time.perf_counter() - began)
        self.passes += n * self.cost.share(steps)
        return scores

    def _tiles(self, pieces: list[Piece], at: tuple[int, ...]) -> list[np.ndarray]:
        """`Scorer.score` of pieces cut into tiles of so many rows; out of memory halves the tile."""
        parts: list[list[np.ndarray]] = [[] for _ in pieces]
        queue = deque(enumerate(pieces))
        while queue:
            some: list[tuple[int, Piece]] = []
            room = self.tile(at[-1])
            while queue and room > 0 and not (self._joint and len(some) == self.batch_size):
                which, piece = queue.popleft()
                if len(piece.classes) > room:
                    queue.appendleft((which, piece._replace(classes=piece.classes[room:])))
                    piece = piece._replace(classes=piece.classes[:room])
                some.append((which, piece))
                room -= len(piece.classes)
            try:
                scores = self.scorer.score([piece for _, piece in some], at)
            except (RuntimeError, MemoryError) as error:
                rows = sum(len(piece.classes) for _, piece in some)
                if not _out_of_memory(error) or rows == 1 or self._joint:
                    raise
                self._positions = self.scorer.width(at[-1]) * (rows // 2)
                if self.device.type == "cuda":
                    torch.cuda.empty_cache()
                queue.extendleft(reversed(some))
                continue
            for (which, _), values in zip(some, scores, strict=True):
                parts[which].append(values)
        return [np.concatenate(part) if part else np.empty((0, len(at))) for part in parts]


def _out_of_memory(error: Exception) -> bool:
    text = str(error).lower()
    return (
        isinstance(error, torch.OutOfMemoryError | MemoryError)
        or "out of memory" in text
        or "can't allocate memory" in text
    )


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return device.type
