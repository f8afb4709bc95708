"""Rules from what a file says, in one call: what `plan.make` and a replay do on their way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anytime_cls.draws.orders import block_of, distinct_orders
from anytime_cls.race.fitted import Design, Fitted
from anytime_cls.race.registry import fitted_rule
from anytime_cls.race.rules import Rule

TOKENS = 64


def design(k_max: int, n_classes: int, sampler: str = "uniform", prefix: int = TOKENS) -> Design:
    return Design(sampler, prefix, k_max, n_classes)


def model_rule(
    fields: Mapping[str, Any], name: str, delta: float, max_orders: int, n_classes: int = 10,
    sampler: str = "uniform", prefix: int | None = None, tokens: int = TOKENS, **settings: Any,
) -> Rule:  # fmt: skip
    k_max = min(max_orders, distinct_orders(sampler) or max_orders)
    races = Design(sampler, prefix or tokens, k_max, n_classes)
    return fitted_rule(Fitted.read(fields, tokens), name, delta, races, block_of(sampler), **settings)
