"""What `train --from` is worth: classes that a model has not seen, a few pictures of each.

    python examples/figures/new_classes.py DATA/tiny-imagenet-32 --classes 20 --each 30 --from cifar10,none

Takes so many classes of a folder with train/ and test/ (or val/), drawn by the seed, links `--each` of their
training pictures and all test pictures into a folder of their own, and trains on it from every model that is
named, "none" being from nothing. A row each: how often the recommended race is right on test pictures, with
its 95 % interval, what the tokens alone are worth, the race, and the time that all of it took.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from anytime_cls.models.zoo import read_card
from anytime_cls.stats.wording import percent, percent_interval
from anytime_cls_cli.main import main as anytime_cls


def linked(data: Path, out: Path, classes: int, each: int, seed: int) -> None:
    """So many classes of `data`, drawn by the seed: their first `each` training, and all test pictures."""
    names = sorted(path.name for path in (data / "train").iterdir() if path.is_dir())
    chosen = sorted(np.random.default_rng(seed).permutation(names)[:classes])
    test = "test" if (data / "test").is_dir() else "val"
    for split, most in (("train", each), (test, None)):
        for name in chosen:
            folder = out / split / name
            folder.mkdir(parents=True)
            for path in sorted((data / split / name).iterdir())[:most]:
                (folder / path.name).symlink_to(path.resolve())


def row(data: Path, start: str, out: Path, more: list[str]) -> str:
    began = time.monotonic()
    if code := anytime_cls(["train", str(data), "--out", str(out), "--from", start, *more]):
        raise SystemExit(code)
    seconds = time.monotonic() - began
    card = read_card(out)
    race, of = card.fields["metrics"]["race"], card.fitted.race
    assert of is not None
    right = race["accuracy"]
    shown = percent_interval(right["value"], right["low"], right["high"])
    alone = percent(card.fields["naive_bayes"]["value"])
    design = f"{of.rule}, at most {of.max_orders} orders of {of.prefix or card.tokens} tokens"
    return f"{start:18} {shown} of {right['n']}; tokens alone {alone}; {design}; {seconds:.0f} s"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--each", type=int, default=30)
    parser.add_argument("--from", dest="starts", default="cifar10,none")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--test-images", default="500")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        linked(args.data, Path(made) / "data", args.classes, args.each, args.seed)
        more = ["--test-images", args.test_images, "--seed", str(args.seed)]
        rows = [
            row(Path(made) / "data", start, Path(made) / str(i), more)
            for i, start in enumerate(args.starts.split(","))
        ]
    print(f"{args.classes} classes of {args.data.name}, {args.each} pictures each:", *rows, sep="\n  ")


if __name__ == "__main__":
    main()
