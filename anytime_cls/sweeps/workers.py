"""Many workers on one sweep: they pull chunks of images, and what a dead one had is done again.

Adaptive races make work uneven, so images are not dealt out beforehand: a worker asks for a chunk whenever
its engine has room, and so keeps one continuous stream of images going. Processes of this machine write their
own parts of the trace (`TraceWriter.attach`), which the parent merges. A worker that dies costs the images
that it had and that are in no part; others do them. An image that takes its worker with it is found by giving
suspects out alone, and becomes a row with an error.

Parent and worker talk over a pipe of their own, never over a shared lock, which a killed process might hold:

    worker → parent    ("pull",)  ("rows", results, on_disk)  ("drained",)  ("failed", line)  ("died", line)
    parent → worker    [indices], a chunk     [], finish what you have     None, stop between two batches

A worker says "drained" when it has no images and waits for a chunk, after starting up too.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import (
    Callable,
    Iterable,
    Iterator,
    Sequence,
)
from contextlib import suppress
from dataclasses import dataclass, field
from math import nan
from typing import TYPE_CHECKING, Any, Protocol

from anytime_cls.sweeps.sweep import (
    Shard,
    Stopped,
    Tally,
    race_images,
    remaining,
)
from anytime_cls.traces.schema import ImageRow, Scores, TraceError
from anytime_cls.traces.write import TraceWriter

if TYPE_CHECKING:
    from anytime_cls.datasets.base import Dataset
    from anytime_cls.plan.plan import RacePlan

CHUNK = 32  # most images given out at once; fewer towards the end, so that workers end together
STRIKES = 3  # workers that an image may take with it, the last time alone, before it is left out
WAIT = 0.25  # seconds between two looks at whether to stop
GRACE = 20.0  # seconds that workers have to end what they are at before they are killed


class WorkersError(RuntimeError):
    """Workers cannot start or go on; one line."""


@dataclass(frozen=True)
class Setup:
    """What a worker needs. plan: from `sweep.sweep_plan`. threads: at most; None leaves torch's choice.
    fixed: that many, whatever is faster.

    labels: the classes of a model of open vocabulary; of others they are not asked for.
    trace: the trace to attach to, which has these provenance and labels; None: rows and scores are sent back.
    """

    model: str
    device: str
    dtype: str
    batch_size: int | None
    threads: int | None
    dataset: Dataset
    plan: RacePlan
    trace: str | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    labels: Sequence[str] | None = None
    fixed: bool = False


class Link(Protocol):
    """A worker's end. recv and poll raise EOFError or OSError once the parent is gone."""

    def send(self, message: Any) -> None: ...

    def recv(self) -> Any: ...

    def poll(self, timeout: float = 0.0) -> bool: ...


class Worker(Protocol):
    """The parent's end."""

    def send(self, message: Any) -> None: ...

    def autopsy(self) -> str:
        """What a dead worker died of."""
        ...


class Crew(Protocol):
    """Where workers run."""

    def start(self, slot: int) -> Any:
        """A new worker in place number `slot`, from 0. Raises WorkersError."""
        ...

    def wait(self, workers: Sequence[Any], timeout: float) -> Iterable[tuple[Any, Any]]:
        """(worker, message) as they come in; None in place of a message: it is dead."""
        ...

    def close(self, workers: Sequence[Any], grace: float = GRACE) -> None:
        """Ends these workers, at the latest after so many seconds."""
        ...


# ---- the worker's side


def serve(link: Link, setup: Setup, terminated: Callable[[], bool] = lambda: False) -> None:
    """A worker's life. terminated: whether it should end of its own accord, asked between two batches."""
    import torch

    from anytime_cls.classifier import AnytimeClassifier
    from anytime_cls.models.zoo import read_card

    writer: TraceWriter | None = None
    try:
        if setup.threads:
            torch.set_num_threads(setup.threads)
        card = read_card(setup.model, setup.labels)
        threads = setup.threads if setup.fixed else None
        classifier = AnytimeClassifier.load(card, setup.device, setup.dtype, setup.batch_size, threads)
        if setup.trace is not None:
            writer = TraceWriter.attach(setup.trace, setup.provenance, setup.dataset.labels)
    except ValueError as error:
        return link.send(("failed", _line(error)))
    try:
        link.send(("drained",))
        while chunk := _chunk(link, terminated):
            stop = _stop(link, terminated)
            for index, row, scores in race_images(
                classifier, setup.dataset, _stream(link, chunk, terminated), setup.plan, stop
            ):
                if writer is not None:
                    writer.append(row, scores, index)
                sent = (index, row, scores if writer is None else None)
                link.send(("rows", [sent], writer is None or not writer.pending))
            if writer is not None:
                writer.flush()
            link.send(("drained",))
    except Stopped:
        pass
    except (EOFError, BrokenPipeError):  # the parent is gone
        pass
    except TraceError as error:  # then no worker can write
        link.send(("failed", _line(error)))
    except Exception as error:
        link.send(("died", f"{type(error).__name__}: {_line(error)}"))
    finally:
        if writer is not None:
            with suppress(TraceError):  # said already
                writer.flush()


def _stream(link: Link, chunk: list[int], terminated: Callable[[], bool]) -> Iterator[int]:
    """Indices, from one chunk to the next, until the parent has none."""
    while chunk:
        yield from chunk
        link.send(("pull",))
        chunk = _chunk(link, terminated)


def _chunk(link: Link, terminated: Callable[[], bool]) -> list[int]:
    """The next chunk; Stopped instead when the run stops."""
    while not link.poll(WAIT):
        if terminated():
            raise Stopped
    message = link.recv()
    if message is None:
        raise Stopped
    found: list[int] = message
    return found


def _stop(link: Link, terminated: Callable[[], bool]) -> Callable[[], bool]:
    """Whether to stop, asked between two batches: then the parent sends nothing else unasked."""
    return lambda: terminated() or (link.poll() and link.recv() is None)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


# ---- the parent's side


@dataclass
class _Load:
    """What a worker has in hand."""

    slot: int
    assigned: set[int] = field(default_factory=set)  # given to it, not known to be on disk
    reported: dict[int, ImageRow] = field(default_factory=dict)  # of those, what it says is finished
    idle: bool = False  # it waits for a chunk, and there was none
    alone: bool = False  # with one suspect
    reason: str = ""  # what it said it was dying of


def run_workers(
    crew: Crew,
    count: int,
    dataset: Dataset,
    writer: TraceWriter,
    on_progress: Callable[[Tally], None] | None = None,
    shard: Shard | None = None,
    stop: Callable[[], bool] | None = None,
) -> Tally:
    """`sweep.run_sweep` by `count` workers; the trace holds the same, whoever did what and died on the way.

    Raises Stopped once asked to stop, after every worker wrote what it had finished; WorkersError when
    workers cannot start, or die without getting anything done; TraceError when the trace cannot be written.
    """
    tally, todo = remaining(dataset, writer, shard)
    foreman = _Foreman(crew, dataset, writer, tally, todo, on_progress)
    try:
        for slot in range(min(count, len(todo))):
            foreman.hire(slot)
        foreman.run(count, stop)
    finally:
        crew.close(list(foreman.loads), *([0.0] if foreman.overdue else []))
    return tally


class _Foreman:
    """Hands out chunks, and keeps book of who has what."""

    def __init__(
        self, crew: Crew, dataset: Dataset, writer: TraceWriter, tally: Tally, todo: Iterable[int],
        on_progress: Callable[[Tally], None] | None,
    ):  # fmt: skip
        self.crew, self.dataset, self.writer, self.tally = crew, dataset, writer, tally
        self.todo = deque(todo)
        self.suspects: deque[int] = deque()
        self.strikes: Counter[int] = Counter()
        self.loads: dict[Any, _Load] = {}
        self.deaths = 0  # since an image was last known to be on disk
        self.on_progress = on_progress
        self.stopping = self.ready = self.overdue = False

    def hire(self, slot: int) -> None:
        self.loads[self.crew.start(slot)] = _Load(slot)

    def run(self, count: int, stop: Callable[[], bool] | None) -> None:
        """Until everything is done, or everyone has stopped, or had GRACE seconds to."""
        until = 0.0
        while self.loads and not (self._nothing_left and all(load.idle for load in self.loads.values())):
            if stop is not None and stop() and not self.stopping:
                self.stopping, until = True, time.monotonic() + GRACE
                for worker in self.loads:
                    worker.send(None)
            if self.stopping and time.monotonic() > until:
                self.overdue = True
                break
            for worker, message in self.crew.wait(list(self.loads), WAIT):
                if message is None:
                    self._bury(worker, count)
                else:
                    self._hear(worker, self.loads[worker], *message)
        if self.stopping:
            raise Stopped

    @property
    def _nothing_left(self) -> bool:
        return not self.todo and not self.suspects

    def _hear(self, worker: Worker, load: _Load, kind: str, *content: Any) -> None:
        match kind:
            case "rows":
                self._count(load, *content)
            case "drained":
                if not self.ready:  # loading models is not part of the pace
                    self.ready, self.tally.began = True, time.monotonic()
                load.assigned.clear()
                load.reported.clear()
                load.alone, load.idle = False, True
                self._give(worker, load)
            case "pull":
                self._give(worker, load)
            case "failed":
                raise WorkersError(content[0])
            case "died":
                load.reason = content[0]

    def _count(self, load: _Load, results: list[tuple[int, ImageRow, Scores | None]], on_disk: bool) -> None:
        for index, row, scores in results:
            if scores is not None:
                self.writer.append(row, scores, index)
            self.tally.add(row)
            load.reported[index] = row
        if on_disk:
            load.assigned -= load.reported.keys()
            load.reported.clear()
            self.deaths = 0
        if self.on_progress is not None:
            self.on_progress(self.tally)

    def _give(self, worker: Worker, load: _Load) -> None:
        """Answer a worker that asks: a chunk, a suspect to an idle one, or nothing."""
        if self.stopping:
            return
        chunk: list[int] = []
        if self.todo and not load.alone:
            share = len(self.todo) // (4 * len(self.loads))
            chunk = [self.todo.popleft() for _ in range(min(max(1, share), CHUNK))]
        elif self.suspects and load.idle:
            chunk, load.alone = [self.suspects.popleft()], True
        if chunk or not load.idle:
            load.assigned.update(chunk)
            load.idle = False
            worker.send(chunk)

    def _bury(self, worker: Worker, count: int) -> None:
        """Take a dead worker's images back, and hire another in its place."""
        load = self.loads.pop(worker)
        end = worker.autopsy()
        cause = load.reason or end
        if self.stopping:
            return
        done = self.writer.refresh() if load.assigned else set()
        id_of = {index: self.dataset.samples[index].id for index in load.assigned}
        lost = sorted(index for index in load.assigned if id_of[index] not in done)
        for index in lost:
            if index in load.reported:
                self.tally.add(load.reported[index], -1)
        unheard = load.assigned - set(lost) - load.reported.keys()
        if unheard:  # it died between writing a part and saying so
            self.tally.remember(self.writer.path, {id_of[index] for index in unheard})
        self.deaths += 1
        if self.deaths > STRIKES + 2 * count:
            raise WorkersError(f"{self.deaths} workers in a row got nothing done; the last: {cause}")
        self.strikes.update(lost)
        for index in reversed(lost):
            match self.strikes[index]:
                case 1:
                    self.todo.appendleft(index)
                case n if n < STRIKES:
                    self.suspects.appendleft(index)
                case _:
                    self._leave_out(index, cause)
        if not self._nothing_left:
            self.hire(load.slot)
        for other, theirs in self.loads.items():
            if theirs.idle:
                self._give(other, theirs)

    def _leave_out(self, index: int, cause: str) -> None:
        sample = self.dataset.samples[index]
        error = f"{STRIKES} worker processes died of this image, the last alone with it: {cause}"
        row = ImageRow(sample.id, sample.path, sample.label, -1, 0, 0, 0.0, 0.0, "", nan, error)
        self.writer.append(row, Scores.empty(), index)
        self.tally.add(row)
