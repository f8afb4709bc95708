"""What a calibration file, a model or the embedded model of a trace knows of its races."""

from __future__ import annotations

from pathlib import Path

from msgspec.json import decode

from anytime_cls.models.card import WEIGHTS
from anytime_cls.models.zoo import embedded_names, read_card
from anytime_cls.race.fitted import Fitted, Recommended
from anytime_cls.traces.known import trace_fitted
from anytime_cls.traces.read import Trace
from anytime_cls.traces.schema import ReplayError


def known_of(trace: Trace, model: str | None = None, calibration: str | Path | None = None) -> Fitted:
    """What to replay a trace with.

    From a file of `anytime-cls calibrate`, or from a model (name or folder), or else the trace's own priors
    and what the embedded model it was recorded with knows, if it was. A model's are without latent noise: a
    trace with it gets none of them. Raises ReplayError (or ModelError) where there is no such file or model,
    or it is not the trace's.
    """
    sha = trace.attrs.get("model_sha256")
    if calibration is not None:
        return _of_file(trace, Path(calibration), sha)
    own = trace_fitted(trace)
    if model is not None:
        card = read_card(model)
        if sha and card.sha256[WEIGHTS[0]] != sha:
            raise ReplayError(
                f"{trace.path} was recorded with other weights than {model}'s (model "
                f"{trace.attrs.get('model', '?')!r}, SHA-256 {sha[:12]}...)"
            )
        return own if trace.noisy else card.fitted
    for name in () if trace.noisy else embedded_names():
        card = read_card(name)
        if card.sha256[WEIGHTS[0]] == sha:
            return card.fitted.merge(own)
    return own


def recommended(model_sha256: str) -> Recommended | None:
    """The default race of the embedded model with these weights; None for another model's."""
    for name in embedded_names():
        card = read_card(name)
        if card.sha256[WEIGHTS[0]] == model_sha256:
            return card.fitted.race
    return None


def _of_file(trace: Trace, path: Path, sha: str | None) -> Fitted:
    try:
        fields = decode(path.read_bytes())
        _ = fields["priors"], fields["calibrated"]
        fitted = Fitted.read(fields, int(trace.attrs["tokens"]))
    except OSError as error:
        raise ReplayError(f"cannot read {path}: {error.strerror or error}") from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        why = f" ({error})" if str(error).startswith("what was fitted") else ""
        raise ReplayError(f"{path} is not a file of 'anytime-cls calibrate'{why}") from None
    if sha and fields.get("model_sha256", sha) != sha:
        raise ReplayError(f"{path} is of another model than {trace.path} was recorded with")
    return fitted
