"""Train an embedded model on an image folder: a tokenizer, a transformer on its tokens, their calibration.

Three stages, each resumable from `checkpoint-*.pt` in the output directory:

1. tokenizer: reconstruction, and (unless `tokenizer_labels` is off) a class head on the quantised map;
2. transformer: class-conditional next-token likelihood under uniformly random orders, on tokens of
   freshly augmented images; most steps see only a prefix of each order, which costs its share;
3. calibration on images held out of both: temperature and variance priors.

Every step's data depend on (seed, step) alone, so a resumed run sees what an uninterrupted one would.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from anytime_cls.models.card import ModelCard
from anytime_cls.models.load import save_model
from anytime_cls.scorers.sigma import Transformer
from anytime_cls.tokenizers.fsq import FSQTokenizer
from anytime_cls.training.recipe import (
    ImageSet,
    Recipe,
    Report,
    find_splits,
    load_folder,
    split_holdout,
)
from anytime_cls.training.scores import evaluate, stratified
from anytime_cls.training.tokenizer import fit_tokenizer
from anytime_cls.training.transformer import fit_transformer


def train(
    data: Path,
    out: Path,
    recipe: Recipe,
    *,
    device: torch.device,
    resume: bool = False,
    limit: int | None = None,
    report: Report,
) -> tuple[FSQTokenizer, Transformer, ImageSet, ImageSet | None]:
    """Stages 1 and 2. Returns tokenizer, model, the held-out images and the test images (if any).

    `holdout.txt` in `out` lists the held-out images for `sweep --ids`, to record a trace for `calibrate`.

    Raises
    ------
    ValueError : bad data, or checkpoints in `out` that this run may not continue
    """
    out.mkdir(parents=True, exist_ok=True)
    _claim(out, recipe, resume)
    train_dir, test_dir = find_splits(data)
    everything = load_folder(train_dir, recipe.image_size, limit)
    keep, held = split_holdout(everything.labels, recipe.holdout, recipe.seed)
    fitting, held_out = everything.subset(keep), everything.subset(held)
    (out / "holdout.txt").write_text("\n".join(held_out.ids) + "\n", encoding="utf-8")
    test = load_folder(test_dir, recipe.image_size, limit and max(limit // 4, 100)) if test_dir else None
    if test is not None and test.classes != everything.classes:
        raise ValueError(f"{test_dir}: its classes differ from {train_dir}'s")
    tokenizer = fit_tokenizer(fitting, recipe, out / "checkpoint-tokenizer.pt", device, report)
    model = fit_transformer(tokenizer, fitting, recipe, out / "checkpoint-transformer.pt", device, report)
    return tokenizer, model, held_out, test


def _claim(out: Path, recipe: Recipe, resume: bool) -> None:
    """Refuse to overwrite another run; remember this one's recipe."""
    marker = out / "recipe.json"
    text = json.dumps(dataclasses.asdict(recipe), indent=1)
    if marker.exists():
        if not resume:
            raise ValueError(f"{out} holds a run already: add --resume to go on, or choose another --out")
        if json.loads(marker.read_text()) != json.loads(text):
            raise ValueError(f"{out} was started with another recipe: see {marker}")
    marker.write_text(text)


def finish(
    tokenizer: FSQTokenizer,
    model: Transformer,
    held_out: ImageSet,
    test: ImageSet | None,
    recipe: Recipe,
    out: Path,
    *,
    name: str,
    labels: list[str],
    data: str,
    notes: dict[str, str],
    calibration_images: int,
    test_images: int,
    k_max: int = 32,
    progress: Callable[[str, int, int], None],
) -> ModelCard:
    """Stage 3: store the weights (transformer in float16), calibrate and measure them as stored.

    Held-out images give the priors and the temperature; test images (the held-out ones, and the metrics
    say so, where the data have no test folder) the accuracies at K = 1, 4, 16, 32 and the rules side by side.
    Without calibration images neither is done: a trace (`sweep`, `calibrate`) serves many classes better.
    labels: names of the classes, in the order of the folders.
    """
    stored = {key: value.half() for key, value in model.reference_state().items()}
    model.load_reference({key: value.float() for key, value in stored.items()})
    measured: dict[str, Any] = {}
    if calibration_images:
        chosen = stratified(held_out, calibration_images, recipe.seed)
        tests = None if test is None else stratified(test, test_images, recipe.seed)
        measured = evaluate(tokenizer, model, chosen, tests, recipe.seed, k_max, out, progress)
    config = tokenizer.config
    fields = {
        "name": name,
        "labels": labels,
        **({} if labels == held_out.classes else {"synsets": held_out.classes}),
        "image_size": config.image_size,
        "data": data,
        **notes,
        "tokenizer": {"kind": "fsq", "saw_labels": recipe.tokenizer_labels, **config.to_dict()},
        "layout": recipe.layout,
        "model": model.config.to_dict(),
        **measured,
        "recipe": dataclasses.asdict(recipe),
    }
    return save_model(out, fields, stored, tokenizer.state_dict())
