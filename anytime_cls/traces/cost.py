"""What a pass costs, as a trace's attributes say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


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
