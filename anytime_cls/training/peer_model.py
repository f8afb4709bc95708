"""A model to compare an any-order one with: on its tokens or latents, of its size, with its training FLOPs.

Held-out and test images are those that `train` keeps from the same folder with the same seed, so that
the two are compared on images that neither has seen.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from anytime_cls.certify.measure import accuracy_at, fit_trace, labelled
from anytime_cls.certify.store import store_calibration, write_json
from anytime_cls.certify.temperature import fit_temperature
from anytime_cls.datasets.base import Dataset
from anytime_cls.datasets.names import train_and_test
from anytime_cls.models.card import ModelCard
from anytime_cls.models.load import save_model
from anytime_cls.models.zoo import read_card
from anytime_cls.plan.options import RaceOptions
from anytime_cls.scorers.dit import DiT
from anytime_cls.scorers.peers import DiscriminativeConfig, DiTConfig, HeadConfig, PeerConfig, RasterConfig
from anytime_cls.scorers.shapes import RandARConfig
from anytime_cls.scorers.sigma import SigmaGPT
from anytime_cls.tokenizers.base import Tokenizer
from anytime_cls.training.finish import Scoring, full_trace
from anytime_cls.training.folder import as_tuple, check_recipe, claim, taken
from anytime_cls.training.nets import augment, to_range
from anytime_cls.training.peers import (
    BACKWARD,
    Limit,
    Schedule,
    fit_autoregressive,
    fit_discriminative,
    fit_dit,
    fit_head,
)
from anytime_cls.training.recipe import ImageSet, Recipe, Report, load_images, split_holdout
from anytime_cls.training.start import Start
from anytime_cls.training.views import views_of
from anytime_cls.training.weighting import errors_of, fit_weighting

METHODS = {"raster": "raster", "discriminative": "discriminative", "head": "head", "dit": "diffusion"}
HEAD_WIDTH = 64
VIEWS = 8  # of every image, at most
WEIGHED = 1000  # held-out images that w(t) is fitted to, at most
PART = 500  # images at a time
CHECKPOINT = "checkpoint-peer.pt"


def train_peer(
    data: Path,
    out: Path,
    method: str,
    start: Start,
    recipe: Recipe,
    *,
    name: str,
    labels: Callable[[list[str]], list[str]],
    notes: Mapping[str, str],
    scoring: Scoring,
    device: torch.device,
    resume: bool = False,
    limit: int | None = None,
    report: Report,
    progress: Callable[[str, int, int], None],
) -> ModelCard:
    """Train, store, calibrate and measure a model by one of `METHODS`.

    start : the any-order model whose tokenizer, sizes and FLOPs it has. recipe : that of the start, with what
    was typed. labels : folders' names → what people call the classes. Raises ValueError as `train.train`.
    """
    training, testing = train_and_test(data)
    recipe = dataclasses.replace(recipe, start=f"{method} {start.card.name} {start.card.identity[:16]}")
    with taken(out):
        check_recipe(out, recipe, resume)
        everything = load_images(training, start.card.image_size, limit, recipe.seed)
        test = None
        if testing is not None:
            some = limit and max(limit // 4, 100)
            test = load_images(testing, start.card.image_size, some, recipe.seed, everything.dataset.labels)
        keep, held = split_holdout(everything, recipe.holdout, recipe.seed)
        fitting, held_out = everything.subset(keep), everything.subset(held)
        claim(out, recipe, everything, limit, held_out.dataset)
        if (out / "model.json").exists():
            card = read_card(out)
        else:
            net, extra = _fitted(method, start, fitting, held_out, recipe, out / CHECKPOINT, device, report)
            folders = everything.dataset.labels
            named = labels(folders)
            fields = {"name": name, "labels": named, **({} if named == folders else {"synsets": folders}),
                      "data": f"{data.resolve().name}, {len(folders)} classes", **notes, **extra}  # fmt: skip
            card = _stored(out, fields, net, start, METHODS[method], recipe)
        tested = None if test is None else test.dataset
        if scoring.calibration_images:
            _measured(card, held_out.dataset, tested, scoring, recipe.seed, device, progress)
        return read_card(out)


def _fitted(
    method: str, start: Start, fitting: ImageSet, held_out: ImageSet, recipe: Recipe, checkpoint: Path,
    device: torch.device, report: Report,
) -> tuple[nn.Module, dict[str, Any]]:  # fmt: skip
    """The net on the device, and fields of its model.json that were fitted to held-out images."""
    shape = peer_shape(method, start, len(fitting.dataset.labels))
    base: Any = start.model.config
    schedule = Schedule(
        Limit(flops=training_flops(base, recipe, len(fitting))), min(recipe.batch_size, len(fitting)),
        recipe.lr, recipe.weight_decay, averaging=recipe.averaging, seed=recipe.seed, report=report,
        checkpoint=checkpoint,
    )  # fmt: skip
    labels = fitting.labels.to(device)
    if isinstance(shape, DiTConfig):
        latents = latent_views(start.tokenizer, fitting.images, recipe.views, recipe.seed, device)
        dit = fit_dit(latents, labels, shape, schedule)
        some = held_out.subset(np.arange(min(WEIGHED, len(held_out))))
        wrong, times = errors_of(dit, latents_of(start.tokenizer, some.images, device))
        weighting = fit_weighting(wrong, times, some.labels.numpy())
        return dit, {"weighting": [list(pair) for pair in weighting]}
    view = views_of(start.tokenizer, fitting.images, recipe, device, report)
    tokens = torch.stack([view(number).to(device) for number in range(recipe.views)])
    match shape:
        case RasterConfig():  # its class vectors are those of the start's transformer
            as_start = dataclasses.replace(schedule, class_rate=recipe.class_rate)
            return fit_autoregressive(tokens, labels, shape, as_start, recipe.class_dropout), {}
        case DiscriminativeConfig():
            return fit_discriminative(tokens, labels, shape, schedule), {}
        case HeadConfig():
            per_epoch = max(1, len(labels) // schedule.batch_size)
            passes = Limit(steps=max(1, int(recipe.epochs * per_epoch)), flops=schedule.limit.flops)
            return fit_head(tokens, labels, shape, dataclasses.replace(schedule, limit=passes)), {}


def peer_shape(method: str, start: Start, n_classes: int) -> PeerConfig:
    """As large as the any-order model. Raises ValueError for a method that is none of `METHODS`."""
    base, tokenizer = start.model.config, start.tokenizer
    sizes = {"vocab_size": base.vocab_size, "n_tokens": base.n_tokens, "n_classes": n_classes}
    blocks = {"dim": base.dim, "n_layer": base.n_layer, "n_head": base.n_head}
    match method:
        case "raster":
            return RasterConfig(**blocks, **sizes, multiple_of=base.multiple_of)
        case "discriminative":
            return DiscriminativeConfig(**blocks, **sizes, multiple_of=base.multiple_of)
        case "head":
            return HeadConfig(HEAD_WIDTH, **sizes)
        case "dit":
            return DiTConfig(**blocks, channels=tokenizer.latent_shape[0], n_tokens=base.n_tokens,
                             n_classes=n_classes)  # fmt: skip
    raise ValueError(f"unknown method {method!r}: choose from any-order, {', '.join(METHODS)}")


def peer_recipe(card: ModelCard, typed: Mapping[str, Any]) -> Recipe:
    """The any-order model's own recipe, as far as it is known, with what was typed: the same schedule, seed
    and held-out images. Of its views a few are enough, since all are in memory at once. Raises ValueError."""
    known = {field.name for field in dataclasses.fields(Recipe)}
    own = {key: as_tuple(value) for key, value in card.fields.get("recipe", {}).items() if key in known}
    own["views"] = min(own.get("views", Recipe.views), VIEWS)
    return Recipe(**{**own, **typed})


def training_flops(config: RandARConfig, recipe: Recipe, images: int) -> float:
    """Of an any-order model's training by a recipe: forward and backward passes over parts of orders, and
    those in which classes are told apart."""
    a_pass = sum(
        share * config.flops(max(1, round(part * config.n_tokens))) for share, part in recipe.prefixes
    )
    steps = max(1, recipe.min_steps, int(recipe.epochs * max(1, images // recipe.batch_size)))
    apart = recipe.contrast_epochs * images * (1 + min(recipe.rivals, config.n_classes - 1))
    told = apart * config.flops(max(1, round(recipe.contrast_part * config.n_tokens)))
    return BACKWARD * (a_pass * steps * min(recipe.batch_size, images) + told)


@torch.inference_mode()
def latents_of(
    tokenizer: Tokenizer,
    images: Tensor,
    device: torch.device,
    change: Callable[[Tensor], Tensor] = lambda part: part,
) -> Tensor:
    """Continuous latents float16 [n, D, g, g], on the device, of images uint8 [n, 3, S, S] changed first."""
    state = tokenizer.state_dict()  # type: ignore[attr-defined]
    own = next(iter(state.values())).device
    parts = (to_range(change(part), tokenizer.pixel_range).to(own) for part in images.split(PART))
    return torch.cat([tokenizer.features(part).half().to(device) for part in parts])


def latent_views(tokenizer: Tokenizer, images: Tensor, views: int, seed: int, device: torch.device) -> Tensor:
    """The same of shifted and mirrored images: [views, n, D, g, g]."""
    generator = torch.Generator().manual_seed(seed + 3)
    found = [
        latents_of(tokenizer, images, device, lambda part: augment(part, generator)) for _ in range(views)
    ]
    return torch.stack(found)


def _stored(
    out: Path, fields: dict[str, Any], net: nn.Module, start: Start, layout: str, recipe: Recipe
) -> ModelCard:
    config: Any = net.config
    state = net.reference_state() if isinstance(net, SigmaGPT) else net.state_dict()
    exact = {"mean", "deviation"} if isinstance(net, DiT) else set()  # small, and of all images
    stored = {key: value if key in exact else value.half() for key, value in state.items()}
    fields |= {
        "image_size": start.card.image_size, "tokenizer": start.card.fields["tokenizer"], "layout": layout,
        "model": config.to_dict(), "recipe": json.loads(json.dumps(dataclasses.asdict(recipe))),
        "like": {"model": start.card.name, "sha256": start.card.sha256},
    }  # fmt: skip
    return save_model(out, fields, stored, start.tokenizer_state())


def _measured(
    card: ModelCard, held_out: Dataset, test: Dataset | None, scoring: Scoring, seed: int,
    device: torch.device, progress: Callable[[str, int, int], None],
) -> None:  # fmt: skip
    """Fits temperature and, of many draws, priors to held-out images, and measures test images."""
    if "metrics" in card.fields:
        return
    sampler = "levels" if isinstance(card.shape, DiTConfig) else "uniform"
    draws = card.shape.draws(sampler, card.tokens)
    most = min(scoring.max_orders - scoring.max_orders % draws.block, draws.distinct or scoring.max_orders)
    options = RaceOptions("fixed", None, max(most, draws.block), orders=sampler)
    sweep = partial(full_trace, options=options, seed=seed, device=str(device), progress=progress)
    with sweep(card, "calibration", held_out, scoring.calibration_images) as trace:
        source, scores, label = labelled(trace)
        fitted = {"temperature": fit_temperature(scores.mean(axis=1), label)}
        if scores.shape[1] > 1:
            with suppress(ValueError):  # too few images for a prior: bounds then need none
                fitted = fit_trace(trace)
        kind = "held-out training images"
    store_calibration(card, {**fitted, "calibration_images": len(label)}, replace_priors=True)
    if test is not None:
        with sweep(card, "test", test, scoring.test_images) as trace:
            source, scores, label = labelled(trace)
            kind = "test images"
    found = accuracy_at(scores, label, range(1, scores.shape[1] + 1))
    by_draws = {str(int(k) * source.block): row for k, row in found.items()}
    kept = {
        k: row for k, row in by_draws.items() if int(k) & (int(k) - 1) == 0 or k == max(by_draws, key=int)
    }
    metrics = {"measured_on": kind, "images": len(label), "accuracy_at_k": kept, "orders": sampler}
    fields = {**read_card(card.path).fields, "metrics": metrics}
    if draws.distinct is None:
        fields["race"] = {
            "rule": "paired",
            "delta": 0.05,
            "orders": sampler,
            "max_orders": options.max_orders,
        }
    write_json(card.path / "model.json", fields)
