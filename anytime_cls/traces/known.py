"""What a trace says of its own races: the priors its model had."""

from __future__ import annotations

import json

from anytime_cls.race.fitted import Fitted
from anytime_cls.traces.read import Trace
from anytime_cls.traces.schema import TraceError


def trace_fitted(trace: Trace) -> Fitted:
    """What the trace's model knew of such races when it was recorded; nothing if the trace does not say.

    Raises ValueError where what it says makes no sense."""
    tokens = int(trace.attrs["tokens"])
    text = trace.attrs.get("priors")
    if not text:
        return Fitted(tokens)
    try:
        priors = json.loads(text)
    except (ValueError, RecursionError):
        raise TraceError(f"{trace.path}: attribute 'priors' is not JSON") from None
    known = {"priors": priors, "temperature": trace.attrs.get("temperature", 1.0)}
    if trace.pass_tokens == tokens and trace.crops == "center":
        return Fitted.read(known, tokens)
    draws = trace.attrs.get("order_sampler", "uniform")
    design = {"order_sampler": draws, "prefix": trace.pass_tokens, "crops": trace.crops}
    return Fitted.read({"designs": [design | known]}, tokens)
