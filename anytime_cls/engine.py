"""The engine: what many races ask for becomes full batches on one device.

One image: its rows (class, order) fill batches that shrink as classes leave; orders up to the rule's
next look go together. Many images: rows of different races share a batch, so the device stays full.
A budget in seconds is kept image by image; anything else is packed. No decision depends on the packing
beyond float rounding.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch

from anytime_cls import cost as costs
from anytime_cls.budget import Budget, Spending
from anytime_cls.orders import OrderSampler
from anytime_cls.race import Race
from anytime_cls.randar import RandAR

ACTIVE_RACES = 64  # races whose rows may share a batch
SLICE = 0.05  # share of a time budget that one batch may take
AUTO_ROWS = {"cpu": 32, "cuda": 256, "mps": 64}


@dataclass(frozen=True)
class Record:
    """Log-likelihoods as they were scored: one order, some classes (positions in the race)."""

    order: int
    classes: np.ndarray
    prefix: int
    round: int
    values: np.ndarray


@dataclass
class Job:
    """One image in the engine's hands."""

    index: int  # position in the caller's sequence
    tokens: np.ndarray  # int64 [N], raster order
    content: bytes  # decides the orders
    race: Race
    classes: np.ndarray  # int64 [C]: the model's class ids, in the race's order
    sampler: OrderSampler
    budget: Budget | None = None
    started: float = field(default_factory=time.perf_counter)
    stop: str = ""
    error: str = ""  # why there is no answer
    seconds: float = 0.0
    records: list[Record] = field(default_factory=list)
    spending: Spending | None = None
    _pending: deque = field(default_factory=deque)  # (order, classes) not scored yet
    _rounds: int = 0
    _bought: int = -1  # the order already charged to the budget

    def refill(self) -> None:
        """Queue what the race asks for next."""
        if not self._pending:
            request = self.race.request()
            self._pending.extend((order, request.classes) for order in request.orders)

    def take(self, rows: int) -> tuple[int, np.ndarray] | None:
        """Up to `rows` rows of one order, off the queue."""
        if not self._pending or rows < 1:
            return None
        order, classes = self._pending.popleft()
        if len(classes) > rows:
            self._pending.appendleft((order, classes[rows:]))
        return order, classes[:rows]


Piece = tuple[Job, int, np.ndarray]  # rows of one job: order, race classes


class Engine:
    """Runs races on a model and a device.

    Parameters
    ----------
    model : in eval mode, on its device and dtype
    batch_size : most rows in a batch; None chooses for the device. Out of memory halves it.
    identity : what a cached calibration belongs to (weights' hash); None: measure every time
    """

    def __init__(self, model: RandAR, batch_size: int | None = None, identity: str | None = None):
        self.model = model
        self.device = model.output.weight.device
        self.batch_size = batch_size or AUTO_ROWS.get(self.device.type, 32)
        self.cost = costs.CostModel(model.config.flops, model.config.n_tokens)
        self.identity = identity
        self.passes = 0.0  # whole passes run so far

    @property
    def n_tokens(self) -> int:
        return self.model.config.n_tokens

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
            self._forward([np.zeros(self.n_tokens, int)], [order], np.zeros(b, int), np.zeros(b, int), None)
            return time.perf_counter() - t

        self.cost.calibrate(run, rows)
        if key:
            costs.write_cached(key, self.cost.overhead, self.cost.slope)
        return time.perf_counter() - began

    def race(self, jobs: Iterable[Job], on_update: Callable[[Job], None] | None = None) -> Iterator[Job]:
        """Run every job's race; jobs come back as they finish, each with `stop` and `seconds` set."""
        queue, active = iter(jobs), []  # type: ignore[var-annotated]
        exhausted = False
        most = ACTIVE_RACES if on_update is None else 1  # a watched race is not held up by others
        while True:
            while not exhausted and len(active) < most:
                job = next(queue, None)
                if job is None:
                    exhausted = True
                elif job.budget is not None and job.budget.unit == "seconds":
                    self._race_timed(job, on_update)
                    yield job
                else:
                    job.spending = Spending(job.budget, self.cost, self.n_tokens, job.started)
                    active.append(job)
            if not active:
                if exhausted:
                    return
                continue
            pieces = self._fill(active)
            if pieces:
                self._score(pieces)
                for job in {id(piece[0]): piece[0] for piece in pieces}.values():
                    if on_update is not None:
                        on_update(job)
            for job in [job for job in active if self._finished(job)]:
                active.remove(job)
                yield job

    def _fill(self, active: list[Job]) -> list[Piece]:
        """Rows of the active races, oldest first, up to a full batch."""
        pieces: list[Piece] = []
        room = self.batch_size
        for job in active:
            while room > 0 and (piece := self._next_piece(job, room)) is not None:
                pieces.append((job, *piece))
                room -= len(piece[1])
        return pieces

    def _next_piece(self, job: Job, room: int) -> tuple[int, np.ndarray] | None:
        """A job's next rows; an order is begun only if the budget allows all of it."""
        assert job.spending is not None
        job.refill()
        if job.stop or not job._pending:
            return None
        order, classes = job._pending[0]
        if order != job._bought:
            if not job.spending.fits(len(classes), self.n_tokens):
                if order == 0:
                    self._score_prefix(job)
                job.stop = "budget"
                job._pending.clear()
                return None
            job.spending.charge(len(classes), self.n_tokens, 1.0)
            job._bought = order
        return job.take(room)

    def _finished(self, job: Job) -> bool:
        if job.race.done and not job.stop:
            job.stop = (
                "decided" if job.race.alive.sum() == 1 and job.race.n < job.race.k_max else "max-orders"
            )
        if job.stop and not job.seconds:
            job.seconds = time.perf_counter() - job.started
        return bool(job.stop)

    def _race_timed(self, job: Job, on_update: Callable[[Job], None] | None) -> None:
        """One race against the clock: no batch starts that is expected to end too late."""
        self.calibrate()
        assert job.budget is not None
        spending = job.spending = Spending(job.budget, self.cost, self.n_tokens, job.started)
        while not self._finished(job):
            job.refill()
            classes = job._pending[0][1]
            if not spending.fits(len(classes), self.n_tokens):
                if job.race.n == 0:  # a first order that cannot be ended, begun or not
                    self._score_prefix(job)
                job.stop = "budget"
                continue
            # several orders of a short field may share a batch, as far as the clock allows
            allowed = max(SLICE * job.budget.amount, self.cost.seconds(1, self.n_tokens))
            room = min(self.batch_size, self.cost.rows_within(min(allowed, spending.left), self.n_tokens))
            pieces: list[Piece] = []
            while room > 0 and (piece := job.take(room)) is not None:
                pieces.append((job, *piece))
                room -= len(piece[1])
            self._score(pieces)
            rows = sum(len(piece[2]) for piece in pieces)
            spending.charge(rows, self.n_tokens, rows / max(1, len(classes)))
            if on_update is not None:
                on_update(job)

    def _score(self, pieces: list[Piece]) -> None:
        """Run whole orders and hand the numbers to their races."""
        for (job, order, classes), values in zip(pieces, self._run(pieces, None), strict=True):
            if not self._usable(job, values):
                continue
            job.records.append(Record(order, classes, self.n_tokens, job._rounds, values))
            job.race.record(order, classes, values)
        for job in {id(piece[0]): piece[0] for piece in pieces}.values():
            job._rounds += 1

    def _score_prefix(self, job: Job) -> None:
        """Not even one whole order fits: score as much of the first as does, for every class."""
        assert job.spending is not None
        everyone = np.arange(job.race.n_classes)
        prefix = job.spending.longest_prefix(len(everyone))
        values = np.empty(len(everyone))
        for start in range(0, len(everyone), self.batch_size):
            some = everyone[start : start + self.batch_size]
            values[some] = self._run([(job, 0, some)], prefix)[0]
            if not self._usable(job, values[some]):
                return
            job.records.append(Record(0, some, prefix, job._rounds, values[some]))
        job.spending.charge(len(everyone), prefix, 1.0)
        job.race.record_prefix(values)

    def _usable(self, job: Job, values: np.ndarray) -> bool:
        """Whether these numbers can be raced; a job whose numbers overflowed ends with an error."""
        if not np.isfinite(values).all():
            dtype = str(self.model.output.weight.dtype).removeprefix("torch.")
            job.error = f"the model's log-likelihoods are not finite in {dtype}: use float32"
            job.stop = "failed"
            job._pending.clear()
        return not job.error

    def _run(self, pieces: list[Piece], prefix: int | None) -> list[np.ndarray]:
        """Log-likelihoods [n] of each piece, nats; halves the batch when memory runs out."""
        tokens = [job.tokens for job, _, _ in pieces]
        orders = [job.sampler.order(job.content, order) for job, order, _ in pieces]
        sizes = [len(classes) for _, _, classes in pieces]
        piece_of_row = np.repeat(np.arange(len(pieces)), sizes)
        class_of_row = np.concatenate([job.classes[classes] for job, _, classes in pieces])
        began = time.perf_counter()
        values = self._forward(tokens, orders, piece_of_row, class_of_row, prefix)
        m = prefix or self.n_tokens
        self.cost.observe(len(values), m, time.perf_counter() - began)
        self.passes += len(values) * self.cost.share(m)
        return np.split(values, np.cumsum(sizes)[:-1])

    @torch.inference_mode()
    def _forward(
        self,
        tokens: list[np.ndarray],
        orders: list[np.ndarray],
        piece_of_row: np.ndarray,
        class_of_row: np.ndarray,
        prefix: int | None,
    ) -> np.ndarray:
        """Rows [B] → float64 [B], each rounded to float32 so that a trace stores it exactly."""
        stacked_tokens = torch.from_numpy(np.stack(tokens)).to(self.device)
        stacked_orders = torch.from_numpy(np.stack(orders)).to(self.device)
        rows = torch.from_numpy(piece_of_row).to(self.device)
        classes = torch.from_numpy(class_of_row).to(self.device)
        out, start = [], 0
        size = min(self.batch_size, len(rows))
        while start < len(rows):
            at = rows[start : start + size]
            try:
                log_p = self.model(
                    stacked_tokens[at], classes[start : start + size], stacked_orders[at], prefix
                )
                out.append(log_p.cpu().double().sum(dim=1))
            except RuntimeError as error:
                if not _out_of_memory(error) or size == 1:
                    raise
                size = self.batch_size = max(1, size // 2)
                if self.device.type == "cuda":
                    torch.cuda.empty_cache()
                continue
            start += size
        return torch.cat(out).float().double().numpy()


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
