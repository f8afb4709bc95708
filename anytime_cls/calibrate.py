"""Fit what a model must know of itself, on images neither its training nor its tests have seen.

A full trace (every class on every order) of held-out images gives the variance priors of the moderated
bounds, the temperature at which the soft-max of the mean log-likelihoods is a calibrated probability at the
default rule's decision, and (`calibrate_trace`) thresholds of the rule `calibrated` that hold a risk.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from scipy.stats import binomtest

from anytime_cls.bounds import ModeratedT, VariancePrior, fit_variance_prior
from anytime_cls.orders import OrderSampler
from anytime_cls.race import Race, run
from anytime_cls.replay import Source, means_at_decision
from anytime_cls.risk import LOSSES, clopper_pearson, fixed_sequence, images_needed, upper_bound
from anytime_cls.rules import CalibratedRule, FixedRule, Rule, make_rule, sample_variance, sparse_looks
from anytime_cls.zoo import ModelError, read_card

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
) -> Array:
    """Score every class of every image on all orders.

    images : token ids [N] and content key of each
    orders : the order sampler's name
    Returns float64 [I, K, C], nats. `progress` hears how many images are done.
    """
    from anytime_cls.engine import Job

    n_classes = engine.model.config.n_classes
    sampler = OrderSampler(orders, engine.n_tokens, seed)

    def jobs() -> Iterable[Job]:
        for index, (tokens, content) in enumerate(images):
            race = Race(n_classes, k_max, FixedRule())
            yield Job(index, tokens, content, race, np.arange(n_classes), sampler)

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


def decision_means(rule: Rule, scores: Array) -> Array:
    """Mean log-likelihoods [I, C] as they stand when a rule has decided (Race.means): scores [I, K, C]."""
    return means_at_decision(scores, run(rule, scores))


def fit_temperature(means: Array, labels: Array) -> float:
    """T that minimises −log softmax(means / T)[label], averaged: means [I, C], labels int [I]."""

    def loss(log_t: float) -> float:
        log_p = log_softmax(means / np.exp(log_t), axis=1)
        return -float(log_p[np.arange(len(labels)), labels].mean())

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
    interval = binomtest(k, n).proportion_ci(method="wilson")
    return {
        "value": round(k / n, 4),
        "low": round(float(interval.low), 4),
        "high": round(float(interval.high), 4),
        "n": n,
    }


def accuracy_at(scores: Array, labels: Array, ks: Iterable[int] = (1, 4, 16, 32)) -> dict[str, Any]:
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


def calibrate(scores: Array, labels: Array, delta: float = 0.05) -> dict[str, Any]:
    """The `temperature` and `priors` fields of model.json, from held-out full traces [I, K, C]."""
    priors = fit_priors(scores)
    means = decision_means(make_rule("paired", delta, priors), scores)
    return {
        "temperature": fit_temperature(means, labels),
        "priors": {key: prior.to_dict() for key, prior in priors.items()},
        "calibration_images": len(labels),
    }


#: Thresholds tried, safe to loose: the moderated t's tail under which a pair is separated. The same at every
#: look: on cifar10's traces more of it early (α ∝ 1/√n) or late (α ∝ √n), sharing α among the rivals left, or
#: looking after every order changed passes at equal disagreement by a few percent either way, which is noise.
ALPHAS = np.geomspace(1e-7, 0.5, 97)
_TEMPERATURE_IMAGES = 1000


@dataclass(frozen=True)
class Split:
    """Which images do what: arrays of indices into the trace. Priors must not see the thresholds' images."""

    priors: Array
    thresholds: Array
    held_out: Array


def split_images(usable: Array, share: float, seed: int) -> Split:
    """`share` of the images to fit (a fifth of them, 20 to 200, for the priors), the rest held out."""
    if not 0 < share < 1:
        raise ValueError(f"the split must lie between 0 and 1, got {share:g}")
    order = np.random.default_rng(seed).permutation(usable)
    n_fit = round(share * len(order))
    n_priors = int(np.clip(round(0.2 * n_fit), 20, 200))
    return Split(order[:n_priors], order[n_priors:n_fit], order[n_fit:])


def calibrate_trace(
    trace: Trace,
    risks: Iterable[float],
    confidence: float = 0.95,
    split: float = 0.5,
    seed: int = 0,
    loss: str = "disagreement",
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Fits the rule `calibrated` to each risk on one part of a full trace, and measures it on the other.

    Parameters
    ----------
    risks : each is held with `confidence` on its own: P(risk > r) ≤ 1 − confidence over the draw of the
        images that thresholds are fitted on (risk.py), for images like them raced as they were
    split, seed : the share of images to fit on, drawn at random
    loss : one of `risk.LOSSES`
    progress : hears image-races done, and of how many

    Returns what `model.json` can hold: `priors`, `temperature`, `calibrated` (a list, one entry a risk, with
    the figures on the held-out images under `held_out`), and where it is from.

    Raises ValueError, in one line, for a trace that is not full, risks outside (0, 1), or too few images.
    """
    risks = sorted(set(risks))
    for value in (*risks, confidence):
        if not 0 < value < 1:
            raise ValueError(f"risks and the confidence must lie between 0 and 1, got {value:g}")
    source = Source(trace)
    parts = split_images(np.flatnonzero(source.good), split, seed)
    _enough(parts, risks, confidence, split)
    k_max = source.k_max // source.block
    label = trace.images["label"]

    some = parts.thresholds[:_TEMPERATURE_IMAGES]
    fitting = _gather(source, np.concatenate([parts.priors, some]))
    priors = fit_priors(fitting[: len(parts.priors)])  # of pulls
    rules: list[Rule] = [_calibrated(priors["paired"], alpha, k_max, alpha) for alpha in ALPHAS]
    rules += [make_rule("paired", risk, priors) for risk in risks]

    prediction = np.full((len(rules), len(trace)), -1, np.int32)
    passes = np.zeros((len(rules), len(trace)), np.int32)
    full = np.full(len(trace), -1)
    racing = np.zeros(len(trace), bool)
    racing[parts.thresholds] = racing[parts.held_out] = True
    done, total = 0, int(racing.sum()) * len(rules)
    for images, pulls in source.stacks():
        images, pulls = images[racing[images]], pulls[racing[images]]
        full[images] = pulls.mean(axis=1).argmax(axis=1)
        for at, rule in enumerate(rules):
            outcome = run(rule, pulls)
            prediction[at, images], passes[at, images] = outcome.prediction, outcome.passes * source.block
            done += len(images)
            if progress:
                progress(done, total)

    on = parts.thresholds
    losses = np.stack([LOSSES[loss](row[on], full[on], label[on]) for row in prediction[: len(ALPHAS)]])

    def held_out(at: int) -> dict[str, Any]:
        return _measure(source, parts.held_out, prediction[at], passes[at], full, label)

    where = {key: trace.attrs[key] for key in ("model_sha256", "dataset", "seed") if key in trace.attrs}
    entries: list[dict[str, Any]] = []
    for number, risk in enumerate(risks):
        certified = fixed_sequence(losses, risk, confidence)
        if certified is None:
            raise ValueError(
                f"no threshold holds a risk of {risk:g}: even the safest errs on {losses[0].sum():g} of "
                f"{len(on)} images"
            )
        errors, alpha = int((losses[certified] > 0).sum()), float(ALPHAS[certified])
        entry: dict[str, Any] = {
            "risk": risk, "confidence": confidence, "loss": loss, "k_max": source.k_max,
            "order_sampler": source.sampler_name, "n_classes": source.n_classes, "alpha": alpha,
            "thresholds": {str(n): alpha for n in sparse_looks(k_max)},
            "prior": priors["paired"].to_dict(),
            "images": len(on), "errors": errors, "upper": upper_bound(errors, len(on), confidence),
        }  # fmt: skip
        measured = held_out(certified) | {"paired": held_out(len(ALPHAS) + number)}
        entries.append(entry | where | {"held_out": measured})
    labelled = np.concatenate([parts.priors, some])
    known = label[labelled] >= 0
    rule = _calibrated(priors["paired"], entries[-1]["alpha"], k_max, risks[-1])
    temperature = None
    if known.any():
        temperature = fit_temperature(decision_means(rule, fitting[known]), label[labelled][known])
    single = {key: replace(prior, scale=prior.scale * source.block) for key, prior in priors.items()}
    whose = ("model", "model_sha256", "tokenizer_sha256", "dataset", "order_sampler", "dtype")
    return {
        "schema": 1,
        **{key: trace.attrs[key] for key in whose if key in trace.attrs},
        "calibration_images": len(parts.priors),
        "priors": {key: prior.to_dict() for key, prior in single.items()},
        **({} if temperature is None else {"temperature": temperature}),
        "calibrated": entries,
    }


def store_calibration(
    model: str | Path, calibration: Mapping[str, Any], replace_priors: bool = False
) -> Path:
    """Adds a calibration to a model's `model.json`, whole or not at all; returns that file.

    A calibration for the same risk, K_max, sampler and number of classes is replaced. `priors` and
    `temperature` are written where the model has none, or if `replace_priors`. Raises ModelError for a model
    that cannot be read or written, or other weights than the calibration's.
    """
    card = read_card(model)
    sha = calibration.get("model_sha256")
    if sha and sha != card.sha256.get("transformer.safetensors"):
        raise ModelError(f"{card.path} has other weights than the calibration's trace was recorded with")
    fields = dict(card.fields)
    entries = {_key(entry): entry for entry in fields.get("calibrated", ())}
    entries |= {_key(entry): entry for entry in calibration["calibrated"]}
    fields["calibrated"] = [entries[key] for key in sorted(entries)]
    for key in ("priors", "temperature", "calibration_images"):
        if key in calibration and (replace_priors or not fields.get(key)):
            fields[key] = calibration[key]
    path = card.path / "model.json"
    write_json(path, fields)
    return path


def write_json(path: Path, fields: Mapping[str, Any]) -> None:
    """A JSON file, whole or not at all. Raises ModelError if it cannot be written."""
    temporary = path.with_name(f".tmp-{uuid.uuid4().hex}")
    try:
        temporary.write_text(json.dumps(fields, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        raise ModelError(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        with suppress(OSError):
            temporary.unlink()


def _key(entry: Mapping[str, Any]) -> tuple[str, int, int, float]:
    return entry["order_sampler"], entry["n_classes"], entry["k_max"], entry["risk"]


def _calibrated(prior: VariancePrior, alpha: float, k_max: int, risk: float) -> CalibratedRule:
    """The family's member at one threshold. k_max: pulls."""
    thresholds = tuple((n, float(alpha)) for n in sparse_looks(k_max))
    return CalibratedRule(ModeratedT(prior), risk, thresholds=thresholds)


def _enough(parts: Split, risks: list[float], confidence: float, split: float) -> None:
    """Raises ValueError where even a rule that never errs could not be certified."""
    have = len(parts.thresholds)
    if len(parts.priors) < 20 or len(parts.held_out) == 0:
        raise ValueError("a calibration needs more images: record at least 50")
    for risk in risks:
        need = images_needed(risk, confidence)
        if have < need:
            total = int(np.ceil((need + min(200, need // 4)) / split)) + 1
            raise ValueError(
                f"risk {risk:g} at confidence {confidence:g} needs {need} images to fit thresholds on, and "
                f"{have} are left for that: record about {total}, or raise --risk or --split"
            )


def _gather(source: Source, images: Array) -> Array:
    """The pulls [n, K, C] of these images, in their order."""
    place = np.full(len(source.trace), -1)
    place[images] = np.arange(len(images))
    out = np.empty((len(images), source.k_max // source.block, source.n_classes))
    for stack_images, pulls in source.stacks():
        chosen = place[stack_images] >= 0
        out[place[stack_images[chosen]]] = pulls[chosen]
    return out


def _measure(
    source: Source, on: Array, prediction: Array, passes: Array, full: Array, label: Array
) -> dict[str, Any]:
    """What a rule did to the images `on`: passes, saving, disagreement and accuracy with 95 % intervals."""
    wrong = int((prediction[on] != full[on]).sum())
    low, high = clopper_pearson(wrong, len(on))
    known = on[label[on] >= 0]
    mean = float(passes[on].mean())
    row: dict[str, Any] = {
        "images": len(on),
        "passes": round(mean, 2),
        "saving": round(source.full_cost / mean, 2),
        "disagreement": {
            "value": wrong / len(on),
            "errors": wrong,
            "low": round(low, 5),
            "high": round(high, 5),
        },
    }
    if len(known):
        row["accuracy"] = proportion(prediction[known] == label[known])
        row["full_accuracy"] = proportion(full[known] == label[known])
    return row
