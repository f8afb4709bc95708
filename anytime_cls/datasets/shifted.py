"""A data set whose pictures are shifted as they are loaded: by the picture, the shift and a seed alone."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from anytime_cls.datasets.base import DatasetError, Sample
from anytime_cls.pixels.crops import center_crop, content_key
from anytime_cls.pixels.decode import ImageError, Source, decode
from anytime_cls.shifts.registry import Shift

if TYPE_CHECKING:
    from anytime_cls.shifts.chance import Array, Chance


@dataclass(frozen=True, eq=False)
class Shifted:
    """Loads a sample's centre crop, shifted: uint8 [S, S, 3].

    others: of all the data set's classes, the loaders of their images, for a shift that needs one.
    """

    load: Callable[[], Source]
    shift: Shift
    size: int
    seed: int
    label: int
    classes: int
    others: Sequence[Sequence[Callable[[], Source]]] = ()

    @property
    def path(self) -> str:
        """Of the file that the picture lies in, if it lies in one (`Sample.stamp`)."""
        found: str = self.load.path  # type: ignore[attr-defined]
        return found

    def __call__(self) -> Source:
        from anytime_cls.shifts.chance import Chance

        crop = self._crop(self.load)
        key = hashlib.sha256(f"shift:{self.shift.name}:{self.seed}:".encode() + content_key(crop)).digest()
        chance = Chance(key)
        other = self._other(chance) if self.shift.needs_other else None
        return self.shift.apply(crop, chance, self.label, self.classes, other)

    def _crop(self, load: Callable[[], Source]) -> Array:
        return np.asarray(center_crop(decode(load()), self.size))

    def _other(self, chance: Chance) -> Array:
        """A picture of another class, each of these as likely."""
        rest = [loads for label, loads in enumerate(self.others) if label != self.label and loads]
        counts = np.cumsum([len(loads) for loads in rest])
        at = int(chance.integers(0, int(counts[-1])))
        which = int(np.searchsorted(counts, at, side="right"))
        load = rest[which][at - int(counts[which])]  # counted from the class's end
        try:
            return self._crop(load)
        except ImageError as error:
            raise ImageError(f"its {self.shift.kind} is of a picture that cannot be read: {error}") from None


def shifted(samples: Sequence[Sample], shift: Shift, size: int, seed: int, classes: int) -> list[Sample]:
    """Samples under a shift. size: of the model's crop, on which it is made. Of all the data set's images, so
    that what an image becomes does not depend on a limit. Raises DatasetError."""
    if shift.side not in (None, size):
        raise DatasetError(
            f"shift {shift.name!r} has CIFAR-10-C's parameters, for pictures of {shift.side}×{shift.side}: "
            f"this model's are {size}×{size} (ImageNet-C is imagenet-c/CORRUPTION/SEVERITY)"
        )
    if shift.needs_label and any(sample.label < 0 for sample in samples):
        raise DatasetError(f"shift {shift.name!r} needs the class of every image")
    others: list[list[Callable[[], Source]]] = [[] for _ in range(classes)] if shift.needs_other else []
    for sample in samples if shift.needs_other else ():
        others[sample.label].append(sample.load)
    if shift.needs_other and sum(map(bool, others)) < 2:
        raise DatasetError(
            f"shift {shift.name!r} takes a picture of another class, and there is one class only"
        )
    return [
        replace(sample, load=Shifted(sample.load, shift, size, seed, sample.label, classes, others))
        for sample in samples
    ]
