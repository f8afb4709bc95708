"""From files to pictures: opens traces and curves, draws each kind of picture with its numbers and words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from anytime_cls.curves.analysis import Analysis, point_rows
from anytime_cls.curves.confusion import of_run
from anytime_cls.curves.files import Material
from anytime_cls.curves.leading import leading
from anytime_cls.curves.progress import plan_of, trace_progress
from anytime_cls.curves.stopped import Stopped, stopped
from anytime_cls.curves.study import Y_KINDS, StudyError
from anytime_cls.pictures import confusion, tables
from anytime_cls.pictures import figures as plots
from anytime_cls.pictures.gallery import choose
from anytime_cls.pictures.gallery import shown as shown_races
from anytime_cls.pictures.lead import lead_figure, lead_note
from anytime_cls.pictures.pareto import pareto_figure
from anytime_cls.pictures.report import Gallery
from anytime_cls.pictures.style import PAGE, Format, looks
from anytime_cls.pictures.tables import stopped_rows
from anytime_cls.replay.progress import Progress

Array = np.ndarray
KINDS = ("pareto", "k", "classes-left", "budget", "reliability", "confusion")


@dataclass(frozen=True, eq=False)
class Drawn:
    """One picture: its kind, title, words for those who cannot see it, the figure, and its numbers."""

    kind: str
    title: str
    caption: str
    figure: Figure
    rows: list[dict[str, Any]]
    stopped: bool = False  # it has the races of a recorded run, stopped sooner


def races(analysis: Analysis, material: Material, only: Sequence[str] | None = None) -> dict[str, Progress]:
    """The races of every series' default run (or of some series'), where a trace among the files has the
    scores."""
    out: dict[str, Progress] = {}
    for name, index in analysis.default.items():
        if only is not None and name not in only:
            continue
        run = analysis.study.runs[index]
        trace = material.trace_of(run)
        if trace is None:
            continue
        went = trace_progress(trace, plan_of(trace, run))
        place = {str(key): at for at, key in enumerate(trace.images["id"])}
        out[name] = went.of(np.array([place[key] for key in analysis.study.ids]))
    return out


def gallery(analysis: Analysis, material: Material, images: int = 3) -> Gallery | None:
    """The easiest and hardest races of the focus run; None without a trace of them."""
    run = analysis.study.runs[analysis.focus]
    trace = material.trace_of(run)
    if trace is None:
        return None
    study = analysis.study
    easy, hard = choose(run, images)
    try:
        parts = [shown_races(trace, run, rows, study.ids, study.label) for rows in (easy, hard)]
    except StudyError:
        return None
    return Gallery(run.series, run.setting, *parts)


def draw(
    analysis: Analysis,
    material: Material,
    kinds: Sequence[str],
    budget_x: str = "seconds",
    title: str = "",
    bands: str = "paired",
    form: Format = PAGE,
    every: bool = False,
) -> tuple[list[Drawn], list[str]]:
    """The pictures asked for, and why those that are missing could not be drawn.

    budget_x : unit of the budget in `budget`: passes, seconds or flops. bands : as `pareto.pareto_figure`.
    every : name every curve, not only the leading ones (`curves.leading`).
    """
    drawn: list[Drawn] = []
    missing: list[str] = []
    went: dict[str, Progress] | None = None
    shown = analysis if every else replace(analysis, default=_leading(analysis))
    for kind in kinds:
        try:
            if went is None and (kind in ("classes-left", "budget") or (kind == "pareto" and not every)):
                went = races(shown, material, _lone(shown) if kinds == ["pareto"] else None)
            drawn.append(
                _draw(kind, analysis, shown, went or {}, material, budget_x, title, bands, form, every)
            )
        except StudyError as error:
            missing.append(f"{kind}: {error}")
    return drawn, missing


def _leading(analysis: Analysis) -> dict[str, int]:
    """The default runs of the curves with a name."""
    leads = leading(analysis)
    return {lead.series: lead.point for lead in leads}


def _lone(analysis: Analysis) -> list[str]:
    """Series that are one recorded race."""
    runs = analysis.study.runs
    return [name for name, at in analysis.default.items()
            if runs[at].live and not runs[at].baseline and len(analysis.study.series[name]) == 1]  # fmt: skip


def _stopped(analysis: Analysis, went: Mapping[str, Progress]) -> dict[str, Stopped]:
    """The lone races, stopped sooner, in the units of x and y."""
    out = {}
    for name in _lone(analysis):
        run = analysis.study.runs[analysis.default[name]]
        right = run.full if analysis.y_kind == "agreement" else analysis.study.label
        if name not in went or analysis.y_kind == "top5" or analysis.x_kind == "orders":
            continue
        unit: float | Array = 1.0
        if analysis.x_kind == "seconds":
            unit = run.seconds / run.passes
        elif analysis.x_kind == "flops" and run.flops is not None:
            unit = run.flops / run.passes
        out[name] = stopped(went[name], right, unit)
    return out


def _draw(
    kind: str, everything: Analysis, analysis: Analysis, went: dict[str, Progress], material: Material,
    budget_x: str, title: str, bands: str, form: Format, every: bool,
) -> Drawn:  # fmt: skip
    y = Y_KINDS[analysis.y_kind]
    focus = analysis.study.runs[analysis.focus]
    if kind == "pareto" and not every:
        sooner = _stopped(analysis, went)
        figure = lead_figure(everything, title, bands, form, sooner)
        heading = f"{y.capitalize()} against {analysis.x_kind}"
        rows = point_rows(everything) + stopped_rows(everything, sooner)
        return Drawn(kind, heading, lead_note(everything, bands, bool(sooner)), figure, rows, bool(sooner))
    if kind == "pareto":
        caption = (
            "Each curve is a rule over its settings, the open marker its default; fixed is the classifier of "
            "K orders for every class (K along the top). The step line is the Pareto front; dominated points "
            "are faded. The arrow is the saving, of the rule that saves most, against the cheapest fixed K, "
            "or screen alone, that is at least as good."
        )
        figure = pareto_figure(analysis, title, bands, form)
        return Drawn(
            kind, f"{y.capitalize()} against {analysis.x_kind}", caption, figure, point_rows(analysis)
        )
    if kind == "k":
        caption = "How many orders the images used at each rule's default setting."
        rows = tables.orders_rows(analysis)
        return Drawn(kind, "Orders used", caption, plots.orders_figure(analysis, title, form), rows)
    if kind == "reliability":
        got = tables.focus_reliability(analysis)
        if got is None:
            raise StudyError("needs labels and the answers' probabilities, and these files lack them")
        name = f"{focus.series}, {focus.setting}"
        colour = looks(analysis)[focus.series].colour
        figure = plots.reliability_figure(got, name, colour, title, form)
        caption = (
            f"How often answers of {name} are right, against how sure they were; error bars are 95 % Wilson "
            f"intervals. The expected calibration error is {100 * got.ece:.1f} %; "
            f"on so many images a perfect probability has {100 * got.floor:.1f} %."
        )
        return Drawn(kind, "Reliability", caption, figure, tables.reliability_rows(got, name))
    if kind == "confusion":
        taken = of_run(analysis, analysis.focus)
        figure = confusion.confusion_figure(taken, title)
        return Drawn(kind, "Accuracy by class, and confusions", taken.caption, figure, taken.rows())
    if not went:
        raise StudyError("needs the scores, which curves do not hold: name the trace too")
    if kind == "classes-left":
        racing = {name: race for name, race in went.items() if not _is_fixed(analysis, name)} or went
        rows = tables.classes_left_rows(_focus_first(racing, focus.series))
        figure = plots.classes_left_figure(rows, analysis, title, form)
        caption = "Classes scored on each order, averaged over images; 1 once a race is decided."
        return Drawn(kind, "Classes left", caption, figure, rows)
    return _budget(analysis, went, budget_x, title, form)


def _budget(analysis: Analysis, went: dict[str, Progress], unit: str, title: str, form: Format) -> Drawn:
    study = analysis.study
    runs = {name: study.runs[analysis.default[name]] for name in went}
    cost: dict[str, float | Array] = {}
    for run in runs.values():
        if unit == "seconds" and not all((r.seconds > 0).all() for r in runs.values()):
            unit = "passes"
        if unit == "flops" and run.flops is None:
            raise StudyError("the trace does not say what a pass costs in FLOPs: choose another --x")
    for name, run in runs.items():
        match unit:
            case "seconds":  # a live race's own pace; a replay's is the trace's mean
                cost[name] = run.seconds / run.passes
            case "flops":
                cost[name] = float(run.flops.sum() / run.passes.sum()) if run.flops is not None else 1.0
            case _:
                cost[name] = 1.0
    reference = next(iter(runs.values())) if analysis.reference is None else study.runs[analysis.reference]
    known = bool((reference.full >= 0).all())
    by_agreement = analysis.y_kind == "agreement"
    truth = {name: run.full if by_agreement else study.label for name, run in runs.items()}
    rows = tables.budget_rows(
        went, truth, cost, analysis.resamples, analysis.seed, reference=reference.full if known else None
    )
    figure = plots.budget_figure(rows, analysis, "FLOPs" if unit == "flops" else unit, title, form)
    what = "agreement with all orders" if by_agreement else "accuracy"
    caption = (
        f"The {what} of the answers had every race been stopped at a budget. A budget buys whole passes; it "
        "starts where every image has one. Bands are 95 % intervals"
        + (" of the difference to the answers of all orders." if known else ".")
        + (" Seconds are passes at each trace's own pace." if unit == "seconds" else "")
    )
    return Drawn("budget", f"{what.capitalize()} against budget", caption, figure, rows)


def _is_fixed(analysis: Analysis, series: str) -> bool:
    return analysis.study.runs[analysis.default[series]].baseline


def _focus_first(went: dict[str, Progress], focus: str) -> dict[str, Progress]:
    return dict(sorted(went.items(), key=lambda item: item[0] != focus))
