"""Accuracy against compute, every rule with its band; `lead` is the same with names at the curves."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from anytime_cls.curves.analysis import Analysis
from anytime_cls.curves.pareto import band, common_grid, front_steps
from anytime_cls.curves.study import X_KINDS, Y_KINDS
from anytime_cls.pictures.frame import frame, legend
from anytime_cls.pictures.style import FAINT, INK, PAGE, Format, Look, log_ticks, looks, percent_ticks, styled
from anytime_cls.pictures.wording import saving_text

Array = np.ndarray

FREE = 1e-3  # of the middle run's cost: what takes less is drawn as a level


def pareto_figure(analysis: Analysis, title: str = "", bands: str = "paired", form: Format = PAGE) -> Figure:
    """Every series as a curve with its band, the Pareto front as a step line, dominated points faded.

    bands: `paired` (95 % intervals of the difference to all orders on the same images, drawn around the
    curve: for comparing rules; the note says how uncertain the level of all is), `absolute` (95 % intervals
    of y itself) or `none`. Of more than five curves only the baseline, the one that saves most and the focus
    have theirs.
    """
    study, x, y = analysis.study, analysis.x, analysis.y
    style = looks(analysis)
    if analysis.reference is None and bands == "paired":
        bands = "absolute"
    title = "" if form.paper else title
    note = _note(analysis, bands) if form.note and not form.paper else ""
    with styled(form):
        figure, ax = frame(2.35, [*study.series, "Pareto front"], title, note, form)
        ax.set_xscale("log")
        against = y[[analysis.reference]] if bands == "paired" and analysis.reference is not None else None
        grid = common_grid(x.value)
        with_band = banded(analysis)
        extremes = [float(y.value.min()), float(y.value.max())]
        for name, members in study.series.items():
            look, at = style[name], np.array(members)
            if len(at) > 1:
                curve = band(x[at], y[at], grid, against=against)
                ax.plot(
                    curve.grid, curve.value, color=look.colour, ls=look.dash, alpha=0.75, lw=1.1, zorder=3
                )
                if bands != "none" and name in with_band:
                    ax.fill_between(
                        curve.grid, curve.low, curve.high, color=look.colour, alpha=0.13, lw=0, zorder=1
                    )
                    extremes += [float(curve.low.min()), float(curve.high.max())]
            _points(ax, analysis, at, analysis.default[name], look)
            ax.plot([], [], color=look.colour, ls=look.dash, marker=look.marker, label=name)  # the legend's
        right = x.value.max() * 1.12
        steps = front_steps(x.value, y.value, right)
        ax.plot(*steps, color=INK, lw=0.7, drawstyle="steps-post", zorder=2, label="Pareto front")
        bottom, top = min(extremes), max(extremes)
        tall = max(top - bottom, 0.005)
        head = 0.34 if analysis.best is not None else 0.06  # room for the saving, above everything drawn
        ax.set_ylim(bottom - 0.05 * tall, top + head * tall)
        usual = x.value[x.value > FREE * np.median(x.value)]
        ax.set_xlim(usual.min() / 1.25, right)
        for index in np.flatnonzero(x.value < usual.min()):  # as good as free: a level, not a place
            look = style[study.runs[index].series]
            ax.axhline(y.value[index], color=look.colour, ls=look.dash, lw=0.9, zorder=2)
        ax.set_xlabel(x_label(analysis), labelpad=2)
        ax.set_ylabel(f"{Y_KINDS[analysis.y_kind]} (%)")
        percent_ticks(ax, min(top, 1.0))
        log_ticks(ax)
        name_orders(ax, analysis)
        legend(figure, ax, note, form)
        if analysis.best is not None:
            _write_saving(figure, ax, analysis, analysis.best, top)
    return figure


def banded(analysis: Analysis) -> set[str]:
    """The curves that get a band: all of a few; of many the baseline's, the best's and the focus's."""
    if len(analysis.study.series) <= 5:
        return set(analysis.study.series)
    about = (analysis.focus, analysis.best, analysis.reference)
    return {analysis.study.runs[index].series for index in about if index is not None}


def _note(analysis: Analysis, bands: str) -> str:
    """What the markers and the bands are, in two lines for below the picture."""
    text = f"{len(analysis.study.ids):,} images; open markers: a rule's default setting; faded: dominated"
    if bands == "none" or not analysis.resamples:
        return text
    if bands == "absolute":
        return text + f"\nbands: 95 % bootstrap over images of the {Y_KINDS[analysis.y_kind]}"
    low, high = analysis.interval(analysis.reference or 0)
    return text + (
        "\nbands: 95 % bootstrap of the difference to all orders (their own level: "
        f"±{50 * (high - low):.1f} points)"
    )


def x_label(analysis: Analysis, short: bool = False) -> str:
    """The cost axis, with what is counted in a way a reader could miss (unless `short`)."""
    text = X_KINDS[analysis.x_kind]
    if short:
        return text
    if analysis.x_kind == "seconds":
        kinds = {str(run.settings.get("seconds_kind", "")) for run in analysis.study.runs}
        text += {"estimated": " (estimated from passes)", "measured": " (measured)"}.get(
            "".join(kinds), " (replays: estimated)"
        )
    prefixed = not all(run.whole for run in analysis.study.runs)
    if analysis.x_kind == "passes" and prefixed:
        text += " (a prefix counts its share)"
    if analysis.x_kind == "orders" and prefixed:
        text += ", prefixes (m) or whole"
    return text


def _points(ax: Axes, analysis: Analysis, members: Array, default: int, look: Look) -> None:
    """A series' points: dominated ones faded, the default one open (filled where it is alone)."""
    on = analysis.front[members]
    lone = len(members) == 1
    for some, size, alpha, order in (
        (members[~on], 7, 0.3, 4),
        (members[on], 7, 1, 5),
        ([default], 17, 1, 6),
    ):
        is_default = order == 6
        ax.scatter(
            analysis.x.value[some], analysis.y.value[some], s=24 if lone else size, marker=look.marker,
            facecolor="#ffffff" if is_default and not lone else look.colour, edgecolor=look.colour,
            linewidth=1.0 if is_default else 0.3, alpha=alpha, zorder=order,
        )  # fmt: skip


def name_orders(ax: Axes, analysis: Analysis) -> list[Bbox]:
    """The baseline's K along the top edge, at its powers of two and its last; where this is written."""
    written: list[Bbox] = []
    if analysis.reference is None:
        return written
    for index in analysis.study.series[analysis.study.runs[analysis.reference].series]:
        k = round(float(analysis.study.runs[index].orders.mean()))
        if k & (k - 1) == 0 or index == analysis.reference:
            text = f"K={k}" if k == 1 else f"{k}"
            shown = ax.annotate(
                text, (analysis.x.value[index], 1), (0, -1), xycoords=("data", "axes fraction"), fontsize=5.5,
                textcoords="offset points", ha="center", va="top", color=FAINT, annotation_clip=True,
            )  # fmt: skip
            ax.plot(
                [analysis.x.value[index]] * 2, [1, 1.012], transform=ax.get_xaxis_transform(), color=FAINT,
                lw=0.6, clip_on=False,
            )  # fmt: skip
            written.append(shown.get_window_extent())
    return written


def _write_saving(figure: Figure, ax: Axes, analysis: Analysis, index: int, top: float) -> None:
    """A dimension line above the curves, from the fixed K of equal accuracy to the rule's point."""
    got, x, y = analysis.savings[index], analysis.x.value, analysis.y.value
    assert got is not None
    level = top + 0.04 * (ax.get_ylim()[1] - top) / 0.34
    for end in (index, got.index):
        ax.plot([x[end]] * 2, [y[end], level * 1.0], color=INK, lw=0.5, ls=(0, (1, 1.5)), zorder=2)
    ax.annotate(
        "", (x[index], level), (x[got.index], level), zorder=7, annotation_clip=False,
        arrowprops={"arrowstyle": "-|>", "color": INK, "lw": 0.9, "shrinkA": 0, "shrinkB": 0,
                    "mutation_scale": 7},
    )  # fmt: skip
    centre = np.sqrt(x[index] * x[got.index])
    box = ax.annotate(
        "\n".join(saving_text(analysis, index)), (centre, level), (0, 3), textcoords="offset points",
        ha="center", va="bottom", fontsize=6.3, linespacing=1.25, zorder=8,
    )  # fmt: skip
    extent, inside = box.get_window_extent(), ax.get_window_extent()
    shift = max(inside.x0 - extent.x0, 0) + min(inside.x1 - extent.x1, 0)
    box.set_position((shift * 72 / figure.dpi, 3))
