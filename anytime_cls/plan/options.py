"""What a caller may ask of a race."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from anytime_cls.draws.orders import (
    SAMPLERS,
    block_of,
    distinct_orders,
)
from anytime_cls.draws.views import ViewSampler
from anytime_cls.plan.budget import Budget, parse_budget
from anytime_cls.race.races import AGGREGATORS

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

    Where none of rule, orders, prefix and crops is given, races are run as the model recommends (`race` in
    its model.json); where one is, the others are "paired", "uniform", whole orders and "center" (plan.make).
    """

    rule: str | None = None  # one of registry.RULES, or "calibrated"
    delta: float | None = None  # probability of another answer than all max_orders orders would give
    max_orders: int | None = None  # the most orders of a race (K_max)
    budget: Budget | str | float | None = None  # an image; text such as "0.5s" is parsed, a number is seconds
    classes: Sequence[str | int] | None = None  # race only these; None: all of the model's
    seed: int = 0  # decides the orders, with the picture's content; an answer is the same for the same seed
    orders: str | None = None  # one of orders.SAMPLERS, or of the method's own
    prefix: int | None = None  # tokens of every order that a pass scores; None: the whole order
    aggregate: str = "mean"  # one of races.AGGREGATORS; others than mean need rule "fixed"
    prefixes: Sequence[int] = ()  # also record the running log-likelihood after so many tokens
    crops: str | None = None  # one of views.CROPS, "center" by default: others take a new crop every order
    screen: str | None = None  # ranks all classes before the first order; "none": no screen
    screens: Sequence[str] = ()  # also record the estimates of these
    latent_noise: float = 0.0  # t in [0, 1] of the noise in the tokenizer's latents, drawn every order

    def __post_init__(self) -> None:
        _ = self.limit  # raises for text that is none
        if self.max_orders is not None and not 1 <= self.max_orders < 1 << 16:  # a trace counts in 16 bits
            raise ValueError(f"max_orders must be 1 to 65535, got {self.max_orders}")
        if self.delta is not None and not 0 < self.delta < 1:
            raise ValueError(f"delta must lie between 0 and 1, got {self.delta:g}")
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
        object.__setattr__(self, "screens", tuple(dict.fromkeys(self.screens)))
        varies = self.views.varies  # raises for crops or noise that make no sense
        if self.orders not in SAMPLERS:  # a method's own, if it has such: its shape says
            return
        max_orders = self.max_orders or 32
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
        return ViewSampler(self.crops or "center", self.latent_noise, self.seed)

    @property
    def limit(self) -> Budget | None:
        """The budget, parsed."""
        given = self.budget
        return given if given is None or isinstance(given, Budget) else parse_budget(given)
