"""Data sets by name: where they lie, which of the model's classes each image is, which images a run takes.

`open_dataset` lists a data set without opening an image. docs/datasets.md has the names and layouts.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from anytime_cls.datasets.base import Dataset, Sample
from anytime_cls.datasets.choose import (
    _chosen,
    _match,
    _raced,
    _read_ids,
    choose,
)
from anytime_cls.datasets.cifar import cifar_batches
from anytime_cls.datasets.folders import ClassFolders
from anytime_cls.datasets.layouts import (
    SPLITS,
    DatasetError,
    Listing,
    class_folders,
    flat_imagenet,
    numbered_folders,
    readable_id,
    synset_folders,
    tiny_validation,
)
from anytime_cls.datasets.shifted import shifted
from anytime_cls.models.card import ModelCard
from anytime_cls.models.labels import LabelError, read_label_file
from anytime_cls.pixels.listing import say_left_out
from anytime_cls.shifts.registry import ShiftError, parse

__all__ = ["NAMED", "Dataset", "DatasetError", "Sample", "open_dataset"]
CORRUPTIONS = (
    "gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur",
    "snow", "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression",
    "speckle_noise", "gaussian_blur", "spatter", "saturate",
)  # fmt: skip
Reader = Callable[[Path, Path], Listing | None]


@dataclass(frozen=True)
class Named:
    """A data set known by name. inside: where its images may lie in its root, globs, tried in order."""

    variable: str
    folders: tuple[str, ...]
    inside: tuple[str, ...]
    readers: tuple[Reader, ...]
    layout: str
    subset: str | None = None


_SYNSETS = "folders named by synset (n01440764/...)"
KNOWN = "known"
NAMED: Mapping[str, Named] = {
    "imagenet": Named(
        "IMAGENET_ROOT", ("imagenet", "ILSVRC2012"),
        ("val", "validation", "ILSVRC2012_img_val", "ILSVRC/Data/CLS-LOC/val", "Data/CLS-LOC/val", "test",
         ""),
        (synset_folders, flat_imagenet),
        f"{_SYNSETS}, or ILSVRC2012_val_*.JPEG with the ground-truth file, in the folder or its val/",
    ),
    "imagenet-v2": Named(
        "IMAGENET_V2_ROOT", ("imagenet-v2", "imagenetv2-matched-frequency-format-val"),
        ("", "imagenetv2-matched-frequency*", "imagenetv2-*", "val", "test"),
        (numbered_folders, synset_folders),
        f"folders 0 to 999 (class indices), or {_SYNSETS}",
    ),
    "imagenet-r": Named(
        "IMAGENET_R_ROOT", ("imagenet-r",), ("", "imagenet-r", "val", "test"), (synset_folders,),
        f"200 {_SYNSETS}", "imagenet-r",
    ),
    "imagenet-a": Named(
        "IMAGENET_A_ROOT", ("imagenet-a",), ("", "imagenet-a", "val", "test"), (synset_folders,),
        f"200 {_SYNSETS}", "imagenet-a",
    ),
    "imagenet-sketch": Named(
        "IMAGENET_SKETCH_ROOT", ("imagenet-sketch",), ("", "sketch", "imagenet-sketch", "val", "test"),
        (synset_folders,), _SYNSETS,
    ),
    "imagenet-c": Named(
        "IMAGENET_C_ROOT", ("imagenet-c",), ("{part}", "*/{part}"), (synset_folders,),
        "{part}/ of " + _SYNSETS,
    ),
    "cifar10": Named(
        "CIFAR10_ROOT", ("cifar10", "cifar-10", "cifar-10-batches-bin", "cifar-10-batches-py"),
        ("test", "val", "", "cifar-10-batches-bin", "cifar-10-batches-py"), (cifar_batches, class_folders),
        "test/airplane/... to test/truck/..., or cifar-10-batches-py/test_batch",
    ),
    "tiny-imagenet": Named(
        "TINY_IMAGENET_ROOT", ("tiny-imagenet", "tiny-imagenet-200"), ("val", "test", ""),
        (tiny_validation, synset_folders),
        f"val/images/ with val/val_annotations.txt, or {_SYNSETS} in val/",
    ),
}  # fmt: skip
"""Data sets by name; `imagenet-c` is followed by /CORRUPTION/SEVERITY."""


def open_dataset(
    name: str,
    card: ModelCard,
    *,
    root: str | Path | None = None,
    classes: Sequence[str | int] | None = None,
    limit: int | None = None,
    ids: str | Path | None = None,
    labels_file: str | Path | None = None,
    seed: int = 0,
    shift: str | None = None,
) -> Dataset:
    """The images of a data set and the classes of a model that race for them.

    name: one of `NAMED`, a folder of class folders, `hfds:NAME[/CONFIG][:SPLIT]` or `wds:URL`; card: the
    model; root: where a named data set lies, instead of its variable and the usual places; classes: labels,
    synonyms, synsets or ids: only their images, and only they race; [`KNOWN`]: only images of classes that
    the model knows; limit: that many images, drawn over
    classes in proportion by `seed`, a smaller limit's among a larger one's; ids: a text of sample ids, one a
    line; labels_file: which class each folder is (`labels.read_label_file`); shift: what is done to every
    image (`shifts.registry.parse`), decided by its pixels and `seed`.

    All the model's classes race, unless `classes` says otherwise, or the data set is ImageNet-R or -A, whose
    200 classes race. Raises DatasetError, one line, for whatever cannot be found, read or matched.
    """
    try:
        listing, identity, subset = _find(str(name), root)
        index = card.class_index
        given = None if labels_file is None else read_label_file(labels_file)
        known = classes is not None and list(classes) == [KNOWN]
        class_of = _match(listing, index, card.name, given, known)
        if known:
            classes = None
            strange = sum(entry.key is not None and entry.key not in class_of for entry in listing.entries)
            if strange:
                listing = replace(listing, left_out={**listing.left_out, "of unknown classes": strange})
        raced = _raced(card, index, classes, subset, class_of)
        wanted = None if ids is None else _read_ids(Path(ids))
    except LabelError as error:
        raise DatasetError(str(error)) from None
    position = {int(class_id): at for at, class_id in enumerate(raced)}
    entries = _chosen(sorted(listing.entries, key=lambda entry: entry.id), wanted, ids)
    label_of: dict[str | None, int] = {key: position[i] for key, i in class_of.items() if i in position}
    if classes is None:
        label_of[None] = -1
    samples = [
        Sample(entry.id, entry.path, label_of[entry.key], entry.load)
        for entry in entries
        if entry.key in label_of
    ]
    if not samples:
        raise DatasetError(f"{identity}: no image is left: none belongs to the classes and ids asked for")
    labels = [card.labels[i] for i in raced]
    if shift is not None:
        identity, samples = _shifted(identity, samples, shift, card.image_size, seed, len(labels))
    chosen = choose(identity, listing.root, labels, raced, samples, limit, seed)
    return replace(chosen, left_out=listing.left_out)


def _shifted(
    identity: str, samples: list[Sample], text: str, size: int, seed: int, classes: int
) -> tuple[str, list[Sample]]:
    """The data set's name and samples under a shift by name."""
    try:
        shift = parse(text)
    except ShiftError as error:
        raise DatasetError(str(error)) from None
    return f"{identity}+{shift.name}", shifted(samples, shift, size, seed, classes)


def class_names(name: str | Path, root: str | Path | None = None) -> list[str]:
    """What a data set calls its classes, by key: those of a model of open vocabulary. Raises DatasetError."""
    listing = _find(str(name), root)[0]
    keys = sorted({entry.key for entry in listing.entries if entry.key is not None})
    if not keys:
        raise DatasetError(f"{name}: its classes have no names: say them with --classes")
    return [listing.names.get(key, key) for key in keys]


def _find(name: str, root: str | Path | None) -> tuple[Listing, str, str | None]:
    """The listing, the data set's identity, and which of `imagenet_subset` it is limited to."""
    scheme, _, rest = name.partition(":")
    if scheme in ("hfds", "wds") and root is not None:
        raise DatasetError(f"{name}: a root is for named data sets: leave it out")
    if scheme == "hfds":
        from anytime_cls.datasets.hfds import open_hfds

        return *open_hfds(rest), None
    if scheme == "wds":
        from anytime_cls.datasets.wds import open_wds

        return *open_wds(rest), None
    base, _, part = name.partition("/")
    if base in NAMED and (not part or base == "imagenet-c"):
        return _find_named(base, part.strip("/"), root)
    if root is not None:
        raise DatasetError(f"{name}: a root is for named data sets ({', '.join(NAMED)}): leave it out")
    return *_find_folder(name), None


def _find_named(name: str, part: str, root: str | Path | None) -> tuple[Listing, str, str | None]:
    named = NAMED[name]
    if name == "imagenet-c":
        corruption, _, severity = part.partition("/")
        if corruption not in CORRUPTIONS or severity not in ("1", "2", "3", "4", "5"):
            raise DatasetError(
                f"{name}/{part}: expected imagenet-c/CORRUPTION/SEVERITY, a severity from 1 to 5 of "
                f"{', '.join(CORRUPTIONS)}"
            )
    variable = os.environ.get(named.variable)
    if root is not None:
        places = [(str(root), Path(root))]
    elif variable:
        places = [(f"${named.variable} = {variable}", Path(variable))]
    else:
        places = [(f"./{base}{folder}",) * 2 for base in ("data/", "") for folder in named.folders]  # type: ignore[misc]
    looked = []
    for shown, place in places:
        folder = Path(place).expanduser()
        state = _state(folder)
        listing = None if state else _read_named(named, folder, part)
        if listing is not None:
            if name == "imagenet-v2":  # three data sets of that name; matched-frequency is the usual one
                part = next((v for v in ("threshold0.7", "top-images") if v in listing.root), "")
            return listing, f"{name}/{part}" if part else name, named.subset
        looked.append(f"{shown} ({state or 'not in that layout'})")
    if root is None and not variable:
        looked.insert(0, f"${named.variable} (not set)")
    raise DatasetError(
        f"data set {name!r} is not here: expected {named.layout.format(part=part)}; looked in "
        f"{', '.join(looked)}; give its root (--root) or set {named.variable}"
    )


def _read_named(named: Named, place: Path, part: str) -> Listing | None:
    for inside in named.inside:
        pattern = inside.format(part=part)
        for folder in sorted(place.glob(pattern)) if pattern else [place]:
            if folder.is_dir():
                for reader in named.readers:
                    listing = reader(folder, place)
                    if listing is not None:
                        return listing
    return None


def _state(folder: Path) -> str | None:
    """Why a place is no folder to look in; None if it is one."""
    try:
        os.scandir(folder).close()
    except FileNotFoundError:
        return "no such folder"
    except NotADirectoryError:
        return "a file, not a folder"
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    return None


def _find_folder(name: str) -> tuple[Listing, str]:
    """A folder of class folders, or of splits of them: test, else val, is taken."""
    folder = Path(name).expanduser()
    state = _state(folder)
    if state == "no such folder" and os.sep not in name:
        known = ", ".join(NAMED).replace("imagenet-c,", "imagenet-c/CORRUPTION/SEVERITY,")
        raise DatasetError(
            f"no data set {name!r}: the names are {known}, hfds:NAME, wds:URL, or a folder of class folders"
        )
    if state is not None:
        hint = "; for tar shards write wds:PATH" if folder.suffix == ".tar" else ""
        raise DatasetError(f"{name}: {state}; expected a folder with a folder of images for each class{hint}")
    splits = _splits(folder)
    listing = _evaluated(folder, splits)
    if listing is None and "train" in splits and _holds_folders(folder / "train"):
        raise DatasetError(
            f"{folder}: has train/ but no test/ or val/; to race its images give {folder / 'train'}"
        )
    listing = listing or tiny_validation(folder, folder) or class_folders(folder, folder)
    if listing is None:
        flat = next(folder.glob("ILSVRC2012_val_*"), None)
        hint = f"; for ImageNet's flat images write imagenet --root {name}" if flat else ""
        found = ClassFolders(folder)
        for inside in found.names:
            found.images(inside)
        but = f" ({say_left_out(found.left_out)})" if found.left_out else ""
        raise DatasetError(f"{name}: no images in class folders{but}; expected {name}/CLASS/IMAGE.jpg{hint}")
    return listing, identity_of(Path(listing.root))


def train_and_test(folder: Path) -> tuple[Listing, Listing | None]:
    """The images of a folder of class folders to train on; and, if they are in its train/, those beside it
    that the folder's name stands for elsewhere. Raises DatasetError."""
    state = _state(folder)
    if state is not None:
        raise DatasetError(f"{folder}: {state}; expected class folders, or train/ and test/ of them")
    splits, train = _splits(folder), folder / "train"
    if "train" in splits and _holds_folders(train):
        return class_folders(train, folder) or Listing(str(train), []), _evaluated(folder, splits)
    return class_folders(folder, folder) or Listing(str(folder), []), None


def _splits(folder: Path) -> list[str]:
    """The splits in a folder, unless they are classes of such names."""
    splits = [split for split in SPLITS if (folder / split).is_dir()]
    others = {path.name for path in folder.iterdir() if path.is_dir() and path.name[0] != "."} - {*splits}
    return [] if others and not ("train" in splits and len(splits) > 1) else splits


def _evaluated(folder: Path, splits: list[str]) -> Listing | None:
    """The images to evaluate on, of a folder with splits in it: test, else val. None if there are none."""
    splits = [split for split in splits if split != "train"]
    found = None
    for split in splits:  # the original tiny-imagenet's test split has no labels, its val has
        found = tiny_validation(folder / split, folder) or found
    for split in splits:
        if found is None and _holds_folders(folder / split):
            found = class_folders(folder / split, folder)
    return found


def _holds_folders(folder: Path) -> bool:
    """Whether a folder may be a split: a class, too, may be called test."""
    return any(path.is_dir() for path in folder.iterdir())


def identity_of(folder: Path) -> str:
    """A folder's own name, with its parent's where it is only a split."""
    folder = folder.resolve()
    parts = folder.parts[-2:] if folder.name in SPLITS else folder.parts[-1:]
    return readable_id("/".join(parts))
