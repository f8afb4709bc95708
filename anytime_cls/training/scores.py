"""Every class of every image on all orders, and what is fitted to them: how training calibrates."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anytime_cls.certify.measure import measure
from anytime_cls.certify.priors import fit_priors
from anytime_cls.certify.temperature import decision_means, fit_temperature
from anytime_cls.engine.engine import Engine
from anytime_cls.pixels.crops import content_key
from anytime_cls.race.bounds import VariancePrior
from anytime_cls.race.races import Race
from anytime_cls.race.registry import make_rule
from anytime_cls.race.rules import FixedRule
from anytime_cls.scorers.any_order import AnyOrder
from anytime_cls.scorers.sigma import Transformer
from anytime_cls.tokenizers.fsq import FSQTokenizer
from anytime_cls.training.nets import to_range
from anytime_cls.training.recipe import ImageSet, split_holdout

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
    from anytime_cls.engine.job import Job

    assert isinstance(engine.scorer, AnyOrder)
    n_classes, steps = engine.scorer.shape.n_classes, prefix or engine.n_tokens
    draws = engine.scorer.shape.draws(orders, steps)

    def jobs() -> Iterable[Job]:
        for index, (tokens, content) in enumerate(images):
            race = Race(n_classes, k_max, FixedRule())
            yield Job(index, tokens, content, race, np.arange(n_classes), draws, steps, seed)

    done: dict[int, Array] = {}
    for job in engine.race(jobs()):
        done[job.index] = job.race.by_order
        if progress:
            progress(len(done))
    return np.stack([done[i] for i in range(len(done))])


def calibrate(scores: Array, labels: Array, delta: float = 0.05) -> dict[str, Any]:
    """The `temperature` and `priors` fields of model.json, from held-out full traces [I, K, C]."""
    priors = fit_priors(scores)
    means = decision_means(make_rule("paired", delta, priors), scores)
    return {
        "temperature": fit_temperature(means, labels),
        "priors": {key: prior.to_dict() for key, prior in priors.items()},
        "calibration_images": len(labels),
    }


def evaluate(
    tokenizer: FSQTokenizer,
    model: Transformer,
    held_out: ImageSet,
    test: ImageSet | None,
    seed: int,
    k_max: int,
    out: Path,
    progress: Callable[[str, int, int], None],
) -> dict[str, Any]:
    """`temperature`, `priors` and `metrics` of model.json; scores.npz in `out` keeps every score."""
    engine = Engine(AnyOrder(model, tokenizer))

    def score(stage: str, images: ImageSet) -> tuple[np.ndarray, np.ndarray]:
        pairs = images_to_tokens(tokenizer, images.images, engine.device)
        scores = full_scores(engine, pairs, k_max, seed, lambda done: progress(stage, done, len(images)))
        return scores, images.labels.numpy()

    held_scores, held_labels = score("calibration", held_out)
    fitted = calibrate(held_scores, held_labels)
    scores, truth = (held_scores, held_labels) if test is None else score("test", test)
    priors = {key: VariancePrior.from_dict(value) for key, value in fitted["priors"].items()}
    np.savez_compressed(  # every pass is kept, so that anything else can be fitted without a model
        out / "scores.npz",
        calibration=held_scores,
        calibration_labels=held_labels,
        test=scores,
        test_labels=truth,
    )
    measured_on = "held-out training images" if test is None else "test images"
    metrics = measure(scores, truth, priors, fitted["temperature"], measured_on)
    return {**fitted, "metrics": metrics}


def stratified(images: ImageSet, limit: int, seed: int) -> ImageSet:
    """About `limit` images, the same number of each class, chosen by the seed; all if there are fewer."""
    if limit >= len(images):
        return images
    return images.subset(split_holdout(images.labels, limit / len(images), seed)[1])


def images_to_tokens(
    tokenizer: FSQTokenizer, images: Tensor, device: torch.device
) -> Iterator[tuple[np.ndarray, bytes]]:
    """Token ids [N] and content key of each uint8 image, one at a time as the classifier does it."""
    with torch.inference_mode():
        for image in images:
            pixels = to_range(image[None]).to(device)
            yield tokenizer.encode(pixels)[0].cpu().numpy(), content_key(image.permute(1, 2, 0).numpy())
