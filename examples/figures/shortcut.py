"""Who falls for a shortcut: docs/shortcut.md.

    python examples/figures/shortcut.py DATA/cifar10 OUT --share 0.95

Of a folder with train/ and test/ it takes some classes and writes OUT/train, where a square in the corner of
every picture has a class's colour: the picture's own in `--share` of them, else another's. On it every method
is trained from nothing: an any-order model on the tokens of `--from`, and others on the same tokens, of the
same size and with the same training FLOPs (`anytime-cls train --method`). Then every method answers the same
held-out pictures three times (`anytime-cls sweep --shift`): with the square of their own class, with none,
and with another class's.

First it says whether the square is in the tokens: how often a table of the corner's four names its class.
Then a row a method. "With it" and "without it" are how often a picture is answered by the class of the wrong
square: when it wears the square, and when it wears none. Brackets are 95 % intervals, of differences by a
paired bootstrap over the pictures.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from anytime_cls.datasets.names import Dataset, class_names, open_dataset, train_and_test
from anytime_cls.models.card import ModelCard
from anytime_cls.models.load import save_model
from anytime_cls.pixels.decode import decode
from anytime_cls.shifts.shortcuts import colour_of
from anytime_cls.stats.bootstrap import bootstrap
from anytime_cls.stats.intervals import proportion
from anytime_cls.stats.wording import percent, percent_interval
from anytime_cls.traces.read import Trace
from anytime_cls.training.peer_model import METHODS, peer_recipe, training_flops
from anytime_cls.training.recipe import load_images, split_holdout
from anytime_cls.training.start import Start, load_start, read_start
from anytime_cls.training.table import table_accuracy
from anytime_cls.training.transformer import fit_transformer
from anytime_cls.training.views import tokens_of, views_of
from anytime_cls_cli.main import main as anytime_cls

Array = np.ndarray[Any, Any]
ANY, MASKED = "any-order", "masked"
ALL = (ANY, MASKED, *METHODS)
OWN, NONE, OTHER = VERSIONS = ("own", "none", "another")
SHIFTS = {OWN: ("--shift", "patch:1"), NONE: (), OTHER: ("--shift", "patch:0")}
CPU = torch.device("cpu")
RESAMPLES = 2000


def run(*words: object) -> None:
    """A command, whose words go to standard error: standard output is the table's."""
    with contextlib.redirect_stdout(sys.stderr):
        code = anytime_cls([*map(str, words)])
    if code:
        raise SystemExit(code)


def write(data: Dataset, out: Path) -> None:
    """The pictures of a data set as PNG files in class folders."""
    for number, sample in enumerate(data.samples):
        path = out / data.labels[sample.label] / f"{number:05}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.asarray(decode(sample.load()))).save(path)


def make(data: Path, out: Path, classes: Sequence[str], share: float, each: int, held: int,
         size: int, seed: int) -> None:  # fmt: skip
    """OUT/train, `each` pictures a class with squares; OUT/held-out, `held` of all classes with none."""
    known = class_names(data)
    names = list(classes) or known[:4]
    if missing := sorted({*names} - {*known}):
        raise ValueError(f"{data} has no class {missing[0]!r}: it has {', '.join(known[:20])}")
    card = ModelCard("none", Path("."), {"labels": names, "image_size": size})
    training, testing = train_and_test(data)
    if testing is None:
        raise ValueError(f"{data}: give a folder with train/ and test/ (or val/)")
    for name, root, shift, limit in (
        ("train", training.root, f"patch:{share:g}", each * len(names)),
        ("held-out", testing.root, None, held),
    ):
        write(open_dataset(root, card, classes=["known"], limit=limit, seed=seed, shift=shift), out / name)


def any_order(start: Start, data: Path, out: Path, typed: dict[str, Any]) -> float:
    """An any-order model on a start's tokens, from nothing, by −log p(x | order, class) alone; with the held
    out images, seed and schedule that `train --method ... --from` it has. Returns its training FLOPs."""
    recipe = dataclasses.replace(peer_recipe(start.card, typed), contrast_epochs=0.0, min_steps=0)
    everything = load_images(train_and_test(data)[0], recipe.image_size)
    fitting = everything.subset(split_holdout(everything, recipe.holdout, recipe.seed)[0])
    out.mkdir(parents=True)
    view = views_of(start.tokenizer, fitting.images, recipe, CPU, lambda *_: None)
    model = fit_transformer(view, fitting, recipe, out / "checkpoint-transformer.pt", CPU, lambda *_: None)
    fields = {
        "name": ANY, "labels": everything.dataset.labels, "image_size": recipe.image_size,
        "tokenizer": start.card.fields["tokenizer"], "layout": recipe.layout, "model": model.config.to_dict(),
        "recipe": dataclasses.asdict(recipe),
    }  # fmt: skip
    save_model(
        out, fields, {k: v.half() for k, v in model.reference_state().items()}, start.tokenizer_state()
    )
    return training_flops(model.config, recipe, len(fitting))


def worn(pictures: Sequence[Array], classes: int) -> Array:
    """The class of each picture's square, by its colour: int64 [n]."""
    colours = np.stack([colour_of(c, classes) for c in range(classes)])
    marks = np.stack([picture[0, 0].astype(float) for picture in pictures])
    return ((marks[:, None] - colours) ** 2).sum(axis=2).argmin(axis=1)  # type: ignore[no-any-return]


def pictures_of(folder: Path, card: ModelCard, seed: int, shift: str | None = None) -> dict[str, Array]:
    """Pictures uint8 [S, S, 3] by id."""
    samples = open_dataset(str(folder), card, seed=seed, shift=shift).samples
    return {sample.id: np.asarray(decode(sample.load())) for sample in samples}


def in_tokens(start: Start, train: list[Array], clean: list[Array], shown: list[Array], classes: int) -> str:
    """Whether the square is in the tokens. shown: the clean pictures with squares."""

    def tokens(pictures: list[Array]) -> torch.Tensor:
        stacked = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()
        return tokens_of(start.tokenizer, stacked, CPU)

    before, after, seen = tokens(clean), tokens(shown), tokens(train)
    side = round(seen.shape[1] ** 0.5)
    corner = torch.tensor([0, 1, side, side + 1])
    changed = (before != after).float()
    found = table_accuracy(
        seen[:, corner], torch.from_numpy(worn(train, classes)), after[:, corner],
        torch.from_numpy(worn(shown, classes)), start.tokenizer.vocab_size,
    )  # fmt: skip
    return (
        f"The square changes the corner's token in {percent(changed[:, 0].mean().item())} of pictures, and "
        f"{changed.sum(1).mean().item():.1f} of {seen.shape[1]} tokens; the corner's four tokens name its "
        f"class in {percent_interval(found['value'], found['low'], found['high'])}."
    )


def draws(method: str, most: int) -> tuple[object, ...]:
    """How `sweep` draws: so many orders; of times and noises, and of masks, twice as many, well spread."""
    if method in (MASKED, "dit"):
        return ("--orders", "levels", "--max-orders", 2 * most)
    return ("--max-orders", most) if method == ANY else ()


def answers(path: Path) -> dict[str, int]:
    """The class of the highest mean score over all draws, by picture."""
    with Trace.open(path) as trace:
        ids = trace.images["id"].tolist()
        return {key: int(trace.matrix(at).mean(axis=0).argmax()) for at, key in enumerate(ids)}


def row(found: dict[str, Array], label: Array, square: Array, seed: int) -> list[str]:
    """Cells of a method. found: its answers by version [n]; square: the class of the wrong square [n]."""
    right = {version: found[version] == label for version in VERSIONS}
    said, anyway = found[OTHER] == square, found[NONE] == square
    columns = np.stack([right[OWN], right[OTHER], said, anyway], axis=1).astype(float)
    gaps = bootstrap(columns @ np.array([[1, 0], [-1, 0], [0, 1], [0, -1]]), RESAMPLES, seed)
    low, high = gaps.interval()

    def share(hits: Array) -> str:
        of = proportion(hits)
        return percent_interval(of["value"], of["low"], of["high"])

    def points(at: int) -> str:
        return f"{100 * gaps.value[at]:+.1f} [{100 * low[at]:+.1f}, {100 * high[at]:+.1f}]"

    return [*(share(right[version]) for version in VERSIONS), points(0), percent(said.mean()),
            percent(anyway.mean()), points(1)]  # fmt: skip


HEADS = ["method", "right, own square", "no square", "another's square", "own − another's, points",
         "says the square's class: with it", "without it", "difference, points"]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="a folder with train/ and test/ (or val/) of class folders")
    parser.add_argument("out", type=Path, help="a new folder")
    parser.add_argument("--share", type=float, default=0.95, help="training squares that are right")
    parser.add_argument("--classes", default="", help="A,B,...; the first four by default")
    parser.add_argument("--each", type=int, default=400, help="training pictures a class")
    parser.add_argument("--held", type=int, default=300, help="held-out pictures, of all classes")
    parser.add_argument("--methods", default=",".join(ALL), help=f"of {', '.join(ALL)}; any-order is trained")
    parser.add_argument("--from", dest="start", default="cifar10-manifold", help="whose tokens are used")
    parser.add_argument("--epochs", type=float, default=40)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--dim", type=int, help="width, a multiple of 32; as --from has it by default")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--draws", type=int, default=8, help="orders of a picture; times and noises: twice")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    methods = [name for name in ALL if name in args.methods.split(",")]
    if unknown := {*args.methods.split(",")} - {*ALL}:
        parser.error(f"unknown method {min(unknown)!r}: choose from {', '.join(ALL)}")
    if args.out.exists():
        parser.error(f"{args.out} is there already: name a new folder")
    names = [name for name in args.classes.split(",") if name]
    try:
        start = load_start(read_start(args.start), CPU)
        size, out = start.card.image_size, args.out
        make(args.data, out, names, args.share, args.each, args.held, size, args.seed)
    except ValueError as error:
        parser.error(str(error))

    typed = {"epochs": args.epochs, "views": 4, "batch_size": args.batch_size, "seed": args.seed}
    typed |= {"dim": args.dim, "n_head": args.dim // 32} if args.dim else {}
    typed |= {"n_layer": args.layers} if args.layers else {}
    base, began = out / "models" / ANY, time.monotonic()
    flops = any_order(start, out / "train", base, typed)
    print(f"{ANY}: {flops / 1e12:.2f} TFLOP of training, {time.monotonic() - began:.0f} s", flush=True)

    card = ModelCard("none", Path("."), {"labels": class_names(out / "train"), "image_size": size})
    clean = pictures_of(out / "held-out", card, args.seed)
    shown = pictures_of(out / "held-out", card, args.seed, "patch:0")
    ids, classes = list(clean), len(card.labels)
    train = [*pictures_of(out / "train", card, args.seed).values()]
    print(in_tokens(start, train, [clean[key] for key in ids], [shown[key] for key in ids], classes))
    label = np.array([card.labels.index(key.split("/")[0]) for key in ids])
    square = worn([shown[key] for key in ids], classes)
    print("| " + " | ".join(HEADS) + " |\n|" + " --- |" * len(HEADS), flush=True)
    for method in methods:
        if method in METHODS:
            run("train", out / "train", "--out", out / "models" / method, "--method", method, "--from", base,
                "--calibration-images", 0, "--device", "cpu")  # fmt: skip
        model = f"masked:{base}" if method == MASKED else str(out / "models" / method)
        found = {}
        for version in VERSIONS:
            path = out / "traces" / f"{method}-{version}.h5"
            path.parent.mkdir(exist_ok=True)
            run("sweep", out / "held-out", "--model", model, "--rule", "fixed", *draws(method, args.draws),
                *SHIFTS[version], "--seed", args.seed, "--device", "cpu", "-o", path, "-q")  # fmt: skip
            by_id = answers(path)
            found[version] = np.array([by_id[key] for key in ids])
        print("| " + " | ".join([method, *row(found, label, square, args.seed)]) + " |", flush=True)


if __name__ == "__main__":
    main()
