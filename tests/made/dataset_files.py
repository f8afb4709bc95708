"""Small data sets on disk, and cards of models that never load, for the tests of data sets."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from anytime_cls.datasets.layouts import DatasetError
from anytime_cls.datasets.names import open_dataset
from anytime_cls.models.card import ModelCard
from anytime_cls.models.labels import imagenet_labels

IMAGENET = imagenet_labels()


def card(labels: Iterable[str], synsets: list[str] | None = None, name: str = "m") -> ModelCard:
    fields = {"labels": list(labels)} | ({} if synsets is None else {"synsets": synsets})
    return ModelCard(name, Path("nowhere"), fields)


ZOO = card(["cat", "dog", "red fox"])
BIG = card(IMAGENET.labels, name="big")


def make(root: Path, *files: str) -> Path:
    """Empty files: opening a data set reads none of them."""
    for file in files:
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def opened(*args, **kwargs):
    """{id: label name} of the data set's samples, in order."""
    data = open_dataset(*args, **kwargs)
    return {s.id: data.labels[s.label] if s.label >= 0 else None for s in data.samples}


def refused(*args, **kwargs) -> str:
    with pytest.raises(DatasetError) as error:
        open_dataset(*args, **kwargs)
    assert "\n" not in str(error.value)
    return str(error.value)
