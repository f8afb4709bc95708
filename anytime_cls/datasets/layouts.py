"""How data sets lie on disk: each reader takes a folder and lists its images with what each is filed under.

A reader answers None if the folder does not have its layout, and raises DatasetError if it has, but broken.
No reader opens an image: listing 50,000 files takes about a second.
"""

from __future__ import annotations

import csv
import os
import re
from collections import Counter
from collections.abc import (
    Callable,
    Iterable,
    Mapping,
    Sequence,
)
from dataclasses import dataclass, field, replace
from pathlib import Path

from anytime_cls.datasets.base import DatasetError as DatasetError
from anytime_cls.datasets.folders import ClassFolders
from anytime_cls.models.labels import (
    LabelError,
    imagenet_labels,
    is_synset,
    read_table,
    read_text,
)
from anytime_cls.pixels.decode import ImageError, Source
from anytime_cls.pixels.listing import left_out, odd

SPLITS = ("test", "val", "validation", "train")
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_FLAT = re.compile(r"ILSVRC2012_val_(\d{8})(?:_(n\d{8}))?\.jpe?g", re.IGNORECASE)
GROUND_TRUTH = (
    "ILSVRC2012_validation_ground_truth.txt", "LOC_val_solution.csv", "val_annotations.txt",
    "imagenet_2012_validation_synset_labels.txt", "val.txt",
)  # fmt: skip
_BESIDE = ("", "data", "ILSVRC2012_devkit_t12/data", "devkit/data", "ILSVRC2012_devkit_t12")


@dataclass(frozen=True, slots=True)
class FileSource:
    """Loads an image file: gives its path, if it still is a file that opening cannot hang on."""

    path: str

    def __call__(self) -> Source:
        if what := odd(self.path):
            raise ImageError(f"a {what}, not a file: put the image back")
        return self.path


@dataclass(frozen=True, slots=True)
class Entry:
    """One image. key: what it is filed under (a folder, a class name or number), None if unknown."""

    id: str
    key: str | None
    path: str
    load: Callable[[], Source]


@dataclass(frozen=True)
class Listing:
    """The images of a data set, and what is known of its classes.

    names: the data set's own names of its keys; imagenet_order: decimal keys are ImageNet's class indices;
    left_out: how many files were not taken, by why (`pixels.listing.left_out`).
    """

    root: str
    entries: Sequence[Entry]
    names: Mapping[str, str] = field(default_factory=dict)
    imagenet_order: bool = False
    left_out: Mapping[str, int] = field(default_factory=dict)


def class_folders(folder: Path, place: Path) -> Listing | None:
    """A folder for each class, images in it and below: torchvision's ImageFolder.

    Hidden names are skipped, and so are files that are no images by extension and folders without any.
    """
    found = ClassFolders(folder)
    entries = [
        file_entry(folder, f"{name}/{inside}", name) for name in found.names for inside in found.images(name)
    ]
    if not entries:
        return None
    return Listing(str(folder), entries, own_names(folder, place), left_out=found.left_out)


def synset_folders(folder: Path, place: Path) -> Listing | None:
    """Folders named by synset; what else holds images beside them is a class, too."""
    return class_folders(folder, place) if any(map(is_synset, ClassFolders(folder).names)) else None


def numbered_folders(folder: Path, place: Path) -> Listing | None:
    """ImageNet-V2's folders 0..999: the class index in the standard order."""
    names = ClassFolders(folder).names
    if not names or not all(name.isdecimal() for name in names):
        return None
    found = class_folders(folder, place)
    return found and replace(found, names={}, imagenet_order=True)


def tiny_validation(folder: Path, place: Path) -> Listing | None:
    """tiny-imagenet's own validation split: images/ and val_annotations.txt (file, synset, box)."""
    table = folder / "val_annotations.txt"
    if not table.is_file() or not (folder / "images").is_dir():
        return None
    synsets, found = _columns(table), ClassFolders(folder)
    images = found.images("images") if "images" in found.names else []
    _check_labelled(images, synsets, table)
    entries = [file_entry(folder, f"images/{name}", synsets[Path(name).stem]) for name in images]
    if not entries:
        return None
    return Listing(str(folder), entries, own_names(folder, place), left_out=found.left_out)


def flat_imagenet(folder: Path, place: Path) -> Listing | None:
    """ImageNet's validation images as they are unpacked: one folder, and a ground-truth file near it.

    Names that end in a synset (ILSVRC2012_val_00000001_n01751748.JPEG) need no such file.
    """
    with os.scandir(folder) as listing:
        matched = sorted((e.name, match, left_out(e)) for e in listing if (match := _FLAT.fullmatch(e.name)))
    found = {name: match for name, match, why in matched if not why}
    skipped = Counter(why for *_, why in matched if why)
    if not found:
        return None
    if all(match[2] for match in found.values()):
        entries = [file_entry(folder, name, match[2]) for name, match in found.items()]
        return Listing(str(folder), entries, left_out=skipped)
    near = [folder, *folder.parents]
    near = near[: near.index(place) + 1] if place in near else near[:1]
    near = list(dict.fromkeys([*near, folder.parent]))
    truths = [base / inside / name for name in GROUND_TRUTH for base in near for inside in _BESIDE]
    truth = next((path for path in truths if path.is_file()), None)
    if truth is None:
        raise DatasetError(
            f"{folder}: the flat ImageNet validation images need their ground truth beside them, one of "
            f"{', '.join(GROUND_TRUTH)}; looked in {', '.join(map(str, near))} and their devkit folders"
        )
    numbers = {name: int(match[1]) for name, match in found.items()}
    synsets = read_ground_truth(truth, numbers, [base / inside for base in near for inside in _BESIDE])
    entries = [file_entry(folder, name, synsets[name]) for name in found]
    return Listing(str(folder), entries, left_out=skipped)


def read_ground_truth(truth: Path, numbers: Mapping[str, int], folders: Sequence[Path]) -> dict[str, str]:
    """The synset of each image of the flat layout.

    truth: the devkit's ground truth (line i is image i's id in the devkit's own order, which meta.mat in one
    of `folders` or beside it explains), a synset a line, or lines of file and label: a synset, or Caffe's
    class index in the standard order. numbers: file name → the image's number, from 1.
    """
    columns = _columns(truth)
    if columns:
        _check_labelled(list(numbers), columns, truth)
        return {name: _standard(columns[Path(name).stem], truth) for name in numbers}
    lines = [line.strip() for line in read_text(truth).splitlines() if line.strip()]
    if max(numbers.values()) > len(lines):
        raise DatasetError(
            f"{truth}: has {len(lines)} lines, but there is an image {max(numbers.values())}: not its file"
        )
    if lines[0].isdecimal():
        synsets = _devkit_synsets([truth.parent, *folders])
        unknown = next((line for line in lines if line not in synsets), None)
        if unknown is not None:
            raise DatasetError(f"{truth}: {unknown!r} is not a class id of the devkit's meta.mat, 1..1000")
        lines = [synsets[line] for line in lines]
    return {name: _standard(lines[number - 1], truth) for name, number in numbers.items()}


def _standard(label: str, truth: Path) -> str:
    """A synset, or a class index in the standard order, as a synset."""
    table = imagenet_labels().synsets
    if is_synset(label):
        return label
    if label.isdecimal() and int(label) < len(table):
        return table[int(label)]
    raise DatasetError(f"{truth}: {label!r} is neither a synset nor a class index 0..999")


def _devkit_synsets(folders: Iterable[Path]) -> dict[str, str]:
    """The devkit's class id, 1..1000 in its own order → synset, from meta.mat."""
    from scipy.io import loadmat

    path = next((folder / "meta.mat" for folder in folders if (folder / "meta.mat").is_file()), None)
    if path is None:
        raise DatasetError(
            "ILSVRC2012_validation_ground_truth.txt counts classes in the devkit's own order: put the "
            "devkit's data/meta.mat beside it"
        )
    try:
        table = loadmat(path, squeeze_me=True)["synsets"]
        pairs = zip(table["ILSVRC2012_ID"].tolist(), table["WNID"].tolist(), strict=True)
        return {str(int(number)): str(synset) for number, synset in pairs if int(number) <= 1000}
    except Exception as error:  # a damaged file can make scipy raise almost anything
        raise DatasetError(f"{path}: not the devkit's meta.mat ({type(error).__name__}: {error})") from None


def _columns(path: Path) -> dict[str, str]:
    """A text's or CSV's first two columns, {file name without extension: label}; empty if it has but one."""
    if path.suffix == ".csv":  # Kaggle's: "ILSVRC2012_val_00000001,n01751748 111 108 354 339"
        rows = [row for row in csv.reader(read_text(path).splitlines()) if len(row) > 1]
        return {Path(row[0]).stem: row[1].split()[0] for row in rows if row[1].strip()}
    rows = [line.split("\t") if "\t" in line else line.split() for line in read_text(path).splitlines()]
    return {Path(row[0]).stem: row[1].strip() for row in rows if len(row) > 1}


def _check_labelled(images: Sequence[str], labels: Mapping[str, str], table: Path) -> None:
    missing = [name for name in images if Path(name).stem not in labels]
    if missing:
        raise DatasetError(f"{table}: says nothing of {listed(missing)}: not their file, or not all of it")


def file_entry(root: Path, inside: str, key: str) -> Entry:
    """An image file by its path inside the root. Bytes that are no UTF-8 are spelled out in the id."""
    path = f"{root}/{inside}"
    return Entry(readable_id(inside), key, readable_id(path), FileSource(path))


def readable_id(path: str) -> str:
    """A path as valid Unicode with / between its parts."""
    text = path.replace(os.sep, "/")
    return text if text.isascii() else os.fsencode(text).decode("utf-8", "backslashreplace")


def listed(names: Iterable[str]) -> str:
    """The first ten names and how many there are."""
    names = list(names)
    shown = ", ".join(map(repr, names[:10]))
    return shown if len(names) <= 10 else f"{shown}, ... ({len(names)} in all)"


def own_names(folder: Path, place: Path) -> dict[str, str]:
    """What the data set calls its folders: classes.tsv, or tiny-imagenet's words.txt (synset, tab, names)."""
    above = [folder.parent] if folder != place or folder.name in SPLITS else []
    for base in [folder, *above]:
        for name in ("classes.tsv", "words.txt"):
            if (base / name).is_file():
                try:
                    return read_table(base / name)
                except LabelError as error:
                    raise DatasetError(str(error)) from None
    return {}
