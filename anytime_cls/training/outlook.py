"""What a folder of photographs allows, from its listing alone: no picture is read, so that a training that
cannot end well is refused in its first second. No torch, since that takes longer to import."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anytime_cls.datasets.base import Dataset, Sample
from anytime_cls.datasets.choose import choose
from anytime_cls.datasets.layouts import Listing, listed
from anytime_cls.datasets.names import identity_of, train_and_test

HELD = 200  # images to hold out, if that is no more than MOST of all
LEAST, MOST = 0.04, 0.2  # shares of the images that are held out
FEW = 10  # held-out images that the least a model must know of itself takes: priors and a temperature
FROM_NOTHING = 2000  # images below which a model is begun from another


@dataclass(frozen=True)
class Outlook:
    """What there is to train on. counts: images a class, int64 [C]. tested: images of a test folder.
    example: the path of one, of the test folder where there is one."""

    root: str
    labels: list[str]
    counts: np.ndarray
    tested: int
    example: str

    @property
    def images(self) -> int:
        return int(self.counts.sum())

    @property
    def share(self) -> float:
        """Of the images, to be held out for calibration: `Recipe.holdout`."""
        return float(min(MOST, max(LEAST, HELD / self.images)))

    @property
    def held(self) -> int:
        """Images that `recipe.split_holdout` holds out of all classes."""
        return int(held_of(self.counts, self.share).sum())

    @property
    def chance(self) -> float:
        """How often whoever always says the commonest class is right."""
        return float(self.counts.max() / self.images)

    def certified_from(self, designs: int) -> int:
        """Images a class, of as many in each, with which the race that is recommended is certified."""
        from anytime_cls.certify.recommend import images_to_certify  # which needs SciPy

        return int(np.ceil(images_to_certify(designs) / MOST / len(self.counts)))

    def check(self, calibrates: bool) -> None:
        """Raises ValueError, with the number needed, where the images are too few."""
        if self.counts.min() < 2:
            name = self.labels[int(self.counts.argmin())]
            raise ValueError(
                f"{self.root}: class {name!r} has one image, and needs two: one to train on and one to hold "
                "out"
            )
        n = len(self.counts)
        if calibrates and self.held < FEW:
            least = next(m for m in range(2, 1000) if held_of(np.full(n, m), MOST).sum() >= FEW)
            raise ValueError(
                f"{self.root}: too few pictures to calibrate: {self.held} of {self.images} can be held out, "
                f"{FEW} are needed: give {least} a class, or --calibration-images 0"
            )


def outlook(data: Path, limit: int | None = None, seed: int = 0) -> Outlook:
    """Raises ValueError for a folder of no, or fewer than two, classes."""
    training, testing = train_and_test(data)
    dataset = dataset_of(training, limit, seed)
    counts = np.bincount([sample.label for sample in dataset.samples], minlength=len(dataset.labels))
    there = counts > 0  # a limit may leave a class out
    entries = [] if testing is None else testing.entries
    labels = [name for name, some in zip(dataset.labels, there, strict=True) if some]
    example = (sorted(entries, key=lambda entry: entry.id) or dataset.samples)[0].path
    return Outlook(dataset.root, labels, counts[there], len(entries), example)


def dataset_of(
    listing: Listing, limit: int | None = None, seed: int = 0, classes: list[str] | None = None
) -> Dataset:
    """What was listed, or `limit` images of it, as `sweep` takes them; none is read.

    classes: those that there are; default the listing's. Raises ValueError when they are fewer than two or
    lack one of the listing's.
    """
    there = sorted({entry.key or "" for entry in listing.entries})
    classes = there if classes is None else classes
    if len(classes) < 2:
        raise ValueError(
            f"{listing.root}: expected a folder for each of two or more classes, found {len(classes)}"
        )
    if unknown := set(there) - set(classes):
        raise ValueError(f"{listing.root}: the images to train on have no {listed(sorted(unknown))}")
    at = {name: i for i, name in enumerate(classes)}
    entries = sorted(listing.entries, key=lambda entry: entry.id)
    samples = [Sample(entry.id, entry.path, at[entry.key or ""], entry.load) for entry in entries]
    name = identity_of(Path(listing.root))
    return choose(name, listing.root, classes, np.arange(len(classes)), samples, limit, seed)


def held_of(counts: np.ndarray, share: float) -> np.ndarray:
    """Images that are held out of each class, at least one: int64 [C] → int64 [C]."""
    return np.array([max(1, round(share * count)) for count in counts.tolist()])
