"""Full traces of made-up races, for the tests of replay and calibrate."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from anytime_cls.race.bounds import VariancePrior
from anytime_cls.traces.schema import ImageRow, Scores
from anytime_cls.traces.write import TraceWriter

PRIORS = {
    "paired": VariancePrior(scale=2.0, power=0.0, df=40.0),
    "marginal": VariancePrior(scale=1.0, power=0.0, df=40.0),
}
FIELDS = {"priors": {key: prior.to_dict() for key, prior in PRIORS.items()}}
SECONDS = 0.01  # of a pass


def races(seed: int, n: int, n_classes: int = 5, k_max: int = 16, spread: float = 1.5, shared: float = 3.0):
    """Scores [n, K, C], float32 values: class means, an order's shared noise, class noise of sd 1."""
    rng = np.random.default_rng(seed)
    means = rng.normal(0, spread, (n, 1, n_classes))
    noise = rng.normal(0, shared, (n, k_max, 1)) + rng.normal(size=(n, k_max, n_classes))
    return (means + noise - 300).astype("f4").astype(float)


def full_trace(
    path: Path,
    scores: np.ndarray,
    label: np.ndarray | None = None,
    failed: Collection[int] = (),
    prefixes: Mapping[int, np.ndarray] | None = None,
    screens: Mapping[str, np.ndarray] | None = None,
    **attrs: Any,
) -> Path:
    """A trace of rule fixed over scores [I, K, C]; `failed` images have an error and no scores."""
    n, k_max, n_classes = scores.shape
    recorded = {**(prefixes or {}), attrs.get("pass_tokens", 64): scores}
    run = {
        "model": "made-up", "model_sha256": "ab" * 32, "tokenizer_sha256": "cd" * 32, "dataset": "made-up",
        "temperature": 1.5, "priors": json.dumps(FIELDS["priors"]), "tokens": 64, "seed": 0,
        "order_sampler": "uniform", "rule": "fixed", "delta": 0.05, "k_max": k_max, "dtype": "float32",
        "prefixes": list(prefixes) if prefixes else None,
        **({"screens": list(screens), "screen_flops": [3e6] * len(screens), "flops": 1e6} if screens else {}),
        **attrs,
    }  # fmt: skip
    order, cls = (grid.ravel() for grid in np.meshgrid(np.arange(k_max), np.arange(n_classes), indexing="ij"))
    with TraceWriter.create(path, run, [f"class {c}" for c in range(n_classes)]) as writer:
        for i in range(n):
            if i in failed:
                row = ImageRow(f"im{i}", f"{i}.png", 0, -1, 0, 0, 0.0, 0.0, "", float("nan"), "no image")
                writer.append(row, Scores.empty(), i)
                continue
            answer = int(scores[i].mean(axis=0).argmax())
            true = -1 if label is None else int(label[i])
            passes = k_max * n_classes
            row = ImageRow(f"im{i}", f"{i}.png", true, answer, k_max, passes, 1.0, SECONDS * passes,
                           "max-orders", 0.5)  # fmt: skip
            columns = [
                np.tile(order, len(recorded)), np.tile(cls, len(recorded)),
                np.repeat(list(recorded), passes), np.zeros(passes * len(recorded), int),
                np.concatenate([values[i].ravel() for values in recorded.values()]),
            ]  # fmt: skip
            for number, values in enumerate((screens or {}).values()):
                each = (number, np.arange(n_classes), 0, 0, values[i])
                columns = [
                    np.r_[np.broadcast_to(a, n_classes), b] for a, b in zip(each, columns, strict=True)
                ]
            writer.append(row, Scores(*columns), i)
    return path
