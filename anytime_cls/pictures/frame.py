"""The frame of a picture: axes of exact width, room below for the legend and a note."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from anytime_cls.pictures.style import FAINT, PAGE, Format


def frame(
    tall: float, entries: Sequence[str] = (), title: str = "", note: str = "", form: Format = PAGE
) -> tuple[Figure, Axes]:
    """A figure of exact width: one pair of axes, `tall` inches high, and room below for legend and note."""
    width, columns = form.width, _columns(entries, form)
    rows = -(-len(entries) // columns)
    top, bottom = 0.1 + 0.2 * bool(title), 0.42 + 0.145 * rows + _note_room(note)
    height = top + tall + bottom
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    ax = figure.add_axes((0.52 / width, bottom / height, 1 - 0.62 / width, tall / height))
    if title:
        figure.text(0.52 / width, 1 - 0.06 / height, title, fontsize=8.5, va="top")
    if note:
        figure.text(0.5, 0.03 / height, note, fontsize=5.2, color=FAINT, ha="center", va="bottom")
    return figure, ax


def _note_room(note: str) -> float:
    """Inches of the note's lines."""
    return 0.02 + 0.095 * (note.count("\n") + 1) if note else 0.0


def _columns(entries: Sequence[str], form: Format) -> int:
    """Of a legend: as many as the longest name allows."""
    longest = max(map(len, entries), default=0)
    return max(1, int(form.width / (0.45 + 0.055 * longest)))


def legend(figure: Figure, ax: Axes, note: str = "", form: Format = PAGE) -> None:
    handles, labels = ax.get_legend_handles_labels()
    columns = _columns(labels, form)
    low = (0.03 + _note_room(note)) / figure.get_figheight()
    figure.legend(
        handles, labels, loc="lower center", bbox_to_anchor=(0.5, low), ncols=columns, columnspacing=1.2,
        borderpad=0, borderaxespad=0, labelspacing=0.35,
    )  # fmt: skip
