"""Train an embedded model on an image folder: a tokenizer, a transformer on its tokens, their calibration.

Stages, each resumable from `checkpoint-*.pt` in the output directory:

1. tokenizer: by reconstruction and a class head on the quantised map (`labels`), by reconstruction alone,
   or in closed form from the co-occurrence of patches (`manifold`); the last two see no labels;
2. transformer: class-conditional next-token likelihood under uniformly random orders, on tokens of
   freshly augmented images; most steps see only a prefix of each order, which costs its share;
3. classes told apart (`contrast_epochs`), in less than any epoch of the above: optional;
4. calibration on a trace of images held out of both: temperature and variance priors.

Every step's data depend on (seed, step) alone, so a resumed run sees what an uninterrupted one would.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from anytime_cls.certify.measure import fit_trace, measure_trace
from anytime_cls.certify.store import store_calibration, write_json
from anytime_cls.classifier import AnytimeClassifier
from anytime_cls.datasets.base import Dataset
from anytime_cls.datasets.choose import choose
from anytime_cls.datasets.names import train_and_test
from anytime_cls.models.card import ModelCard
from anytime_cls.models.load import save_model
from anytime_cls.models.zoo import read_card
from anytime_cls.pixels.listing import say_left_out
from anytime_cls.plan.options import RaceOptions
from anytime_cls.plan.plan import Runtime
from anytime_cls.scorers.sigma import Transformer
from anytime_cls.stats.wording import percent
from anytime_cls.sweeps.sweep import run_sweep, sweep_plan, sweep_provenance
from anytime_cls.traces.read import Trace
from anytime_cls.traces.write import TraceWriter
from anytime_cls.training.contrast import fit_contrast
from anytime_cls.training.folder import CHECKPOINTS, check_recipe, claim, taken
from anytime_cls.training.recipe import Recipe, Report, TrainedTokenizer, load_images, split_holdout
from anytime_cls.training.table import table_accuracy
from anytime_cls.training.tokenizer import fit_tokenizer
from anytime_cls.training.transformer import fit_transformer
from anytime_cls.training.views import tokens_of, views_of

NAIVE_BAYES = "naive-bayes.json"  # how often tokens are right with no transformer, in a run's folder


def train(
    data: Path,
    out: Path,
    recipe: Recipe,
    *,
    device: torch.device,
    resume: bool = False,
    limit: int | None = None,
    report: Report,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[TrainedTokenizer, Transformer, Dataset, Dataset | None]:
    """Stages 1 to 3. Returns tokenizer, model, the held-out images and the test images (if any).

    say: is told what the tokens are worth without a transformer, once there are tokens.
    `holdout.txt` in `out` lists the held-out images for `sweep --ids`, to record a trace for `calibrate`.

    Raises
    ------
    ValueError : bad data; or `out` is of a run that this one may not continue, which another process trains,
        or whose checkpoints are damaged
    OSError : `out` cannot be written
    """
    training, testing = train_and_test(data)
    with taken(out):
        check_recipe(out, recipe, resume)
        if training.left_out:
            say(say_left_out(training.left_out))
        everything = load_images(training, recipe.image_size, limit, recipe.seed)
        test = None
        if testing is not None:  # read now: a broken image must not end hours of training
            some = limit and max(limit // 4, 100)
            test = load_images(testing, recipe.image_size, some, recipe.seed, everything.dataset.labels)
        keep, held = split_holdout(everything, recipe.holdout, recipe.seed)
        fitting, held_out = everything.subset(keep), everything.subset(held)
        claim(out, recipe, everything, limit, held_out.dataset)
        tokenizer = fit_tokenizer(fitting, recipe, out / CHECKPOINTS[0], device, report)
        view = views_of(tokenizer, fitting.images, recipe, device, report)
        tested = held_out if test is None else test
        kind = "held-out training images" if test is None else "test images"
        tokens = tokens_of(tokenizer, tested.images, device)
        alone = table_accuracy(view(0), fitting.labels, tokens, tested.labels, tokenizer.vocab_size)
        alone["measured_on"] = kind
        write_json(out / NAIVE_BAYES, alone)
        say(f"tokens alone (naive Bayes) are right on {percent(alone['value'])} of {alone['n']} {kind}")
        model = fit_transformer(view, fitting, recipe, out / CHECKPOINTS[1], device, report)
        model = fit_contrast(model, view, fitting, recipe, out / CHECKPOINTS[2], device, report)
        return tokenizer, model, held_out.dataset, None if test is None else test.dataset


def finish(
    tokenizer: TrainedTokenizer,
    model: Transformer,
    held_out: Dataset,
    test: Dataset | None,
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
    """Stage 4: store the weights (transformer in float16), calibrate and measure them as stored.

    Held-out images, swept into `calibration.h5`, give the priors and the temperature; test images, in
    `test.h5` (the held-out ones, and the metrics say so, where the data have no test folder), the accuracies
    at K = 1, 4, 16, 32 and the rules side by side. Both traces are of all classes on whole orders, and go on
    where an attempt was cut short. Without calibration images neither is made: a trace of shorter orders
    (`sweep`, `calibrate`) serves many classes better.
    labels: names of the classes, in the order of the folders.
    """
    config, kind = tokenizer.config, "manifold" if recipe.tokens == "manifold" else "fsq"
    fields = {
        "name": name,
        "labels": labels,
        **({} if labels == held_out.labels else {"synsets": held_out.labels}),
        "image_size": config.image_size,
        "data": data,
        **notes,
        "tokenizer": {"kind": kind, "saw_labels": recipe.tokens == "labels", **config.to_dict()},
        "layout": recipe.layout,
        "model": model.config.to_dict(),
        "recipe": dataclasses.asdict(recipe),
        "naive_bayes": json.loads((out / NAIVE_BAYES).read_text(encoding="utf-8")),
    }
    with taken(out):
        stored = {key: value.half() for key, value in model.reference_state().items()}
        device = next(model.parameters()).device
        card = save_model(out, fields, stored, tokenizer.state_dict())
        if not calibration_images:
            return card

        sweep = partial(_full_trace, k_max=k_max, seed=recipe.seed, device=str(device), progress=progress)
        with sweep(card, "calibration", held_out, calibration_images) as trace:
            store_calibration(card, fit_trace(trace))
            card = read_card(out)
            if test is None:
                metrics = measure_trace(trace, card, "held-out training images")
        if test is not None:
            with sweep(card, "test", test, test_images) as trace:
                metrics = measure_trace(trace, card)
        write_json(out / "model.json", {**card.fields, "metrics": metrics})
        return read_card(out)


def _full_trace(
    card: ModelCard, stage: str, images: Dataset, limit: int, k_max: int, seed: int, device: str,
    progress: Callable[[str, int, int], None],
) -> Trace:  # fmt: skip
    """What `sweep --rule fixed --limit LIMIT --seed SEED` records of these images, in the model's folder."""
    chosen = choose(images.name, images.root, card.labels, images.class_ids, [*images.samples], limit, seed)
    options = RaceOptions(rule="fixed", orders="uniform", max_orders=k_max, seed=seed)
    plan, classifier = sweep_plan(chosen, card, options), AnytimeClassifier.load(card, device)
    path, attributes = card.path / f"{stage}.h5", sweep_provenance(plan, chosen, card, Runtime(device))
    with TraceWriter.resume(path, attributes, chosen.labels) as writer:
        run_sweep(classifier, chosen, plan, writer, lambda tally: progress(stage, tally.done, tally.total))
    return Trace.open(path)
