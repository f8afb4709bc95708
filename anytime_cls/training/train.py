"""Train an embedded model on an image folder: a tokenizer, a transformer on its tokens, their calibration.

Stages, each resumable from `checkpoint-*.pt` in the output directory:

1. tokenizer: by reconstruction and a class head on the quantised map (`labels`), by reconstruction alone,
   or in closed form from the co-occurrence of patches (`manifold`); the last two see no labels;
2. transformer: class-conditional next-token likelihood under uniformly random orders, on tokens of
   freshly augmented images; most steps see only a prefix of each order, which costs its share;
3. classes told apart (`contrast_epochs`), in less than any epoch of the above: optional;
4. calibration, and a race to recommend, by traces of images held out of both (`finish`).

Begun from another model (`start`), 1 is that model's and 2 replaces its classes.

Every step's data depend on (seed, step) alone, so a resumed run sees what an uninterrupted one would.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from anytime_cls.certify.store import write_json
from anytime_cls.datasets.base import Dataset
from anytime_cls.datasets.names import train_and_test
from anytime_cls.pixels.listing import say_left_out
from anytime_cls.scorers.sigma import Transformer
from anytime_cls.stats.wording import percent
from anytime_cls.tokenizers.base import Tokenizer
from anytime_cls.training.contrast import fit_contrast
from anytime_cls.training.folder import CHECKPOINTS, OF_START, check_recipe, claim, taken
from anytime_cls.training.recipe import ImageSet, Recipe, Report, load_images, split_holdout
from anytime_cls.training.start import Start, fit_classes
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
    start: Start | None = None,
    report: Report,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[Tokenizer, Transformer, Dataset, Dataset | None]:
    """Stages 1 to 3. Returns tokenizer, model, the held-out images and the test images (if any).

    start: a model to begin from (the recipe's `start` says which): its tokenizer is kept, and stage 2
    replaces its classes. say: is told what the tokens are worth without a transformer, once there are tokens.
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
        tokenizer: Tokenizer
        if start is None:
            tokenizer = fit_tokenizer(fitting, recipe, out / CHECKPOINTS[0], device, report)
        else:
            tokenizer = start.tokenizer
        if device.type == "cuda":  # once: what a step reads of them is little work
            fitting = fitting.on(device)
        view = views_of(tokenizer, fitting.images, recipe, device, report)
        tested = held_out if test is None else test
        _tell_table(tokenizer, view(0), fitting, tested, test is None, out, device, say)
        if start is None:
            model = fit_transformer(view, fitting, recipe, out / CHECKPOINTS[1], device, report)
        else:
            places = out / OF_START[0], out / OF_START[1]
            model = fit_classes(start, view, fitting, recipe, places, device, report)
        model = fit_contrast(model, view, fitting, recipe, out / CHECKPOINTS[2], device, report)
        return tokenizer, model, held_out.dataset, None if test is None else test.dataset


def _tell_table(
    tokenizer: Tokenizer, seen: torch.Tensor, fitting: ImageSet, tested: ImageSet, held_out: bool, out: Path,
    device: torch.device, say: Callable[[str], None],
) -> None:  # fmt: skip
    """Says, and writes, how often a table of these tokens alone is right."""
    tokens = tokens_of(tokenizer, tested.images, device)
    labels = fitting.labels.cpu()
    alone = table_accuracy(seen.cpu(), labels, tokens, tested.labels, tokenizer.vocab_size)
    alone["measured_on"] = "held-out training images" if held_out else "test images"
    write_json(out / NAIVE_BAYES, alone)
    of = f"of {alone['n']} {alone['measured_on']}"
    say(f"tokens alone (naive Bayes) are right on {percent(alone['value'])} {of}")
