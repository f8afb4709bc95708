"""What `train` says: before it starts, while it goes on, and at its end."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from anytime_cls.stats.wording import percent, percent_interval

if TYPE_CHECKING:
    from anytime_cls.models.card import ModelCard
    from anytime_cls.training.outlook import Outlook

EVERY = 30.0  # seconds between lines where there is no terminal


class Bars:
    """A bar a stage on a terminal, else a line now and then."""

    def __init__(self, console: Console):
        self.console = console
        self.progress = Progress(
            TextColumn("{task.description:12}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total}"),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=console,
            disable=not console.is_terminal,
        )
        self._tasks: dict[str, Any] = {}
        self._spoken = 0.0

    def show(self, stage: str, done: int, total: int, note: str) -> None:
        """So many of a stage's steps are done."""
        if stage not in self._tasks:
            self._tasks[stage] = self.progress.add_task(stage, total=total, note="")
        self.progress.update(self._tasks[stage], completed=done, note=note)
        if not self.console.is_terminal and (time.monotonic() - self._spoken > EVERY or done == total):
            self._spoken = time.monotonic()
            self.say(f"{stage} {done}/{total} {note}")

    def report(self, stage: str, step: int, steps: int, loss: float | None, rate: float) -> None:
        """As `training.recipe.Report`."""
        said = "" if loss is None else f"loss {loss:.4f}, "
        self.show(stage, step, steps, f"{said}{rate:.0f} images/s")

    def say(self, line: str) -> None:
        """A line for people."""
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)


def before(seen: Outlook, start: str, asked: str, seconds: Mapping[str, float]) -> list[str]:
    """What is going to be done, and about how long it takes."""
    tested = f", {seen.tested:,} to test it with" if seen.tested else ""
    lines = [
        f"{seen.images:,} pictures of {len(seen.labels)} classes: {seen.images - seen.held:,} to train on, "
        f"{seen.held:,} held out{tested}"
    ]
    if start:
        why = "" if asked else ", since the pictures are few (--from none begins from nothing)"
        lines.append(f"begins from model {start}: its tokens stay, its classes are replaced{why}")
    parts = ", ".join(f"{stage} {_time(value)}" for stage, value in seconds.items() if value >= 1)
    lines.append(f"takes about {_time(sum(seconds.values()))} here: {parts}" if parts else "takes seconds")
    return lines


def after(card: ModelCard, out: Path, chance: float, needed: str, photo: str) -> list[str]:
    """How good the model is, beside chance and its tokens alone; its race; the command to type next."""
    metrics, alone = card.fields.get("metrics"), card.fields.get("naive_bayes")
    beside = [f"chance {percent(chance)}"]
    if alone:
        beside.append(f"its tokens alone {percent(alone['value'])}")
    said = f"({', '.join(beside)})"
    if metrics is None:
        lines = [f"{out}: model {card.name!r}, not calibrated {said}: its probabilities say little until "
                 "'anytime-cls calibrate' has a trace of its holdout.txt"]  # fmt: skip
    else:
        right = metrics["race"]["accuracy"] if "race" in metrics else [*metrics["accuracy_at_k"].values()][-1]
        shown = percent_interval(right["value"], right["low"], right["high"])
        of = f"of {right['n']} {metrics['measured_on']}"
        lines = [f"{out}: model {card.name!r} is right on {shown} {of} {said}"]
        if right["low"] <= chance:
            lines.append("that is not surely better than chance: more pictures a class would help most")
        lines += _race(card, metrics, needed)
    return [*lines, f"next: anytime-cls classify {shlex.quote(photo)} --model {shlex.quote(str(out))}"]


def after_peer(card: ModelCard, out: Path) -> list[str]:
    """How often a model that others are compared with is right, and the command to compare it."""
    lines = [f"{out}: model {card.name!r} ({card.method})"]
    for k, row in card.fields.get("metrics", {}).get("accuracy_at_k", {}).items():
        right = percent_interval(row["value"], row["low"], row["high"])
        drawn = "1 draw" if k == "1" else f"{k} draws"
        lines.append(f"  {drawn}: {right} of {row['n']} {card.fields['metrics']['measured_on']}")
    like = card.fields["like"]["model"]
    return [*lines, f"next: anytime-cls compare DATA --models {shlex.quote(like)},{shlex.quote(str(out))}"]


def _race(card: ModelCard, metrics: Mapping[str, Any], needed: str) -> list[str]:
    """Which race is recommended, what it saves, and whether it is certified."""
    race = card.fitted.race
    if race is None or "race" not in metrics:  # of a model from before `train` recommended one
        return []
    steps = race.prefix or card.tokens
    saving = f"{metrics['race']['saving']:.3g}× less compute than all of them"
    crops = "" if race.crops == "center" else f", each on a {race.crops} crop"
    line = f"its race: up to {race.max_orders} orders of {steps} of {card.tokens} tokens{crops}, {saving}"
    if race.rule != "calibrated":
        return [line, f"not certified to answer as all orders do: that takes {needed}"]
    most = f"at most {percent(race.delta, 0)} of pictures like these"
    return [line, f"certified: {most} are answered otherwise than by all orders (95 % sure)"]


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 5400:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"
