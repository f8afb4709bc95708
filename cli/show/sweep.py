"""What a sweep shows: its progress, how it was stopped, and the table at the end."""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from anytime_cls.pixels.listing import say_left_out
from anytime_cls.race.registry import DELTA_RULES
from anytime_cls.stats.wording import percent_interval
from anytime_cls.sweeps.sweep import Tally
from anytime_cls.traces.read import Trace
from anytime_cls.traces.summary import outcome

from ..errors import FAILED, INTERRUPTED, complain, readable
from .output import amount, duration, print_json, print_text, stop_words, times

LINE_EVERY = 30.0  # seconds between lines where there is no terminal
REDRAW = 0.25
SHOW_CURSOR = b"\x1b[?25h"


class Interrupts:
    """Ctrl-C and SIGTERM as a wish: called, says whether there was one. The second ends all at once.

    Before `renew`, while nothing asks yet, the first is a KeyboardInterrupt, whatever is waited for.
    """

    def __init__(self, quiet: bool = False):
        self.quiet = quiet
        self.asked = self.heard = False
        self._before: dict[signal.Signals, Any] = {}

    def __call__(self) -> bool:
        return self.asked

    def __enter__(self) -> Interrupts:
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup, and shells' background jobs
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def renew(self) -> None:
        """From now on somebody asks. Takes the signals back from a library that took them."""
        self.heard = True
        for number in self._before:
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self.asked:
            self.asked = True
            if not self.heard:
                raise KeyboardInterrupt
            if not self.quiet:
                self._say(b"anytime-cls: ending after the batch in flight; once more quits at once\n")
            return
        for child in multiprocessing.active_children():
            child.kill()
        if sys.stderr.isatty():  # the bar hid the cursor
            self._say(SHOW_CURSOR)
        os._exit(INTERRUPTED)

    def _say(self, text: bytes) -> None:
        with contextlib.suppress(OSError):  # not print: the signal may have come inside of one
            os.write(2, (b"\n" if sys.stderr.isatty() and text != SHOW_CURSOR else b"") + text)


class Meter:
    """Called with the tally after every image: a bar on a terminal, else a line now and then."""

    def __init__(self, quiet: bool):
        self.console = Console(stderr=True)
        self.quiet = quiet
        self._next = time.monotonic() + LINE_EVERY
        self._task: Any = None
        self._bar = Progress(
            BarColumn(bar_width=None), MofNCompleteColumn(), TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(), console=self.console, transient=True, refresh_per_second=4,
            redirect_stdout=False, redirect_stderr=False, disable=quiet or not self.console.is_terminal,
        )  # fmt: skip

    def __enter__(self) -> Meter:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, tally: Tally) -> None:
        now = time.monotonic()
        if self.quiet or (now < self._next and tally.done < tally.total and self._task is not None):
            return
        if not self._bar.disable:
            if self._task is None:
                self._task = self._bar.add_task("", total=tally.total, completed=tally.before, note="")
            self._bar.update(self._task, completed=tally.done, note=note(tally))
            self._next = now + REDRAW
        elif now >= self._next:
            self._task = self._next = now + LINE_EVERY
            left = (tally.total - tally.done) / tally.rate if tally.rate else 0
            line = f"{tally.done}/{tally.total}  {note(tally)}  {duration(left)} left"
            self.console.print(line, highlight=False, soft_wrap=True)


def note(tally: Tally) -> str:
    """Accuracy so far, what was saved, and how fast it goes."""
    parts = []
    if tally.labelled:
        parts.append(percent_interval(tally.accuracy, *tally.interval).replace("[", "\\["))
    if tally.used > 0 and not math.isclose(tally.saving, 1):
        parts.append(f"{times(tally.saving)}× less compute")
    if tally.errors:
        parts.append(f"{tally.errors} failed")
    return "  ".join((*parts, f"{tally.rate:.1f}/s"))


def say(line: str, quiet: bool = False) -> None:
    """A line for people, on standard error; on a terminal broken between words, unless it is a command."""
    if not quiet:
        console = Console(stderr=True)
        whole = line.startswith("$ ") or not console.is_terminal
        console.print(readable(line), style="dim", highlight=False, soft_wrap=whole, markup=False)


def report(path: Path, as_json: bool, tally: Tally | None, left_out: Mapping[str, int], again: str) -> int:
    """The end of a sweep, on standard output, from what its trace says. Returns the exit code.

    tally: of this attempt; None when there was nothing left to do. left_out: of the data set. again: the
    command that tries the images again that failed.
    """
    names = ("dataset", "model", "rule", "delta", "k_max", "pass_tokens", "budget", "seed", "shard")
    with Trace.open(path) as trace:
        found = {name: trace.attrs[name] for name in names if name in trace.attrs} | outcome(trace)
    wall = None if tally is None else time.monotonic() - tally.began
    found |= {"wall_seconds": wall, "trace": str(path), "left_out": dict(left_out)}
    if as_json:
        print_json(found)
    else:
        show_table(found, tally)
    if not found["errors"]:
        return 0
    return complain(
        f"{found['errors']} of {found['images']} images could not be classified: the trace says why "
        f"(column error); try them again with: {again}", FAILED,
    )  # fmt: skip


def size(n: int) -> str:
    """Bytes for people."""
    return f"{n / 1e3:.0f} kB" if n < 1e6 else f"{n / 1e6:.1f} MB"


def show_table(found: dict[str, Any], tally: Tally | None) -> None:
    """A line a figure."""
    lines: list[Text] = []

    def row(name: str, text: str) -> None:
        lines.append(Text.assemble((f"{name:12}", "dim"), readable(text)))

    shard = f", shard {found['shard']}" if found.get("shard") else ""
    row("data set", f"{found['dataset']}{shard}, {found['images']} images, {found['classes']} classes")
    delta = f" at δ = {found['delta']:g}" if found["rule"] in DELTA_RULES else ""
    tokens = f" of {found['pass_tokens']} tokens" if found.get("pass_tokens") else ""
    row("model, rule", f"{found['model']}, {found['rule']}{delta}, at most {found['k_max']} orders{tokens}")
    if found["labelled"]:
        interval = found["accuracy_low"], found["accuracy_high"]
        row("accuracy", percent_interval(found["accuracy"], *interval))
    if found["images"] > found["errors"]:
        k = (found[f"orders_{name}"] for name in ("mean", "median", "p95"))
        row("orders K", "mean {:.1f}, median {:.0f}, 95 % {:.0f}".format(*k))
        few = amount(round(found["passes_mean"], 1))
        row("passes", f"{few} an image, of {amount(round(found['full_passes'], 1))}")
        if found["saving"] and not math.isclose(found["saving"], 1):
            than = f"than {found['k_max']} whole orders of all classes"
            row("saving", f"{times(found['saving'])}× less compute {than}")
        stops = ", ".join(f"{stop_words(name)} {count}" for name, count in found["stop"].items())
        row("stopped by", stops)
    if found["errors"]:
        row("errors", str(found["errors"]))
    if found["left_out"]:
        row("left out", say_left_out(found["left_out"]).partition(": ")[2])
    spent = duration(found["seconds"])
    rate = ""
    if tally is not None:
        rate = f"; {duration(found['wall_seconds'])} of wall clock, {tally.rate:.1f} images/s"
    row("time", f"{spent} of races{rate}")
    row("trace", f"{found['trace']}, {size(found['bytes'])}")
    print_text(Console(), *lines)
