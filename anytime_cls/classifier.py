"""The public face: photographs in, decisions out.

classifier = AnytimeClassifier.load("cifar10")
decision = classifier.classify("cat.jpg", RaceOptions(budget="0.5s"))
decision.label, decision.probability, decision.stop
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch

from anytime_cls.bounds import Bound
from anytime_cls.budget import Budget, parse_budget
from anytime_cls.engine import Engine, Job, Record
from anytime_cls.image import ImageError, Source, decode
from anytime_cls.orders import OrderSampler, block_of, check_sampler, distinct_orders
from anytime_cls.race import AGGREGATORS, Race
from anytime_cls.rules import (
    CALIBRATED,
    CalibratedRule,
    PairedRule,
    Rule,
    design_fields,
    model_rule,
    temperature_at,
)
from anytime_cls.sigma import Transformer
from anytime_cls.tokenizer import Tokenizer
from anytime_cls.views import Views, ViewSampler
from anytime_cls.zoo import DEFAULT_MODEL, ModelCard, load_model, read_card

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
DTYPE_NAMES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"} | {name: name for name in DTYPES}


@dataclass(frozen=True)
class RaceOptions:
    """How images are raced. Raises ValueError, naming the option, when one makes no sense.

    Where none of rule, orders and prefix is given, races are run as the model recommends (`race` in its
    model.json); where one is, the others are "paired", "uniform" and whole orders (:meth:`resolve`).
    """

    rule: str | None = None  # one of rules.RULES, or "calibrated"
    delta: float | None = None  # probability of another answer than all max_orders orders would give
    max_orders: int | None = None  # K_max
    budget: Budget | str | None = None  # an image; text such as "0.5s" is parsed
    classes: Sequence[str | int] | None = None  # race only these; None: all of the model's
    seed: int = 0
    orders: str | None = None  # one of orders.SAMPLERS
    prefix: int | None = None  # tokens of every order that a pass scores; None: the whole order
    aggregate: str = "mean"  # one of race.AGGREGATORS; others than mean need rule "fixed"
    prefixes: Sequence[int] = ()  # also record the running log-likelihood after so many tokens
    crops: str = "center"  # one of views.CROPS: "random" takes a new crop every order
    latent_noise: float = 0.0  # t in [0, 1] of the noise in the tokenizer's latents, drawn every order

    def __post_init__(self) -> None:
        if isinstance(self.budget, str):
            object.__setattr__(self, "budget", parse_budget(self.budget))
        if self.max_orders is not None and not 1 <= self.max_orders < 1 << 16:  # a trace counts in 16 bits
            raise ValueError(f"max_orders must be 1 to 65535, got {self.max_orders}")
        if self.aggregate not in AGGREGATORS:
            raise ValueError(f"unknown aggregation {self.aggregate!r}: choose from {', '.join(AGGREGATORS)}")
        if self.aggregate != "mean" and self.rule != "fixed":
            raise ValueError(
                f"aggregation {self.aggregate!r} needs rule 'fixed': bounds are on the mean of log p"
            )
        if self.prefix is not None and self.prefix < 1:
            raise ValueError(f"prefix must be a number of tokens from 1, got {self.prefix}")
        prefixes = tuple(self.prefixes)
        if any(not isinstance(p, int) or p < 1 for p in prefixes) or sorted(set(prefixes)) != list(prefixes):
            raise ValueError(f"prefixes must be whole numbers from 1 that rise, got {list(prefixes)}")
        object.__setattr__(self, "prefixes", prefixes)
        varies = self.views.varies  # raises for crops or noise that make no sense
        if self.orders is None:
            return
        check_sampler(self.orders)
        max_orders = self.max_orders or ResolvedOptions.max_orders
        if max_orders % block_of(self.orders):
            raise ValueError(
                f"{self.orders} orders come in blocks of {block_of(self.orders)}: max_orders must divide"
            )
        if distinct_orders(self.orders) and not varies and self.rule != "fixed" and max_orders > 1:
            raise ValueError(
                f"orders {self.orders!r} hold one order only: use max_orders 1 (or rule 'fixed')"
            )

    @property
    def views(self) -> ViewSampler:
        """What the model sees of an image on each order."""
        return ViewSampler(self.crops, self.latent_noise, self.seed)

    def resolve(self, card: ModelCard) -> ResolvedOptions:
        """The options with nothing left open, for one model.

        What the model recommends is its rule `calibrated` where the race is the one that was calibrated, else
        `paired` on the same orders. Raises ValueError for an option that makes no sense for this model.
        """
        if isinstance(self, ResolvedOptions):
            return self
        given = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) is not None}
        named = self.rule or self.orders or self.prefix
        race = {} if named else dict(card.fields.get("race") or {})
        options = ResolvedOptions(**(race | given))
        if race and options.rule == CALIBRATED:
            with suppress(ValueError):
                race_rule(card, options)
                race = {}
            if race:  # the calibration is for another δ, K_max or number of classes
                options = replace(options, rule="paired")
        card.class_ids(options.classes)
        tokens = int(card.fields["model"]["n_tokens"])
        m = options.prefix
        if m is not None and m > tokens:
            raise ValueError(f"a prefix of {m} tokens is longer than an image's {tokens}")
        options = replace(options, prefix=None if m == tokens else m)
        OrderSampler(options.orders, tokens, prefix=options.prefix)
        if options.prefixes and options.prefixes[-1] >= (options.prefix or tokens):
            raise ValueError(
                f"prefixes must be shorter than the {options.prefix or tokens} tokens of a pass, "
                f"got {options.prefixes[-1]}"
            )
        return options


@dataclass(frozen=True)
class ResolvedOptions(RaceOptions):
    """Options with nothing left open (:meth:`RaceOptions.resolve`); `prefix` is None for whole orders."""

    rule: str = "paired"
    delta: float = 0.05
    max_orders: int = 32
    orders: str = "uniform"

    @property
    def k_max(self) -> int:
        """Most orders an image is scored on: max_orders, or as many different ones as there are.

        One order seen in many views is many.
        """
        distinct = None if self.views.varies else distinct_orders(self.orders)
        return min(self.max_orders, distinct or self.max_orders)


def race_design(card: ModelCard, options: ResolvedOptions) -> Mapping[str, Any]:
    """What the model knows of such races (`priors`, `temperature`): nothing where every order sees a view of
    its own, since it was fitted to one view of every image."""
    return {} if options.views.varies else design_fields(card.fields, options.orders, options.prefix)


def race_temperature(card: ModelCard, options: ResolvedOptions, rule: Rule) -> float:
    """The temperature at which the soft-max of such a race's means is a probability."""
    return temperature_at(rule, float(race_design(card, options).get("temperature", card.temperature)))


def race_rule(card: ModelCard, options: ResolvedOptions, name: str | None = None) -> Rule:
    """The rule of options, with the model's priors and calibrations. Raises as `model_rule`.

    Those were fitted to one view of every image. Where views vary the scores do, and more: none of them hold.
    """
    if options.views.varies and (name or options.rule) == CALIBRATED:
        raise ValueError(
            "rule 'calibrated' was fitted to one view of an image: name another with random crops or noise"
        )
    return model_rule(
        {} if options.views.varies else card.fields, name or options.rule, options.delta, options.max_orders,
        len(card.class_ids(options.classes)), options.orders, options.prefix,
    )  # fmt: skip


@dataclass(frozen=True)
class Standing:
    """One class in a decision."""

    label: str
    index: int  # the model's class id
    probability: float
    mean: float  # order-averaged log-likelihood, nats (Race.means)
    lower: float | None  # confidence bounds of the mean (Race.intervals); None without a bound
    upper: float | None
    orders: int  # orders it was scored on
    alive: bool  # still in the race at the end

    def to_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


@dataclass(frozen=True)
class Decision:
    """What a race answered, how sure it is, and what it spent."""

    label: str
    index: int
    probability: float  # soft-max of mean log-likelihoods at the model's temperature
    separation: float  # the smallest δ at which the leader is separated from every rival
    stop: str  # "decided", "max-orders" or "budget"
    orders: int  # orders used (K)
    passes: float  # forward passes run, in whole passes: one over a prefix counts its share of FLOPs
    full_passes: float  # what all K_max orders of all classes cost, in whole passes
    prefix: int | None  # tokens scored, when there was no pull: decided at a rung, or the budget spent
    pass_tokens: int  # tokens of an order that a pass scores: an image's, or a prefix
    seconds: float  # decoded image to answer; of batches shared with other images, its share by rows
    ranking: tuple[Standing, ...]  # every class raced, best first
    records: tuple[Record, ...] = field(repr=False, default=())

    def to_dict(self, top: int | None = None) -> dict[str, Any]:
        """Plain data for JSON; `top` keeps that many of the ranking."""
        skip = ("records", "ranking")
        row = {name: getattr(self, name) for name in self.__dataclass_fields__ if name not in skip}
        return row | {"ranking": [standing.to_dict() for standing in self.ranking[:top]]}


@dataclass(frozen=True)
class Failure:
    """An image that could not be read; one line saying why."""

    error: str


def choose_device(name: str = "auto") -> torch.device:
    """`auto` takes CUDA, then MPS, then the CPU. Raises ValueError for a device that is not there."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError):
        raise ValueError(
            f"device {name!r} is not available here: use auto, cpu, cuda, cuda:N or mps"
        ) from None
    return device


def choose_dtype(name: str) -> torch.dtype:
    """`float32`, `bfloat16` or `float16`, or fp32, bf16, fp16."""
    if name not in DTYPE_NAMES:
        raise ValueError(f"unknown dtype {name!r}: use float32, bf16 or fp16")
    return DTYPES[DTYPE_NAMES[name]]


class AnytimeClassifier:
    """A model, its tokenizer and an engine. Use :meth:`load`."""

    def __init__(
        self, card: ModelCard, model: Transformer, tokenizer: Tokenizer, batch_size: int | None = None
    ):
        self.card, self.model, self.tokenizer = card, model, tokenizer
        self.engine = Engine(model, batch_size, identity=card.identity)
        self.load_seconds = 0.0
        self.tokenize_seconds = 0.0  # what the slowest image since the first took to tokenise
        self._warm = False

    @classmethod
    def load(
        cls,
        model: str = DEFAULT_MODEL,
        device: str = "auto",
        dtype: str = "float32",
        batch_size: int | None = None,
    ) -> AnytimeClassifier:
        """Load an embedded model by name, or a model directory.

        Raises ValueError (ModelError) in one line: no such model, damaged weights, no such device.
        """
        began = time.perf_counter()
        where = choose_device(device)
        if where.type == "cuda":
            torch.backends.cudnn.allow_tf32 = False  # token ids are roundings: keep the encoder exact
        card = read_card(model)
        self = cls(card, *load_model(card, where, choose_dtype(dtype)), batch_size=batch_size)
        self.load_seconds = time.perf_counter() - began
        return self

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
                self.tokens(np.zeros((8, 8, 3), np.uint8))
            self.engine.calibrate()
            self._warm = True
        return time.perf_counter() - began

    def rule(self, options: RaceOptions) -> Rule:
        """The options' rule, with this model's priors and calibrations."""
        return race_rule(self.card, options.resolve(self.card))

    def tokens(self, source: Source) -> tuple[np.ndarray, bytes]:
        """Decode and tokenise: token ids int64 [N] and the content key. Raises ImageError."""
        views = self._views(decode(source), ViewSampler())
        return views.tokens(0), views.content

    def _views(self, image: Any, sampler: ViewSampler) -> Views:
        """An image as the orders see it, its first view made."""
        views = Views(image, self.card.image_size, self.tokenizer, sampler, self.engine.device)
        views.tokens(0)
        self.tokenize_seconds = max(self.tokenize_seconds, views.slowest)
        return views

    def classify(
        self,
        source: Source,
        options: RaceOptions | None = None,
        on_update: Callable[[Job], None] | None = None,
    ) -> Decision:
        """Classify one image: a path, bytes, a file object, a Pillow image or a uint8 array.

        `on_update` is called after every batch with the job, whose race can be asked for its leader.
        Raises ImageError for an image that cannot be read, ValueError for options that make no sense.
        """
        result = next(self._results([source], options or RaceOptions(), on_update, pad=False))
        if isinstance(result, Failure):
            raise ImageError(result.error)
        return result

    def classify_many(
        self,
        sources: Iterable[Source],
        options: RaceOptions | None = None,
        on_update: Callable[[Job], None] | None = None,
    ) -> Iterator[Decision | Failure]:
        """Classify many images, in order; rows of different images share batches (unless each has a
        budget in seconds, which is kept image by image). An image that cannot be read is a Failure.

        What an image gives does not depend on the others, to the last bit of its log-likelihoods. (With
        :meth:`classify`, which takes short cuts for a single image, the last bits may differ on some
        devices.)"""
        return self._results(sources, options or RaceOptions(), on_update, pad=on_update is None)

    def _results(
        self,
        sources: Iterable[Source],
        options: RaceOptions,
        on_update: Callable[[Job], None] | None,
        pad: bool,
    ) -> Iterator[Decision | Failure]:
        settled = options.resolve(self.card)
        ids, rule = self.card.class_ids(settled.classes), race_rule(self.card, settled)
        if isinstance(options.budget, Budget) and options.budget.unit == "seconds":
            self.warm_up()
        finished: dict[int, Decision | Failure] = {}

        def jobs() -> Iterator[Job]:
            for index, source in enumerate(sources):
                yield self._job(index, source, settled, ids, rule)

        turn = 0
        for job in self.engine.race(jobs(), on_update, pad):
            finished[job.index] = Failure(job.error) if job.error else self._decision(job, settled)
            while turn in finished:
                yield finished.pop(turn)
                turn += 1

    def _job(
        self, index: int, source: Source, options: ResolvedOptions, ids: np.ndarray, rule: Rule
    ) -> Job:
        began, error = time.perf_counter(), ""
        tokens, content, views = np.empty(0, int), b"", None
        try:
            image = decode(source)
            began = time.perf_counter()  # the budget runs from the decoded image
            seen = self._views(image, options.views)
            tokens, content, views = seen.tokens(0), seen.content, seen if options.views.varies else None
        except ImageError as reason:
            error = str(reason)
        n_tokens = self.tokenizer.n_tokens
        sampler = OrderSampler(options.orders, n_tokens, options.seed, options.prefix)
        race = Race(len(ids), options.k_max // sampler.block, rule, sampler.block)
        assert not isinstance(options.budget, str)
        prefixes, length = tuple(options.prefixes), options.prefix or n_tokens
        job = Job(index, tokens, content, race, ids, sampler, options.budget, began, prefixes, length, views)
        job.error, job.stop = error, "failed" if error else ""
        job.seconds = time.perf_counter() - began
        return job

    def _decision(self, job: Job, options: ResolvedOptions) -> Decision:
        race, labels = job.race, self.labels
        means, how = race.means(), options.aggregate if race.n else "mean"
        probability = race.aggregate(how, race_temperature(self.card, options, race.rule))
        leader = race.leader if how == "mean" else int(probability.argmax())
        lower, upper = race.intervals()
        orders_of = np.where(race.alive, race.n, race.left_at) * race.block
        # the winner first, then those still in, then those who left, each by mean
        order = np.lexsort((-means, ~race.alive, np.arange(len(means)) != leader))
        # Standing's fields behind its label, class by class
        columns = (job.classes, probability, means, _finite(lower), _finite(upper), orders_of, race.alive)
        rows = zip(*(column[order].tolist() for column in columns), strict=True)
        ranking = tuple(Standing(labels[row[0]], *row) for row in rows)
        assert job.spending is not None
        prefix = job.records[-1].prefix if job.records and race.n == 0 else None
        return Decision(
            label=labels[job.classes[leader]],
            index=int(job.classes[leader]),
            probability=float(probability[leader]),
            separation=self._separation(job, options),
            stop=job.stop,
            orders=race.orders,
            passes=_tidy(job.spending.passes),
            full_passes=_tidy(race.n_classes * race.k_max * race.block * self.engine.cost.share(job.length)),
            prefix=prefix,
            pass_tokens=job.length,
            seconds=job.seconds,
            ranking=ranking,
            records=tuple(job.records),
        )

    def _separation(self, job: Job, options: ResolvedOptions) -> float:
        """By the rule's bound; a decision of `calibrated` holds the risk it was calibrated to as well."""
        race = job.race
        found = race.separation(self.bound(race.rule, options))
        if isinstance(race.rule, CalibratedRule) and job.stop == "decided":
            return min(found, race.rule.delta)
        return found

    def bound(self, rule: Rule, options: ResolvedOptions) -> Bound:
        """The bound that separations are reported with: the rule's own, else that of `paired`."""
        if isinstance(rule, PairedRule):
            return rule.bound
        paired = race_rule(self.card, options, "paired")
        assert isinstance(paired, PairedRule)
        return paired.bound


def _finite(x: np.ndarray) -> np.ndarray:
    """Python numbers, None where there is no bound."""
    numbers = x.astype(object)
    numbers[~np.isfinite(x)] = None
    return numbers


def _tidy(x: float) -> float:
    """Whole passes as a whole number, however the shares were summed."""
    return round(x) if abs(x - round(x)) < 1e-6 else x
