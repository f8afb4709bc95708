"""Fit what a model must know of itself, on images neither its training nor its tests have seen.

A full trace (every class on every order) of held-out images gives the variance priors of the moderated
bounds, and the temperature at which the soft-max of the mean log-likelihoods is a calibrated probability at
the default rule's decision; `measure` is what its card then says of it. thresholds.py goes on from there to
rules that hold a stated risk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from anytime_cls.bounds import VariancePrior, fit_variance_prior
from anytime_cls.orders import OrderSampler
from anytime_cls.pareto import wilson
from anytime_cls.race import Race, run
from anytime_cls.replay import Source, means_at_decision
from anytime_cls.rules import (
    RULES,
    FixedRule,
    Rule,
    design_fields,
    make_rule,
    pull_priors,
    sample_variance,
)
from anytime_cls.zoo import WEIGHTS, ModelCard

if TYPE_CHECKING:  # what is fitted to a trace needs no PyTorch
    from anytime_cls.engine import Engine
    from anytime_cls.trace import Trace

Array = np.ndarray


def full_scores(
    engine: Engine,
    images: Iterable[tuple[Array, bytes]],
    k_max: int,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
    orders: str = "uniform",
    prefix: int | None = None,
) -> Array:
    """Score every class of every image on all orders.

    images : token ids [N] and content key of each
    orders : the order sampler's name
    prefix : tokens of every order to score; default all
    Returns float64 [I, K, C], nats. `progress` hears how many images are done.
    """
    from anytime_cls.engine import Job

    n_classes = engine.model.config.n_classes
    sampler = OrderSampler(orders, engine.n_tokens, seed, prefix)

    def jobs() -> Iterable[Job]:
        for index, (tokens, content) in enumerate(images):
            race = Race(n_classes, k_max, FixedRule())
            yield Job(index, tokens, content, race, np.arange(n_classes), sampler, length=prefix or 0)

    done: dict[int, Array] = {}
    for job in engine.race(jobs()):
        done[job.index] = job.race.by_order
        if progress:
            progress(len(done))
    return np.stack([done[i] for i in range(len(done))])


def fit_priors(scores: Array) -> dict[str, VariancePrior]:
    """Variance priors from full traces [I, K, C]: `paired` for leader − class, `marginal` for one class."""
    k_max, n_classes = scores.shape[1:]
    leader = scores.mean(axis=1).argmax(axis=1)
    diff = np.take_along_axis(scores, leader[:, None, None], axis=2) - scores
    rival = np.arange(n_classes) != leader[:, None]
    paired = fit_variance_prior(diff.mean(axis=1)[rival], sample_variance(diff)[rival], k_max - 1)
    own = sample_variance(scores).ravel()
    return {"paired": paired, "marginal": fit_variance_prior(np.ones_like(own), own, k_max - 1, power=0.0)}


def decision_means(rule: Rule, scores: Array, rung_scores: Mapping[int, Array] | None = None) -> Array:
    """Mean log-likelihoods [I, C] as they stand when a rule has decided (Race.means): scores [I, K, C].

    rung_scores : as `race.run` takes them, for a rule with rungs
    """
    return means_at_decision(scores, run(rule, scores, rung_scores))


def fit_temperature(means: Array, labels: Array) -> float:
    """T at which the largest of softmax(means / T) says best whether it is right, by log loss: means [I, C],
    labels int [I].

    Of the answer alone, since that is the probability reported: the loss over all classes asks for more doubt
    (the tails of log-likelihoods are heavier than a soft-max's).
    """
    answer = means.argmax(axis=1)
    right = answer == labels

    def loss(log_t: float) -> float:
        log_p = log_softmax(means / np.exp(log_t), axis=1)[np.arange(len(answer)), answer]
        wrong = np.log(np.maximum(-np.expm1(log_p), 1e-12))
        return -float(np.where(right, log_p, wrong).mean())

    return float(np.exp(minimize_scalar(loss, bounds=(-3.0, 6.0), method="bounded").x))


def expected_calibration_error(confidence: Array, correct: Array, bins: int = 15) -> float:
    """Σ_b (n_b / n) |accuracy_b − confidence_b| over equal-width bins (Guo et al., ICML 2017)."""
    bin_of = np.minimum((confidence * bins).astype(int), bins - 1)
    total = 0.0
    for b in np.unique(bin_of):
        at = bin_of == b
        total += at.mean() * abs(correct[at].mean() - confidence[at].mean())
    return float(total)


def proportion(hits: Array) -> dict[str, float]:
    """A proportion with its Wilson 95 % interval: {value, low, high, n}."""
    k, n = int(np.sum(hits)), len(hits)
    low, high = wilson(k / n, n)
    return {"value": round(k / n, 4), "low": round(float(low), 4), "high": round(float(high), 4), "n": n}


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
        outcome = run(make_rule(name, delta, priors), scores)
        mean_passes = float(outcome.passes.mean())
        rows.append(
            {
                "rule": name,
                "accuracy": proportion(outcome.prediction == labels),
                "agreement": proportion(outcome.prediction == full),
                "passes": round(mean_passes, 1),
                "saving": round(n_classes * k_max / mean_passes, 2),
                "orders": round(float(outcome.pulls.mean()), 2),
            }
        )
    return rows


def measure(
    scores: Array, labels: Array, priors: dict[str, VariancePrior], temperature: float, measured_on: str
) -> dict[str, Any]:
    """The `metrics` of model.json from full traces [I, K, C]: fixed K, every rule at δ = 0.05, its ECE."""
    means = decision_means(make_rule("paired", 0.05, priors), scores)
    probability = softmax(means / temperature, axis=1)
    correct = probability.argmax(axis=1) == labels
    return {
        "measured_on": measured_on,
        "images": len(labels),
        "accuracy_at_k": accuracy_at(scores, labels),
        "rules_at_delta_0.05": rule_table(scores, labels, priors, RULES),
        "ece_at_decision": round(expected_calibration_error(probability.max(axis=1), correct), 4),
    }


def measure_trace(trace: Trace, card: ModelCard) -> dict[str, Any]:
    """`measure` on the labelled images of a full trace, with what the model knows of such races.

    Raises ValueError in one line for a trace that is not full, has no labels, or is of other weights.
    """
    if trace.attrs.get("model_sha256") != card.sha256[WEIGHTS[0]]:
        raise ValueError(f"{trace.path} was recorded with other weights than {card.name}'s")
    source = Source(trace)
    design = design_fields(card.fields, source.sampler_name, source.design_prefix())
    found = {key: VariancePrior.from_dict(prior) for key, prior in design.get("priors", {}).items()}
    if not {"paired", "marginal"} <= found.keys():
        raise ValueError(f"{card.name} has no priors for such races: 'anytime-cls calibrate' fits them")
    stacks = [(images, pulls) for images, pulls in source.stacks()]
    label = trace.images["label"][np.concatenate([images for images, _ in stacks])]
    scores = np.concatenate([pulls for _, pulls in stacks])
    if not (label >= 0).any():
        raise ValueError(f"{trace.path} has no labelled images")
    priors = pull_priors(found, source.block)
    known = label >= 0
    temperature = float(design.get("temperature", 1.0))
    metrics = measure(scores[known], label[known], priors, temperature, "test images")
    tokens = {} if source.design_prefix() is None else {"pass_tokens": source.pass_tokens}
    return metrics | {"orders": source.sampler_name, **tokens, "dataset": trace.attrs.get("dataset")}


def calibrate(scores: Array, labels: Array, delta: float = 0.05) -> dict[str, Any]:
    """The `temperature` and `priors` fields of model.json, from held-out full traces [I, K, C]."""
    priors = fit_priors(scores)
    means = decision_means(make_rule("paired", delta, priors), scores)
    return {
        "temperature": fit_temperature(means, labels),
        "priors": {key: prior.to_dict() for key, prior in priors.items()},
        "calibration_images": len(labels),
    }
