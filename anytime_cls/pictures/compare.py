"""Every method in one picture: accuracy against FLOPs, dense curves for races, points for references."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from anytime_cls.curves.compare import Contestant, full_run, means
from anytime_cls.curves.compared import Compared
from anytime_cls.curves.pareto import band, common_grid
from anytime_cls.curves.study import Study
from anytime_cls.pictures.style import FAINT, INK, log_ticks, percent_ticks, styled

Array = np.ndarray
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#332288", "#8B6914", "#882255",
            "#117733", "#AA4466")  # fmt: skip
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "h", "p")
FREE = 1e-3  # of the cheapest race: what takes less is a level, not a place


def compare_figure(found: Compared, title: str = "") -> Figure:
    """A colour a method: its best rule's curve with a band, Clark–Jaini's, its fixed K; a star where it is
    at its best rule, measured on images it was not chosen on. References, and screens, are points."""
    study = found.first
    with styled():
        figure = Figure(figsize=(6.2, 4.1), layout="constrained")
        FigureCanvasAgg(figure)
        ax = figure.subplots()
        ax.set_xscale("log")
        spans: list[float] = []
        for number, method in enumerate(found.methods):
            colour = _COLOURS[number % len(_COLOURS)]
            if _curves(method, study):
                spans += _draw_curves(ax, found, method, colour)
        cheapest = min((float(o.flops.mean()) for n, o in found.outcomes.items() if _racing(found, n)),
                       default=0.0)  # fmt: skip
        for row in found.rows:
            number = next(
                i for i, m in enumerate(found.methods) if f"{row['method']} ".startswith(f"{m.name} ")
            )
            spans += _point(ax, row, number, row["flops"] < FREE * cheapest)
        if title:
            ax.set_title(title, loc="left", fontsize=7.5, pad=4)
        room = 0.05 * max(max(spans) - min(spans), 0.02)
        ax.set_ylim(max(0, min(spans) - room), min(1, max(spans) + room))
        ax.set_xlabel("FLOPs per image", labelpad=2)
        ax.set_ylabel("accuracy (%)")
        percent_ticks(ax)
        log_ticks(ax)
        _legend(figure, ax, found)
    return figure


def _racing(found: Compared, name: str) -> bool:
    method = next((m for m in found.methods if m.name == name), None)
    return method is not None and _curves(method, found.first)


def _curves(method: Contestant, study: Study) -> bool:
    """Whether there is more than a point to draw."""
    return len({study.runs[i].settings["knob_value"] for i in method.runs(study)}) > 1


def _draw_curves(ax: Axes, found: Compared, method: Contestant, colour: str) -> list[float]:
    """The fixed K, Clark–Jaini and the best rule; returns accuracies that are drawn."""
    study = found.first
    best = study.runs[method.find(study, found.choices[method.name].best)]
    level = means(study, [full_run(study, method)], found.resamples, found.seed)[1]
    curves: dict[tuple[int, str], list[int]] = {}
    for i in method.runs(study):
        curves.setdefault((int(study.runs[i].settings["file"]), study.runs[i].curve), []).append(i)
    designs = (method.files[0], int(best.settings["file"]))  # the paper's, and where it is at its best
    drawn: list[float] = []
    for (file, name), members in curves.items():
        run = study.runs[members[0]]
        if len(members) < 2 or file not in designs:
            continue
        clark = "clark-jaini" if run.k_max > 20 else "clark-jaini from 4"  # theirs waits for 20 scores
        if (file, name) == (designs[1], best.curve):
            kind = "best"
        elif run.rule == "fixed":
            kind = "fixed"
        elif str(run.settings["curve"]).split(" m=")[0] == clark:
            kind = "clark"
        else:
            continue
        x, y = means(study, members, found.resamples, found.seed)
        order = np.argsort(x.value)
        look: dict[str, Any] = {"best": {"ls": "-", "lw": 1.5}, "fixed": {"ls": (0, (4, 1.5)), "lw": 0.9},
                                "clark": {"ls": (0, (1, 1)), "lw": 1.0}}[kind]  # fmt: skip
        ax.plot(x.value[order], y.value[order], color=colour, alpha=0.9, zorder=3, **look)
        drawn += y.value.tolist()
        if kind == "best" and found.resamples:
            around = band(x, y, common_grid(x.value), against=level)
            ax.fill_between(around.grid, around.low, around.high, color=colour, alpha=0.12, lw=0, zorder=1)
    return drawn


def _point(ax: Axes, row: dict[str, Any], number: int, free: bool) -> list[float]:
    """A method's row: a star, a point, or a level, with its 95 % interval."""
    colour = _COLOURS[number % len(_COLOURS)]
    value, low, high = (row["accuracy" + end] for end in ("", "_low", "_high"))
    if free:
        ax.axhline(value, color=colour, ls=(0, (1, 3)), lw=0.9, zorder=2)
        ax.annotate(
            f"{row['method']}, next to no compute", (0, value), (3, 1.5), xycoords=("axes fraction", "data"),
            textcoords="offset points", fontsize=5.5, color=colour,
        )  # fmt: skip
        return [value]
    racing = row["kind"] == "autoregressive" or row["kind"].endswith("diffusion")
    marker = "*" if racing else "x" if row["kind"] == "screen" else _MARKERS[number % len(_MARKERS)]
    error = np.array([[max(value - low, 0)], [max(high - value, 0)]])
    ax.errorbar(
        row["flops"], value, error, color=colour, marker=marker, ms=9 if racing else 4.5, lw=0,
        elinewidth=0.8, markeredgecolor=INK if racing else colour, markeredgewidth=0.5, zorder=6,
    )  # fmt: skip
    if row["kind"] == "screen":
        ax.annotate(
            str(row["method"]), (row["flops"], value), (4, -6), textcoords="offset points", fontsize=5.5,
            color=colour,
        )  # fmt: skip
    return [low, high]


def _legend(figure: Figure, ax: Axes, found: Compared) -> None:
    """Colours are methods, dashes are rules."""
    for number, method in enumerate(found.methods):
        one = not _curves(method, found.first)
        ax.plot([], [], color=_COLOURS[number % len(_COLOURS)], lw=0 if one else 1.5,
                marker=_MARKERS[number % len(_MARKERS)] if one else "", ms=4.5,
                label=f"{method.name} ({method.kind})")  # fmt: skip
    for label, look in _KEYS:
        ax.plot([], [], color=FAINT, label=label, **look)
    figure.legend(*_columns(ax), loc="outside lower center", ncols=2, fontsize=6.5, columnspacing=1.5)


_KEYS: Sequence[tuple[str, dict[str, Any]]] = (
    ("best rule; band: 95 % of its difference to all draws", {"ls": "-", "lw": 1.5}),
    ("fixed K", {"ls": (0, (4, 1.5)), "lw": 0.9}),
    ("Clark–Jaini", {"ls": (0, (1, 1)), "lw": 1.0}),
    ("at the rule chosen on other images", {"marker": "*", "ms": 8, "lw": 0, "markeredgecolor": INK}),
)


def _columns(ax: Axes) -> tuple[list[Any], list[str]]:
    """Handles and labels, methods in the first column and keys in the second."""
    handles, labels = ax.get_legend_handles_labels()
    keys = len(_KEYS)
    left, right = list(range(len(labels) - keys)), list(range(len(labels) - keys, len(labels)))
    blank = ax.plot([], [], lw=0)[0]
    rows = max(len(left), len(right))
    picked = [*left, *[-1] * (rows - len(left)), *right, *[-1] * (rows - len(right))]
    return [blank if i < 0 else handles[i] for i in picked], ["" if i < 0 else labels[i] for i in picked]
