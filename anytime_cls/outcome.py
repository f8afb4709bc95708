"""What a run came to, in one mapping: for the end of a sweep and for `trace info`. Needs no torch."""

from __future__ import annotations

from typing import Any

from anytime_cls.pareto import wilson
from anytime_cls.trace import Trace, summary


def outcome(trace: Trace) -> dict[str, Any]:
    """`trace.summary` of a trace, and what follows from it and the provenance.

    accuracy_low, accuracy_high: Wilson's 95 % interval, None without a labelled image. full_passes: classes ×
    K_max, the passes of an image without a race (each of `pass_tokens` tokens where the trace says so), None
    where K_max is not written down. saving: how many times less compute an image took than all classes on
    K_max whole orders, a prefix counting its share; None where nothing was spent.
    """
    found = summary(trace)
    labelled, k_max, spent = found["labelled"], trace.attrs.get("k_max"), found["token_fraction_mean"]
    low, high = wilson(found["accuracy"], labelled) if labelled else (None, None)
    return {
        **found,
        "accuracy_low": low,
        "accuracy_high": high,
        "full_passes": k_max * len(trace.labels) if isinstance(k_max, int) else None,
        "saving": 1 / spent if spent > 0 else None,
    }
