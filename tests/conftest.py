"""Fixtures that several test files use: a tiny model, a photograph, a cache that is not the user's."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from basics import TINY_LABELS, write_photo


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

    from anytime_cls.models.load import save_model
    from anytime_cls.race.bounds import VariancePrior
    from anytime_cls.scorers.randar import RandAR
    from anytime_cls.scorers.shapes import RandARConfig
    from anytime_cls.tokenizers.fsq import FSQConfig, FSQTokenizer

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
