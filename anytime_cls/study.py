"""What is drawn and tabled: the runs of one or several files over the images they share, and their numbers.

`join` puts curves files (and traces, as one measured run each) side by side; `analyse` averages them, with
intervals; `point_rows` is the table of every point that goes beside a picture as CSV.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from anytime_cls.curves import UNRANKED, CurveRun, Curves
from anytime_cls.pareto import Means, Saving, bootstrap, difference, pareto_front, saving, wilson
from anytime_cls.rules import ClarkJainiRule, HalvingRule
from anytime_cls.value import PRICE

Array = np.ndarray

X_KINDS = {
    "passes": "passes per image",
    "flops": "FLOPs per image",
    "seconds": "seconds per image",
    "orders": "orders per image (K)",
}
Y_KINDS = {"accuracy": "accuracy", "agreement": "agreement with all orders", "top5": "top-5 accuracy"}
#: The setting a rule has by default, for every knob a curve may have (anytime_cls.rules).
DEFAULTS = {
    "delta": 0.05, "p_value": ClarkJainiRule.p_value, "saving": HalvingRule.saving, "stretch": 1.0,
    "price": PRICE,
}  # fmt: skip


class StudyError(ValueError):
    """Files that cannot be drawn together, or not as asked; the message is one line for people."""


@dataclass(frozen=True, eq=False)
class StudyRun:
    """One rule at one setting, over the study's images; arrays are [I].

    series: the curve it belongs to, as drawn; curve: without the model and the file. full: what all K_max
    orders of its own design answer, -1 where unknown. passes: forward evaluations, one over a prefix of an
    order counted as its share of a whole one. flops: None if the file does not say what a pass costs. whole:
    its passes are over whole orders.
    """

    series: str
    curve: str
    model: str
    whole: bool
    settings: dict[str, Any]
    prediction: Array
    full: Array
    rank: Array
    orders: Array
    passes: Array
    seconds: Array
    probability: Array
    flops: Array | None

    @property
    def rule(self) -> str:
        return str(self.settings.get("rule", ""))

    @property
    def live(self) -> bool:
        return self.settings.get("source") == "live"

    @property
    def k_max(self) -> int:
        return int(self.settings.get("k_max", 0))

    @property
    def setting(self) -> str:
        """What tells this point from its neighbours on the curve: "δ = 0.05", "K = 8"."""
        knob, value = self.settings.get("knob"), self.settings.get("knob_value")
        if knob == "k_max" or knob is None or value is None:
            return f"K = {self.k_max}" if self.rule == "fixed" else f"K ≤ {self.k_max}"
        name = {"delta": "δ", "p_value": "p", "price": "λ"}.get(str(knob), str(knob))
        return f"{name} = {float(value):.2g}"


@dataclass(frozen=True, eq=False)
class Study:
    """Runs over the same images. names: the files. left_out: images that not all of the files have."""

    names: list[str]
    attrs: list[dict[str, Any]]
    labels: list[str]
    ids: list[str]
    label: Array
    runs: list[StudyRun]
    left_out: int

    @property
    def series(self) -> dict[str, list[int]]:
        """Run indices of every series, by cost; the fixed-K baseline first, then in order of appearance."""
        out: dict[str, list[int]] = {}
        for index, run in enumerate(self.runs):
            out.setdefault(run.series, []).append(index)
        for members in out.values():
            members.sort(key=lambda i: float(self.runs[i].passes.mean()))
        return dict(sorted(out.items(), key=lambda item: self.runs[item[1][0]].rule != "fixed"))

    def of(self, keep: Array) -> Study:
        """The study over some of its images: bool [I]."""
        runs = [_over(run, keep) for run in self.runs]
        ids = [key for key, kept in zip(self.ids, keep, strict=True) if kept]
        return Study(self.names, self.attrs, self.labels, ids, self.label[keep], runs, self.left_out)


def _over(run: StudyRun, keep: Array) -> StudyRun:
    arrays = {name: value[keep] for name, value in vars(run).items() if isinstance(value, np.ndarray)}
    return StudyRun(**{**vars(run), **arrays})


def join(files: Sequence[tuple[str, Curves]]) -> Study:
    """Puts curves side by side, over the images that all of them have and that no run failed on.

    files: (name for people, curves). Raises StudyError for other labels, no image in common, or an image that
    two files know under different labels.
    """
    if not files:
        raise StudyError("nothing to plot: name a trace or a curves file")
    first_name, first = files[0]
    for name, curves in files:
        if list(curves.labels) != list(first.labels):
            raise StudyError(f"{name} and {first_name} race different classes: plot them apart")
        if not curves.runs:
            raise StudyError(f"{name} holds no runs")
    places = [{str(key): at for at, key in enumerate(curves.ids)} for _, curves in files]
    failed = [
        set(np.flatnonzero(np.any([run.prediction < 0 for run in c.runs], axis=0)).tolist()) for _, c in files
    ]
    ids = [
        key for key in places[0]
        if all(key in place and place[key] not in bad for place, bad in zip(places, failed, strict=True))
    ]  # fmt: skip
    if not ids:
        raise StudyError(
            "no image was raced without an error" if len(files) == 1
            else f"{', '.join(name for name, _ in files)} have no image in common: plot them apart"
        )  # fmt: skip
    rows = [np.array([place[key] for key in ids]) for place in places]
    label = np.asarray(first.label)[rows[0]]
    for (name, curves), at in zip(files, rows, strict=True):
        other = np.asarray(curves.label)[at]
        differs = np.flatnonzero((other != label) & (other >= 0) & (label >= 0))
        if len(differs):
            raise StudyError(f"{name} and {first_name} give image {ids[differs[0]]!r} different labels")
        label = np.where(label >= 0, label, other)
    models = _models([curves.attrs for _, curves in files])
    samplers = [str(curves.attrs.get("order_sampler", "uniform")) for _, curves in files]
    designs = [
        (model, sampler, _pass_tokens(curves.attrs))
        for model, sampler, (_, curves) in zip(models, samplers, files, strict=True)
    ]
    known = {
        design: np.asarray(curves.full)[at]
        for design, (_, curves), at in zip(designs, files, rows, strict=True)
        if (np.asarray(curves.full)[at] >= 0).all()
    }
    runs: list[StudyRun] = []
    for number, ((name, curves), at, model) in enumerate(zip(files, rows, models, strict=True)):
        full = np.asarray(curves.full)[at]
        full = full if (full >= 0).all() else known.get(designs[number], full)
        for run in curves.runs:
            curve = _curve(run, curves.attrs, samplers[number] if len(set(samplers)) > 1 else "")
            series = f"{model}: {curve}" if len(set(models)) > 1 else curve
            if any(r.series == series for r in runs[: _before(runs, number)]):
                series += f" [{name}]"
            runs.append(_study_run(run, at, (series, curve, model), full, curves))
            runs[-1].settings["file"] = number
    total = len(set().union(*places))
    attrs = [dict(curves.attrs) for _, curves in files]
    return Study([name for name, _ in files], attrs, list(first.labels), ids, label, runs, total - len(ids))


def _before(runs: list[StudyRun], number: int) -> int:
    """How many runs are of earlier files."""
    return next((i for i, run in enumerate(runs) if run.settings["file"] == number), len(runs))


def _models(files: Sequence[dict[str, Any]]) -> list[str]:
    """Each file's model by name, and by the start of its hash where weights of one name differ."""
    names = [str(attrs.get("model", "")) for attrs in files]
    hashes = [str(attrs.get("model_sha256", "")) for attrs in files]
    weights = {name: {h for n, h in zip(names, hashes, strict=True) if n == name} for name in names}
    return [
        f"{name} {sha[:6]}" if len(weights[name]) > 1 else name
        for name, sha in zip(names, hashes, strict=True)
    ]


def _pass_tokens(attrs: dict[str, Any]) -> int | None:
    """Tokens of a pass, where a run's passes are over prefixes; None for whole orders."""
    m = attrs.get("pass_tokens", attrs.get("tokens"))
    return None if m is None or m == attrs.get("tokens") else int(m)


def _curve(run: CurveRun, attrs: dict[str, Any], sampler: str) -> str:
    """The curve as people know it: "paired", "paired m=8 stratified", "paired (live)".

    sampler: of the orders, where the files' differ; `uniform`, the paper's, goes without saying.
    """
    name = str(run.settings.get("curve") or run.settings.get("rule") or "run")
    prefix = _pass_tokens(attrs)
    if prefix and " m=" not in name:
        name += f" m={prefix}"
    if sampler not in ("", "uniform"):
        name += f" {sampler}"
    return name + " (live)" if run.settings.get("source") == "live" else name


def _study_run(
    run: CurveRun, at: Array, names: tuple[str, str, str], full: Array, curves: Curves
) -> StudyRun:
    passes = _passes(run, curves)[at]
    flops, tokens = curves.attrs.get("flops"), curves.attrs.get("tokens")
    prefix = run.settings.get("prefix", _pass_tokens(curves.attrs) or tokens)
    return StudyRun(
        *names, prefix == tokens, dict(run.settings),
        prediction=np.asarray(run.prediction)[at], full=full, rank=np.asarray(run.rank)[at],
        orders=np.asarray(run.orders, float)[at], passes=passes,
        seconds=np.asarray(run.seconds, float)[at], probability=np.asarray(run.probability, float)[at],
        flops=passes * float(flops) if flops else None,
    )  # fmt: skip


def _passes(run: CurveRun, curves: Curves) -> Array:
    """Whole-pass equivalents [I]: a pass over a prefix costs its share of a whole pass's FLOPs.

    They do not depend on the file's K_max, so files that differ in it share a scale.
    """
    counted = np.asarray(run.passes, float)
    if "k_max" not in curves.attrs:
        return counted
    spent = np.asarray(run.token_fraction, float) * len(curves.labels) * int(curves.attrs["k_max"])
    return np.where(np.isclose(spent, counted, rtol=1e-5), counted, spent)  # float32 fractions


def select(study: Study, curves: Sequence[str]) -> Study:
    """The study with only the fixed runs and the curves named: `paired` also takes `paired m=8`; none named
    takes all. Raises StudyError for a name that no curve has."""
    if not curves:
        return study
    found: set[str] = set()
    for name in curves:
        mine = {r.series for r in study.runs if f"{r.curve} ".startswith(f"{name} ") or r.series == name}
        if not mine:
            known = ", ".join(dict.fromkeys(run.curve for run in study.runs))
            raise StudyError(f"there is no curve {name!r}; these files have {known}")
        found |= mine
    return replace(study, runs=[r for r in study.runs if r.series in found or r.rule == "fixed"])


@dataclass(frozen=True, eq=False)
class Analysis:
    """A study's numbers. Columns are its runs.

    x, y: what is drawn. accuracy, agreement: means [R] with intervals, NaN where labels or the full answer
    are not known. savings: against the cheapest fixed K at least as accurate (in y), None for fixed runs
    and where there is no fixed K. savings_full: against K_max orders. default: the run that stands for each
    series.
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

    @property
    def focus(self) -> int:
        """The run that single pictures are of: `paired` at its default, else the first that is not fixed."""
        runs = self.study.runs
        racing = [i for i in self.default.values() if runs[i].rule != "fixed"]
        paired = [i for i in racing if runs[i].rule == "paired"]
        return (paired or racing or list(self.default.values()))[0]

    @property
    def paper_baseline(self) -> bool:
        """Whether a fixed K over whole orders is there to compare with, or there is nothing to compare."""
        fixed = [run for run in self.study.runs if run.rule == "fixed"]
        return any(run.whole for run in fixed) or all(r.rule == "fixed" or r.live for r in self.study.runs)

    def fixed_name(self, index: int) -> str:
        """A fixed run: "K = 4", and "m=8 stratified K = 4" where the model's fixed runs differ in more."""
        run = self.study.runs[index]
        return f"{run.curve.removeprefix('fixed').strip()} {run.setting}".strip()

    @property
    def best(self) -> int | None:
        """Of the series' default points, the one that saves most at equal y."""
        found = [(s.ratio, i) for i in self.default.values() if (s := self.savings[i]) is not None]
        return max(found, key=lambda item: (item[0], -item[1]))[1] if found else None

    def interval(self, index: int) -> tuple[float, float]:
        """95 % interval of y of one run; Wilson's where every image is alike, so resamples cannot differ."""
        low, high = self.y[[index]].interval()
        if low[0] == high[0]:
            return wilson(float(self.y.value[index]), len(self.study.ids))
        return float(low[0]), float(high[0])


def analyse(
    study: Study, x_kind: str = "passes", y_kind: str = "accuracy", resamples: int = 1000, seed: int = 0
) -> Analysis:
    """Means, intervals, front and savings. Raises StudyError where x or y is not known."""
    if y_kind != "agreement":
        labelled = study.label >= 0
        if not labelled.any():
            raise StudyError(f"no image has a label, so there is no {Y_KINDS[y_kind]}: use --y agreement")
        study = study if labelled.all() else study.of(labelled)
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
        if run.rule == "fixed" or not len(fixed):
            savings.append(None)
            savings_full.append(None)
            continue
        savings.append(saving(x, y, index, fixed))
        savings_full.append(saving(x, y, index, fixed, reference=_most_orders(runs, fixed)))
    all_fixed = [i for i, run in enumerate(runs) if run.rule == "fixed" and run.model == runs[0].model]
    return Analysis(
        study, x_kind, y_kind, x, y, pareto_front(x.value, y.value), savings, savings_full,
        _most_orders(runs, np.array(all_fixed)) if all_fixed else None,
        {name: default_run(runs, members, y.value) for name, members in study.series.items()},
        resamples, seed,
    )  # fmt: skip


def _most_orders(runs: Sequence[StudyRun], fixed: Array) -> int:
    """Of fixed runs, the one that scores most: the full computation. Over whole orders, if any is."""
    return int(max(fixed, key=lambda i: (runs[i].whole, float(runs[i].passes.mean()))))


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
    return values


def y_values(study: Study, run: StudyRun, kind: str) -> Array:
    """1 where the run's answer is right (accuracy), that of all orders (agreement), or in the top 5: [I]."""
    if kind == "accuracy":
        return (run.prediction == study.label).astype(float)
    if kind == "agreement":
        if (run.full < 0).any():
            raise StudyError(
                f"what all orders answer is not known for {run.series}: plot it with a replayed full trace "
                "of the same images, or use --y accuracy"
            )
        return (run.prediction == run.full).astype(float)
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
