"""What a model's card says of it, from full traces of images it has not seen."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import softmax

from anytime_cls.certify.priors import fit_priors
from anytime_cls.certify.temperature import decision_means, fit_temperature
from anytime_cls.models.card import WEIGHTS, ModelCard
from anytime_cls.race.bounds import VariancePrior
from anytime_cls.race.races import run
from anytime_cls.race.registry import (
    RULES,
    make_rule,
)
from anytime_cls.replay.source import Source
from anytime_cls.stats.intervals import proportion
from anytime_cls.stats.reliability import error_floor, expected_calibration_error

if TYPE_CHECKING:
    from anytime_cls.traces.read import Trace

Array = np.ndarray


def accuracy_at(scores: Array, labels: Array, ks: Iterable[int] = (1, 4, 16, 20, 32)) -> dict[str, Any]:
    """Accuracy of the fixed-K classifier for several K, with intervals."""
    return {
        str(k): proportion(scores[:, :k].mean(axis=1).argmax(axis=1) == labels)
        for k in ks
        if k <= scores.shape[1]
    }


def rule_table(
    scores: Array, labels: Array, priors: dict[str, VariancePrior], rules: Iterable[str], delta: float = 0.05
) -> list[dict[str, Any]]:
    """Every rule raced over full traces: accuracy, agreement with all K_max orders, passes, saving."""
    k_max, n_classes = scores.shape[1:]
    full = scores.mean(axis=1).argmax(axis=1)
    rows = []
    for name in rules:
        races = run(make_rule(name, delta, priors), scores)
        mean_passes = float(races.passes.mean())
        rows.append(
            {
                "rule": name,
                "accuracy": proportion(races.prediction == labels),
                "agreement": proportion(races.prediction == full),
                "passes": round(mean_passes, 1),
                "saving": round(n_classes * k_max / mean_passes, 2),
                "orders": round(float(races.n.mean()), 2),
            }
        )
    return rows


def fit_trace(trace: Trace) -> dict[str, Any]:
    """What model.json has of a design's draws: `priors` (of single orders) and `temperature`, from a full
    trace of held-out images; of orders that are scored in part under `designs`."""
    source, scores, label = labelled(trace)
    priors = fit_priors(scores)
    temperature = fit_temperature(decision_means(make_rule("paired", 0.05, priors), scores), label)
    single = {key: replace(prior, scale=prior.scale * source.block) for key, prior in priors.items()}
    fit = {"temperature": temperature, "priors": {key: prior.to_dict() for key, prior in single.items()}}
    return source.kept(fit) | {"calibration_images": len(label)}


def measure_trace(trace: Trace, card: ModelCard, measured_on: str = "test images") -> dict[str, Any]:
    """The `metrics` of model.json, from the labelled images of a full trace: accuracy at fixed K, every rule
    at δ = 0.05 and its ECE, with what the model knows of such races.

    Raises ValueError in one line for a trace that is not full, has no labels, or is of other weights.
    """
    if trace.attrs.get("model_sha256") != card.sha256[WEIGHTS[0]]:
        raise ValueError(f"{trace.path} was recorded with other weights than {card.name}'s")
    source, scores, label = labelled(trace)
    fit = card.fitted.of(source.sampler_name, source.pass_tokens, source.crops)
    if not {"paired", "marginal"} <= fit.priors.keys():
        raise ValueError(f"{card.name} has no priors for such races: 'anytime-cls calibrate' fits them")
    priors, temperature = fit.of_pulls(source.block), 1.0 if fit.temperature is None else fit.temperature
    probability = softmax(decision_means(make_rule("paired", 0.05, priors), scores) / temperature, axis=1)
    correct = probability.argmax(axis=1) == label
    tokens = {} if source.design_prefix() is None else {"pass_tokens": source.pass_tokens}
    crops = {} if source.crops == "center" else {"crops": source.crops}
    return {
        "measured_on": measured_on,
        "images": len(label),
        "accuracy_at_k": accuracy_at(scores, label),
        "rules_at_delta_0.05": rule_table(scores, label, priors, RULES),
        "ece_floor": round(error_floor(probability.max(axis=1)), 4),
        "ece_at_decision": round(expected_calibration_error(probability.max(axis=1), correct), 4),
        "orders": source.sampler_name,
        **tokens,
        **crops,
        "dataset": trace.attrs.get("dataset"),
    }


def labelled(trace: Trace) -> tuple[Source, Array, Array]:
    """A full trace's labelled images: pulls [I, K, C] and labels [I]. Raises ValueError if there are none."""
    source = Source(trace)
    stacks = [(images, pulls) for images, pulls in source.stacks()]
    label = trace.images["label"][np.concatenate([images for images, _ in stacks])]
    known = label >= 0
    if not known.any():
        raise ValueError(f"{trace.path} has no labelled images")
    return source, np.concatenate([pulls for _, pulls in stacks])[known], label[known]
