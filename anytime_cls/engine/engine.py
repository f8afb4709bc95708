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
from dataclasses import dataclass, field

import numpy as np
import torch

from anytime_cls.draws.orders import OrderSampler
from anytime_cls.engine import cost as costs
from anytime_cls.engine.encoded import Views
from anytime_cls.engine.spending import Spending
from anytime_cls.plan.budget import Budget
from anytime_cls.race.decision import Record
from anytime_cls.race.races import Race
from anytime_cls.scorers.sigma import Transformer

ACTIVE_RACES = 64  # races whose rows may share a batch, or more where batches are large
WINDOW = 4  # how many times as many may have begun since the oldest did: results wait for it, in order
SLICE = 0.05  # share of a time budget that one batch may take
AUTO_ROWS = {"cpu": 32, "cuda": 256, "mps": 64}
# sequence positions in a tile: enough to keep the device busy, few enough to stay in a CPU's cache (32 rows
# of the embedded model at once are a fifth slower than 8 at a time) and to waste little on padding
TILE_POSITIONS = {"cpu": 1 << 10, "cuda": 1 << 13, "mps": 1 << 12}


@dataclass
class Job:
    """One image in the engine's hands.

    `length`: tokens of every order that a pass scores; 0 for all of them. `prefixes` (ascending, each
    shorter than a pass): a pass also gives the running log-likelihood there, recorded before its own.
    `seconds` starts as what the image has cost before the engine had it. `views`: where every order has
    tokens of its own; `tokens` are the first's.
    """

    index: int  # position in the caller's sequence
    tokens: np.ndarray  # int64 [N], raster order
    content: bytes  # decides the orders
    race: Race
    classes: np.ndarray  # int64 [C]: the model's class ids, in the race's order
    sampler: OrderSampler
    budget: Budget | None = None
    started: float = field(default_factory=time.perf_counter)
    prefixes: tuple[int, ...] = ()
    length: int = 0
    views: Views | None = None
    stop: str = ""
    error: str = ""  # why there is no answer
    seconds: float = 0.0
    records: list[Record] = field(default_factory=list)
    spending: Spending | None = None
    _pending: deque = field(default_factory=deque)  # (order, classes) not scored yet
    _rung: int | None = None  # tokens, while the race is at a rung
    _round: int = -1
    _asked: int = 0  # classes of the current request
    _partial: list = field(default_factory=list)  # (classes, values [n, prefixes + 1]) of a begun order
    _bought: tuple[int, int] = (-1, -1)  # (round, order) already charged to the budget

    def __post_init__(self) -> None:
        self.length = self.length or len(self.tokens)

    @property
    def next_length(self) -> int:
        """Tokens that the next pass scores."""
        return self._rung or self.length

    def refill(self) -> None:
        """Queue what the race asks for next."""
        if not self._pending:
            request = self.race.request()
            if request.orders:
                self._round += 1
                self._asked, self._rung = len(request.classes), request.prefix
                self._pending.extend((order, request.classes) for order in request.orders)

    def look_ahead(self, rows: int) -> None:
        """Queue orders past the next look too, up to this many rows: the race is alone on the device."""
        while self._pending and not self._rung:
            queued = sum(len(classes) for _, classes in self._pending)
            if queued + self._asked > rows or not (request := self.race.request_ahead()).orders:
                return
            self._pending.append((request.orders[0], request.classes))

    def take(self, rows: int) -> tuple[int, np.ndarray] | None:
        """Up to `rows` rows of one order, off the queue."""
        if not self._pending or rows < 1:
            return None
        order, classes = self._pending.popleft()
        if len(classes) > rows:
            self._pending.appendleft((order, classes[rows:]))
        return order, classes[:rows]

    def receive(self, order: int, classes: np.ndarray, values: np.ndarray) -> None:
        """Take scores [n, prefixes + 1] ([n, 1] at a rung); they are written down when their order has all
        its classes, so that records do not show how rows were packed."""
        self._partial.append((classes, values))
        if sum(len(some) for some, _ in self._partial) == self._asked:
            self.write_down(order)
        self.race.record(order, classes, values[:, -1], self._rung)

    def tokens_of(self, order: int) -> np.ndarray:
        """Token ids that an order is scored on: int64 [N], raster order."""
        return self.tokens if self.views is None else self.views.tokens(order)

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
            self.records.append(Record(order, classes, prefix, self._round, values[:, column]))


Piece = tuple[Job, int, np.ndarray]  # rows of one job: order, race classes


class Engine:
    """Runs races on a model and a device.

    Parameters
    ----------
    model : in eval mode, on its device and dtype
    batch_size : most whole passes in a batch (of shorter ones proportionally more); None chooses for the
        device. Any size of at least `tile`, the rows that go through the model at a time, gives the same
        bits. Out of memory halves the tile.
    identity : what a cached calibration belongs to (weights' hash); None: measure every time
    """

    def __init__(self, model: Transformer, batch_size: int | None = None, identity: str | None = None):
        self.model = model
        self.device = model.output.weight.device
        self.batch_size = batch_size or AUTO_ROWS.get(self.device.type, 32)
        self._positions = TILE_POSITIONS.get(self.device.type, 1 << 10)
        self.cost = costs.CostModel(model.config.flops, model.config.n_tokens)
        self.identity = identity
        self.passes = 0.0  # whole passes run so far

    @property
    def n_tokens(self) -> int:
        return self.model.config.n_tokens

    def rows(self, length: int) -> int:
        """Most passes of `length` tokens in a batch: a whole number of tiles."""
        most = self.batch_size * self.n_tokens // length
        return most - most % self.tile(length)

    def tile(self, length: int) -> int:
        """Passes of `length` tokens that go through the model at a time."""
        most = self.batch_size * self.n_tokens // length
        return min(most, max(1, self._positions // (2 * length)))

    def calibrate(self, fresh: bool = False) -> float:
        """Learn what a batch costs here; returns the seconds it took (0 from the cache)."""
        if self.cost.slope > 0 and not fresh:
            return 0.0
        key = self.identity and costs.cache_key(
            self.identity,
            self.device,
            _device_name(self.device),
            self.model.output.weight.dtype,
            torch.get_num_threads(),
            torch.__version__,
        )
        cached = costs.read_cached(key) if key and not fresh else None
        if cached:
            self.cost.overhead, self.cost.slope = cached
            return 0.0
        began = time.perf_counter()
        rows = min(self.batch_size, 16)
        order = np.arange(self.n_tokens)

        def run(b: int) -> float:
            t = time.perf_counter()
            one = np.zeros(b, int)
            self._forward([np.zeros(self.n_tokens, int)], [order], one, one, self.n_tokens)
            return time.perf_counter() - t

        self.cost.calibrate(run, rows)
        if key:
            costs.write_cached(key, self.cost.overhead, self.cost.slope)
        return time.perf_counter() - began

    def race(
        self, jobs: Iterable[Job], on_update: Callable[[Job], None] | None = None, pad: bool = True
    ) -> Iterator[Job]:
        """Run every job's race; jobs come back as they finish, each with `stop` and `seconds` set.

        A job that has its `stop` already comes straight back. Few races are held at a time, however many
        jobs there are: none begins too long before the oldest ends. `on_update` watches races, one at a time;
        without `pad`, values may depend on the packing in their last bits.
        """
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
                if on_update is None:  # a race has two rows or more to offer: half a batch of races fills it
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

    def _fill(self, active: list[Job], watched: bool) -> list[Piece]:
        """Rows of the active races, oldest first, up to a full batch (watched: a tile); all of one length."""
        length = self._next_length(active)
        pieces: list[Piece] = []
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
    def _share_out(pieces: list[Piece], seconds: float) -> None:
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
            pieces: list[Piece] = []
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

    def _score(self, pieces: list[Piece], pad: bool) -> None:
        """Run passes, all of one length, and hand the numbers to their races."""
        length = pieces[0][0].next_length
        for (job, order, classes), sums in zip(pieces, self._run(pieces, length, pad), strict=True):
            values = sums[:, [prefix - 1 for prefix in job.columns()]]
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
            values[some] = self._run([(job, 0, some)], prefix, pad)[0][:, -1]
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
            dtype = str(self.model.output.weight.dtype).removeprefix("torch.")
            job.error = f"the model's log-likelihoods are not finite in {dtype}: use float32"
            job.stop = "failed"
            job._pending.clear()
        return not job.error

    def _run(self, pieces: list[Piece], length: int, pad: bool) -> list[np.ndarray]:
        """Running log-likelihoods of each piece's rows over the first `length` tokens: float64 [n, length] in
        nats, rounded to float32 so that a trace stores them exactly."""
        tokens = [job.tokens_of(order) for job, order, _ in pieces]
        orders = [job.sampler.order(job.content, order) for job, order, _ in pieces]
        sizes = [len(classes) for _, _, classes in pieces]
        piece_of_row = np.repeat(np.arange(len(pieces)), sizes)
        class_of_row = np.concatenate([job.classes[classes] for job, _, classes in pieces])
        n = len(piece_of_row)
        if pad:
            padding = (0, -n % self.tile(length))
            piece_of_row, class_of_row = np.pad(piece_of_row, padding), np.pad(class_of_row, padding)
        began = time.perf_counter()
        log_p = self._forward(tokens, orders, piece_of_row, class_of_row, length)[:n]
        self.cost.observe(len(piece_of_row), length, time.perf_counter() - began)
        self.passes += n * self.cost.share(length)
        # summed token by token, so that a sum depends on nothing but its own row
        sums = np.cumsum(log_p, axis=1, dtype=np.float64).astype(np.float32).astype(np.float64)
        return np.split(sums, np.cumsum(sizes)[:-1])

    @torch.inference_mode()
    def _forward(
        self,
        tokens: list[np.ndarray],
        orders: list[np.ndarray],
        piece_of_row: np.ndarray,
        class_of_row: np.ndarray,
        length: int,
    ) -> np.ndarray:
        """Log-probabilities of the first `length` tokens of rows [B] in their orders: float32, nats."""
        stacked_tokens = torch.from_numpy(np.stack(tokens)).to(self.device)
        stacked_orders = torch.from_numpy(np.stack(orders)).to(self.device)
        rows = torch.from_numpy(piece_of_row).to(self.device)
        classes = torch.from_numpy(class_of_row).to(self.device)
        prefix = None if length == self.n_tokens else length
        out, start = [], 0
        while start < len(rows):
            at = rows[start : start + self.tile(length)]
            of = classes[start : start + len(at)]
            try:
                out.append(self.model(stacked_tokens[at], of, stacked_orders[at], prefix))
            except RuntimeError as error:
                if not _out_of_memory(error) or len(at) == 1:
                    raise
                self._positions = 2 * length * (len(at) // 2)
                if self.device.type == "cuda":
                    torch.cuda.empty_cache()
                continue
            start += len(at)
        return torch.cat(out).float().cpu().numpy()


def _out_of_memory(error: RuntimeError) -> bool:
    text = str(error).lower()
    return (
        isinstance(error, torch.OutOfMemoryError)
        or "out of memory" in text
        or "can't allocate memory" in text
    )


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return device.type
