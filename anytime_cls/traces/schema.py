"""What lies in a trace: columns, rows, what must match; docs/trace.md describes the file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


class ReplayError(ValueError):
    """A trace that cannot be replayed; the message is one line for people."""


SCHEMA_VERSION = 2
READ_VERSIONS = (1, 2)  # 1 had no plans, contents or FLOPs; it is read, replayed and calibrated
#: What must be the same for shards to be merged; for a run to go on from a trace, `shard` too.
MATCH_KEYS = ("schema", "model_sha256", "tokenizer_sha256", "dataset", "labels", "tokens", "seed",
              "dataset_fingerprint", "pass_tokens", "prefixes", "order_sampler", "crops", "latent_noise",
              "aggregate", "rule", "delta", "k_max", "budget", "dtype", "temperature", "priors",
              "calibrated", "plan")  # fmt: skip
RESUME_KEYS = (*MATCH_KEYS, "shard")
_MEANING = {"dataset_fingerprint": "the images chosen, or their labels, differ",
            "priors": "the model was calibrated anew"}  # fmt: skip
_ROW = np.dtype([("order", "<u2"), ("cls", "<u2"), ("prefix", "<u2"), ("round", "<u2"), ("value", "<f4")])
_COLUMNS = tuple(_ROW.names or ())
_WITH_COVARIATE = np.dtype([*_ROW.descr, ("covariate", "<f4")])
_IMAGE = {"index": "<i8", "id": "str", "path": "str", "label": "<i8", "prediction": "<i8", "orders": "<i8",
          "passes": "<i8", "token_fraction": "<f8", "seconds": "<f8", "stop": "str", "probability": "<f8",
          "error": "str", "content": "str", "flops": "<f8", "size": "<i8", "modified": "<i8",
          "evidence": "<f8"}  # fmt: skip
# columns that schema 1 has not, or the first traces of schema 2, and what stands for them
_LATER = {"content": "", "flops": 0.0, "size": 0, "modified": 0, "evidence": 0.0}


def row_type(attrs: Mapping[str, Any]) -> np.dtype:
    """The columns of a trace's scores: those of every trace, and `covariate` where its draws have one."""
    return _WITH_COVARIATE if attrs.get("covariate") else _ROW


class TraceError(ValueError):
    """A trace that cannot be read, written or resumed; the message is one line for people."""


@dataclass(frozen=True)
class ImageRow:
    """One image of a run. `id` is its key, unique within the run; `label` is -1 where unknown.

    orders: K, the orders used. passes: forward evaluations, of any prefix. token_fraction: compute as a share
    of the full cost (all classes x K_max whole passes). seconds: wall-clock. stop: why the race stopped.
    error: why the image has no answer, else empty (kept to 300 characters). content: SHA-256 of the crop that
    the scorer saw, hexadecimal: it decides the draws. flops: multiply-adds x 2 that the race took, 0 where
    nobody counted. size, modified: bytes of the file that it was read from, and when that last changed, in
    nanoseconds since 1970; 0 where it lay in no file. evidence: nats of the answer's mean log-likelihood
    above that of all classes raced (`race.races.evidence`), 0 where nobody worked it out.
    """

    id: str
    path: str
    label: int
    prediction: int
    orders: int
    passes: int
    token_fraction: float
    seconds: float
    stop: str
    probability: float
    error: str = ""
    content: str = ""
    flops: float = 0.0
    size: int = 0
    modified: int = 0
    evidence: float = 0.0


@dataclass(frozen=True, eq=False)
class Scores:
    """The log-likelihoods of one image, parallel 1-d arrays in the order they were scored.

    order: index of the order, from 0. cls: index into the trace's labels. prefix: tokens scored (all of them
    for a whole order; 0: a screen's estimate, `order` its place in attribute `screens`). round: batch round
    of the race. value: nats, float64, exactly representable in float32 (so stored without loss) and not NaN.
    Integers are 0 to 65535. covariate: of the draw (a diffusion draw's t, how many tokens a masked one
    revealed), kept as float32; None where draws have none. Raises TraceError for anything else.
    """

    order: np.ndarray
    cls: np.ndarray
    prefix: np.ndarray
    round: np.ndarray
    value: np.ndarray
    covariate: np.ndarray | None = None

    def __post_init__(self) -> None:
        n = np.size(self.value)
        for name in _COLUMNS:
            given = np.asarray(getattr(self, name))
            if given.shape != (n,):
                raise TraceError(f"scores: {name} has shape {given.shape}, not the ({n},) of {n} values")
            if given.dtype.kind not in "biuf":
                raise TraceError(f"scores: {name} must be numbers, not {given.dtype}")
            with np.errstate(all="ignore"):
                column = given.astype(np.float64 if name == "value" else np.int64)
                stored = column.astype(_ROW[name])
            if not (np.array_equal(stored, column) and np.array_equal(column, given)):
                kind = "float32 values without NaN" if name == "value" else "whole numbers from 0 to 65535"
                raise TraceError(f"scores: {name} must be {kind}")
            object.__setattr__(self, name, column)
        if self.covariate is not None:
            given = np.asarray(self.covariate)
            if given.shape != (n,) or given.dtype.kind not in "iuf":
                raise TraceError(f"scores: covariate must be {n} numbers")
            object.__setattr__(self, "covariate", given.astype(np.float32).astype(np.float64))

    def __len__(self) -> int:
        return len(self.value)

    @classmethod
    def empty(cls) -> Scores:
        """No scores: what an image that failed has."""
        return cls(*[np.empty(0)] * 5)


def _must_match(
    what: str, was: Mapping[str, Any], now: Mapping[str, Any], keys: Sequence[str] = RESUME_KEYS
) -> None:
    if was.get("schema") != SCHEMA_VERSION:
        raise TraceError(
            f"cannot {what}: it is of schema {was.get('schema')}, which can be read, replayed and "
            f"calibrated, but not added to or merged; schema {SCHEMA_VERSION} can"
        )
    for key in keys:
        a, b = was.get(key), now.get(key)
        if a == b:
            continue
        name = key
        if key == "plan":
            name, a, b = _plan_difference(a, b)
        if isinstance(a, list) and isinstance(b, list):  # thousands of labels: the first that differ
            at = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
            a, b = (f"{len(v)} with {v[at] if at < len(v) else 'nothing'!r} at {at}" for v in (a, b))
        why = f" ({_MEANING[key]})" if key in _MEANING else ""
        raise TraceError(f"cannot {what}: {name} is {_show(a)} there and {_show(b)} here{why}")


def _plan_difference(a: Any, b: Any) -> tuple[str, Any, Any]:
    """Where two plans, as canonical JSON, first differ ("plan.rule.delta"), and what stands there, here."""
    try:
        was, now = json.loads(a), json.loads(b)
    except (TypeError, ValueError, RecursionError):
        return "plan", a, b
    path = "plan"
    while isinstance(was, dict) and isinstance(now, dict):
        key = next(key for key in sorted({*was, *now}) if was.get(key) != now.get(key))
        path, was, now = f"{path}.{key}", was.get(key), now.get(key)
    return path, was, now


def _show(value: Any) -> str:
    text = "absent" if value is None else str(value)
    return text if len(text) <= 80 else text[:77] + "..."
