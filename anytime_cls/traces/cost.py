"""What a pass costs, as a trace's attributes say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def pass_cost(attrs: Mapping[str, Any], prefix: int | None = None) -> float:
    """A pass over `prefix` tokens in whole passes: by FLOPs where a trace's attributes say, else by tokens.

    prefix : default is what the trace's own passes score, its `pass_tokens`, or all `tokens`
    """
    tokens = int(attrs["tokens"])
    own = int(attrs.get("pass_tokens", tokens))
    prefix = int(prefix or own)
    if prefix == tokens:
        return 1.0
    known = dict(zip(attrs.get("prefixes", ()), attrs.get("prefix_flops", ()), strict=False))
    known[own] = attrs.get("pass_flops", known.get(own, 0.0))
    flops = float(known.get(prefix, 0.0)) / float(attrs.get("flops") or 1)
    return flops if flops > 0 else prefix / tokens


def draw_cost(attrs: Mapping[str, Any], prefix: int | None = None) -> tuple[float, float]:
    """(a, b) of the a + b · classes that a draw's first `prefix` steps take, in whole passes (default: the
    trace's own)."""
    steps = int(prefix or attrs.get("pass_tokens", attrs["tokens"]))
    shared = dict(zip(attrs.get("flops_steps", ()), attrs.get("flops_shared", ()), strict=False)).get(
        steps, 0.0
    )
    if not shared:
        return 0.0, pass_cost(attrs, prefix)
    each = dict(zip(attrs["flops_steps"], attrs["flops_class"], strict=False))[steps]
    return float(shared) / float(attrs["flops"]), float(each) / float(attrs["flops"])


def full_passes(attrs: Mapping[str, Any], classes: int) -> float:
    """An image's whole computation, all classes on K_max whole draws, in whole passes: classes · K_max, or
    what the file says where classes share compute. `token_fraction` is a share of it."""
    return float(attrs.get("full_passes", classes * int(attrs["k_max"])))


def shared_passes(attrs: Mapping[str, Any], classes: int) -> float | None:
    """`full_passes` of a file that does not say it though its classes share compute, as one pass of a joint
    model does for all of them; None for others. Such a file's `token_fraction` is of classes · K_max."""
    if "full_passes" in attrs or "flops" not in attrs or not isinstance(attrs.get("k_max"), int):
        return None
    shared, each = draw_cost(attrs, int(attrs["tokens"]))
    full = float(attrs["k_max"] * (shared + each * classes))
    return full if shared > 0 and full > 0 else None


def screens_of(attrs: Mapping[str, Any]) -> list[str]:
    """The screens whose estimates a trace holds, in the order of their numbers."""
    return [str(name) for name in attrs.get("screens", ())]


def stage_cost(attrs: Mapping[str, Any], sources: Sequence[int | str], rows: np.ndarray) -> np.ndarray:
    """What stages took, in whole passes: [I, stages].

    sources : tokens of a rung, or a screen's name. rows : classes estimated at each, int [I, stages]; a rung
    costs by class, a screen once
    """
    flops = dict(zip(screens_of(attrs), attrs.get("screen_flops", ()), strict=False))
    whole = float(attrs.get("flops") or 1)
    cost = [
        draw_cost(attrs, m) if isinstance(m, int) else (float(flops.get(m, 0.0)) / whole, 0.0)
        for m in sources
    ]
    shared, each = np.array(cost).reshape(-1, 2).T
    found: np.ndarray = rows * each + (rows > 0) * shared
    return found
