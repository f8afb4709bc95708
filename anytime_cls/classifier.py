"""The public face: photographs in, decisions out.

classifier = AnytimeClassifier.load("cifar10")
decision = classifier.classify("cat.jpg", RaceOptions(budget="0.5s"))
decision.label, decision.probability, decision.stop
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from anytime_cls.draws.views import ViewSampler
from anytime_cls.engine.device import choose_device
from anytime_cls.engine.encoded import Views
from anytime_cls.engine.engine import Engine
from anytime_cls.engine.estimate import LONG, Estimate, estimate
from anytime_cls.engine.job import Job
from anytime_cls.engine.threads import Threads
from anytime_cls.models.card import DEFAULT_MODEL, ModelCard
from anytime_cls.models.zoo import read_card
from anytime_cls.pixels.decode import ImageError, Source, decode
from anytime_cls.plan.make import make
from anytime_cls.plan.options import RaceOptions, dtype_name
from anytime_cls.plan.plan import RacePlan
from anytime_cls.race.decision import Decision, Failure, Standing
from anytime_cls.race.race import Race
from anytime_cls.race.races import evidence
from anytime_cls.scorers.base import Encoded, Scorer
from anytime_cls.scorers.registry import method

if TYPE_CHECKING:
    from anytime_cls.traces.read import Trace


class AnytimeClassifier:
    """A model's card, its scorer and an engine. Use :meth:`load`."""

    def __init__(
        self, card: ModelCard, scorer: Scorer, batch_size: int | None = None, threads: int | None = None
    ):
        self.card, self.scorer = card, scorer
        chosen = Threads(threads) if scorer.device == "cpu" else None
        self.engine = Engine(scorer, batch_size, identity=card.identity, probe=self._grey, threads=chosen)
        self.load_seconds = 0.0
        self.tokenize_seconds = 0.0  # what the slowest image since the first took to tokenise
        self._warm = False
        self._prepared: set[str] = set()

    @classmethod
    def load(
        cls,
        model: str | ModelCard = DEFAULT_MODEL,
        device: str = "auto",
        dtype: str = "float32",
        batch_size: int | None = None,
        threads: int | None = None,
    ) -> AnytimeClassifier:
        """Load an embedded model by name, or a model directory, or a card that was read.

        threads: torch's on a CPU, for the whole process; None: one or all, whichever is faster at the time.
        Raises ValueError (ModelError) in one line: no such model, damaged weights, no such device.
        """
        began = time.perf_counter()
        where = choose_device(device)
        card = model if isinstance(model, ModelCard) else read_card(model)
        self = cls(card, method(card.method).load(card, str(where), dtype_name(dtype)), batch_size, threads)
        self.load_seconds = time.perf_counter() - began
        return self

    def __repr__(self) -> str:
        return f"AnytimeClassifier({self.card.name!r}, {len(self.labels)} classes, {self.engine.device})"

    @property
    def labels(self) -> list[str]:
        return self.card.labels

    def warm_up(self) -> float:
        """Calibrate the engine's clock and run the tokenizer once; returns seconds. Not needed, but a
        first image under a budget in seconds should not pay for it. Does its work once."""
        began = time.perf_counter()
        if not self._warm:
            for _ in range(2):  # the first pays for allocation
                self.tokenize_seconds = 0.0
                self._grey()
            self.engine.calibrate()
            self._warm = True
        return time.perf_counter() - began

    def prepare(self, plan: RacePlan) -> None:
        """Let a plan's screens that are a look-up make their table: no image should pay for it."""
        every = np.array(plan.class_ids)
        for name in {*plan.screens, plan.fallback} - {""} - self._prepared:
            if self.engine.is_lookup(name, len(every)):
                self.scorer.screens[name].estimate([self._grey()], plan.seed, [b""], every)
            self._prepared.add(name)

    def plan(self, options: RaceOptions | RacePlan | None = None) -> RacePlan:
        """What these options come to with this model; a plan is taken as it is. Raises ValueError."""
        return options if isinstance(options, RacePlan) else make(options or RaceOptions(), self.card)

    def encode(self, source: Source) -> tuple[Encoded, bytes]:
        """Decode and encode: what the scorer reads (token ids int64 [N], of an any-order model) and the
        content key. Raises ImageError."""
        views, encoded = self._views(decode(source), ViewSampler())
        return encoded, views.content

    def _grey(self) -> Encoded:
        return self.encode(np.zeros((8, 8, 3), np.uint8))[0]

    def _views(self, image: Any, sampler: ViewSampler, screened: bool = False) -> tuple[Views, Encoded]:
        """An image as its draws see it, and the first view, or what screens see of it."""
        views = Views(image, self.card.image_size, self.scorer, sampler)
        first = views.screened() if screened else views.encoded(0)
        self.tokenize_seconds = max(self.tokenize_seconds, views.slowest)
        return views, first

    def classify(
        self,
        source: Source,
        options: RaceOptions | RacePlan | None = None,
        on_update: Callable[[Job], None] | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> Decision:
        """Classify one image: a path, bytes, a file object, a Pillow image or a uint8 array.

        `on_update` is called after every batch with the job, whose race can be asked for its leader. `stop`
        is asked before every batch: once it says True, engine.Stopped is raised and there is no answer.
        Raises ImageError for an image that cannot be read, ValueError for options that make no sense.
        """
        result = next(self._results([source], self.plan(options), on_update, False, stop))
        if isinstance(result, Failure):
            raise ImageError(result.error)
        return result

    def classify_many(
        self,
        sources: Iterable[Source],
        options: RaceOptions | RacePlan | None = None,
        on_update: Callable[[Job], None] | None = None,
        stop: Callable[[], bool] | None = None,
        details: bool = True,
    ) -> Iterator[Decision | Failure]:
        """Classify many images, in order; rows of different images share batches (unless each has a
        budget in seconds, which is kept image by image). An image that cannot be read is a Failure.

        Without `details` decisions have no ranking and no separation, which a trace does not keep.

        What an image gives does not depend on the others, to the last bit of its log-likelihoods. (With
        :meth:`classify`, which takes short cuts for a single image, the last bits may differ on some
        devices.)"""
        return self._results(sources, self.plan(options), on_update, on_update is None, stop, details)

    def sweep(
        self,
        data: str,
        options: RaceOptions | None = None,
        out: str | Path | None = None,
        limit: int | None = None,
    ) -> Trace:
        """Race the images of a data set, a folder of class folders or a name as of the command `sweep`.

        out : the trace's file, which must not exist; without it, a temporary one that goes with the trace.
        limit : so many images, the same ones every time. Returns the trace, open: `trace.to_pandas()` is a
        table of the images, and the trace a context manager.

        Raises ValueError in one line (DatasetError, TraceError): no such data, no class known, a file that
        cannot be written.
        """
        # the floor above: named as text, as the registry names methods, so that nobody imports upwards
        swept: Trace = import_module("anytime_cls.sweeps.one").sweep_one(self, data, options, out, limit)
        return swept

    def _results(
        self,
        sources: Iterable[Source],
        plan: RacePlan,
        on_update: Callable[[Job], None] | None,
        pad: bool,
        stop: Callable[[], bool] | None = None,
        details: bool = True,
    ) -> Iterator[Decision | Failure]:
        if plan.budget is not None and plan.budget.unit == "seconds":
            self.warm_up()
        self.prepare(plan)
        finished: dict[int, Decision | Failure] = {}

        def jobs() -> Iterator[Job]:
            for index, source in enumerate(sources):
                yield self._job(index, source, plan)

        turn = 0
        for job in self.engine.race(jobs(), on_update, pad, stop):
            finished[job.index] = Failure(job.error) if job.error else self._decision(job, plan, details)
            while turn in finished:
                yield finished.pop(turn)
                turn += 1

    def _job(self, index: int, source: Source, plan: RacePlan) -> Job:
        began, error = time.perf_counter(), ""
        encoded, content, views = None, b"", None
        try:
            image = decode(source)
            began = time.perf_counter()  # the budget runs from the decoded image
            seen, encoded = self._views(image, plan.views, bool(plan.screens or plan.fallback))
            content, views = seen.content, seen if plan.views.varies else None
        except ImageError as reason:
            error = str(reason)
        race = Race(len(plan.class_ids), plan.pulls, plan.rule, plan.block)
        job = Job(
            index, encoded, content, race, np.array(plan.class_ids), plan.draws, plan.design.steps, plan.seed,
            plan.budget, began, plan.record, plan.screens, plan.fallback, views,
        )  # fmt: skip
        job.error, job.stop = error, "failed" if error else ""
        job.seconds = time.perf_counter() - began
        return job

    def _decision(self, job: Job, plan: RacePlan, details: bool) -> Decision:
        race, labels = job.race, self.labels
        means, how = race.means(), plan.aggregate if race.n else "mean"
        probability = race.aggregate(how, plan.temperature)
        leader = race.leader if how == "mean" else int(probability.argmax())
        ranking = self._ranking(job, means, probability, leader) if details else ()
        assert job.spending is not None
        prefix = job.records[-1].prefix if job.records and race.n == 0 else None
        return Decision(
            label=labels[job.classes[leader]],
            index=int(job.classes[leader]),
            probability=float(probability[leader]),
            separation=_separation(job, plan) if details else math.nan,
            stop=job.stop,
            orders=race.orders,
            passes=_tidy(job.spending.passes),
            full_passes=_tidy(job.full_passes),
            prefix=prefix,
            pass_tokens=job.length,
            seconds=job.seconds,
            ranking=ranking,
            evidence=float(evidence(means)),
            shortlist=job.short,
            unused=_unused(job),
            records=tuple(job.records),
            classes=tuple(job.classes.tolist()),
            content=job.content.hex(),
            flops=job.spending.flops,
        )

    def _ranking(
        self, job: Job, means: np.ndarray, probability: np.ndarray, leader: int
    ) -> tuple[Standing, ...]:
        """Every class, the winner first, then those still in, then those who left, each by mean."""
        race, labels = job.race, self.labels
        lower, upper = race.intervals()
        orders_of = np.where(race.alive, race.n, race.left_at) * race.block
        # the winner first, then those still in, then those who left, each by mean
        order = np.lexsort((-means, ~race.alive, np.arange(len(means)) != leader))
        # Standing's fields behind its label, class by class
        columns = (job.classes, probability, means, _finite(lower), _finite(upper), orders_of, race.alive)
        rows = zip(*(column[order].tolist() for column in columns), strict=True)
        return tuple(Standing(labels[row[0]], *row) for row in rows)


def _separation(job: Job, plan: RacePlan) -> float:
    """By the rule's bound; a decision of `calibrated` holds the risk it was calibrated to as well."""
    found = job.race.separation(plan.reporting)
    held = plan.rule.holds
    return min(found, held) if held is not None and job.stop == "decided" else found


def _unused(job: Job) -> tuple[float, str] | None:
    """What a race left of its budget in seconds, and why; None of any other budget."""
    if job.budget is None or job.budget.unit != "seconds":
        return None
    why = {"decided": "decided", "max-orders": "all orders used"}
    left = max(0.0, job.budget.amount - job.seconds)
    return left, why.get(job.stop) or job.unused or "decided among the classes it was spent on"


def _finite(x: np.ndarray) -> np.ndarray:
    """Python numbers, None where there is no bound."""
    numbers = x.astype(object)
    numbers[~np.isfinite(x)] = None
    return numbers


def _tidy(x: float) -> float:
    """Whole passes as a whole number, however the shares were summed."""
    return round(x) if abs(x - round(x)) < 1e-6 else x


def is_long(classifier: AnytimeClassifier, plan: RacePlan) -> bool:
    """Whether an image may take so long that an estimate is worth the calibration it needs."""
    design = plan.design
    return design.k_max * classifier.engine.cost.flops(design.steps, design.n_classes) > LONG


def estimate_image(classifier: AnytimeClassifier, plan: RacePlan) -> Estimate:
    """What one image takes by this plan. Raises ValueError before `classifier.warm_up()`."""
    return estimate(
        classifier.engine, plan.rule, plan.design.n_classes, plan.design.k_max, plan.block,
        plan.design.steps, plan.budget, classifier.tokenize_seconds, plan.views.varies,
    )  # fmt: skip
