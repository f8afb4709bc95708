"""The rule of a model's races: its name, with what the model knows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anytime_cls.draws.orders import block_of, check_sampler, distinct_orders
from anytime_cls.race.bounds import VariancePrior
from anytime_cls.race.registry import (
    RaceShape,
    _fits,
    design_fields,
    make_rule,
    pull_priors,
)
from anytime_cls.race.rules import Rule


def model_rule(
    fields: Mapping[str, Any], name: str, delta: float, max_orders: int, n_classes: int | None = None,
    order_sampler: str = "uniform", prefix: int | None = None, **settings: Any,
) -> Rule:  # fmt: skip
    """A rule for races of one model, with the priors and calibrations that its `model.json` holds.

    fields : has `priors`, `temperature`, `designs`, `calibrated` and `prices`, or not. max_orders : K_max, in
    orders. prefix : tokens of an order that a pass scores, None for all. Rule `value` takes the calibrated
    price of these races, the safest, where there is one and no other is given. Raises as `make_rule`.
    """
    check_sampler(order_sampler)
    design = design_fields(fields, order_sampler, prefix)
    priors = {key: VariancePrior.from_dict(prior) for key, prior in design.get("priors", {}).items()}
    k_max = min(max_orders, distinct_orders(order_sampler) or max_orders)
    shape = RaceShape(k_max, n_classes, order_sampler, prefix)
    temperature = float(design.get("temperature", 1.0))
    if name == "value" and not settings:
        fitted = [entry for entry in fields.get("prices", ()) if _fits(entry, shape)]
        if fitted:  # what was certified is this price with this posterior
            safest = min(fitted, key=lambda entry: entry["risk"])
            own = {"paired": VariancePrior.from_dict(safest["prior"])}
            return make_rule(name, delta, own, temperature=safest["temperature"], price=safest["price"])
    return make_rule(
        name, delta, pull_priors(priors, block_of(order_sampler)), fields.get("calibrated", ()), shape,
        temperature, **settings,
    )  # fmt: skip
