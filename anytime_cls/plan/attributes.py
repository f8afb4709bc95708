"""Where a run's numbers come from, and its decisions as rows of a trace: what every trace is made of."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from anytime_cls.environment import git_revision, versions
from anytime_cls.models.card import WEIGHTS
from anytime_cls.plan.options import (
    RaceOptions,
    dtype_name,
    race_design,
    race_rule,
    race_temperature,
)
from anytime_cls.race.rules import CalibratedRule, Rule
from anytime_cls.race.value import ValueRule

if TYPE_CHECKING:
    from anytime_cls.models.card import ModelCard
    from anytime_cls.scorers.shapes import RandARConfig


def model_config(card: ModelCard) -> RandARConfig:
    """The shape of a card's transformer (`n_tokens`, `flops`), without its weights. Raises ModelError."""
    from anytime_cls.models.card import ModelError
    from anytime_cls.scorers.shapes import transformer_config

    try:
        return transformer_config(card.fields.get("layout", "randar"), card.fields["model"])
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{card.path}: model.json's model does not make sense ({error})") from None


def provenance(
    card: ModelCard, options: RaceOptions, dataset: str, device: str, dtype: str, command: str | None = None
) -> dict[str, Any]:
    """The attributes of a run's trace (docs/trace.md); None where there is nothing to say.

    options: resolved or not. dataset: its name. device, dtype: what the transformer runs on and in, as typed.
    command: as typed. Needs no weights. Raises ValueError in one line for a dtype or a model that is none.
    """
    config = model_config(card)
    options = options.resolve(card)
    prefixes, m = list(options.prefixes), options.prefix
    design, rule = race_design(card, options), race_rule(card, options)
    return {
        "model": card.name,
        "model_sha256": card.sha256[WEIGHTS[0]],
        "tokenizer_sha256": card.sha256[WEIGHTS[1]],
        "temperature": race_temperature(card, options, rule),
        "priors": json.dumps(design.get("priors", {}), sort_keys=True),
        "dataset": dataset,
        "tokens": config.n_tokens,
        "flops": config.flops(),
        "pass_tokens": m,
        "pass_flops": None if m is None else config.flops(m),
        "prefixes": prefixes or None,
        "prefix_flops": [config.flops(prefix) for prefix in prefixes] or None,
        "seed": options.seed,
        "order_sampler": options.orders,
        "crops": None if options.crops == "center" else options.crops,
        "latent_noise": options.latent_noise or None,
        "aggregate": options.aggregate,
        "rule": options.rule,
        "delta": options.delta,
        "calibrated": _fitted(rule),
        "k_max": options.k_max,
        "budget": None if options.budget is None else str(options.budget),
        "dtype": dtype_name(dtype),
        "device": device,
        "command": command,
        "git_revision": git_revision(),
        **{f"version_{name}": version for name, version in versions().items()},
    }


def _fitted(rule: Rule) -> str | None:
    """What a calibration says to a run's rule, as JSON: the model's may change later. None for most rules."""
    match rule:
        case CalibratedRule():
            return json.dumps({"thresholds": rule.thresholds, "rungs": rule.rungs})
        case ValueRule():
            prior = rule.prior and rule.prior.to_dict()
            return json.dumps({"price": rule.price, "temperature": rule.temperature, "prior": prior})
    return None
