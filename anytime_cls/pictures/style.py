"""How every figure looks: colours, marks, ticks, and how it is saved."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import (
    FixedLocator,
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    NullFormatter,
)

from anytime_cls.curves.analysis import Analysis

INK = "#1b1c1e"  # text, axes and the baseline; report.py makes it follow the page's theme
FAINT = "#8a8f96"
WIDTH = 3.5  # inches: a column of a two-column paper
PICTURES = ("png", "svg", "pdf", "pgf")


@dataclass(frozen=True)
class Format:
    """Where a picture goes. width: inches. dpi: of PNG. paper: into a document that has the words around it:
    no title, no note below, and text as text, in the document's font where the kind of file can. note: a page
    that has the words itself wants none below the picture."""

    width: float = WIDTH
    dpi: int = 300
    paper: bool = False
    note: bool = True


PAGE = Format()
RULES = {  # the colour of each rule, with --all
    "fixed": INK, "paired": "#0072B2", "strict": "#56B4E9", "marginal": "#E69F00", "funnel": "#009E73",
    "clark-jaini": "#CC79A7", "halving": "#D55E00", "calibrated": "#882255", "value": "#332288",
}  # fmt: skip
#: Curves with a name in the default picture: far apart for colour-blind readers too (tests/pictures/)
LEADING = ("#0072B2", "#D55E00", "#882255", "#56B4E9")
_SPARE = ("#8B6914", "#7A5195", "#117733", "#6E7F00", "#44AA99", "#AA4466", "#5566AA", "#996633")  # Tol 2021
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "h")
_DASHES: tuple[Any, ...] = (
    (0, (4, 1.5)),
    "-",
    (0, (5, 1, 1, 1)),
    (0, (3, 1)),
    (0, (1, 1)),
    (0, (6, 2)),
    "-.",
    ":",
)
_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans", "font.size": 7.5, "axes.labelsize": 8, "axes.titlesize": 8.5,
    "xtick.labelsize": 7, "ytick.labelsize": 7, "legend.fontsize": 7, "axes.linewidth": 0.7,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.linewidth": 0.4,
    "grid.color": "#8a8f96", "grid.alpha": 0.25, "lines.linewidth": 1.2, "lines.markersize": 3.2,
    "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK, "xtick.color": INK, "ytick.color": INK,
    "figure.facecolor": "#ffffff", "axes.facecolor": "none", "savefig.facecolor": "white", "figure.dpi": 100,
    "svg.hashsalt": "anytime-cls", "svg.fonttype": "path", "pdf.fonttype": 42, "axes.axisbelow": True,
    "axes.unicode_minus": True, "legend.frameon": False, "legend.handlelength": 2.6,
}  # fmt: skip


@dataclass(frozen=True)
class Look:
    """How a series is drawn, everywhere alike."""

    colour: str
    marker: str
    dash: Any


def looks(analysis: Analysis) -> dict[str, Look]:
    """A look for every series: the first of a rule has the rule's own colour, further ones a spare one."""
    out: dict[str, Look] = {}
    used: set[str] = set()
    for number, (name, members) in enumerate(analysis.study.series.items()):
        colour = RULES.get(analysis.study.runs[members[0]].rule, "")
        if not colour or colour in used:
            colour = next((c for c in _SPARE if c not in used), _SPARE[number % len(_SPARE)])
        used.add(colour)
        out[name] = Look(colour, _MARKERS[number % len(_MARKERS)], _DASHES[number % len(_DASHES)])
    return out


_PAPER: dict[Any, Any] = {
    "svg.fonttype": "none", "font.size": 7, "axes.labelsize": 7.5, "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5, "legend.fontsize": 6.5,
}  # fmt: skip


@contextmanager
def styled(form: Format = PAGE) -> Iterator[None]:
    """The project's style, and nothing of the user's matplotlibrc."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE | (_PAPER if form.paper else {}))
        yield


def save(figure: Figure, path: Path | io.BytesIO, kind: str, form: Format = PAGE) -> None:
    """Writes one of `PICTURES`, without a date or a version, so equal figures are equal files."""
    if kind == "pgf":
        from anytime_cls.pictures.pgf import pgf_text

        content = pgf_text(figure).encode()
        if isinstance(path, Path):
            path.write_bytes(content)
        else:
            path.write(content)
        return
    metadata: dict[str, Any] = {
        "png": {"Software": None}, "svg": {"Date": None, "Creator": None}, "pdf": {"CreationDate": None},
    }[kind]  # fmt: skip
    with styled(form):
        figure.savefig(path, format=kind, dpi=form.dpi, metadata=metadata)


def svg_text(figure: Figure) -> str:
    """The figure as an SVG document."""
    memory = io.BytesIO()
    save(figure, memory, "svg")
    return memory.getvalue().decode("utf-8")


def percent_ticks(ax: Axes, most: float = 1.0) -> None:
    """Ticks of shares as plain percentages (the axis label has the sign), none above `most`."""
    bottom, top = ax.get_ylim()
    ticks = MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]).tick_values(100 * bottom, 100 * min(top, 1))
    inside = [
        t / 100 for t in ticks if 100 * bottom <= t <= 100 * min(top, most + 0.02 * (top - bottom)) + 1e-9
    ]
    ax.yaxis.set_major_locator(FixedLocator(inside))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.6g}"))
    ax.set_ylim(bottom, top)


def log_ticks(ax: Axes, dense: float = 3e3) -> None:
    """1, 2, 5, 10, ... in plain numbers where they fit: on axes that span a factor below `dense`."""
    left, right = ax.get_xlim()
    subs = (1.0, 2.0, 5.0) if right / left < dense else (1.0,)
    ax.xaxis.set_major_locator(LogLocator(10, subs))
    ax.xaxis.set_major_formatter(FuncFormatter(_amount))
    ax.xaxis.set_minor_formatter(NullFormatter())


def _amount(value: float, _: Any = None) -> str:
    for size, letter in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"
