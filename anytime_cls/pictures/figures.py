"""Pictures: accuracy against compute, orders used, classes left, accuracy against budget, reliability.

Matplotlib, without pyplot: no window, no global state. Single-column
width, colours that colour-blind readers tell apart (Okabe & Ito 2008), and a marker and a dash pattern for
each curve, so that it still reads in grey. The same numbers give the same file, byte for byte.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import (
    FixedLocator,
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    NullFormatter,
    PercentFormatter,
)
from matplotlib.transforms import Bbox

from anytime_cls.curves.analysis import Analysis
from anytime_cls.curves.pareto import band, common_grid, front_steps
from anytime_cls.curves.study import X_KINDS, Y_KINDS
from anytime_cls.pictures.style import (
    FAINT,
    INK,
    PAGE,
    Format,
    Look,
    log_ticks,
    looks,
    percent_ticks,
    styled,
)
from anytime_cls.pictures.wording import saving_text
from anytime_cls.stats.reliability import Reliability

Array = np.ndarray


def _frame(
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


def _legend(figure: Figure, ax: Axes, note: str = "", form: Format = PAGE) -> None:
    handles, labels = ax.get_legend_handles_labels()
    columns = _columns(labels, form)
    low = (0.03 + _note_room(note)) / figure.get_figheight()
    figure.legend(
        handles, labels, loc="lower center", bbox_to_anchor=(0.5, low), ncols=columns, columnspacing=1.2,
        borderpad=0, borderaxespad=0, labelspacing=0.35,
    )  # fmt: skip


# --- accuracy against compute -------------------------------------------------------------------------------


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
        figure, ax = _frame(2.35, [*study.series, "Pareto front"], title, note, form)
        ax.set_xscale("log")
        against = y[[analysis.reference]] if bands == "paired" and analysis.reference is not None else None
        grid = common_grid(x.value)
        banded = _banded(analysis)
        extremes = [float(y.value.min()), float(y.value.max())]
        for name, members in study.series.items():
            look, at = style[name], np.array(members)
            if len(at) > 1:
                curve = band(x[at], y[at], grid, against=against)
                ax.plot(
                    curve.grid, curve.value, color=look.colour, ls=look.dash, alpha=0.75, lw=1.1, zorder=3
                )
                if bands != "none" and name in banded:
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
        _legend(figure, ax, note, form)
        if analysis.best is not None:
            _write_saving(figure, ax, analysis, analysis.best, top)
    return figure


def _banded(analysis: Analysis) -> set[str]:
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
        ha="center",         va="bottom", fontsize=6.3, linespacing=1.25, zorder=8,
    )  # fmt: skip
    extent, frame = box.get_window_extent(), ax.get_window_extent()
    shift = max(frame.x0 - extent.x0, 0) + min(frame.x1 - extent.x1, 0)
    box.set_position((shift * 72 / figure.dpi, 3))


# --- the other pictures -------------------------------------------------------------------------------------


def orders_figure(analysis: Analysis, title: str = "", form: Format = PAGE) -> Figure:
    """How many orders the images used, a row a rule at its default: shares, median and 95 % quantile."""
    runs, style = analysis.study.runs, looks(analysis)
    shown = {n: i for n, i in analysis.default.items() if not runs[i].baseline} or analysis.default
    most = max(int(runs[i].orders.max()) for i in shown.values())
    title = "" if form.paper else title
    with styled(form):
        figure = Figure(
            figsize=(form.width, 0.55 + 0.2 * bool(title) + 0.58 * len(shown)), layout="constrained"
        )
        FigureCanvasAgg(figure)
        axes = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
        for ax, (name, i) in zip(axes, shown.items(), strict=True):
            orders = runs[i].orders.astype(int)
            share = np.bincount(orders, minlength=most + 1)[1:] / len(orders)
            ax.bar(np.arange(1, most + 1), 100 * share, width=0.8, color=style[name].colour, lw=0)
            median, p95 = np.median(orders), np.quantile(orders, 0.95)
            for value, dash in ((median, "-"), (p95, (0, (1, 1)))):
                ax.axvline(value, color=INK, lw=0.8, ls=dash, zorder=3)
            ax.set_ylim(0, 100 * max(0.02, share.max()) * 1.1)
            ax.yaxis.set_major_locator(MaxNLocator(2, integer=True))
            ax.grid(axis="x", visible=False)
            ax.set_title(
                f"{name}, {runs[i].setting}: mean {orders.mean():.1f}, median {median:g}, 95 % {p95:g}",
                loc="left", fontsize=6.4, pad=2,
            )  # fmt: skip
        axes[-1].set_xlim(0.3, most + 0.7)
        axes[-1].xaxis.set_major_locator(FixedLocator([k for k in _round_orders(most)]))
        axes[-1].set_xlabel("orders used (K); lines: median, 95 % quantile")
        figure.supylabel("images (%)", fontsize=8)
        if title:
            figure.suptitle(title, fontsize=8.5, ha="left", x=0.15)
    return figure


def _round_orders(most: int) -> list[int]:
    """Ticks for counts of orders: powers of two and the last."""
    return sorted({1 << i for i in range(most.bit_length()) if 1 << i <= 0.75 * most} | {most})


def classes_left_figure(
    rows: Sequence[Mapping[str, Any]], analysis: Analysis, title: str = "", form: Format = PAGE
) -> Figure:
    """Classes still racing on the k-th order: mean, for the first rule also the middle 50 and 90 % of images.

    rows: as `tables.classes_left_rows` gives them.
    """
    style = looks(analysis)
    names = list(dict.fromkeys(str(row["curve"]) for row in rows))
    with styled(form):
        entries = [*names, f"{names[0]}: 5–95, 25–75 %"]
        figure, ax = _frame(1.9, entries, "" if form.paper else title, form=form)
        for number, name in enumerate(names):
            mine = [row for row in rows if row["curve"] == name]
            order, mean, q05, q25, q75, q95 = (
                np.array([row[key] for row in mine], float)
                for key in ("order", "mean", "q05", "q25", "q75", "q95")
            )
            look = style[name]
            if number == 0:
                label = f"{name}: 5–95, 25–75 %"
                ax.fill_between(order, q05, q95, color=look.colour, alpha=0.13, lw=0, step="mid", label=label)
                ax.fill_between(order, q25, q75, color=look.colour, alpha=0.22, lw=0, step="mid")
            marked = [k - 1 for k in _round_orders(len(mine))]
            ax.plot(
                order,
                mean,
                color=look.colour,
                ls=look.dash,
                marker=look.marker,
                ms=2.8,
                markevery=marked,
                label=name,
            )
        ax.set_yscale("log")
        ax.set_xscale("log", base=2)
        most = max(float(row["order"]) for row in rows)
        ax.set_xlim(0.95, most * 1.05)
        ax.set_ylim(0.9, max(float(row["q95"]) for row in rows) * 1.15)
        plain = FuncFormatter(lambda value, _: f"{value:g}")
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_formatter(plain)
            axis.set_minor_formatter(NullFormatter())
        ax.yaxis.set_major_locator(LogLocator(10, (1, 2, 5)))
        ax.set_xlabel("order", labelpad=2)
        ax.set_ylabel("classes still scored (mean)")
        _legend(figure, ax, form=form)
    return figure


def budget_figure(
    rows: Sequence[Mapping[str, Any]], analysis: Analysis, unit: str, title: str = "", form: Format = PAGE
) -> Figure:
    """The anytime curve: accuracy of the answers had every race been stopped at a budget, with 95 % bands.

    rows: as `tables.budget_rows` gives them.
    """
    style = looks(analysis)
    names = list(dict.fromkeys(str(row["curve"]) for row in rows))
    banded = _banded(analysis)
    with styled(form):
        figure, ax = _frame(2.0, names, "" if form.paper else title, form=form)
        ax.set_xscale("log")
        for name in names:
            mine = [row for row in rows if row["curve"] == name]
            budget, mean, low, high = (
                np.array([r[k] for r in mine], float) for k in ("budget", "y", "low", "high")
            )
            look = style[name]
            ax.plot(
                budget, mean, color=look.colour, ls=look.dash, label=name, drawstyle="steps-post", zorder=3
            )
            if name in banded:
                ax.fill_between(budget, low, high, color=look.colour, alpha=0.12, lw=0, step="post", zorder=1)
        bottom, top = min(float(r["low"]) for r in rows), max(float(r["high"]) for r in rows)
        room = 0.05 * max(top - bottom, 0.01)
        ax.set_ylim(bottom - room, top + room)
        ax.set_xlabel(f"budget an image ({unit})", labelpad=2)
        ax.set_ylabel(f"{Y_KINDS[analysis.y_kind]} if stopped there (%)")
        percent_ticks(ax)
        log_ticks(ax)
        _legend(figure, ax, form=form)
    return figure


def reliability_figure(
    got: Reliability, name: str, colour: str, title: str = "", form: Format = PAGE
) -> Figure:
    """Accuracy against confidence in bins with 95 % Wilson intervals, the ECE, and each bin's answers."""
    with styled(form):
        figure = Figure(figsize=(form.width, 3.2), layout="constrained")
        FigureCanvasAgg(figure)
        ax, below = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": (3.4, 1)})
        ax.plot([0, 1], [0, 1], color=FAINT, lw=0.8, ls="--", zorder=2)
        middle, width = (got.left + got.right) / 2, got.right - got.left
        ax.bar(middle, got.accuracy, width * 0.94, color=colour, alpha=0.28, lw=0, zorder=1)
        error = np.abs(np.stack([got.accuracy - got.low, got.high - got.accuracy]))
        ax.errorbar(
            got.confidence,
            got.accuracy,
            error,
            color=colour,
            marker="o",
            ms=3,
            lw=0,
            elinewidth=0.9,
            zorder=3,
        )
        error_text = f"ECE {100 * got.ece:.1f} % [{100 * got.ece_low:.1f}, {100 * got.ece_high:.1f}]"
        error_text += f", {100 * got.floor:.1f} % if it were perfect"
        ax.set_title(f"{title + ': ' if title else ''}{name}, {error_text}", fontsize=7, loc="left", pad=3)
        ax.set_xlim(0, 1)
        ax.set_ylim(0, 1.02)
        ax.set_ylabel("accuracy in the bin")
        below.bar(middle, got.count / got.count.sum(), width * 0.94, color=colour, alpha=0.6, lw=0)
        below.set_ylabel("images")
        below.set_xlabel("probability of the answer")
        for axis in (ax.xaxis, ax.yaxis, below.yaxis):
            axis.set_major_formatter(PercentFormatter(1, decimals=0))
        below.yaxis.set_major_locator(MaxNLocator(2))
    return figure
