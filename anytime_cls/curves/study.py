"""What is drawn and tabled: the runs of one or several files over the images they share, and their numbers.

`join` puts curves files (and traces, as one measured run each) side by side; `analyse` averages them, with
intervals; `point_rows` is the table of every point that goes beside a picture as CSV.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from anytime_cls.curves.file import CurveRun, Curves
from anytime_cls.race.peers import ClarkJainiRule, HalvingRule
from anytime_cls.race.registry import SCREEN_RULES
from anytime_cls.race.value import PRICE
from anytime_cls.traces.cost import full_passes

Array = np.ndarray
BASELINES = ("fixed", *SCREEN_RULES)
X_KINDS = {
    "passes": "passes per image",
    "flops": "FLOPs per image",
    "seconds": "seconds per image",
    "orders": "orders per image (K)",
}
Y_KINDS = {"accuracy": "accuracy", "agreement": "agreement with all orders", "top5": "top-5 accuracy"}
#: The setting a rule has by default, for every knob a curve may have (anytime_cls.race.rules).
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
    plan: str  # as `CurveRun.plan`

    @property
    def rule(self) -> str:
        return str(self.settings.get("rule", ""))

    @property
    def baseline(self) -> bool:
        """What a saving is measured against: a fixed K, or a screen alone."""
        return self.rule in BASELINES

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
        if self.rule in SCREEN_RULES:
            return "no order"
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
    samplers = [_draws(curves.attrs) for _, curves in files]
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


def _draws(attrs: Mapping[str, Any]) -> str:
    """What its orders are drawn by, and seen on: "uniform", "stratified resized"."""
    crops = str(attrs.get("crops", "center"))
    return str(attrs.get("order_sampler", "uniform")) + ("" if crops == "center" else f" {crops}")


def _study_run(
    run: CurveRun, at: Array, names: tuple[str, str, str], full: Array, curves: Curves
) -> StudyRun:
    passes = _passes(run, curves)[at]
    flops, tokens = curves.attrs.get("flops"), curves.attrs.get("tokens")
    prefix = run.settings.get("prefix", _pass_tokens(curves.attrs) or tokens)
    crops = {"crops": curves.attrs["crops"]} if "crops" in curves.attrs else {}
    return StudyRun(
        *names, prefix == tokens, {**run.settings, **crops},
        prediction=np.asarray(run.prediction)[at], full=full, rank=np.asarray(run.rank)[at],
        orders=np.asarray(run.orders, float)[at], passes=passes,
        seconds=np.asarray(run.seconds, float)[at], probability=np.asarray(run.probability, float)[at],
        flops=passes * float(flops) if flops else None, plan=run.plan,
    )  # fmt: skip


def _passes(run: CurveRun, curves: Curves) -> Array:
    """Whole-pass equivalents [I]: a pass over a prefix costs its share of a whole pass's FLOPs.

    They do not depend on the file's K_max, so files that differ in it share a scale.
    """
    counted = np.asarray(run.passes, float)
    if "k_max" not in curves.attrs:
        return counted
    spent = np.asarray(run.token_fraction, float) * full_passes(curves.attrs, len(curves.labels))
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
