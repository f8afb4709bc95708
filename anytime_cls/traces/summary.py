"""What a run came to, in one mapping: for the end of a sweep and for `trace info`. Needs no torch."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from anytime_cls.stats.intervals import wilson
from anytime_cls.traces.cost import draw_cost, full_passes
from anytime_cls.traces.read import Trace


def outcome(trace: Trace) -> dict[str, Any]:
    """`summary` of a trace, and what follows from it and the provenance.

    accuracy_low, accuracy_high: Wilson's 95 % interval, None without a labelled image. passes, passes_mean:
    compute in whole passes, of all images and of one. full_passes: the same of an image without a race, all
    classes on K_max orders of the trace's own length. These three are None where K_max is not written down.
    saving: how many times less compute an image took than all classes on K_max whole orders, a prefix
    counting its share; None where nothing was spent.
    """
    found = summary(trace)
    labelled, k_max, spent = found["labelled"], trace.attrs.get("k_max"), found["token_fraction_mean"]
    low, high = wilson(found["accuracy"], labelled) if labelled else (None, None)
    mean = full = None
    if isinstance(k_max, int):
        shared, each = draw_cost(trace.attrs)
        mean = spent * full_passes(trace.attrs, len(trace.labels))
        full = k_max * (shared + each * len(trace.labels))
    answered = found["images"] - found["errors"]
    return {
        **found,
        "accuracy_low": low,
        "accuracy_high": high,
        "passes": mean * answered if mean is not None and answered else mean,
        "passes_mean": mean,
        "full_passes": full,
        "saving": 1 / spent if spent > 0 else None,
    }


def summary(trace: Trace) -> dict[str, Any]:
    """What a run came to: counts, accuracy over labelled images, means over images without an error.

    Rates and means are NaN where there is nothing to take them over. calls: of the network, each of whatever
    length, added up; calls_mean: of an image. seconds: their sum. bytes: on disk.
    """
    column = trace.images
    good = column["error"] == ""
    labelled = good & (column["label"] >= 0)
    orders = column["orders"][good]
    stops, counts = np.unique(column["stop"][good].astype(str), return_counts=True)

    def mean(values: np.ndarray) -> float:
        return float(values.mean()) if len(values) else math.nan

    return {
        "complete": trace.complete,
        "images": len(trace),
        "errors": int((~good).sum()),
        "classes": len(trace.labels),
        "labelled": int(labelled.sum()),
        "accuracy": mean((column["prediction"] == column["label"])[labelled]),
        "orders_mean": mean(orders),
        "orders_median": float(np.median(orders)) if len(orders) else math.nan,
        "orders_p95": float(np.quantile(orders, 0.95)) if len(orders) else math.nan,
        "calls": int(column["passes"].sum()),
        "calls_mean": mean(column["passes"][good]),
        "token_fraction_mean": mean(column["token_fraction"][good]),
        "seconds": float(column["seconds"].sum()),
        "stop": dict(zip(stops.tolist(), counts.tolist(), strict=True)),
        "scores": int((trace._stop - trace._start).sum()),
        "bytes": sum(file.stat().st_size for file in trace.files if file.exists()),
    }
