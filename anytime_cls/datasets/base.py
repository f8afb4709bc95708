"""A data set as the program has it: samples with ids, labels and a way to load each."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from anytime_cls.pixels.decode import Source


class DatasetError(ValueError):
    """A data set that cannot be found, read or matched to the model; one line: what, where, what to do."""


@dataclass(frozen=True)
class Sample:
    """One image of a data set.

    id: unique in the data set, the path inside its root with / between parts; path: for people; label: index
    into `Dataset.labels`, -1 if unknown; load: gives what `pixels.decode` reads. Nothing is read before, and
    a sample can be pickled.
    """

    id: str
    path: str
    label: int
    load: Callable[[], Source]

    def stamp(self) -> tuple[int, int]:
        """Bytes of the file that the image lies in, and when it last changed, in nanoseconds; (0, 0) if it
        lies in no file (`load.path`), or the file cannot be looked at."""
        try:
            found = os.stat(self.load.path)  # type: ignore[attr-defined]
        except (AttributeError, OSError, ValueError):
            return 0, 0
        return found.st_size, found.st_mtime_ns


@dataclass(frozen=True)
class Dataset:
    """What a run goes over.

    name: the same wherever the data lie; root: where the images were found; labels: names of the C classes
    that race, in the model's order; class_ids: the model's ids of them, int64 [C]; samples: sorted by id;
    fingerprint: SHA-256 over ids and labels of the samples, in hexadecimal; left_out: how many files in its
    folders were not taken, by why (`pixels.listing.left_out`).
    """

    name: str
    root: str
    labels: list[str]
    class_ids: np.ndarray
    samples: Sequence[Sample]
    fingerprint: str
    left_out: Mapping[str, int] = field(default_factory=dict)
