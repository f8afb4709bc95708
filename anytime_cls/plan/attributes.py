"""Where a run's numbers come from: the attributes of its trace."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any

from anytime_cls.environment import git_revision, versions
from anytime_cls.models.card import ModelCard
from anytime_cls.plan.options import dtype_name
from anytime_cls.plan.plan import RacePlan, Runtime
from anytime_cls.plan.written import write
from anytime_cls.race.fitted import Fit
from anytime_cls.race.rules import CalibratedRule, Rule
from anytime_cls.race.value import ValueRule


def provenance(
    plan: RacePlan, card: ModelCard, dataset: str, runtime: Runtime | None = None, command: str | None = None
) -> dict[str, Any]:
    """The attributes of a run's trace (docs/trace.md); None where there is nothing to say.

    dataset: its name. runtime: its device and dtype are what the transformer runs on and in. command: as
    typed. Needs no weights. Raises ValueError in one line for a dtype that is none.
    """
    runtime, shape, m = runtime or Runtime("cpu"), card.shape, plan.design.steps
    recorded = [*plan.record, m]
    named = [*plan.screens, plan.fallback] if plan.fallback else list(plan.screens)
    screens = [shape.screens[name] for name in named]
    fit = Fit() if plan.noise else card.fitted.of(plan.design.draws, m, plan.design.crops)
    priors = {key: prior.to_dict() for key, prior in fit.priors.items()}
    return {
        "model": plan.model,
        "model_sha256": plan.weights_sha256,
        "tokenizer_sha256": plan.encoder_sha256,
        "temperature": plan.temperature,
        "priors": json.dumps(priors, sort_keys=True),
        "dataset": dataset,
        "tokens": plan.tokens,
        "flops": shape.flops(plan.tokens),
        "pass_tokens": None if plan.whole else m,
        "pass_flops": None if plan.whole else shape.flops(m),
        "prefixes": list(plan.record) or None,
        "prefix_flops": [shape.flops(prefix) for prefix in plan.record] or None,
        "screens": named or None,
        "screen_flops": [a + b * plan.design.n_classes for a, b in screens] or None,
        "seed": plan.seed,
        "order_sampler": plan.design.draws,
        "crops": None if plan.design.crops == "center" else plan.design.crops,
        "latent_noise": plan.noise or None,
        "aggregate": plan.aggregate,
        "rule": plan.rule.name,
        "delta": plan.delta,
        "calibrated": _fitted(plan.rule),
        "k_max": plan.design.k_max,
        "full_passes": None
        if plan.full_passes == plan.design.n_classes * plan.design.k_max
        else plan.full_passes,
        "budget": None if plan.budget is None else str(plan.budget),
        "plan": write(plan),
        "method": plan.method,
        "unit": shape.unit,
        "covariate": None if math.isnan(plan.draws.at(plan.seed, b"", 0).covariate) else True,
        "keyed": True,  # its draws can be made again from (seed, content, k)
        "flops_steps": recorded,
        "flops_shared": [2 * shape.flops(step, 1) - shape.flops(step, 2) for step in recorded],
        "flops_class": [shape.flops(step, 2) - shape.flops(step, 1) for step in recorded],
        "dtype": dtype_name(runtime.dtype),
        "device": runtime.device,
        "command": command,
        "git_revision": git_revision(),
        **{f"version_{name}": version for name, version in versions().items()},
    }


def _fitted(rule: Rule) -> str | None:
    """What a calibration says to a run's rule, as JSON: the model's may change later. None for most rules."""
    match rule:
        case CalibratedRule():
            return json.dumps(
                {"thresholds": rule.thresholds, "rungs": rule.rungs}
                | ({} if rule.screening is None else {"screening": asdict(rule.screening)})
            )
        case ValueRule():
            prior = rule.prior and rule.prior.to_dict()
            return json.dumps({"price": rule.price, "temperature": rule.temperature, "prior": prior})
    return None
