"""CIFAR-10's own batches."""

from __future__ import annotations

import codecs
import pickle
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from anytime_cls.datasets.layouts import (
    CIFAR10,
    DatasetError,
    Entry,
    Listing,
)
from anytime_cls.pixels.decode import Source


def cifar_batches(folder: Path, place: Path) -> Listing | None:
    """CIFAR-10's test batch as its authors publish it, for Python or binary."""
    for name in ("test_batch.bin", "test_batch"):
        path = folder / name
        if path.is_file():
            labels = _cifar_batch(str(path))[1]
            entries = [
                Entry(f"test_batch/{i:05d}", CIFAR10[label], f"{path}[{i}]", CifarSource(str(path), i))
                for i, label in enumerate(labels)
            ]
            return Listing(str(folder), entries)
    return None


@dataclass(frozen=True, slots=True)
class CifarSource:
    """Loads one row of a CIFAR-10 batch as uint8 [32, 32, 3]; a process reads the file once."""

    path: str
    row: int

    def __call__(self) -> Source:
        found: Source = _cifar_batch(self.path)[0][self.row]
        return found


@cache
def _cifar_batch(path: str) -> tuple[np.ndarray, list[int]]:
    """Pixels uint8 [n, 32, 32, 3] and labels."""
    try:
        if path.endswith(".bin"):
            rows = np.fromfile(path, np.uint8).reshape(-1, 1 + 3072)
            labels, pixels = rows[:, 0].tolist(), rows[:, 1:]
        else:
            with open(path, "rb") as file:
                batch = _Arrays(file, encoding="bytes").load()
            labels, pixels = [int(label) for label in batch[b"labels"]], np.asarray(batch[b"data"], np.uint8)
        if max(labels) >= len(CIFAR10) or len(labels) != len(pixels):
            raise ValueError("labels do not fit")
        return np.ascontiguousarray(pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)), labels
    except Exception as error:  # damaged pickles raise almost anything
        raise DatasetError(
            f"{path}: not CIFAR-10's test batch ({type(error).__name__}: {error}): download it again"
        ) from None


class _Arrays(pickle.Unpickler):
    """Reads pickled arrays and nothing else: a pickle could otherwise run any code."""

    def find_class(self, module: str, name: str) -> object:
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, name)
        if (module, name) == ("_codecs", "encode"):  # how Python 3 writes bytes for Python 2
            return codecs.encode
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return np.zeros(0).__reduce__()[0]
        raise pickle.UnpicklingError(f"holds {module}.{name}, which no CIFAR batch does")
