"""`anytime-cls curve`: from a folder of labelled images to a report, in one command that goes on."""

from __future__ import annotations

import contextlib
import io
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options as option
from .errors import Refused, readable
from .help import OUTPUT
from .outputs import check_output

if TYPE_CHECKING:
    from anytime_cls.datasets.base import Dataset
    from anytime_cls.models.card import ModelCard
    from anytime_cls.plan.plan import RacePlan

Option = typer.Option
_DEFAULTS = {"--seed": 0, "--workers": 1, "--device": "auto"}  # of 'sweep': not said again
_ENDINGS = (".html", ".png", ".svg", ".pdf")


def curve(
    dataset: Annotated[
        str,
        typer.Argument(metavar="NAME|PATH", show_default=False, help="Labelled images, as in 'sweep'."),
    ],
    out: Annotated[
        Path,
        Option("--out", "-o", metavar="FILE", rich_help_panel=OUTPUT,
               help="REPORT.html, or a picture alone: .png, .svg, .pdf. What was recorded goes into "
               "the folder FILE.traces."),
    ] = Path("report.html"),
    model: option.Model = "cifar10",
    limit: Annotated[
        int, Option(min=2, metavar="N", help="Images, spread evenly over the classes.")
    ] = 500,
    whole_orders: Annotated[
        int,
        Option(min=0, max=65535, metavar="K",
               help="Whole orders of the paper's classifier, that the race is measured against; they cost "
               "most of the time. 0 leaves it out."),
    ] = 20,
    root: Annotated[
        str | None,
        Option(metavar="DIR", show_default=False, help="Where the data set is; else CIFAR10_ROOT and such."),
    ] = None,
    ids: Annotated[
        str | None,
        Option(metavar="FILE", show_default=False,
               help="Only the images listed here, an id a line: a model of 'train' has its holdout.txt."),
    ] = None,
    classes: option.Classes = None,
    seed: option.Seed = 0,
    workers: Annotated[int, Option(min=1, metavar="N", help="Processes on this machine.")] = 1,
    device: option.Device = "auto",
    threads: option.Threads = None,
    estimate: Annotated[
        bool, Option("--estimate", help="Say how long it would take, and do nothing.")
    ] = False,
    quiet: option.Quiet = False,
) -> int:  # fmt: skip
    """Measure a model on your images and draw it: estimate, sweep, replay and report in one command.

    Records the model's own race, all of the same orders (so that every rule can be replayed), and whole
    orders, which are the paper's classifier; replays every rule; and writes the report. Interrupted, the same
    command goes on where it was.

    Exit codes: as those of 'sweep', which it runs; 2 the command makes no sense.

    \b
    Example: anytime-cls curve photos/ -o report.html --model runs/mine
             anytime-cls curve cifar10 --root data/cifar10 --limit 100
    """
    if out.suffix.lower() not in _ENDINGS:
        raise Refused(f"{out}: -o takes a file ending in {', '.join(_ENDINGS)}")
    check_output("-o", out, overwrite=True)
    common: dict[str, Any] = {
        "--model": model, "--limit": limit, "--root": root, "--ids": ids, "--classes": classes,
        "--seed": seed, "--workers": workers, "--device": device, "--threads": threads,
    }  # fmt: skip
    where = out.with_name(out.name + ".traces")
    try:
        card, data = _opened(model, dataset, root, ids, classes, limit, seed)
        steps = _steps(dataset, card, data, where, common, whole_orders)
        if estimate or not quiet:
            _announce(card, data, steps, device, threads)
    except ValueError as error:
        raise Refused(str(error)) from None
    if estimate:
        return 0
    where.mkdir(exist_ok=True)
    for step in steps:
        if code := _run(step.sweep, quiet, show=False):
            return code
    curves = []
    for step in steps:
        if step.replayed:
            curves.append(str(step.path.with_name(f"{step.path.stem}-curves.h5")))
            if code := _run(["replay", str(step.path), "-o", curves[-1], "--overwrite"], quiet, show=False):
                return code
    files = [*curves, *(str(step.path) for step in steps)]
    return _run(["plot", *files, "--x", "flops", "-o", str(out)], quiet, show=not quiet)


@dataclass(frozen=True)
class Step:
    """One trace of the report: what it is for, how it is recorded, and whether rules are replayed on it."""

    what: str
    path: Path
    sweep: list[str]  # arguments of the command
    plan: RacePlan
    replayed: bool


def _opened(
    model: str, dataset: str, root: str | None, ids: str | None, classes: str | None, limit: int, seed: int
) -> tuple[ModelCard, Dataset]:
    """Raises ValueError in one line: no labels, no such model."""
    from anytime_cls.datasets.names import open_dataset
    from anytime_cls.models.zoo import read_card

    card = read_card(model)
    data = open_dataset(
        dataset, card, root=root, classes=option.names(classes), ids=ids, limit=limit, seed=seed
    )
    if not any(sample.label >= 0 for sample in data.samples):
        raise ValueError(f"{data.root}: its images have no labels, so there is no accuracy to draw")
    return card, data


def _steps(
    dataset: str, card: ModelCard, data: Dataset, where: Path, common: dict[str, Any], whole_orders: int
) -> list[Step]:
    """What is recorded: the model's race; all of its orders; whole orders, where those are others."""
    from anytime_cls.plan.options import RaceOptions
    from anytime_cls.sweeps.sweep import sweep_plan

    given = {key: value for key, value in common.items() if value != _DEFAULTS.get(key)}
    shared = [str(word) for key, value in given.items() for word in (key, value)]

    def step(what: str, name: str, replayed: bool, **asked: Any) -> Step:
        path = where / f"{name}.h5"
        words = [
            str(word)
            for key, value in asked.items()
            for word in (f"--{key.replace('_', '-')}", ",".join(value) if isinstance(value, tuple) else value)
        ]
        sweep = ["sweep", dataset, *shared, *words, "-o", str(path), "--resume"]
        asked["screens"] = asked.pop("record_screens", ())
        return Step(
            what, path, sweep, sweep_plan(data, card, RaceOptions(seed=common["--seed"], **asked)), replayed
        )

    race = step("the model's race", "race", replayed=False)
    design = race.plan.design
    orders: dict[str, Any] = {"rule": "fixed", "orders": str(design.draws), "max_orders": design.k_max}
    if not race.plan.whole:
        orders["prefix"] = design.steps
    if design.crops != "center":
        orders["crops"] = design.crops
    if race.plan.screens:
        orders["record_screens"] = tuple(race.plan.screens)
    steps = [race, step("all its orders", "orders", True, **orders)]
    if whole_orders and not race.plan.whole:
        whole = {"rule": "fixed", "orders": "uniform", "max_orders": whole_orders}
        steps.append(step(f"{whole_orders} whole orders", "whole", True, **whole))
    return steps


def _announce(card: ModelCard, data: Dataset, steps: list[Step], device: str, threads: int | None) -> None:
    """How long each of the steps takes, and all of them."""
    from anytime_cls.sweeps.expect import expect

    from .classify import load
    from .show.output import duration
    from .show.sweep import say

    classifier = load(card, device, "float32", None, threads)
    say(f"{card.name} on {len(data.samples):,} images of {data.name}:")
    total = 0.0
    for step in steps:
        if step.path.is_file():
            say(f"  {step.what:20} recorded already, {step.path}")
            continue
        found = expect(classifier, step.plan, len(data.samples))
        seconds = found.most if found.usual is None else found.usual
        total += seconds
        say(f"  {step.what:20} about {duration(seconds)}, {step.path}")
    say(f"about {duration(total)} in all; the same command goes on if it is interrupted")


def _run(words: list[str], quiet: bool, show: bool) -> int:
    """One of the commands, as it could be typed. show: what it prints on standard output is shown."""
    from .main import run
    from .show.sweep import say

    say(f"$ {readable(shlex.join(['anytime-cls', *words]))}", quiet)
    words = [*words, "-q"] if quiet else words
    hidden: Any = contextlib.nullcontext() if show else contextlib.redirect_stdout(io.StringIO())
    sys.stdout.flush()
    with hidden:
        return run(words)
