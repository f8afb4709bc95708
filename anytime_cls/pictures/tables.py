"""The numbers behind each picture as rows of plain values, and as CSV beside it."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from anytime_cls.curves.analysis import Analysis
from anytime_cls.curves.stopped import Stopped
from anytime_cls.files import replace_file
from anytime_cls.replay.progress import Progress
from anytime_cls.stats.bootstrap import bootstrap
from anytime_cls.stats.intervals import wilson
from anytime_cls.stats.reliability import Reliability
from anytime_cls.stats.reliability import reliability as reliability_of

Array = np.ndarray
Rows = list[dict[str, Any]]


def stopped_rows(analysis: Analysis, sooner: Mapping[str, Stopped]) -> Rows:
    """Points of recorded races that were stopped sooner: the columns of `point_rows` that they have."""
    rows = []
    for name, found in sooner.items():
        run, n = analysis.study.runs[analysis.default[name]], len(analysis.study.ids)
        for cost, share in zip(found.cost.tolist(), found.share.tolist(), strict=True):
            low, high = wilson(share, n)
            rows.append(
                {"curve": f"{name}, stopped sooner", "rule": run.rule, "source": "live", "images": n,
                 "x": analysis.x_kind, "x_mean": cost, "y": analysis.y_kind, "y_mean": share,
                 "y_low": low, "y_high": high, "on_front": False, "default": False}
            )  # fmt: skip
    return rows


def orders_rows(analysis: Analysis) -> Rows:
    """Images by orders used, for every series at its default setting."""
    rows = []
    for name, index in analysis.default.items():
        run = analysis.study.runs[index]
        values, counts = np.unique(run.orders.astype(int), return_counts=True)
        for k, count in zip(values.tolist(), counts.tolist(), strict=True):
            rows.append(
                {"curve": name, "setting": run.setting, "orders": k, "images": count,
                 "share": count / len(run.orders)}
            )  # fmt: skip
    return rows


def classes_left_rows(races: Mapping[str, Progress]) -> Rows:
    """Classes scored on each order, over images: mean and quantiles; 1 once a race was decided.

    races: by series.
    """
    rows = []
    for name, race in races.items():
        racing = race.racing[:, race.rungs :]
        quantiles = np.quantile(racing, (0.05, 0.25, 0.5, 0.75, 0.95), axis=0)
        for k in range(racing.shape[1]):
            row = {"curve": name, "order": k + 1, "mean": float(racing[:, k].mean())}
            row |= dict(zip(("q05", "q25", "median", "q75", "q95"), quantiles[:, k].tolist(), strict=True))
            row["decided"] = float((racing[:, k] <= 1).mean())
            rows.append(row)
    return rows


def budget_rows(
    races: Mapping[str, Progress],
    truth: Mapping[str, Array],
    cost: Mapping[str, float | Array],
    resamples: int = 1000,
    seed: int = 0,
    points: int = 120,
    reference: Array | None = None,
) -> Rows:
    """The anytime curve of every series: the share of right answers had each race been stopped at a budget.

    races: by series. truth: by series, the class [I] an image's answer is compared with. cost: of a whole
    pass, in the unit of the budget, by series; a number, or one an image [I]. reference: answers [I] (of
    all orders); intervals are then those of the paired difference to them, around the curve. A series starts
    where every image has its answer.
    """
    first = {name: float((race.first() * cost[name]).max()) for name, race in races.items()}
    last = max(float((race.spent[:, -1] * cost[name]).max()) for name, race in races.items())
    every = np.geomspace(min(first.values()), max(last, *first.values()), points) * (1 + 1e-9)
    rows = []
    for name, race in races.items():
        budgets = np.union1d(first[name] * (1 + 1e-9), every[every > first[name] * (1 + 2e-9)])
        answers = np.stack([race.at(budget / np.asarray(cost[name], float)) for budget in budgets], axis=1)
        right = (answers == truth[name][:, None]).astype(float)
        if reference is None:
            low, high = bootstrap(right, resamples, seed).interval()
        else:
            level = (reference == truth[name]).astype(float)[:, None]
            low, high = np.add(bootstrap(right - level, resamples, seed).interval(), level.mean())
        for b in range(len(budgets)):
            rows.append(
                {"curve": name, "budget": float(budgets[b]), "y": float(right[:, b].mean()),
                 "low": float(low[b]), "high": float(high[b])}
            )  # fmt: skip
    return rows


def reliability_rows(got: Reliability, name: str) -> Rows:
    """The bins of a reliability diagram; the ECE in every row."""
    return [
        {"curve": name, "left": float(got.left[b]), "right": float(got.right[b]), "images": int(got.count[b]),
         "confidence": float(got.confidence[b]), "accuracy": float(got.accuracy[b]),
         "low": float(got.low[b]), "high": float(got.high[b]), "ece": got.ece,
         "ece_low": got.ece_low, "ece_high": got.ece_high, "ece_floor": got.floor}
        for b in range(len(got.count))
    ]  # fmt: skip


def focus_reliability(analysis: Analysis) -> Reliability | None:
    """Of the focus run; None where its probabilities or the labels are not known."""
    run, label = analysis.study.runs[analysis.focus], analysis.study.label
    known = (label >= 0) & np.isfinite(run.probability)
    if not known.any():
        return None
    right = (run.prediction == label)[known]
    return reliability_of(run.probability[known], right, 15, analysis.resamples, analysis.seed)


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as CSV; numbers in full, nothing for what is not known."""
    memory = io.StringIO()
    writer = csv.DictWriter(memory, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: _cell(value) for key, value in row.items()})
    return memory.getvalue()


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """The CSV file, replaced whole."""
    replace_file(path, csv_text(rows).encode("utf-8", "backslashreplace"))


def _cell(value: Any) -> Any:
    if isinstance(value, bool | np.bool_):
        return int(value)
    if isinstance(value, float | np.floating):
        return "" if math.isnan(value) else f"{float(value):.10g}"
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return "'" + value  # a spreadsheet would run it
    return value
