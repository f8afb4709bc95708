"""About how long a training will take on this machine: a step of each stage, timed, times their number.

Takes a second or two itself. Times of a busy machine are what they are at that moment.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from anytime_cls.scorers.sigma import Transformer
from anytime_cls.tokenizers.base import Tokenizer
from anytime_cls.tokenizers.fsq import FSQTokenizer
from anytime_cls.tokenizers.manifold import ManifoldTokenizer
from anytime_cls.training.finish import COMPARED, Scoring
from anytime_cls.training.loop import mixed_precision
from anytime_cls.training.manifold import COUNTED_IMAGES
from anytime_cls.training.outlook import Outlook
from anytime_cls.training.recipe import Recipe
from anytime_cls.training.start import Start
from anytime_cls.training.views import tokens_of

CLOSED_FORM = 20.0  # seconds of eigenvectors and centres, on one core
TRAINED = 4.0  # times what coding a picture takes, that a tokenizer's training on it does
SOME = 32  # rows of a step that is timed
PICTURES = 8  # that are coded


def forecast(
    seen: Outlook, recipe: Recipe, scoring: Scoring, device: torch.device, start: Start | None = None
) -> dict[str, float]:
    """Seconds by stage: "tokens", "network" and "scoring"."""
    images = seen.images - seen.held
    model = recipe.new_model(len(seen.labels)) if start is None else start.model
    model = model.to(device).requires_grad_(True)
    n = model.config.n_tokens
    network = sum(
        rows * _seconds(lambda part=part: _step(model, max(1, round(part * n)), device), SOME)  # type: ignore[misc]
        for part, rows in _rows(images, recipe, start is not None).items()
    )
    model.zero_grad()
    with torch.no_grad():  # most of what is scored is a quarter or less of an order
        scored = 4 * _seconds(lambda: _scores(model, max(1, n // 4), device), SOME)
    return {
        "tokens": _tokens(images, recipe, device, start),
        "network": network,
        "scoring": scored * _passes(seen, scoring, n),
    }


def _seconds(work: Callable[[], object], of: int) -> float:
    """Of one of so many: the faster of two tries, since the first warms up."""
    times = []
    for _ in range(2):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times) / of


def _step(model: Transformer, prefix: int, device: torch.device) -> None:
    with torch.autocast(device.type, torch.bfloat16, enabled=mixed_precision(device)):
        loss = _scores(model, prefix, device).mean()
    loss.backward()


def _scores(model: Transformer, prefix: int, device: torch.device) -> Tensor:
    orders = torch.arange(model.config.n_tokens, device=device).expand(SOME, -1)
    found: Tensor = model(torch.zeros_like(orders), torch.zeros_like(orders[:, 0]), orders, prefix)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return found


def _tokens(images: int, recipe: Recipe, device: torch.device, start: Start | None) -> float:
    """Of fitting a tokenizer, and of coding all views of the images."""
    tokenizer: Tokenizer
    if start is not None:
        tokenizer = start.tokenizer
    elif recipe.tokens == "manifold":
        tokenizer = ManifoldTokenizer(recipe.manifold_config())
    else:
        tokenizer = FSQTokenizer(recipe.fsq_config()).eval()
    size = tokenizer.image_size
    blank = torch.zeros(PICTURES, 3, size, size, dtype=torch.uint8)
    each = _seconds(lambda: tokens_of(tokenizer, blank, device), PICTURES)
    closed = isinstance(tokenizer, ManifoldTokenizer)
    coded = each * images * (1 if closed else recipe.views)
    if start is not None:
        return coded
    if closed:
        return coded + each * min(images, COUNTED_IMAGES) + CLOSED_FORM
    steps = max(1, recipe.tokenizer_min_steps, recipe.tokenizer_epochs * images / recipe.batch_size)
    trained = TRAINED * each * steps * min(recipe.batch_size, images)
    if recipe.tokens == "selfsupervised":  # two views; the teacher is about three times the tokenizer
        trained *= 2
        trained += (
            TRAINED
            * each
            * images
            * (6 * recipe.teacher_epochs + 2 * bool(recipe.teacher_epochs) * recipe.distil_epochs)
        )
    return coded + trained


def _rows(images: int, recipe: Recipe, start: bool) -> dict[float, float]:
    """Rows that all steps train on, by the part of their orders."""
    batch = min(recipe.batch_size, images)
    per_epoch = max(1, images // recipe.batch_size)
    steps: float = recipe.class_steps + recipe.tune_steps
    if not start:
        steps = max(1, recipe.min_steps, recipe.epochs * per_epoch)
    found = dict.fromkeys([part for _, part in recipe.prefixes], 0.0)
    for share, part in recipe.prefixes:
        found[part] += batch * steps * share
    if recipe.contrast_epochs:
        contrasted = batch * recipe.contrast_epochs * per_epoch
        found[recipe.contrast_part] = found.get(recipe.contrast_part, 0.0) + contrasted
    return found


def _passes(seen: Outlook, scoring: Scoring, n_tokens: int) -> float:
    """Whole passes of scoring in full: every design on some images, one on all, and on test images."""
    if not scoring.calibration_images:
        return 0.0
    costs = [(one.max_orders or 0) * (one.prefix or n_tokens) / n_tokens for one in scoring.designs(n_tokens)]
    held = min(seen.held, scoring.calibration_images)
    most = held + min(seen.tested, scoring.test_images)
    return len(seen.labels) * (min(held, COMPARED) * sum(costs) + most * max(costs[1:] or costs))
