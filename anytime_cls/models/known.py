"""What a calibration file, a model or the embedded model of a trace knows of its races."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from anytime_cls.traces.known import trace_fields
from anytime_cls.traces.read import Trace
from anytime_cls.traces.schema import ReplayError


def model_fields(
    trace: Trace, model: str | None = None, calibration: str | Path | None = None
) -> dict[str, Any]:
    """The `priors` and `calibrated` to replay a trace with.

    From a file of `anytime-cls calibrate`, or from a model (name or folder), or else the trace's own priors
    and the calibrations of the embedded model it was recorded with, if it was. A model's are for one view of
    every image: a trace whose orders had views of their own gets none of them. Raises ReplayError (or
    ModelError) where there is no such file or model, or it is not the trace's.
    """
    from anytime_cls.models.card import WEIGHTS
    from anytime_cls.models.zoo import embedded_names, read_card

    sha = trace.attrs.get("model_sha256")
    if calibration is not None:
        try:
            fields = json.loads(Path(calibration).read_text(encoding="utf-8"))
            _ = fields["priors"], fields["calibrated"]
        except OSError as error:
            raise ReplayError(f"cannot read {calibration}: {error.strerror or error}") from None
        except (ValueError, KeyError, TypeError):
            raise ReplayError(f"{calibration} is not a file of 'anytime-cls calibrate'") from None
        if sha and fields.get("model_sha256", sha) != sha:
            raise ReplayError(f"{calibration} is of another model than {trace.path} was recorded with")
        return fields
    if model is not None:
        card = read_card(model)
        if sha and card.sha256.get(WEIGHTS[0]) != sha:
            raise ReplayError(
                f"{trace.path} was recorded with other weights than {model}'s (model "
                f"{trace.attrs.get('model', '?')!r}, SHA-256 {sha[:12]}...)"
            )
        return trace_fields(trace) if trace.varies else dict(card.fields)
    own = trace_fields(trace)
    for name in () if trace.varies else embedded_names():
        card = read_card(name)
        if card.sha256.get(WEIGHTS[0]) == sha:
            return {**card.fields, **own}
    return own
