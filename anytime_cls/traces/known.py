"""What a trace says of its own races: the priors its model had."""

from __future__ import annotations

import json
from typing import Any

from anytime_cls.traces.read import Trace


def trace_fields(trace: Trace) -> dict[str, Any]:
    """The priors that the trace's model had when it was recorded, as `fields`; empty if it does not say."""
    text = trace.attrs.get("priors")
    if not text:
        return {}
    priors = {"priors": json.loads(text), "temperature": trace.attrs.get("temperature", 1.0)}
    if trace.pass_tokens == trace.attrs["tokens"]:
        return priors
    design = {"order_sampler": trace.attrs["order_sampler"], "prefix": trace.pass_tokens}
    return {"designs": [design | priors]}
