"""Accuracy by class and who is taken for whom: the numbers, and one picture of both.

Up to 20 classes the picture is the confusion matrix, its rows sorted by accuracy and each with its accuracy
and interval beside it. Beyond, where a matrix cannot be read: every class's accuracy in order, the hardest
classes, and the most frequent confusions as a table.
"""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator

from anytime_cls.curves.confusion import Confusion
from anytime_cls.pictures.style import FAINT, INK, styled
from anytime_cls.stats.intervals import wilson

Array = np.ndarray
MATRIX = 20  # most classes of a matrix that can be read
RIGHT, WRONG = "#0072B2", "#D55E00"  # blue and vermilion, which colour-blind readers tell apart
PAPER = "#fffffe"  # white that stays white on a dark page, as report.py leaves it alone
WIDE = 7.0  # inches: both columns of a two-column paper


def confusion_figure(got: Confusion, title: str = "") -> Figure:
    """Every class's accuracy and the confusions, in one picture two columns wide."""
    answered = np.flatnonzero(got.counts.any(axis=0) | (got.images > 0))
    with styled():
        figure = _matrix(got, answered, title) if len(answered) <= MATRIX else _ranking(got, title)
        low = 0.06 / figure.get_figheight()
        figure.text(0.5, low, _note(got), fontsize=5.8, color=FAINT, ha="center", va="bottom")
    return figure


def _note(got: Confusion) -> str:
    unseen = int((got.images == 0).sum())
    low, high = wilson(got.overall, int(got.counts.sum()))
    text = (
        f"{got.name}, {got.setting}: {100 * got.overall:.1f} % [{100 * low:.1f}, {100 * high:.1f}] of "
        f"{got.counts.sum():,} images right; intervals: 95 % Wilson"
    )
    return text + (f"; {unseen} classes have no image here" if unseen else "")


def _figure(tall: float, title: str) -> Figure:
    figure = Figure(figsize=(WIDE, tall))
    FigureCanvasAgg(figure)
    if title:
        figure.text(0.02, 1 - 0.06 / tall, title, fontsize=8.5, va="top")
    return figure


# --- up to MATRIX classes -----------------------------------------------------------------------------------


def _matrix(got: Confusion, answered: Array, title: str) -> Figure:
    """The matrix in percent of each row's images, and the rows' accuracies as bars."""
    rows = got.order()
    columns = np.concatenate([rows, np.setdiff1d(answered, rows)])
    cell = float(np.clip(3.4 / len(columns), 0.17, 0.36))
    names = 0.1 + 0.062 * max(min(len(got.labels[c]), 16) for c in columns)
    high, wide = cell * len(rows), cell * len(columns)
    top, bottom = 0.2 + 0.2 * bool(title), 0.45 + 0.68 * names
    tall = top + high + bottom
    figure = _figure(tall, title)
    left = names + 0.2
    matrix = figure.add_axes((left / WIDE, bottom / tall, wide / WIDE, high / tall))
    start = left + wide + 0.22
    bars = figure.add_axes((start / WIDE, bottom / tall, (WIDE - 0.16 - start) / WIDE, high / tall))
    _cells(matrix, got, rows, columns, 6.5 if cell > 0.25 else 5)
    _bars(bars, got, rows)
    return figure


def _cells(ax: Axes, got: Confusion, rows: Array, columns: Array, size: float) -> None:
    share = got.counts[np.ix_(rows, columns)] / got.images[rows][:, None]
    right = rows[:, None] == columns[None, :]
    most = max(float(share[~right].max(initial=0)), 1e-9)
    for (i, j), value in np.ndenumerate(share):
        if not value:
            continue
        alpha = 0.12 + 0.78 * value if right[i, j] else 0.08 + 0.52 * value / most
        colour = RIGHT if right[i, j] else WRONG
        ax.add_patch(Rectangle((j - 0.47, i - 0.47), 0.94, 0.94, color=colour, alpha=alpha, lw=0))
        if value >= 0.005:
            ink = PAPER if right[i, j] and alpha > 0.55 else INK
            ax.text(j, i, f"{100 * value:.0f}", ha="center", va="center", fontsize=size, color=ink)
    ax.set_xlim(-0.5, len(columns) - 0.5)
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.set_xticks(range(len(columns)), [_short(got.labels[c]) for c in columns], rotation=50, ha="right",
                  rotation_mode="anchor")  # fmt: skip
    ax.set_yticks(range(len(rows)), [_short(got.labels[c]) for c in rows])
    ax.tick_params(length=0, pad=2)
    ax.grid(visible=False)
    ax.spines[["left", "bottom"]].set_visible(False)
    ax.set_xlabel("answered as", labelpad=2)
    ax.set_title("of the class's images, answered as each class (%)", fontsize=7, loc="left", pad=3)


def _bars(ax: Axes, got: Confusion, rows: Array) -> None:
    """Accuracies of the matrix's rows, from 0, with intervals and their numbers at the end."""
    at = np.arange(len(rows))
    accuracy = got.accuracy[rows]
    low, high = np.array([wilson(a, n) for a, n in zip(accuracy, got.images[rows], strict=True)]).T
    ax.barh(at, accuracy, 0.72, color=RIGHT, alpha=0.35, lw=0)
    ax.hlines(at, low, high, color=INK, lw=1)
    ax.plot(accuracy, at, "o", color=RIGHT, ms=3.2)
    for i, value in enumerate(accuracy):
        text = f"{100 * value:.0f} [{100 * low[i]:.0f}, {100 * high[i]:.0f}]"
        ax.text(1.04, i, text, fontsize=6, va="center", transform=ax.get_yaxis_transform())
    box = ax.get_position()
    ax.set_position((box.x0, box.y0, box.width - 0.68 / WIDE, box.height))
    ax.axvline(got.overall, color=INK, lw=0.8, ls=(0, (1, 1)))
    ax.set_xlim(0, 1)
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.set_yticks([])
    ax.grid(axis="y", visible=False)
    ax.xaxis.set_major_locator(MaxNLocator(4))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f}"))
    ax.set_xlabel("accuracy (%); dotted: all images", labelpad=2)


# --- more classes -------------------------------------------------------------------------------------------


def _ranking(got: Confusion, title: str) -> Figure:
    """Accuracies in order with their band, the hardest classes, and the most frequent confusions."""
    hardest, listed = 8, 16
    tall = 3.3 + 0.2 * bool(title)
    figure = _figure(tall, title)
    top = 1 - (0.22 + 0.2 * bool(title)) / tall
    ax = figure.add_axes((0.5 / WIDE, 0.52 / tall, 2.2 / WIDE, top - 0.52 / tall))
    order = got.order()
    accuracy = got.accuracy[order]
    low, high = np.array([wilson(a, n) for a, n in zip(accuracy, got.images[order], strict=True)]).T
    rank = np.arange(1, len(order) + 1)
    ax.fill_between(rank, low, high, color=RIGHT, alpha=0.18, lw=0, step="mid")
    ax.plot(rank, accuracy, color=RIGHT, drawstyle="steps-mid", lw=1.2)
    ax.axhline(got.overall, color=INK, lw=0.8, ls=(0, (1, 1)))
    at = 0.98 * len(order)
    ax.text(at, got.overall, "all images", fontsize=6, ha="right", va="bottom")
    ax.set_xlim(0.5, len(order) + 0.5)
    ax.set_ylim(0, 1)
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f}"))
    ax.set_xlabel("classes, best first", labelpad=2)
    ax.set_ylabel("accuracy (%)")
    each = np.unique(got.images[order])
    many = f"{each[0]:,}" if len(each) == 1 else f"{each[0]:,} to {each[-1]:,}"
    ax.set_title(f"accuracy by class, {many} images each", fontsize=7, loc="left", pad=3)
    step = (top - 0.2 / tall) / (listed + 1.4)
    names, shares = 2.95 / WIDE, 3.98 / WIDE
    _line(figure, top, (names, shares), ("hardest classes", "right (%)"), True)
    easiest = top - (hardest + 1.6) * step
    _line(figure, easiest, (names,), ("easiest",), True)
    for head, classes in ((top, order[::-1][:hardest]), (easiest, order[: listed - hardest - 1])):
        for i, c in enumerate(classes, start=1):
            below, above = wilson(float(got.accuracy[c]), int(got.images[c]))
            text = f"{100 * got.accuracy[c]:.0f} [{100 * below:.0f}, {100 * above:.0f}]"
            _line(figure, head - (i + 0.2) * step, (names, shares), (_short(got.labels[c]), text))
    places = (4.72 / WIDE, 5.02 / WIDE, 5.32 / WIDE)
    _line(figure, top, places[:1], ("most frequent confusions (images, % of class)",), True)
    for i, (truth, answer, count) in enumerate(got.pairs()[:listed], start=1):
        taken = f"{_short(got.labels[truth], 15)} → {_short(got.labels[answer], 15)}"
        share = f"{100 * count / got.images[truth]:.0f} %"
        _line(figure, top - (i + 0.2) * step, places, (f"{count}", share, taken))
    return figure


def _line(
    figure: Figure, y: float, places: tuple[float, ...], texts: tuple[str, ...], head: bool = False
) -> None:
    """One line of a table in figure coordinates."""
    for x, text in zip(places, texts, strict=True):
        if text:
            figure.text(x, y, text, fontsize=6, va="bottom", color=FAINT if head else INK)


def _short(name: str, most: int = 16) -> str:
    name = "".join(c if c.isprintable() else "\ufffd" for c in name).replace("$", r"\$")
    return name if len(name) <= most else name[: most - 1] + "…"
