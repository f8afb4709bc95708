"""A sweep: every image of a data set raced, and everything recorded in a trace.

    classifier = AnytimeClassifier.load("cifar10")
    dataset = open_dataset("cifar10", classifier.card, root="data/cifar10/test", limit=1000)
    plan = sweep_plan(dataset, classifier.card, RaceOptions(rule="fixed"))
    attributes = sweep_provenance(plan, dataset, classifier.card)
    with TraceWriter.create("run.h5", attributes, dataset.labels) as writer:
        tally = run_sweep(classifier, dataset, plan, writer)
    print(tally.accuracy, tally.interval, tally.saving)

Killed at any moment, the same with `TraceWriter.resume` in place of `create` goes on from there.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from anytime_cls.classifier import AnytimeClassifier
from anytime_cls.engine.engine import Stopped as Stopped
from anytime_cls.plan.attributes import provenance
from anytime_cls.plan.make import make
from anytime_cls.plan.options import RaceOptions
from anytime_cls.plan.plan import RacePlan, Runtime
from anytime_cls.race.decision import Decision, Failure
from anytime_cls.stats.intervals import wilson
from anytime_cls.sweeps.reading import Reader
from anytime_cls.sweeps.resume import compare
from anytime_cls.traces.read import Trace
from anytime_cls.traces.rows import image_row, positions
from anytime_cls.traces.schema import ImageRow, Scores
from anytime_cls.traces.write import TraceWriter

if TYPE_CHECKING:
    from anytime_cls.datasets.base import Dataset
    from anytime_cls.models.card import ModelCard
    from anytime_cls.pixels.decode import Source

Result = tuple[int, ImageRow, Scores]  # position in the data set, and what the trace keeps


@dataclass
class Tally:
    """What a sweep has come to so far, images of an earlier attempt included.

    total: images of the sweep. done: those with a row, of which errors have no answer. labelled, correct: of
    the rest. calls: of the network. used: summed shares of the full cost (all classes × K_max; of a joint
    model, one pass).
    """

    total: int
    done: int = 0
    errors: int = 0
    labelled: int = 0
    correct: int = 0
    calls: int = 0
    used: float = 0.0
    before: int = 0  # done by earlier attempts
    began: float = field(default_factory=time.monotonic)

    def add(self, row: ImageRow, times: int = 1) -> None:
        """Count a finished image (times=-1: take it back)."""
        self.done += times
        if row.error:
            self.errors += times
            return
        self.calls += times * row.passes
        self.used += times * row.token_fraction
        if row.label >= 0:
            self.labelled += times
            self.correct += times * (row.prediction == row.label)

    def remember(self, path: Any, wanted: set[str]) -> None:
        """Count what the trace at `path` holds of the images with these ids."""
        with Trace.open(path) as trace:
            for i, key in enumerate(trace.images["id"].tolist()):
                if key in wanted:
                    self.add(trace.row(i))

    @property
    def accuracy(self) -> float:
        """Share of labelled images answered rightly; NaN without any."""
        return self.correct / self.labelled if self.labelled else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the accuracy; (0, 1) without any."""
        return wilson(self.accuracy, self.labelled) if self.labelled else (0.0, 1.0)

    @property
    def saving(self) -> float:
        """How many times less compute than all classes on K_max whole draws; NaN before the first image."""
        answered = self.done - self.errors
        return answered / self.used if self.used > 0 else math.nan

    @property
    def rate(self) -> float:
        """Images a second of this attempt."""
        return (self.done - self.before) / max(1e-9, time.monotonic() - self.began)


@dataclass(frozen=True)
class Shard:
    """One of n equal shares of a data set: every n-th image from the i-th (1 to n)."""

    i: int
    n: int

    def __post_init__(self) -> None:
        if not 1 <= self.i <= self.n:
            raise ValueError(f"a shard is i/n with i from 1 to n, not {self}")

    @classmethod
    def parse(cls, text: str) -> Shard:
        """`3/8` is the third of eight. Raises ValueError."""
        i, slash, n = text.partition("/")
        if not (slash and i.strip().isdecimal() and n.strip().isdecimal()):
            raise ValueError(f"a shard is written i/n, as 1/4 for the first of four, not {text!r}")
        return cls(int(i), int(n))

    def indices(self, images: int) -> range:
        """Positions in the data set."""
        return range(self.i - 1, images, self.n)

    def __str__(self) -> str:
        return f"{self.i}/{self.n}"


def sweep_plan(
    dataset: Dataset, card: ModelCard, options: RaceOptions, preset: Collection[str] = ()
) -> RacePlan:
    """The plan of these options for one model over the data set's classes. Raises ValueError as `make`."""
    return make(options, card, [int(i) for i in dataset.class_ids], preset)


def sweep_provenance(
    plan: RacePlan, dataset: Dataset, card: ModelCard, runtime: Runtime | None = None,
    command: str | None = None, shard: Shard | None = None, workers: int = 1, engine: str = "local",
) -> dict[str, Any]:  # fmt: skip
    """The attributes of a sweep's trace: `provenance`, and the data set. Raises ValueError as it does."""
    runtime = runtime or Runtime("cpu")
    return provenance(plan, card, dataset.name, runtime, command) | {
        "dataset_fingerprint": dataset.fingerprint,
        "root": dataset.root,
        "images": len(dataset.samples),
        "shard": None if shard is None else str(shard),
        "workers": workers,
        "engine": engine,
        "threads": runtime.threads,
    }


def remaining(dataset: Dataset, writer: TraceWriter, shard: Shard | None = None) -> tuple[Tally, list[int]]:
    """The tally of what a trace holds already, and the positions of the images still to do: those without a
    row, and those whose row is an error."""
    mine = range(len(dataset.samples)) if shard is None else shard.indices(len(dataset.samples))
    samples, done = dataset.samples, writer.done
    tally = Tally(len(mine))
    if done:
        tally.remember(writer.path, done & {samples[i].id for i in mine})
        tally.before = tally.done
    return tally, [i for i in mine if samples[i].id not in done]


def run_sweep(
    classifier: AnytimeClassifier,
    dataset: Dataset,
    plan: RacePlan,
    writer: TraceWriter,
    on_progress: Callable[[Tally], None] | None = None,
    shard: Shard | None = None,
    stop: Callable[[], bool] | None = None,
) -> Tally:
    """Race every image of a data set that the writer's trace does not hold yet.

    Images share batches in one continuous stream. An image that cannot be read becomes a row with its error.
    on_progress: called after every image. shard: only these images. stop: asked before every batch, and
    while an image is read; once it says True, the run ends with :class:`Stopped`. The writer is left open,
    with some images unwritten: use it in a `with`. Raises TraceError when the trace cannot be written, or
    holds images that have changed since (`resume.compare`).
    """
    compare(dataset, writer, classifier.card.image_size)
    tally, todo = remaining(dataset, writer, shard)
    for index, row, scores in race_images(classifier, dataset, todo, plan, stop):
        writer.append(row, scores, index)
        tally.add(row)
        if on_progress is not None:
            on_progress(tally)
    return tally


def race_images(
    classifier: AnytimeClassifier,
    dataset: Dataset,
    indices: Iterable[int],
    plan: RacePlan,
    stop: Callable[[], bool] | None = None,
) -> Iterator[Result]:
    """Rows and scores of these images of a data set, in the order given, as they finish.

    indices: pulled when the engine has room, so that a generator can fetch work when it is needed. plan: from
    `sweep_plan`. stop: as in `run_sweep`.
    """
    position, full_passes = positions(dataset.class_ids), plan.full_passes
    # pulled, without a result yet: position, stamp of its file, and the error of a bad one
    waiting: deque[tuple[int, tuple[int, int], str]] = deque()
    read = Reader(stop)

    def sources() -> Iterator[Source]:
        for index in indices:
            stamp, source = read(dataset.samples[index])
            if isinstance(source, Exception):
                waiting.append((index, stamp, " ".join(str(source).split()) or type(source).__name__))
            else:
                waiting.append((index, stamp, ""))
                yield source

    def answered(result: Decision | Failure) -> Result:
        index, (size, modified), _ = waiting.popleft()
        sample = dataset.samples[index]
        row, scores = image_row(sample.id, sample.path, sample.label, result, position, full_passes)
        return index, replace(row, size=size, modified=modified), scores

    def failed() -> Iterator[Result]:
        while waiting and waiting[0][2]:
            yield answered(Failure(waiting[0][2]))

    try:
        for result in classifier.classify_many(sources(), plan, stop=stop, details=False):
            yield from failed()
            yield answered(result)
        yield from failed()
    finally:
        read.close()
