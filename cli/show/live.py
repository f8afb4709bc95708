"""The live picture of a race: a bar a class, with its bounds.

Everything is drawn in the race's own thread between two batches, so it is kept cheap: segments are made by
hand (rich need not wrap or measure), at most 12 frames a second and 3 % of the time.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TimeRemainingColumn
from rich.segment import Segment
from rich.style import Style
from rich.text import Text

from ..errors import readable
from .output import amount, count, duration
from .tokens import Tokens, picture_of

if TYPE_CHECKING:
    from anytime_cls.classifier import AnytimeClassifier
    from anytime_cls.engine.job import Job
    from anytime_cls.engine.spending import Spending
    from anytime_cls.plan.budget import Budget

FRAMES = 12  # a second, at most
SHARE = 0.03  # of the time, at most, goes into making frames,
WAITING = 0.25  # and into a terminal that is slow to take them
ALL = 20  # up to so many classes all are drawn, in the model's order; of more, the best `BEST`
BEST = 12
ROOM = 56  # columns that the bars need at least, beside the picture's tokens
LEADER_AT = 0.8  # where the leader's mean is, as a share of the bar's room: its upper bound goes beyond

PLAIN, DIM, BOLD = Style(), Style(dim=True), Style(bold=True)
LEADER, RIVAL, RULE = Style(color="green", bold=True), Style(color="cyan"), Style(color="green", dim=True)
Line = list[Segment]


class Frame:
    """Lines that rich prints as they are."""

    def __init__(self, lines: list[Line]):
        self.lines = lines

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        for line in self.lines:
            yield from line
            yield Segment.line()


class LiveRace:
    """Draws races on a console while they run: a context manager; `update` is the engine's `on_update`."""

    def __init__(self, console: Console, classifier: AnytimeClassifier):
        self.console, self.classifier = console, classifier
        self.frames = 0
        self.drawing = 0.0  # CPU seconds spent on frames so far
        self._name = ""
        self._next = 0.0
        self._tokens: Tokens | None = None
        self._scored = False  # a frame with an order's scores was drawn
        self._live = Live(
            console=console, auto_refresh=False, transient=True, vertical_overflow="crop",
            redirect_stdout=False, redirect_stderr=False,
        )  # fmt: skip

    def __enter__(self) -> LiveRace:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def begin(self, name: str, source: Any = None) -> None:
        """A new image: nothing is scored yet. source: the picture, to show its tokens where there are colours
        for them; read before the race's clock runs."""
        self._name, self._next = readable(name), 0.0
        card, steps = self.classifier.card, self.classifier.engine.n_tokens
        self._tokens, self._scored = None, False
        if source is not None and self.console.color_system in ("256", "truecolor"):
            pixels = picture_of(source, card.image_size, steps)
            self._tokens = None if pixels is None else Tokens(steps, pixels)
        self._live.update(Frame([[Segment(f"{self._name}: reading", DIM)]]), refresh=True)

    def update(self, job: Job) -> None:
        """Draw the race, unless the last frame was too recent."""
        began, busy = time.perf_counter(), time.thread_time()
        first = job.race.n > 0 and not self._scored  # after what a screen said; not to be missed
        if began < self._next and not first:
            return
        self._scored = self._scored or first
        lines = picture(job, self.classifier.labels, self.console.width, self._name, self._tokens)
        self._live.update(Frame(lines), refresh=True)
        ended, busy = time.perf_counter(), time.thread_time() - busy
        self.frames += 1
        self.drawing += busy
        self._next = ended + max(1 / FRAMES, busy / SHARE, (ended - began) / WAITING)


class Passes(ProgressColumn):
    """Forward passes run so far: they move also while no image is finished."""

    def __init__(self, classifier: AnytimeClassifier):
        super().__init__()
        self.engine = classifier.engine

    def render(self, task: Task) -> Text:
        return Text(count(int(self.engine.passes), "pass"))


def progress_bar(console: Console, classifier: AnytimeClassifier, redirect: bool) -> Progress:
    """Images done, passes run and time left, for many images. redirect: what is printed goes above it."""
    return Progress(
        BarColumn(), MofNCompleteColumn(), Passes(classifier), TimeRemainingColumn(),
        console=console, transient=True, refresh_per_second=4, redirect_stdout=redirect,
        redirect_stderr=redirect,
    )  # fmt: skip


def picture(job: Job, labels: list[str], width: int, name: str, tokens: Tokens | None = None) -> list[Line]:
    """One frame, no line wider than `width` columns. tokens: drawn at its right, where there is room."""
    if tokens is not None and width - tokens.width - 2 >= ROOM:
        tokens.take(job)
        left = width - tokens.width - 2
        return _beside(picture(job, labels, left, name), tokens.lines(), left + 2)
    race, spending = job.race, job.spending
    alive = int(race.alive.sum())
    head = f"{name}  {count(race.orders, 'order')} of {race.k_max * race.block}"
    if spending is not None and job.length < spending.n_tokens:
        head += f", {count(job.length, 'token')} each"
    passes = spending.passes if spending else float(race.passes)
    field = f"{alive} of {race.n_classes} classes in, {amount(passes)} of {amount(job.full_passes)} passes"
    lines: list[Line] = [[Segment(head[:width], BOLD)], [Segment(field[:width])]]
    if spending is not None:
        lines.append(_clock(spending, job.budget, width))
    lines.append([])
    return lines + _bars(job, labels, width)


def _beside(left: list[Line], right: list[Line], at: int) -> list[Line]:
    """Lines with others to their right, which begin in column `at`."""
    out: list[Line] = []
    for row in range(max(len(left), len(right))):
        line = list(left[row]) if row < len(left) else []
        if row < len(right):
            used = sum(cell_len(segment.text) for segment in line)
            line = [*line, Segment(" " * max(0, at - used)), *right[row]]
        out.append(line)
    return out


def _clock(spending: Spending, budget: Budget | None, width: int) -> Line:
    """What was spent, against the budget if there is one."""
    seconds = spending.seconds
    if budget is None:
        return [Segment(f"{duration(seconds)}, no budget"[:width])]
    share = min(1.0, 1 - spending.left / budget.amount)
    also = "" if budget.unit == "seconds" else f", {duration(seconds)}"
    text = f" {share * 100:.0f} % of {budget}{also}"
    room = max(0, min(30, width - len(text) - 1))
    full = round(share * room)
    return [Segment("█" * full, BOLD), Segment("░" * (room - full), DIM), Segment(text[: width - room])]


def _bars(job: Job, labels: list[str], width: int) -> list[Line]:
    race = job.race
    means = race.means() if race.n or race.estimated else race.by_order[0]
    known = np.isfinite(means)
    if not known.any():
        return []
    lower, upper = race.intervals()
    leader = race.leader if race.n else int(np.nanargmax(np.where(known, means, np.nan)))
    shown = np.arange(race.n_classes)
    if race.n_classes > ALL:
        key = np.where(known, means, -np.inf) + np.where(race.alive, 0, -1e12)
        shown = np.argsort(-key, kind="stable")[:BEST]
    top = float(means[leader])
    scale = _range(top, means, lower, race.alive, known, shown, leader)

    names = [readable(labels[job.classes[c]]) for c in shown]
    label_room = min(24, max(map(len, names)), max(4, width // 4))
    room = max(8, width - label_room - 3 - 23)
    at = max(1, round(room * LEADER_AT))
    lines: list[Line] = []
    for c, label in zip(shown.tolist(), names, strict=True):
        is_in = bool(race.alive[c])
        style = DIM if not is_in else LEADER if c == leader else RIVAL
        line = [Segment(f"{'▶' if c == leader else ' '} {label:{label_room}.{label_room}} ", style)]
        if known[c]:
            low, mean, high = (_column(x, top, scale, at, room) for x in (lower[c], means[c], upper[c]))
            line += _bar(low, mean, high, at, room, style, is_in)
            gap = f" {means[c]:9.1f} nats" if c == leader else f" {means[c] - top:+9.2f}"
            fate = "" if is_in else f"  out at {race.left_at[c] * race.block or 'once'}"
            line.append(Segment(gap + fate, style))
        lines.append(_cut(line, width))
    hidden = race.n_classes - len(shown)
    if hidden:
        still = int(race.alive.sum() - race.alive[shown].sum())
        lines.append([Segment(f"  and {count(hidden, 'class')} more, {still} of them in"[:width], DIM)])
    return lines


def _range(
    top: float, means: np.ndarray, lower: np.ndarray, alive: np.ndarray, known: np.ndarray, shown: np.ndarray,
    leader: int,
) -> float:  # fmt: skip
    """Nats from the bars' left end to the leader's mean: the lowest bound still in the race fits in.

    The range shrinks as classes leave, so what still matters always fills the picture.
    """
    rivals = [c for c in shown.tolist() if alive[c] and known[c] and c != leader]
    if not rivals:  # decided: as far as the nearest of those who left, and some
        gaps = sorted(top - means[c] for c in shown.tolist() if known[c] and c != leader)
        return max(1e-6, 2 * gaps[0]) if gaps else 1.0
    floor = min(lower[c] if np.isfinite(lower[c]) else means[c] for c in rivals)
    lead_lower = lower[leader] if np.isfinite(lower[leader]) else top
    found: float = max(1e-6, 1.1 * (top - min(floor, lead_lower)))
    return found


def _column(x: float, top: float, scale: float, at: int, room: int) -> int | None:
    """The column of a log-likelihood, `at` for the leader's mean; None for an infinite one."""
    if not np.isfinite(x):
        return None
    return int(np.clip(round((1 + (x - top) / scale) * at), 0, room - 1))


def _bar(
    low: int | None, mean: int | None, up: int | None, at: int, room: int, style: Style, is_in: bool
) -> Line:
    """Solid up to the lower bound, shaded up to the upper, the mean marked; a line at the leader's mean."""
    assert mean is not None
    if not is_in:
        cells = list("░" * mean + " " * (room - mean))
    else:
        solid = mean if low is None else low
        shaded = mean if up is None else up
        cells = list("█" * solid + "▒" * max(0, shaded - solid + 1) + " " * room)[:room]
        cells[mean] = "┃"
    text = "".join(cells)
    if cells[at] != " ":
        return [Segment(text, style)]
    return [Segment(text[:at], style), Segment("│", RULE), Segment(text[at + 1 :], style)]


def _cut(line: Line, width: int) -> Line:
    """The line, no wider than the terminal."""
    out: Line = []
    for segment in line:
        room = width - sum(len(part.text) for part in out)
        if room > 0:
            out.append(Segment(segment.text[:room], segment.style))
    return out
