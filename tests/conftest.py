"""Fixtures that several test files use: a tiny model, a photograph, a cache that is not the user's."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

TINY_LABELS = ["plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Calibrations are cached per user; tests keep theirs to themselves."""
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["XDG_CACHE_HOME"]
    else:
        os.environ["XDG_CACHE_HOME"] = before


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with random weights: 10 classes, 32 pixels, 64 tokens, under a millisecond a pass.

    Its class embeddings are large, so that classes differ and races are decided in a few orders.
    """
    import torch

    from anytime_cls.bounds import VariancePrior
    from anytime_cls.fsq import FSQConfig, FSQTokenizer
    from anytime_cls.randar import RandAR, RandARConfig
    from anytime_cls.zoo import save_model

    prior = VariancePrior(scale=1.0, power=0.0, df=20.0).to_dict()
    with torch.random.fork_rng():
        torch.manual_seed(1)
        shape = FSQConfig(widths=(8, 8, 8), blocks=(1, 1, 1))
        tokenizer = FSQTokenizer(shape)
        config = RandARConfig(64, 1, 2, shape.vocab_size, tokenizer.n_tokens, len(TINY_LABELS))
        model = RandAR(config)
        torch.nn.init.normal_(model.output.weight, std=0.1)
        torch.nn.init.normal_(model.cls_embedding.weight, std=1.0)
    fields = {
        "name": "tiny",
        "labels": TINY_LABELS,
        "image_size": shape.image_size,
        "tokenizer": {"kind": "fsq", **shape.to_dict()},
        "model": config.to_dict(),
        "temperature": 2.0,
        "priors": {"paired": prior, "marginal": prior},
    }
    path = tmp_path_factory.mktemp("models") / "tiny"
    save_model(path, fields, model.reference_state(), tokenizer.state_dict())
    return path


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A small JPEG: a gradient with noise, 48×40."""
    return write_photo(tmp_path / "photo.jpg")


def write_photo(path: Path, seed: int = 0) -> Path:
    noise = np.random.default_rng(seed).integers(0, 120, (40, 48, 3))
    ramp = np.linspace(0, 135, 48)[None, :, None]
    Image.fromarray((noise + ramp).astype(np.uint8)).save(path, "JPEG", quality=90)
    return path
