"""What a caller may ask of a race, and what a model makes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from typing import Any

from anytime_cls.draws.orders import (
    OrderSampler,
    block_of,
    check_sampler,
    distinct_orders,
)
from anytime_cls.draws.views import ViewSampler
from anytime_cls.models.card import ModelCard
from anytime_cls.plan.budget import Budget, parse_budget
from anytime_cls.plan.rules import model_rule
from anytime_cls.race.races import AGGREGATORS
from anytime_cls.race.registry import CALIBRATED, design_fields, temperature_at
from anytime_cls.race.rules import Rule

DTYPE_NAMES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
DTYPE_NAMES |= {name: name for name in DTYPE_NAMES.values()}


def dtype_name(name: str) -> str:
    """`float32`, `bfloat16` or `float16`, of these or of fp32, bf16, fp16. Raises ValueError."""
    if name not in DTYPE_NAMES:
        raise ValueError(f"unknown dtype {name!r}: use float32, bf16 or fp16")
    return DTYPE_NAMES[name]


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
