"""What a trace of any rule says of itself, as curves of one measured run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from anytime_cls.curves.file import CurveRun, Curves
from anytime_cls.plan.written import pull_of
from anytime_cls.race.decision import STOP_NAMES, UNRANKED
from anytime_cls.race.races import Races, aggregate_scores
from anytime_cls.race.registry import DELTA_RULES
from anytime_cls.replay.source import ranks
from anytime_cls.traces.read import Trace

Array = np.ndarray


def live_run(trace: Trace) -> CurveRun:
    """The trace's own decisions as a run, whatever rule it was recorded with; seconds as measured."""
    attrs, images = trace.attrs, trace.images
    rule = str(attrs.get("rule", "unknown"))
    k_max = int(attrs.get("k_max", max(images["orders"].max(initial=1), 1)))
    settings: dict[str, Any] = {"rule": rule, "source": "live", "k_max": k_max, "prefix": trace.pass_tokens,
                                "curve": rule, "knob": "k_max", "knob_value": float(k_max),
                                "seconds_kind": "measured"}  # fmt: skip
    if rule in DELTA_RULES and "delta" in attrs:
        settings |= {"delta": attrs["delta"], "knob": "delta", "knob_value": float(attrs["delta"])}
    if "budget" in attrs:
        settings["budget"] = attrs["budget"]
    stop = [STOP_NAMES.index(name) if name in STOP_NAMES else STOP_NAMES.index("error")
            for name in images["stop"]]  # fmt: skip
    rank = np.full(len(trace), UNRANKED, np.uint16)
    block = pull_of(attrs)
    for i, (row, scores) in enumerate(trace):
        if row.label < 0 or row.error or not len(scores):
            continue
        means = _live_means(scores, row, attrs, block, len(trace.labels))
        rank[i] = ranks(means[None], np.array([row.prediction]), np.array([row.label]))[0]
    return CurveRun(
        settings, images["prediction"], images["orders"], images["passes"], images["token_fraction"],
        np.array(stop, np.uint8), images["probability"], rank, images["seconds"],
    )  # fmt: skip


def _live_means(scores: Any, row: Any, attrs: Mapping[str, Any], block: int, n_classes: int) -> Array:
    """Scores [C] by which a recorded race ranked its classes: `Races.means`, or another aggregate."""
    whole = scores.prefix == attrs.get("pass_tokens", attrs["tokens"])
    if row.orders == 0:  # decided at a rung, or the budget allowed no whole pass
        first = (scores.order == 0) & (scores.prefix == scores.prefix.max())
        means = np.full(n_classes, -np.inf)
        means[scores.cls[first]] = scores.value[first]
        return means
    matrix = np.full((row.orders, n_classes), np.nan)
    inside = whole & (scores.order < row.orders)
    matrix[scores.order[inside], scores.cls[inside]] = scores.value[inside]
    how = attrs.get("aggregate", "mean")
    if how != "mean":
        return aggregate_scores(matrix, how)
    found: Array = Races.recorded(matrix[None], block).means()[0]
    return found


def live_curves(trace: Trace) -> Curves:
    """A trace as curves of one measured run. `full` is known where everything was scored (rule `fixed`)."""
    run_ = live_run(trace)
    complete = trace.attrs.get("rule") == "fixed" and "budget" not in trace.attrs
    complete &= trace.attrs.get("aggregate", "mean") == "mean"
    full = run_.prediction if complete else np.full(len(trace), -1)
    attrs = trace.attrs | {"k_max": run_.settings["k_max"]}
    return Curves(attrs, trace.labels, trace.images["id"], trace.images["label"], full, [run_])
