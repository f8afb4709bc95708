"""What a study of several runs says: curves, savings, the front."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from anytime_cls.curves.pareto import Saving, pareto_front, saving
from anytime_cls.curves.study import (
    DEFAULTS,
    Y_KINDS,
    Study,
    StudyError,
    StudyRun,
)
from anytime_cls.race.decision import UNRANKED
from anytime_cls.race.fitted import Recommended
from anytime_cls.race.registry import CALIBRATED, SCREEN_RULES
from anytime_cls.stats.bootstrap import Means, bootstrap, difference
from anytime_cls.stats.intervals import wilson
from anytime_cls.traces.cost import draw_cost

Array = np.ndarray
LIVE = " (live)"  # ends the name of a curve that was recorded, not replayed


@dataclass(frozen=True, eq=False)
class Analysis:
    """A study's numbers. Columns are its runs.

    x, y: what is drawn. accuracy, agreement: means [R] with intervals, NaN where labels or the full answer
    are not known. savings: against the cheapest fixed K, or screen alone, at least as accurate (in y),
    None for these and where there is no fixed K. savings_full: against K_max orders. default: the run that
    stands for each series.
    """

    study: Study
    x_kind: str
    y_kind: str
    x: Means
    y: Means
    front: Array
    savings: list[Saving | None]
    savings_full: list[Saving | None]
    reference: int | None  # the fixed run of most orders of the first model, whole ones if there are any
    default: dict[str, int]
    resamples: int
    seed: int
    recommended: Mapping[str, Recommended] = field(
        default_factory=dict
    )  # by model: how it is raced by default

    @property
    def focus(self) -> int:
        """The run that single pictures are of: the first model's race, else the first run there is."""
        runs = self.study.runs
        race = race_of(runs, self.default, runs[0].model, self.recommended.get(runs[0].model))
        return next(iter(self.default.values())) if race is None else race

    @property
    def paper_baseline(self) -> bool:
        """Whether a fixed K over whole orders is there to compare with, or there is nothing to compare."""
        fixed = [run for run in self.study.runs if run.rule == "fixed"]
        return any(run.whole for run in fixed) or all(r.baseline or r.live for r in self.study.runs)

    def fixed_name(self, index: int) -> str:
        """A fixed run: "K = 4", and "m=8 stratified K = 4" where the model's fixed runs differ in more."""
        run = self.study.runs[index]
        if run.rule != "fixed":
            return run.curve
        return f"{run.curve.removeprefix('fixed').strip()} {run.setting}".strip()

    @property
    def best(self) -> int | None:
        """Of the series' default points, the one that saves most at equal y."""
        found = [(s.ratio, i) for i in self.default.values() if (s := self.savings[i]) is not None]
        return max(found, key=lambda item: (item[0], -item[1]))[1] if found else None

    def all_orders(self, index: int) -> float | None:
        """What all orders of every class cost on the x axis, in the run's design; None if unknown, or
        where the run took as much: one pass of a model that answers all classes at once."""
        run = self.study.runs[index]
        attrs = self.study.attrs[int(run.settings["file"])]
        if self.x_kind == "orders":
            return float(run.k_max) if float(run.orders.mean()) < run.k_max else None
        if "tokens" not in attrs or not run.passes.all():
            return None
        shared, each = draw_cost(attrs)
        passes = run.k_max * (shared + each * len(self.study.labels))
        if passes <= float(run.passes.mean()) * (1 + 1e-6):
            return None
        match self.x_kind:
            case "seconds":
                return passes * float(run.seconds.sum() / run.passes.sum())
            case "flops":
                return passes * float(attrs["flops"])
        return passes

    def interval(self, index: int) -> tuple[float, float]:
        """95 % interval of y of one run; Wilson's where every image is alike, so resamples cannot differ."""
        low, high = self.y[[index]].interval()
        if low[0] == high[0]:
            return wilson(float(self.y.value[index]), len(self.study.ids))
        return float(low[0]), float(high[0])


def analyse(
    study: Study,
    x_kind: str = "passes",
    y_kind: str = "accuracy",
    resamples: int = 1000,
    seed: int = 0,
    recommended: Mapping[str, Recommended] | None = None,
) -> Analysis:
    """Means, intervals, front and savings. Raises StudyError where x or y is not known.

    recommended: by model, its default race (`models.known.recommended`), at whose δ its curve is marked.
    """
    if y_kind != "agreement":
        labelled = study.label >= 0
        if not labelled.any():
            raise StudyError(f"no image has a label, so there is no {Y_KINDS[y_kind]}: use --y agreement")
        study = study if labelled.all() else study.of(labelled)
    if x_kind == "orders":  # screens take none
        study = replace(study, runs=[run for run in study.runs if run.rule not in SCREEN_RULES])
    runs = study.runs
    x = bootstrap(np.stack([x_values(run, x_kind) for run in runs], axis=1), resamples, seed)
    if (x.value <= 0).any():
        what = runs[int(np.argmin(x.value))].series
        raise StudyError(f"{what} took no {x_kind}: choose another --x")
    y = bootstrap(np.stack([y_values(study, run, y_kind) for run in runs], axis=1), resamples, seed)
    savings: list[Saving | None] = []
    savings_full: list[Saving | None] = []
    for index, run in enumerate(runs):
        fixed = np.array([i for i, r in enumerate(runs) if r.rule == "fixed" and r.model == run.model], int)
        against = np.array([i for i, r in enumerate(runs) if r.baseline and r.model == run.model], int)
        if run.baseline or not len(fixed):
            savings.append(None)
            savings_full.append(None)
            continue
        savings.append(saving(x, y, index, against))
        savings_full.append(saving(x, y, index, fixed, reference=most_orders(runs, fixed.tolist())))
    all_fixed = [i for i, run in enumerate(runs) if run.rule == "fixed" and run.model == runs[0].model]
    default = {name: default_run(runs, members, y.value) for name, members in study.series.items()}
    for model, race in (recommended or {}).items():
        default |= {runs[i].series: i for i in _as_recommended(runs, model, race)}
    return Analysis(
        study, x_kind, y_kind, x, y, pareto_front(x.value, y.value), savings, savings_full,
        most_orders(runs, all_fixed) if all_fixed else None, default, resamples, seed, recommended or {},
    )  # fmt: skip


def race_of(
    runs: Sequence[StudyRun], default: Mapping[str, int], model: str, recommended: Recommended | None = None
) -> int | None:
    """A model's race: one that was recorded, else as recommended, else `calibrated`, `paired`, or any.

    default: of every series, the run that stands for it. None where everything of this model is a baseline.
    """
    racing = [i for i in default.values() if not runs[i].baseline and runs[i].model == model]
    live = [i for i in racing if runs[i].live]
    calibrated = [i for i in racing if runs[i].rule == CALIBRATED and "loss" not in runs[i].settings]
    paired = [i for i in racing if runs[i].rule == "paired"]
    like = [] if recommended is None else _as_recommended(runs, model, recommended)
    for some in ([i for i in live if i in calibrated], live, like, calibrated, paired, racing):
        if some:
            return some[0]
    return None


def _as_recommended(runs: Sequence[StudyRun], model: str, race: Recommended) -> list[int]:
    """The replayed run nearest in δ to a model's recommended race, of its rule, tokens and K_max, if any."""
    like = [
        i for i, run in enumerate(runs)
        if (run.model, run.rule, run.k_max) == (model, race.rule, race.max_orders)
        and not run.live and "loss" not in run.settings and run.settings.get("knob") == "delta"
        and (run.whole if race.prefix is None else run.settings.get("prefix") == race.prefix)
        and run.settings.get("crops", "center") == race.crops
    ]  # fmt: skip
    if not like:
        return []
    return [min(like, key=lambda i: abs(math.log(float(runs[i].settings["knob_value"]) / race.delta)))]


def most_orders(runs: Sequence[StudyRun], fixed: Sequence[int]) -> int:
    """Of fixed runs, the one that scores most: the full computation. Over whole orders, if any is."""
    return max(fixed, key=lambda i: (runs[i].whole, float(runs[i].passes.mean())))


def default_run(runs: Sequence[StudyRun], members: Sequence[int], y: Array) -> int:
    """The run that stands for its series: the one nearest the rule's default setting, or of the most orders.

    For a knob without a default it is the best (then the cheapest), which picks a winner on the images it
    is shown on.
    """
    knob = str(runs[members[0]].settings.get("knob"))
    values = {i: float(runs[i].settings.get("knob_value", math.nan)) for i in members}
    if knob in DEFAULTS and all(value > 0 for value in values.values()):
        return min(members, key=lambda i: abs(math.log(values[i] / DEFAULTS[knob])))
    if knob == "k_max":
        return max(members, key=lambda i: values[i])
    return max(members, key=lambda i: (y[i], -float(runs[i].passes.mean())))


def x_values(run: StudyRun, kind: str) -> Array:
    """Cost of every image: [I]."""
    if kind == "flops" and run.flops is None:
        raise StudyError("a file does not say what a pass costs in FLOPs: choose another --x")
    values = getattr(run, kind)
    if not np.isfinite(values).all():
        raise StudyError(f"{run.series} does not know its {kind}: choose another --x")
    found: Array = values
    return found


def y_values(study: Study, run: StudyRun, kind: str) -> Array:
    """1 where the run's answer is right (accuracy), that of all orders (agreement), or in the top 5: [I]."""
    if kind == "accuracy":
        found: Array = (run.prediction == study.label).astype(float)
        return found
    if kind == "agreement":
        if (run.full < 0).any():
            raise StudyError(
                f"what all orders answer is not known for {run.series}: plot it with a replayed full trace "
                "of the same images, or use --y accuracy"
            )
        found = (run.prediction == run.full).astype(float)
        return found
    if len(study.labels) <= 5:
        raise StudyError(f"top-5 means nothing with {len(study.labels)} classes: use --y accuracy")
    if (run.rank == UNRANKED).any():
        raise StudyError(f"{run.series} does not know the rank of the true class: use --y accuracy")
    return (run.rank < 5).astype(float)


def share(hits: Array) -> tuple[float, float, float]:
    """A proportion with Wilson's 95 % interval; NaN without images."""
    if not len(hits):
        return math.nan, math.nan, math.nan
    value = float(hits.mean())
    return (value, *wilson(value, len(hits)))


def summary_row(analysis: Analysis, index: int) -> dict[str, Any]:
    """One run in plain numbers: shares with Wilson's intervals, K, costs, savings; NaN or "" for unknown."""
    study, run = analysis.study, analysis.study.runs[index]
    labelled = study.label >= 0
    row: dict[str, Any] = {
        "curve": run.series, "rule": run.rule, "setting": run.setting, 
        "source": run.settings.get("source", ""),
        "images": len(study.ids),
    }  # fmt: skip
    full_known = bool((run.full >= 0).all())
    for name, hits in (
        ("accuracy", (run.prediction == study.label)[labelled]),
        ("agreement", (run.prediction == run.full) if full_known else np.empty(0)),
    ):
        row[name], row[name + "_low"], row[name + "_high"] = share(hits)
    row |= {
        "k_mean": float(run.orders.mean()), "k_median": float(np.median(run.orders)),
        "k_p95": float(np.quantile(run.orders, 0.95)),
        "passes": float(run.passes.mean()), "seconds": float(run.seconds.mean()),
        "seconds_kind": run.settings.get("seconds_kind", ""),
    }  # fmt: skip
    for name, got in (("saving", analysis.savings[index]), ("saving_full", analysis.savings_full[index])):
        values = (got.ratio, got.low, got.high) if got else (math.nan,) * 3
        row |= dict(zip((name, name + "_low", name + "_high"), values, strict=True))
        row[name + "_against"] = analysis.fixed_name(got.index) if got else ""
        row[name + "_reached"] = got.reached if got else ""
    return row


def point_rows(analysis: Analysis) -> list[dict[str, Any]]:
    """One row a point, series by series: what the Pareto picture shows, in numbers (its CSV)."""
    x, y, runs = analysis.x, analysis.y, analysis.study.runs
    x_low, x_high = x.interval()
    to_full = difference(y, y[[analysis.reference]]) if analysis.reference is not None else None
    rows = []
    for name, members in analysis.study.series.items():
        for i in members:
            low, high = analysis.interval(i)
            settings = runs[i].settings
            about = summary_row(analysis, i)
            head = {key: about.pop(key) for key in ("curve", "rule", "source", "images")}
            about.pop("setting")
            rows.append(head | {
                "knob": settings.get("knob", ""), "value": settings.get("knob_value", math.nan),
                "k_max": runs[i].k_max, "prefix": settings.get("prefix", ""),
                "delta": settings.get("delta", ""),
                "x": analysis.x_kind, "x_mean": x.value[i], "x_low": x_low[i], "x_high": x_high[i],
                "y": analysis.y_kind, "y_mean": y.value[i], "y_low": low, "y_high": high,
                "y_minus_full": to_full[0][i] if to_full else math.nan,
                "y_minus_full_low": to_full[1][i] if to_full else math.nan,
                "y_minus_full_high": to_full[2][i] if to_full else math.nan,
                "on_front": bool(analysis.front[i]), "default": analysis.default[name] == i,
            } | about)  # fmt: skip
    return rows
