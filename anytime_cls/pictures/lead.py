"""The default picture: a model's race, the fixed K it replaces, its cheapest rival and the front, each named.

Names stand at the curves; what else the files hold is grey. `pareto.pareto_figure` names everything.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from anytime_cls.curves.analysis import Analysis, most_orders
from anytime_cls.curves.leading import FIXED, OTHER, RACE, RIVAL, Lead, leading
from anytime_cls.curves.pareto import band, common_grid, front_steps
from anytime_cls.curves.stopped import Stopped
from anytime_cls.curves.study import Y_KINDS
from anytime_cls.pictures.labels import Named, write_names
from anytime_cls.pictures.pareto import FREE, name_orders, x_label
from anytime_cls.pictures.style import (
    FAINT,
    INK,
    LEADING,
    PAGE,
    Format,
    Look,
    log_ticks,
    percent_ticks,
    styled,
)
from anytime_cls.pictures.wording import less, saving_text, times
from anytime_cls.stats.bootstrap import difference

Array = np.ndarray
_DASH = {RACE: "-", FIXED: (0, (4, 1.5)), RIVAL: (0, (1, 1)), OTHER: (0, (5, 1, 1, 1))}
_MARK = {RACE: "o", FIXED: "s", RIVAL: "D", OTHER: "^"}
LEAST_Y, LEAST_X = 0.06, 12.0  # the axes span no less: 6 points, a factor of 12


def lead_looks(leads: Sequence[Lead]) -> dict[str, Look]:
    """A look for every named curve, by series: of one model the roles differ in colour, of several the
    models; dash and marker say the role. No look is given twice."""
    several = len({lead.model for lead in leads}) > 1
    out: dict[str, Look] = {}
    for lead in leads:
        if several:
            colour = LEADING[lead.model % len(LEADING)]
        else:
            colour = {FIXED: INK, RACE: LEADING[0], RIVAL: LEADING[1]}.get(lead.role, "")
            others = [other.series for other in leads if other.role == OTHER]
            colour = colour or LEADING[2 + others.index(lead.series) % 2]
        look = Look(colour, _MARK[lead.role], _DASH[lead.role])
        marks = [
            m
            for m in (look.marker, "v", "P", "X", "<", ">")
            if Look(colour, m, look.dash) not in out.values()
        ]
        out[lead.series] = Look(colour, marks[0], look.dash)
    return out


def lead_figure(
    analysis: Analysis,
    title: str = "",
    bands: str = "paired",
    form: Format = PAGE,
    stopped: Mapping[str, Stopped] | None = None,
) -> Figure:
    """Accuracy against compute. bands: as `pareto.pareto_figure`, also of the bars at marked points.

    stopped : of a series that is one recorded race, how right it was after less compute.
    """
    leads = leading(analysis)
    if analysis.reference is None and bands == "paired":
        bands = "absolute"
    stopped = {
        name: s for name, s in (stopped or {}).items() if len(analysis.study.series.get(name, ())) == 1
    }
    note = (
        ""
        if form.paper or not form.note
        else textwrap.fill(lead_note(analysis, bands, bool(stopped)), int(form.width * 26))
    )
    with styled(form):
        return _Picture(analysis, leads, bands, form, stopped).draw("" if form.paper else title, note)


def lead_note(
    analysis: Analysis, bands: str = "paired", stopped: bool = False, every: bool = False, paper: bool = False
) -> str:
    """What the picture shows, in sentences: its note, and part of a caption (paper). every: all is named."""
    study, leads = analysis.study, leading(analysis)
    parts = [] if paper else [f"{len(study.ids):,} images."]
    if bands != "none" and analysis.resamples:
        of = f"the {Y_KINDS[analysis.y_kind]}"
        if bands == "paired" and analysis.reference is not None:
            low, high = analysis.interval(analysis.reference)
            of = f"the difference to all orders (whose own level is known to ±{50 * (high - low):.1f} points)"
        parts.append(f"Bars and bands: 95 % intervals of {of}.")
    if stopped:
        parts.append("The line before a point: the same races, stopped sooner.")
    shown = {lead.series for lead in leads} | {study.runs[lead.point].series for lead in leads}
    grey = len(set(study.series) - shown)
    if grey and not every:
        named = "" if paper else ", named by --all"
        parts.append(f"Grey: {grey} other rule{'s' * (grey > 1)}{named}.")
    if analysis.reference is None:
        parts.append("No fixed K among the files: the accuracy of all orders is not known here.")
    return " ".join(parts)


@dataclass(eq=False)
class _Picture:
    """One picture while it is drawn."""

    analysis: Analysis
    leads: list[Lead]
    bands: str
    form: Format
    stopped: dict[str, Stopped]

    def draw(self, title: str, note: str) -> Figure:
        analysis = self.analysis
        self.looks = lead_looks(self.leads)
        self.names: list[Named] = []
        self.free: list[tuple[Lead, float]] = []
        self.extremes: list[float] = []
        self.bars: list[tuple[Array, Array]] = []
        figure, ax = _frame(self.form, title, note)
        ax.set_xscale("log")
        others = self._grey(ax)
        usual = self.usual = analysis.x.value > FREE * np.median(analysis.x.value)
        for lead in reversed(self.leads):  # the race last, on top
            self._curve(ax, lead, bool(usual[lead.point]))
        right = self._limits(ax, usual)
        for lead, level in self.free:
            look = self.looks[lead.series]
            ax.axhline(level, color=look.colour, ls=look.dash, lw=1.0, zorder=2)
            self.names.append(
                Named(_free_name(lead, level), look.colour, np.array(ax.get_xlim()), np.full(2, level))
            )
        if len(analysis.study.runs) > 1:
            self._front(ax, right)
        ax.set_xlabel(x_label(analysis, short=self.form.width < 3), labelpad=2)
        ax.set_ylabel(f"{Y_KINDS[analysis.y_kind]} (%)")
        percent_ticks(ax, 1.0)
        log_ticks(ax, 3e3 if self.form.width >= 3 else 100)
        taken = self._arrows(figure, ax)
        if len({lead.model for lead in self.leads}) == 1:
            taken += name_orders(ax, analysis)
        size = 6.5 if self.form.width >= 3 else 6.0
        write_names(figure, ax, self.names[::-1], taken + self._bar_boxes(ax), size, others)
        return figure

    def _grey(self, ax: Axes) -> list[tuple[Array, Array]]:
        """What has no name."""
        study, drawn = self.analysis.study, []
        shown = {lead.series for lead in self.leads} | {study.runs[lead.point].series for lead in self.leads}
        for name, members in study.series.items():
            if name not in shown:
                x, y = self.analysis.x.value[members], self.analysis.y.value[members]
                alone: dict[str, Any] = {"marker": "o", "ms": 2.0} if len(members) == 1 else {}
                ax.plot(x, y, color=FAINT, lw=0.6, alpha=0.45, zorder=1, **alone)
                drawn.append((x, y))
        return drawn

    def _curve(self, ax: Axes, lead: Lead, usual: bool) -> None:
        analysis, look = self.analysis, self.looks[lead.series]
        x, y = analysis.x, analysis.y
        members = np.array(analysis.study.series[lead.series])
        if not usual and len(members) == 1:  # as good as free: a level, not a place
            self.free.append((lead, float(y.value[lead.point])))
            self.extremes.append(float(y.value[lead.point]))
            return
        path_x, path_y = x.value[members], y.value[members]
        if len(members) > 1:
            base = self._base(lead.point)
            against = None if base is None else y[[base]]
            curve = band(x[members], y[members], common_grid(x.value), against=against)
            path_x, path_y = curve.grid, curve.value
            ax.plot(path_x, path_y, color=look.colour, ls=look.dash, lw=1.2, zorder=3)
            ax.scatter(
                x.value[members],
                y.value[members],
                s=4.5,
                marker=look.marker,
                color=look.colour,
                lw=0,
                zorder=4,
            )
            if self.bands != "none" and lead.role in (RACE, FIXED) and analysis.resamples:
                ax.fill_between(path_x, curve.low, curve.high, color=look.colour, alpha=0.12, lw=0, zorder=1)
        elif lead.series in self.stopped:
            found = self.stopped[lead.series]
            path_x, path_y = (
                np.append(found.cost, x.value[lead.point]),
                np.append(found.share, y.value[lead.point]),
            )
            ax.plot(path_x, path_y, color=look.colour, ls=look.dash, lw=0.9, zorder=3)
        self.extremes += [float(path_y.min()), float(path_y.max())]
        self._point(ax, lead, look)
        self.names.append(Named(lead.name, look.colour, path_x, path_y))

    def _point(self, ax: Axes, lead: Lead, look: Look) -> None:
        """The marked point, open, with its interval."""
        x, y, at = self.analysis.x, self.analysis.y, lead.point
        low, high = self.interval(at)
        if self.bands != "none" and self.analysis.resamples and at != self._base(at):
            away = [[max(0.0, y.value[at] - low)], [max(0.0, high - y.value[at])]]
            ax.errorbar(
                x.value[at], y.value[at], away, color=look.colour, lw=0, elinewidth=0.9, capsize=2,
                capthick=0.9, zorder=5,
            )  # fmt: skip
            self.bars.append((np.full(2, x.value[at]), np.array([low, high])))
            self.extremes += [low, high]
        ax.scatter(
            x.value[at], y.value[at], s=26 if lead.role == RACE else 18, marker=look.marker, zorder=6,
            facecolor="#ffffff", edgecolor=look.colour, linewidth=1.1,
        )  # fmt: skip
        self.extremes.append(float(y.value[at]))

    def _base(self, at: int) -> int | None:
        """What a paired interval is of the difference to: the model's fixed K of most orders, if any."""
        runs = self.analysis.study.runs
        fixed = [i for i, run in enumerate(runs) if run.rule == "fixed" and run.model == runs[at].model]
        return most_orders(runs, fixed) if fixed and self.bands == "paired" else None

    def interval(self, at: int) -> tuple[float, float]:
        """95 % of the run's y, or of its difference to all orders around it."""
        y, base = self.analysis.y, self._base(at)
        if base is None:
            return self.analysis.interval(at)
        _, low, high = difference(y[[at]], y[[base]])
        level = float(y.value[base])
        return level + float(low[0]), level + float(high[0])

    def _limits(self, ax: Axes, usual: Array) -> float:
        """Ranges that hold what is named and no less than `LEAST_Y`, `LEAST_X`; the right end."""
        analysis = self.analysis
        bottom, top = min(self.extremes), max(self.extremes)
        tall = max(LEAST_Y, top - bottom)
        bottom = min(max((bottom + top - tall) / 2, 0.0), 1.0 - tall)
        top = bottom + tall
        self.top = top
        room = 0.47 / (0.66 * self.form.width)  # of two lines of words, an arrow and the orders' numbers
        head = room / (1 - room) if self._arrow() is not None else 0.07
        ax.set_ylim(bottom - 0.06 * (top - bottom), top + head * (top - bottom))
        costs = [analysis.x.value[usual], *(s.cost for s in self.stopped.values())]
        costs += [np.array([cost]) for _, cost in self._everything()]
        left, right = float(np.concatenate(costs).min()) / 1.2, float(np.concatenate(costs).max()) * 1.15
        left = max(left, min(float(analysis.x.value[lead.point]) for lead in self.leads) / 50)
        spread = np.sqrt(max(1.0, LEAST_X / (right / left)))
        ax.set_xlim(left / spread, right * spread)
        return float(right * spread)

    def _bar_boxes(self, ax: Axes) -> list[Bbox]:
        ends = [ax.transData.transform(np.stack(bar, axis=1)) for bar in self.bars]
        return [Bbox.from_extents(low[0] - 2, low[1], high[0] + 2, high[1]) for low, high in ends]

    def _front(self, ax: Axes, right: float) -> None:
        x, y = self.analysis.x.value, self.analysis.y.value
        steps = front_steps(x, y, right)
        corners = np.repeat(steps[0], 2)[1:], np.repeat(steps[1], 2)[:-1]
        inside = corners[0] >= ax.get_xlim()[0]
        if inside.any() and len(np.unique(steps[1])) > 2:
            ax.plot(*steps, color=INK, lw=0.6, alpha=0.6, drawstyle="steps-post", zorder=2, label="front")
            self.names.insert(0, Named("front", INK, corners[0][inside], corners[1][inside]))

    def _arrow(self) -> Lead | None:
        """The race whose saving is drawn: the first that was compared with something, or with all orders."""
        races = [lead for lead in self.leads if lead.role == RACE]
        one = len({lead.model for lead in self.leads}) == 1
        if not races or not one:
            return None
        got = self.analysis.savings[races[0].point]
        if got is not None and not self.usual[got.index]:  # a free rival is a level: nothing to span
            return None
        return races[0] if got is not None or self._everything() else None

    def _everything(self) -> list[tuple[str, float]]:
        """(name, cost) of all orders of every class, where no fixed K says how right they are."""
        races = [lead for lead in self.leads if lead.role == RACE]
        if len(races) != 1 or len({lead.model for lead in self.leads}) > 1:
            return []
        if any(run.rule == "fixed" for run in self.analysis.study.runs):
            return []
        run = self.analysis.study.runs[races[0].point]
        cost = self.analysis.all_orders(races[0].point)
        return [] if cost is None else [(f"all {run.k_max} orders of every class", cost)]

    def _arrows(self, figure: Figure, ax: Axes) -> list[Bbox]:
        """The saving of one model's race, as a dimension line; the box of its words."""
        lead = self._arrow()
        if lead is None:
            return []
        x, y = self.analysis.x.value, self.analysis.y.value
        got, (bottom, high) = self.analysis.savings[lead.point], ax.get_ylim()
        inch = (high - bottom) / (ax.get_window_extent().height / figure.dpi)
        level = self.top + 0.06 * inch
        tie: dict[str, Any] = {"color": INK, "lw": 0.5, "ls": (0, (1, 1.5)), "zorder": 2}
        if got is not None:
            start, (first, second) = float(x[got.index]), saving_text(self.analysis, lead.point)
            brief = second.split(" (")[0]
            versions = [f"{first}\n{second}", f"{first}\n{brief}", f"{first.split(' at ')[0]}\n{brief}"]
            ax.plot([start] * 2, [y[got.index], level], **tie)
        else:
            (name, start), *_ = self._everything()
            saved = f"{times(start / x[lead.point])}× {less(self.analysis.x_kind)}"
            versions = [f"{saved} than {name}", f"{saved}\nthan {name}"]
            ax.plot([start] * 2, [bottom, level], color=INK, lw=0.8, ls=(0, (4, 1.5)), zorder=2)
        ax.plot([x[lead.point]] * 2, [y[lead.point], level], **tie)
        style = {"arrowstyle": "-|>", "color": INK, "lw": 0.9, "shrinkA": 0, "shrinkB": 0}
        ax.annotate(
            "", (x[lead.point], level), (start, level), zorder=7, arrowprops=style | {"mutation_scale": 7}
        )
        box = ax.annotate(
            versions[0], (np.sqrt(start * x[lead.point]), level), (0, 2.5), textcoords="offset points",
            ha="center", va="bottom", fontsize=6.2, linespacing=1.2, zorder=8,
        )  # fmt: skip
        figure.draw_without_rendering()
        frame = ax.get_window_extent()
        for shorter in versions[1:]:
            if box.get_window_extent().width > frame.width:  # what is left out is in the table, too
                box.set_text(shorter)
        extent = box.get_window_extent()
        shift = max(frame.x0 - extent.x0, 0) + min(frame.x1 - extent.x1, 0)
        box.set_position((shift * 72 / figure.dpi, 2.5))
        return [box.get_window_extent()]


def _free_name(lead: Lead, level: float) -> str:
    return f"{lead.name} ({100 * level:.1f} %, next to no compute)"


def _frame(form: Format, title: str, note: str) -> tuple[Figure, Axes]:
    """A figure of exact width, its note's lines below."""
    tall, width = 0.66 * form.width, form.width
    top = 0.1 + 0.2 * bool(title)
    bottom = 0.4 + (0.05 + 0.095 * (note.count("\n") + 1) if note else 0.0)
    height = top + tall + bottom
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    ax = figure.add_axes((0.48 / width, bottom / height, 1 - 0.56 / width, tall / height))
    if title:
        figure.text(0.48 / width, 1 - 0.06 / height, title, fontsize=8.5, va="top")
    if note:
        figure.text(0.5, 0.03 / height, note, fontsize=5.4, color=FAINT, ha="center", va="bottom")
    return figure, ax
