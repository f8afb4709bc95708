"""The comparison as a table: a row a method, a row a method and set of images, and what is said of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from anytime_cls.curves.compare import (
    Choice,
    Contestant,
    Outcome,
    Ratio,
    choose,
    full_run,
    measured,
    outcome,
    ratio,
    screens_of,
    setting,
)
from anytime_cls.curves.study import Study, StudyError
from anytime_cls.stats.intervals import wilson

Row = dict[str, Any]
_FULL = ("accuracy", "accuracy_low", "accuracy_high", "flops", "seconds")


@dataclass(frozen=True, eq=False)
class Compared:
    """Methods on sets of images, the first of which the rules were chosen on.

    studies: by set. reference: the racing method that others are held against, the first autoregressive one;
    None without any. choices, outcomes: by row name, on the first set. rows, set_rows: flat, NaN or "" for
    what is not known.
    """

    studies: Mapping[str, Study]
    methods: Sequence[Contestant]
    reference: Contestant | None
    choices: Mapping[str, Choice]
    outcomes: Mapping[str, Outcome]
    #: by method, of its runs; "METHOD fixed": of its fixed ones alone; "METHOD whole": of those of its first
    #: design, the paper's
    ratios: Mapping[str, Ratio]
    rows: list[Row]
    set_rows: list[Row]
    resamples: int
    seed: int

    @property
    def first(self) -> Study:
        return next(iter(self.studies.values()))


def compared(
    studies: Mapping[str, Study],
    methods: Sequence[Contestant],
    own: Mapping[str, bool],
    resamples: int = 1000,
    seed: int = 0,
) -> Compared:
    """Chooses, measures and compares. studies: by set, the files in the same order in each. own: which sets
    are of the same images as the first (`compare.outcome`). Raises StudyError."""
    first = next(iter(studies.values()))
    reference = next((m for m in methods if m.kind == "autoregressive"), None)
    entries = _entries(first, methods)
    choices = {name: choice for name, _, choice, _ in entries}
    outcomes = {name: outcome(first, method, choice) for name, method, choice, _ in entries}
    ratios = _ratios(first, methods, reference, outcomes, resamples, seed)
    rows, set_rows = [], []
    for name, method, choice, kind in entries:
        head = {"method": name, "kind": kind, "rule": setting(first, method.find(first, choice.best))}
        got = head | measured(outcomes[name], resamples, seed)
        rows.append(got | _full(first, method, kind) | _against(first, ratios.get(name), reference))
        for images, study in studies.items():
            there = _there(study, method, choice)
            found = outcome(study, method, there, own[images])
            rule = setting(study, method.find(study, there.best))
            set_rows.append({"images of": images} | head | {"rule": rule} | measured(found, resamples, seed)
                            | _full(study, method, kind))  # fmt: skip
    order = list(studies)
    set_rows.sort(key=lambda row: order.index(str(row["images of"])))
    return Compared(
        studies, methods, reference, choices, outcomes, ratios, rows, set_rows, resamples, seed
    )  # fmt: skip


def _there(study: Study, method: Contestant, choice: Choice) -> Choice:
    """The choice on other images; all draws where it cannot be raced there, as a calibration for another
    number of classes."""
    try:
        for key in (choice.best, *choice.halves):
            method.find(study, key)
    except StudyError:
        return Choice.only(method.key(study.runs[full_run(study, method)]))
    return choice


def _entries(study: Study, methods: Sequence[Contestant]) -> list[tuple[str, Contestant, Choice, str]]:
    """(row, method, choice, kind): methods, each with its screens behind it."""
    found = []
    for method in methods:
        found.append((method.name, method, choose(study, method), method.kind))
        for screen, choice in screens_of(study, method).items():
            found.append((f"{method.name} {screen}", method, choice, "screen"))
    return found


def _ratios(
    study: Study, methods: Sequence[Contestant], reference: Contestant | None,
    outcomes: Mapping[str, Outcome], resamples: int, seed: int,
) -> dict[str, Ratio]:  # fmt: skip
    if reference is None:
        return {}
    point, found = outcomes[reference.name], {}
    for method in methods:
        members = method.runs(study)
        fixed = [i for i in members if study.runs[i].rule == "fixed"]
        if method is not reference:
            found[method.name] = ratio(study, point, members, resamples, seed)
        found[f"{method.name} fixed"] = ratio(study, point, fixed, resamples, seed)
        paper = [i for i in fixed if study.runs[i].settings["file"] == method.files[0]]
        found[f"{method.name} whole"] = ratio(study, point, paper, resamples, seed)
    return found


def _full(study: Study, method: Contestant, kind: str) -> Row:
    """Of all the method's draws: what its best rule is to reach."""
    if kind == "screen":
        return {f"full_{name}": math.nan for name in _FULL}
    run = study.runs[full_run(study, method)]
    accuracy = float((run.prediction == study.label).mean())
    assert run.flops is not None
    values = (accuracy, *wilson(accuracy, len(study.ids)), run.flops.mean(), run.seconds.mean())
    return {f"full_{name}": float(value) for name, value in zip(_FULL, values, strict=True)}


def _against(study: Study, got: Ratio | None, reference: Contestant | None) -> Row:
    """What the method takes at the reference's accuracy, in times the reference's FLOPs."""
    names = ("times", "times_low", "times_high", "lead", "lead_low", "lead_high")
    if got is None or reference is None:
        return dict.fromkeys(names, math.nan) | {"times_run": "", "times_reached": ""}
    cost = got.cost
    values = (cost.ratio, cost.low, cost.high, got.lead, got.lead_low, got.lead_high)
    return dict(zip(names, values, strict=True)) | {
        "times_run": setting(study, cost.index), "times_reached": cost.reached
    }  # fmt: skip
