"""From a classifier and a picture to token scores and an explanation: passes over whole orders."""

from __future__ import annotations

from typing import Any

import numpy as np

from anytime_cls.classifier import AnytimeClassifier
from anytime_cls.draws.base import Draw
from anytime_cls.explain.tokens import Explanation, TokenScores, probability_by_step
from anytime_cls.pixels.crops import center_crop, reduced
from anytime_cls.pixels.decode import Source, decode
from anytime_cls.race.fitted import WHOLE
from anytime_cls.scorers.base import Piece

Array = np.ndarray


def check_explains(classifier: AnytimeClassifier) -> None:
    """Raises ValueError for a model whose draws are no orders of tokens."""
    steps = classifier.card.shape.steps
    what = classifier.card.shape.draws("uniform", steps).at(0, b"", 0).what
    if steps < 2 or len(what) != 1 or not np.array_equal(np.sort(np.ravel(what[0])), np.arange(steps)):
        raise ValueError(
            f"{classifier.card.name} ({classifier.card.method}) does not score a picture token by token, in "
            "some order, so there is no evidence of tokens to show"
        )


def temperature(classifier: AnytimeClassifier) -> float:
    """Of whole orders, where it was fitted; else the model's own."""
    card = classifier.card
    known = card.fitted.of(WHOLE, card.tokens).temperature
    return card.temperature if known is None else known


def token_scores(
    classifier: AnytimeClassifier, encoded: Any, content: bytes, orders: int, seed: int, classes: Array
) -> TokenScores:
    """Scores of every token under the image's first `orders` uniform orders, by so many classes (the model's
    ids, int64 [C]): orders × C whole passes."""
    shape = classifier.card.shape
    sampler = shape.draws("uniform", shape.steps)
    draws = [sampler.at(seed, content, k) for k in range(orders)]
    by_step = _by_step(classifier, encoded, draws, classes)
    return TokenScores(by_step, np.stack([draw.what[0] for draw in draws]))


def explain(
    classifier: AnytimeClassifier,
    source: Source,
    name: str,
    orders: int = 8,
    seed: int = 0,
    classes: Array | None = None,
    why: int | None = None,
    rather: int | None = None,
    truth: int = -1,
) -> tuple[Explanation, TokenScores]:
    """Explain one picture, by orders × C passes and 2 × C more. Raises ImageError for what is no picture.

    Parameters
    ----------
    classes : the model's class ids, int64 [C] (default all); `why`, `rather` and `truth` are positions in it
    why, rather : the class that is explained, and the one it is held against; by default the answer of all
        orders, and the best other class
    """
    ids = np.arange(len(classifier.labels)) if classes is None else classes
    image = decode(source)
    size = classifier.card.image_size
    crop = np.asarray(center_crop(reduced(image, size), size))
    encoded, content = classifier.encode(image)
    scores = token_scores(classifier, encoded, content, orders, seed, ids)
    ranked = np.argsort(-scores.means, kind="stable")
    answer = int(ranked[0]) if why is None else why
    rival = int(next(c for c in ranked if c != answer)) if rather is None else rather
    contrast = scores.contrast(answer, rival)
    mean = contrast.mean(axis=0)
    most_first = np.argsort(-mean, kind="stable")
    asked = [Draw(0, (most_first,)), Draw(0, (most_first[::-1].copy(),))]
    ordered = _by_step(classifier, encoded, asked, ids)
    t = temperature(classifier)
    insertion, deletion = probability_by_step(ordered, answer, t)
    together = probability_by_step(scores.by_step.mean(axis=0), answer, t)[-1]
    labels = tuple(classifier.labels[i] for i in ids)
    return Explanation(
        name, content.hex(), labels, answer, rival, float(together), truth, scores.answers, scores.orders,
        crop, contrast, insertion, deletion,
        probability_by_step(scores.by_step, answer, t).mean(axis=0),
    ), scores  # fmt: skip


def _by_step(classifier: AnytimeClassifier, encoded: Any, draws: list[Draw], classes: Array) -> Array:
    """log p of the token that each draw reads i-th: float64 [draws, C, N]."""
    every = tuple(range(1, classifier.card.shape.steps + 1))
    pieces = [Piece(encoded, draw, classes) for draw in draws]
    running = np.stack(classifier.engine.run(pieces, every, False))
    return np.diff(running, axis=2, prepend=0.0)
