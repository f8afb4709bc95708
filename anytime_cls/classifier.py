"""The public face: photographs in, decisions out.

classifier = AnytimeClassifier.load("cifar10")
decision = classifier.classify("cat.jpg", RaceOptions(budget="0.5s"))
decision.label, decision.probability, decision.stop
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from anytime_cls.bounds import Bound, ModeratedT, PlainT
from anytime_cls.budget import Budget, parse_budget
from anytime_cls.engine import Engine, Job, Record
from anytime_cls.image import ImageError, Source, center_crop, content_key, decode, to_pixels
from anytime_cls.orders import OrderSampler
from anytime_cls.race import AGGREGATORS, Race
from anytime_cls.rules import PairedRule, Rule, model_rule
from anytime_cls.sigma import Transformer
from anytime_cls.tokenizer import Tokenizer
from anytime_cls.zoo import DEFAULT_MODEL, ModelCard, load_model, read_card

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
DTYPE_NAMES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"} | {name: name for name in DTYPES}


@dataclass(frozen=True)
class RaceOptions:
    """How images are raced. Raises ValueError, naming the option, when one makes no sense."""

    rule: str = "paired"  # one of rules.RULES
    delta: float = 0.05  # probability of another answer than all max_orders orders would give
    max_orders: int = 32  # K_max
    budget: Budget | str | None = None  # an image; text such as "0.5s" is parsed
    classes: Sequence[str | int] | None = None  # race only these; None: all of the model's
    seed: int = 0
    orders: str = "uniform"  # one of orders.SAMPLERS
    aggregate: str = "mean"  # one of race.AGGREGATORS; others than mean need rule "fixed"
    prefixes: Sequence[int] = ()  # also record the running log-likelihood after so many tokens

    def __post_init__(self) -> None:
        if isinstance(self.budget, str):
            object.__setattr__(self, "budget", parse_budget(self.budget))
        if not 1 <= self.max_orders < 1 << 16:  # a trace counts orders in 16 bits
            raise ValueError(f"max_orders must be 1 to 65535, got {self.max_orders}")
        if self.aggregate not in AGGREGATORS:
            raise ValueError(f"unknown aggregation {self.aggregate!r}: choose from {', '.join(AGGREGATORS)}")
        if self.aggregate != "mean" and self.rule != "fixed":
            raise ValueError(
                f"aggregation {self.aggregate!r} needs rule 'fixed': bounds are on the mean of log p"
            )
        prefixes = tuple(self.prefixes)
        if any(not isinstance(p, int) or p < 1 for p in prefixes) or sorted(set(prefixes)) != list(prefixes):
            raise ValueError(f"prefixes must be whole numbers from 1 that rise, got {list(prefixes)}")
        object.__setattr__(self, "prefixes", prefixes)
        sampler = OrderSampler(self.orders, 1)
        if self.max_orders % sampler.block:
            raise ValueError(
                f"{self.orders} orders come in blocks of {sampler.block}: max_orders must divide"
            )
        if sampler.distinct and self.rule != "fixed" and self.max_orders > sampler.distinct:
            raise ValueError(
                f"orders {self.orders!r} hold one order only: use max_orders 1 (or rule 'fixed')"
            )

    @property
    def k_max(self) -> int:
        """Most orders an image is scored on: max_orders, or as many different ones as there are."""
        return min(self.max_orders, OrderSampler(self.orders, 1).distinct or self.max_orders)


@dataclass(frozen=True)
class Standing:
    """One class in a decision."""

    label: str
    index: int  # the model's class id
    probability: float
    mean: float  # order-averaged log-likelihood, nats (Race.means)
    lower: float | None  # confidence bounds of the mean (Race.intervals); None without a bound
    upper: float | None
    orders: int  # whole orders it was scored on
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
    orders: int  # whole orders used (K)
    passes: float  # forward passes run; a prefix counts its share
    full_passes: int  # what fixed K_max costs: classes × K_max
    prefix: int | None  # tokens scored, when the budget did not allow one whole order
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
            self.tokens(np.zeros((8, 8, 3), np.uint8))
            self.engine.calibrate()
            self._warm = True
        return time.perf_counter() - began

    def rule(self, options: RaceOptions) -> Rule:
        """The options' rule, with this model's priors and calibrations."""
        n_classes = len(self.card.class_ids(options.classes))
        return model_rule(
            self.card.fields, options.rule, options.delta, options.max_orders, n_classes, options.orders
        )

    def tokens(self, source: Source) -> tuple[np.ndarray, bytes]:
        """Decode and tokenise: token ids int64 [N] and the content key. Raises ImageError."""
        return self._tokenise(decode(source))

    def _tokenise(self, image: Any) -> tuple[np.ndarray, bytes]:
        size = self.card.image_size
        crop = center_crop(image, size)
        pixels = torch.from_numpy(to_pixels(crop, size, self.tokenizer.pixel_range))
        with torch.inference_mode():  # one image at a time: rounding cannot depend on the batch
            ids = self.tokenizer.encode(pixels[None].to(self.engine.device))
        return ids[0].cpu().numpy(), content_key(crop)

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
        ids, rule = self.card.class_ids(options.classes), self.rule(options)
        if options.prefixes and options.prefixes[-1] >= self.tokenizer.n_tokens:
            raise ValueError(
                f"prefixes must be shorter than an image's {self.tokenizer.n_tokens} tokens, "
                f"got {options.prefixes[-1]}"
            )
        if isinstance(options.budget, Budget) and options.budget.unit == "seconds":
            self.warm_up()
        finished: dict[int, Decision | Failure] = {}

        def jobs() -> Iterator[Job]:
            for index, source in enumerate(sources):
                yield self._job(index, source, options, ids, rule)

        turn = 0
        for job in self.engine.race(jobs(), on_update, pad):
            finished[job.index] = Failure(job.error) if job.error else self._decision(job, options)
            while turn in finished:
                yield finished.pop(turn)
                turn += 1

    def _job(self, index: int, source: Source, options: RaceOptions, ids: np.ndarray, rule: Rule) -> Job:
        began, error = time.perf_counter(), ""
        tokens, content = np.empty(0, int), b""
        try:
            image = decode(source)
            began = time.perf_counter()  # the budget runs from the decoded image
            tokens, content = self._tokenise(image)
        except ImageError as reason:
            error = str(reason)
        sampler = OrderSampler(options.orders, self.tokenizer.n_tokens, options.seed)
        race = Race(len(ids), options.k_max // sampler.block, rule, sampler.block)
        assert not isinstance(options.budget, str)
        prefixes = tuple(options.prefixes)
        job = Job(index, tokens, content, race, ids, sampler, options.budget, began, prefixes)
        job.error, job.stop = error, "failed" if error else ""
        job.seconds = time.perf_counter() - began
        return job

    def _decision(self, job: Job, options: RaceOptions) -> Decision:
        race, labels = job.race, self.labels
        means, how = race.means(), options.aggregate if race.n else "mean"
        probability = race.aggregate(how, self.card.temperature)
        leader = race.leader if how == "mean" else int(probability.argmax())
        lower, upper = race.intervals()
        orders_of = np.where(race.alive, race.n, race.left_at) * race.block
        # the winner first, then those still in, then those who left, each by mean
        order = np.lexsort((-means, ~race.alive, np.arange(len(means)) != leader))
        ranking = tuple(
            Standing(
                labels[job.classes[c]],
                int(job.classes[c]),
                float(probability[c]),
                float(means[c]),
                _finite(lower[c]),
                _finite(upper[c]),
                int(orders_of[c]),
                bool(race.alive[c]),
            )
            for c in order
        )
        assert job.spending is not None
        prefix = job.records[-1].prefix if job.records and race.n == 0 else None
        return Decision(
            label=labels[job.classes[leader]],
            index=int(job.classes[leader]),
            probability=float(probability[leader]),
            separation=race.separation(self.bound(race.rule)),
            stop=job.stop,
            orders=race.orders,
            passes=_tidy(job.spending.passes),
            full_passes=race.n_classes * race.k_max * race.block,
            prefix=prefix,
            seconds=job.seconds,
            ranking=ranking,
            records=tuple(job.records),
        )

    def bound(self, rule: Rule) -> Bound:
        """The bound that separations are reported with: the rule's own, else the moderated t."""
        if isinstance(rule, PairedRule):
            return rule.bound
        prior = self.card.priors.get("paired")
        return PlainT() if prior is None else ModeratedT(prior)


def _finite(x: float) -> float | None:
    return float(x) if np.isfinite(x) else None


def _tidy(x: float) -> float:
    """Whole passes as a whole number, however the shares were summed."""
    return round(x) if abs(x - round(x)) < 1e-6 else x
