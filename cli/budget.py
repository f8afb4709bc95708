"""`anytime-cls budget`: how often a model is right in so many milliseconds, measured live on this machine."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options as option
from .errors import INTERRUPTED, Refused, complain
from .help import OUTPUT

if TYPE_CHECKING:
    from anytime_cls.classifier import AnytimeClassifier
    from anytime_cls.datasets.base import Dataset
    from anytime_cls.models.card import ModelCard

Option = typer.Option


def budget(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", show_default=False, help="As 'classify --model' takes it.")
    ],
    dataset: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME|PATH", show_default=False,
            help="Labelled images, as 'sweep' takes them. Default: the set that the model was measured on.",
        ),
    ] = None,
    at: Annotated[
        str, Option(metavar="AMOUNT,...", help="Budgets of an image, as 'classify --budget' takes them.")
    ] = "10ms,50ms,200ms",
    limit: Annotated[
        int, Option(min=2, metavar="N", help="Images, spread evenly over the classes.")
    ] = 100,
    root: Annotated[
        str | None,
        Option(metavar="DIR", show_default=False, help="Where the data set is; else CIFAR10_ROOT and such."),
    ] = None,
    rule: option.Rule = None,
    delta: option.Delta = None,
    max_orders: option.MaxOrders = None,
    orders: option.Orders = None,
    prefix: option.Prefix = None,
    screen: option.Screen = None,
    seed: option.Seed = 0,
    device: option.Device = "auto",
    dtype: option.Dtype = "float32",
    threads: option.Threads = None,
    json: Annotated[
        bool, Option("--json", rich_help_panel=OUTPUT, help="One JSON object a budget.")
    ] = False,
    quiet: option.Quiet = False,
) -> int:  # fmt: skip
    """Say how often a model is right within 10, 50 and 200 ms an image on this machine.

    Every image is raced at every budget, one after the other, as 'classify' would: so it takes up to the sum
    of the budgets for each image, and the answers are those that you will get while the machine is as busy.

    \b
    Example: anytime-cls budget cifar10 data/cifar10/test
             anytime-cls budget runs/mine photos/ --at 20ms,1s
    """
    asked: dict[str, Any] = {
        "rule": rule, "delta": delta, "max_orders": max_orders, "orders": orders, "prefix": prefix,
        "screen": screen, "seed": seed,
    }  # fmt: skip
    amounts = [text.strip() for text in at.split(",") if text.strip()]
    if not amounts:
        raise Refused("--at takes budgets with commas between, as 10ms,50ms")
    from .classify import load

    try:
        from anytime_cls.models.zoo import read_card
        from anytime_cls.plan.options import RaceOptions, dtype_name
        from anytime_cls.sweeps.sweep import sweep_plan

        card = read_card(model)
        data = _labelled(card, dataset, root, limit, seed)
        plans = [sweep_plan(data, card, RaceOptions(**asked, budget=amount)) for amount in amounts]
        classifier = load(card, device, dtype_name(dtype), None, threads)
    except ValueError as error:
        raise Refused(str(error)) from None
    classifier.warm_up()
    if not quiet:
        _say(f"{card.name} on {len(data.samples)} images of {data.name}, {_where(classifier)}")
    show = _Table(card.name, quiet)
    try:
        for amount, plan in zip(amounts, plans, strict=True):
            row = {"model": card.name, "dataset": data.name, "budget": amount} | measured(
                classifier, data, plan
            )
            if json:
                from .show.output import print_json

                print_json(row)
            else:
                show.row(row)
    except KeyboardInterrupt:
        return complain("interrupted", INTERRUPTED)
    return 0


def _labelled(card: ModelCard, name: str | None, root: str | None, limit: int, seed: int) -> Dataset:
    """Labelled images of the model's classes. Raises ValueError in one line."""
    from anytime_cls.datasets.names import open_dataset

    known = (card.fields.get("metrics") or {}).get("dataset")
    if name is None and known is None:
        raise ValueError(f"labelled images are needed to count right answers: budget {card.name} FOLDER")
    try:
        data = open_dataset(name or str(known), card, root=root, limit=limit, seed=seed)
    except ValueError as error:
        if name is not None:
            raise
        raise ValueError(
            f"{error}; or give a folder of labelled images: anytime-cls budget {card.name} FOLDER"
        ) from None
    if not any(sample.label >= 0 for sample in data.samples):
        raise ValueError(f"{data.root}: its images have no labels, so no answer can be counted as right")
    return data


def measured(classifier: AnytimeClassifier, data: Dataset, plan: Any) -> dict[str, Any]:
    """Right answers, with Wilson's 95 % interval, and seconds of one image after the other."""
    import numpy as np

    from anytime_cls.race.decision import Failure
    from anytime_cls.stats.intervals import wilson

    position = {int(index): at for at, index in enumerate(data.class_ids)}
    hits, seconds, stable, failed = [], [], [], 0
    began = time.perf_counter()
    samples = [sample for sample in data.samples if sample.label >= 0]
    results = classifier.classify_many((sample.load() for sample in samples), plan, details=False)
    for sample, result in zip(samples, results, strict=True):
        if isinstance(result, Failure):
            failed += 1
            continue
        hits.append(position[result.index] == sample.label)
        seconds.append(result.seconds)
        stable.append(result.stop != "budget")
    if not hits:
        raise Refused(f"{data.root}: no image could be read")
    low, high = wilson(float(np.mean(hits)), len(hits))
    return {
        "images": len(hits), "failed": failed,
        "accuracy": {"value": float(np.mean(hits)), "low": float(low), "high": float(high)},
        "done_before_the_budget": float(np.mean(stable)),
        "seconds": {"median": float(np.median(seconds)), "p95": float(np.quantile(seconds, 0.95)),
                    "max": float(np.max(seconds))},
        "wall_seconds": time.perf_counter() - began,
    }  # fmt: skip


class _Table:
    """A line a budget, as it is measured."""

    def __init__(self, model: str, quiet: bool):
        self.head = "  budget  right                   done early   took: median  95 %   worst"
        self.begun = False

    def row(self, row: dict[str, Any]) -> None:
        from anytime_cls.stats.wording import percent, percent_interval

        from .show.output import duration

        if not self.begun:
            print(self.head)
            self.begun = True
        got, took = row["accuracy"], row["seconds"]
        right = percent_interval(got["value"], got["low"], got["high"])
        times: Sequence[str] = [duration(took[name]) for name in ("median", "p95", "max")]
        early = percent(row["done_before_the_budget"])
        print(
            f"{row['budget']:>8}  {right:22}  {early:>10}   {times[0]:>12}  {times[1]:>6}  {times[2]:>6}",
            flush=True,
        )


def _where(classifier: AnytimeClassifier) -> str:
    engine = classifier.engine
    return f"{engine.device}, {engine.threads}" if engine.threads else str(engine.device)


def _say(line: str) -> None:
    from .show.sweep import say

    say(line)
