"""The small VQ tokenizers that were run through the reference code: weights and pictures by rule."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

GOLDEN = Path(__file__).parents[1] / "golden"


def golden_weights(name: str) -> dict[str, torch.Tensor]:
    """The weights by the rule in the JSON: one stream of normals, keys in sorted order."""
    spec = json.loads((GOLDEN / f"{name}.json").read_text())
    stream = np.random.RandomState(spec["seed"])
    weights = {}
    for key in sorted(spec["shapes"]):
        shape = spec["shapes"][key]
        r = stream.standard_normal(shape).astype(np.float32)
        if len(shape) > 1 and "embedding" not in key:
            r = r / np.float32(np.sqrt(np.prod(shape[1:])))
        elif len(shape) == 1:
            r = np.float32(0.1) * r + np.float32("norm" in key and key.endswith("weight"))
        weights[key] = torch.from_numpy(r)
    return weights


def waves(low: float, high: float, height: int, width: int) -> torch.Tensor:
    y, x = np.mgrid[:height, :width]
    picture = np.stack([np.sin(x / 7 + c) * np.cos(y / (5 + c)) for c in range(3)])[None].astype(np.float32)
    return torch.from_numpy((picture + 1) / 2 * (high - low) + low)
