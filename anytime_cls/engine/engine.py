"""The engine: passes run on one device, in tiles, and counted.

`engine.window` packs what many races ask for into full batches; `engine.timed` keeps a budget in seconds.

Nothing depends on the packing, to the last bit: a batch reaches the model in tiles of a fixed number of
rows, the last one padded, because kernels may round differently for another number of rows. (One image alone
is not padded, which would cost it time, nor is a race under a budget in seconds, which depends on the clock.)
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch

from anytime_cls.engine import cost as costs
from anytime_cls.engine.job import Job
from anytime_cls.engine.spending import LOOKUP
from anytime_cls.engine.threads import Threads
from anytime_cls.engine.window import Window
from anytime_cls.scorers.base import Encoded, Piece, Scorer

UNCUT = 1 << 30  # rows: of a joint scorer, which gives all classes in one call
AUTO_ROWS = {"cpu": 32, "cuda": 256, "mps": 64}
# sequence positions in a tile: enough to keep the device busy, few enough to stay in a CPU's cache (32 rows
# of the embedded model at once are a fifth slower than 8 at a time) and to waste little on padding
TILE_POSITIONS = {"cpu": 1 << 10, "cuda": 1 << 13, "mps": 1 << 12}
WARY = 100  # trials' time that must be left of a budget for another look at the threads: late ones are slow
TRIAL = 2e9  # FLOPs of a batch that tells how many threads are best: some 20 ms
# positions that it has at least: with fewer, a large model's products wait for its weights to be read, as no
# batch of a race does (one token of a RandAR-L takes many times its share of a pass)
FAIR = 64


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
    threads : how many of the CPU's, chosen among; None on another device, where nothing is chosen
    """

    def __init__(
        self,
        scorer: Scorer,
        batch_size: int | None = None,
        identity: str | None = None,
        probe: Callable[[], Encoded] | None = None,
        threads: Threads | None = None,
    ):
        self.scorer = scorer
        self.device = torch.device(scorer.device)
        self.batch_size = batch_size or AUTO_ROWS.get(self.device.type, 32)
        self._positions = TILE_POSITIONS.get(self.device.type, 1 << 10)
        self.cost = costs.CostModel(scorer.shape.flops, scorer.shape.steps)
        self.identity, self.probe, self.threads = identity, probe, threads
        self.joint = scorer.shape.joint  # one call gives all classes
        self.passes = 0.0  # whole passes run so far
        self._stop: Callable[[], bool] | None = None
        self._image: Encoded | None = None  # the probe's, once it was made

    @property
    def n_tokens(self) -> int:
        """Steps of a whole draw."""
        return self.scorer.shape.steps

    def rows(self, length: int) -> int:
        """Most passes of `length` tokens in a batch: a whole number of tiles."""
        if self.joint:
            return UNCUT
        most = self.batch_size * self.n_tokens // length
        return most - most % self.tile(length)

    def tile(self, length: int) -> int:
        """Passes of `length` tokens that go through the model at a time."""
        if self.joint:
            return UNCUT
        most = self.batch_size * self.n_tokens // length
        return min(most, max(1, self._positions // self.scorer.width(length)))

    def is_lookup(self, screen: str, classes: int) -> bool:
        """Whether this screen of so many classes is next to nothing beside a pass."""
        return self.scorer.screens[screen].flops(classes) < LOOKUP * self.cost.whole

    def calibrate(self, fresh: bool = False) -> float:
        """Learn what a batch costs here; returns the seconds it took (0 from the cache)."""
        self.settle()
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
            self._doubt()
            return 0.0
        began = time.perf_counter()

        def run(b: int) -> float:
            work = self._probe(b, self.n_tokens)
            t = time.perf_counter()
            work()
            return time.perf_counter() - t

        self.cost.calibrate(run, min(self.batch_size, 16))
        if key:
            costs.write_cached(key, self.cost.overhead, self.cost.slope)
        return time.perf_counter() - began

    def settle(self, within: float = math.inf) -> None:
        """Find out how many threads are fastest now, if that is due; within: the seconds that it may take."""
        threads = self.threads
        if threads is None or not threads.due or self.probe is None:
            return
        if within < WARY * threads.trial:
            threads.retreat()
            return
        rows, steps = self._trial
        threads.choose(self._probe(rows, steps), self.scorer.shape.flops(steps, rows))
        self._doubt()

    def _doubt(self) -> None:
        """Correct a calibration that was made when the machine was busier, or less busy, than it is now."""
        if self.threads is not None and self.threads.trial > 0:
            self.cost.correct(*self._trial, self.threads.trial)

    @property
    def _trial(self) -> tuple[int, int]:
        """Rows of a batch that tells how fast the machine is, and their steps."""
        steps = max(1, min(self.n_tokens, int(TRIAL / self.cost.whole * self.n_tokens)))
        while steps < self.n_tokens and self.scorer.width(steps) < FAIR:
            steps += 1
        most = 1 if self.joint else self.tile(steps)
        return max(1, min(most, int(TRIAL / self.scorer.shape.flops(steps, 1)))), steps

    def _probe(self, rows: int, steps: int) -> Callable[[], object]:
        """Runs a batch of this size, of no race. Raises ValueError where there is no image for it."""
        if self.probe is None:
            raise ValueError("the engine has no image to calibrate its clock with")
        if self._image is None:
            self._image = self.probe()
        draw = self.scorer.shape.draws("uniform", steps).at(0, b"", 0)  # what a plan falls back to
        piece = Piece(self._image, draw, np.zeros(rows, int))
        return lambda: self._tiles([piece], (steps,))

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
        yield from Window(self, on_update, pad).run(jobs)

    def run(self, pieces: list[Piece], at: tuple[int, ...], pad: bool) -> list[np.ndarray]:
        """Running scores of each piece's rows after these many steps (ascending): float64 [n, len(at)]."""
        if self._stop is not None and self._stop():
            raise Stopped
        steps, n = at[-1], sum(len(piece.classes) for piece in pieces)
        spare = -n % self.tile(steps) if pad and not self.joint else 0
        padding = [pieces[0]._replace(classes=np.zeros(spare, int))] if spare else []
        began = time.perf_counter()
        scores = self._tiles([*pieces, *padding], at)[: len(pieces)]
        took = time.perf_counter() - began
        self.cost.observe(n + spare, steps, took)
        if self.threads is not None:
            self.threads.watch(took, self.scorer.shape.flops(steps, n + spare))
        self.passes += self.cost.passes(n, steps, len(pieces))
        return scores

    def _tiles(self, pieces: list[Piece], at: tuple[int, ...]) -> list[np.ndarray]:
        """`Scorer.score` of pieces cut into tiles of so many rows; out of memory halves the tile."""
        parts: list[list[np.ndarray]] = [[] for _ in pieces]
        queue = deque(enumerate(pieces))
        while queue:
            some: list[tuple[int, Piece]] = []
            room = self.tile(at[-1])
            while queue and room > 0 and not (self.joint and len(some) == self.batch_size):
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
                if not _out_of_memory(error) or rows == 1 or self.joint:
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
