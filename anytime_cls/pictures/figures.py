"""Pictures: orders used, classes left, accuracy against budget, reliability (`pareto`: against compute).

Matplotlib, without pyplot: no window, no global state. Single-column
width, colours that colour-blind readers tell apart (Okabe & Ito 2008), and a marker and a dash pattern for
each curve, so that it still reads in grey. The same numbers give the same file, byte for byte.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
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

from anytime_cls.curves.analysis import Analysis
from anytime_cls.curves.study import Y_KINDS
from anytime_cls.pictures.frame import frame, legend
from anytime_cls.pictures.pareto import banded
from anytime_cls.pictures.style import FAINT, INK, PAGE, Format, log_ticks, looks, percent_ticks, styled
from anytime_cls.stats.reliability import Reliability


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
        figure, ax = frame(1.9, entries, "" if form.paper else title, form=form)
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
        legend(figure, ax, form=form)
    return figure


def budget_figure(
    rows: Sequence[Mapping[str, Any]], analysis: Analysis, unit: str, title: str = "", form: Format = PAGE
) -> Figure:
    """The anytime curve: accuracy of the answers had every race been stopped at a budget, with 95 % bands.

    rows: as `tables.budget_rows` gives them.
    """
    style = looks(analysis)
    names = list(dict.fromkeys(str(row["curve"]) for row in rows))
    with_band = banded(analysis)
    with styled(form):
        figure, ax = frame(2.0, names, "" if form.paper else title, form=form)
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
            if name in with_band:
                ax.fill_between(budget, low, high, color=look.colour, alpha=0.12, lw=0, step="post", zorder=1)
        bottom, top = min(float(r["low"]) for r in rows), max(float(r["high"]) for r in rows)
        room = 0.05 * max(top - bottom, 0.01)
        ax.set_ylim(bottom - room, top + room)
        ax.set_xlabel(f"budget an image ({unit})", labelpad=2)
        ax.set_ylabel(f"{Y_KINDS[analysis.y_kind]} if stopped there (%)")
        percent_ticks(ax)
        log_ticks(ax)
        legend(figure, ax, form=form)
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
