"""Data sets by name: where they lie, which of the model's classes each image is, which images a run takes.

`open_dataset` lists a data set without opening an image. docs/datasets.md has the names and layouts.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anytime_cls.dataset_layouts import (
    SPLITS,
    DatasetError,
    Entry,
    Listing,
    cifar_batches,
    class_folders,
    flat_imagenet,
    listed,
    numbered_folders,
    readable_id,
    synset_folders,
    tiny_validation,
)
from anytime_cls.image import Source
from anytime_cls.labels import (
    ClassIndex,
    LabelError,
    imagenet_labels,
    imagenet_subset,
    is_synset,
    read_label_file,
    read_text,
)
from anytime_cls.zoo import ModelCard

__all__ = ["NAMED", "Dataset", "DatasetError", "Sample", "open_dataset"]

CORRUPTIONS = (
    "gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur",
    "snow", "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression",
    "speckle_noise", "gaussian_blur", "spatter", "saturate",
)  # fmt: skip

Reader = Callable[[Path, Path], Listing | None]


@dataclass(frozen=True)
class Sample:
    """One image of a data set.

    id: unique in the data set, the path inside its root with / between parts; path: for people; label: index
    into `Dataset.labels`, -1 if unknown; load: gives what `image.decode` reads. Nothing is read before, and a
    sample can be pickled.
    """

    id: str
    path: str
    label: int
    load: Callable[[], Source]


@dataclass(frozen=True)
class Dataset:
    """What a run goes over.

    name: the same wherever the data lie; root: where the images were found; labels: names of the C classes
    that race, in the model's order; class_ids: the model's ids of them, int64 [C]; samples: sorted by id;
    fingerprint: SHA-256 over ids and labels of the samples, in hexadecimal.
    """

    name: str
    root: str
    labels: list[str]
    class_ids: np.ndarray
    samples: Sequence[Sample]
    fingerprint: str


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
) -> Dataset:
    """The images of a data set and the classes of a model that race for them.

    name: one of `NAMED`, a folder of class folders, `hfds:NAME[/CONFIG][:SPLIT]` or `wds:URL`; card: the
    model; root: where a named data set lies, instead of its variable and the usual places; classes: labels,
    synonyms, synsets or ids: only their images, and only they race; limit: that many images, drawn over
    classes in proportion by `seed`, a smaller limit's among a larger one's; ids: a text of sample ids, one a
    line; labels_file: which class each folder is (`labels.read_label_file`).

    All the model's classes race, unless `classes` says otherwise, or the data set is ImageNet-R or -A, whose
    200 classes race. Raises DatasetError, one line, for whatever cannot be found, read or matched.
    """
    try:
        listing, identity, subset = _find(str(name), root)
        index = card.class_index
        given = None if labels_file is None else read_label_file(labels_file)
        class_of = _match(listing, index, card.name, given)
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
    samples = _limited(samples, labels, limit, seed)
    return Dataset(identity, listing.root, labels, raced, samples, _fingerprint(samples, labels))


def _find(name: str, root: str | Path | None) -> tuple[Listing, str, str | None]:
    """The listing, the data set's identity, and which of `imagenet_subset` it is limited to."""
    scheme, _, rest = name.partition(":")
    if scheme in ("hfds", "wds") and root is not None:
        raise DatasetError(f"{name}: a root is for named data sets: leave it out")
    if scheme == "hfds":
        from anytime_cls.dataset_extras import open_hfds

        return *open_hfds(rest), None
    if scheme == "wds":
        from anytime_cls.dataset_extras import open_wds

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
    listing = _split_of(folder) or tiny_validation(folder, folder) or class_folders(folder, folder)
    if listing is None:
        flat = next(folder.glob("ILSVRC2012_val_*"), None)
        hint = f"; for ImageNet's flat images write imagenet --root {name}" if flat else ""
        raise DatasetError(f"{name}: no images in class folders; expected {name}/CLASS/IMAGE.jpg{hint}")
    return listing, _identity(Path(listing.root))


def _split_of(folder: Path) -> Listing | None:
    """The images to evaluate on, of a folder with splits in it: test, else val. None if it has no splits."""
    splits = [split for split in SPLITS if (folder / split).is_dir()]
    others = {path.name for path in folder.iterdir() if path.is_dir() and path.name[0] != "."} - {*splits}
    if not splits or (others and not ("train" in splits and len(splits) > 1)):
        return None
    found = None
    for split in splits:  # the original tiny-imagenet's test split has no labels, its val has
        if split != "train":
            found = tiny_validation(folder / split, folder) or found
    for split in splits:
        # a class, too, may be called test: a split holds folders
        if found is None and any(path.is_dir() for path in (folder / split).iterdir()):
            if split == "train":
                raise DatasetError(
                    f"{folder}: has train/ but no test/ or val/; to race its images give {folder / split}"
                )
            found = class_folders(folder / split, folder)
    return found


def _identity(folder: Path) -> str:
    """A folder's own name, with its parent's where it is only a split."""
    folder = folder.resolve()
    parts = folder.parts[-2:] if folder.name in SPLITS else folder.parts[-1:]
    return readable_id("/".join(parts))


def _match(
    listing: Listing, index: ClassIndex, model: str, given: dict[str, str] | list[str] | None
) -> dict[str, int]:
    """The model's class id of each key. Raises DatasetError naming the keys it does not know."""
    keys = sorted({entry.key for entry in listing.entries if entry.key is not None})
    names: Mapping[str, str]
    if isinstance(given, list):
        if len(given) != len(keys):
            raise DatasetError(
                f"the label file has {len(given)} names, but {listing.root} has {len(keys)} classes"
            )
        numbers = all(key.isdecimal() for key in keys)
        names = dict(zip(sorted(keys, key=int) if numbers else keys, given, strict=True))
    else:
        names = given if given is not None else listing.names
        if given is not None and (missing := [key for key in keys if key not in names]):
            raise DatasetError(f"the label file lacks {listed(missing)} of {listing.root}: add them")
    found: dict[str, int] = {}
    unknown = []
    for key in keys:
        name = names.get(key)
        candidates = _candidates(key, name, index, given is not None, listing.imagenet_order)
        if len(candidates) > 1:
            raise DatasetError(f"{listing.root}: {index.ambiguous(name or key, candidates)}, in a label file")
        if candidates:
            found[key] = candidates[0]
        else:
            unknown.append(f"{key} ({name})" if name else key)
    if unknown:
        raise DatasetError(
            f"model {model!r} does not know {len(unknown)} of the {len(keys)} classes of {listing.root}: "
            f"{listed(unknown)}; rename the folders or give a label file (folder<TAB>name)"
        )
    return found


def _candidates(
    key: str, name: str | None, index: ClassIndex, decided: bool, imagenet_order: bool
) -> tuple[int, ...]:
    """The classes a key may be. decided: by a label file; else a synset says more than the set's own name."""
    if decided and name is not None:
        return index.find(name) or (index.find_synset(name) if is_synset(name) else index.find_any(name))
    if imagenet_order:
        synsets = imagenet_labels().synsets
        return index.find_synset(synsets[int(key)]) if int(key) < len(synsets) else ()
    if is_synset(key) and (found := index.find_synset(key)):
        return found
    if name is not None:  # then a number is no class id of the model, but the data set's own
        return index.find_any(name) or index.find(key, ids=False)
    return index.find(key) or index.find_any(key)


def _raced(
    card: ModelCard,
    index: ClassIndex,
    classes: Sequence[str | int] | None,
    subset: str | None,
    class_of: Mapping[str, int],
) -> np.ndarray:
    """The class ids that race, rising, int64 [C]."""
    inside: list[int] = []
    if subset is not None:
        inside = sorted({i for synset in imagenet_subset(subset) for i in index.find_synset(synset)})
        strange = [key for key, class_id in class_of.items() if class_id not in inside]
        if strange:
            raise DatasetError(
                f"not among the 200 classes of {subset}: {listed(strange)}; is this some other data set?"
            )
    try:
        if classes is not None:
            return np.sort(card.class_ids(classes)).astype(np.int64)
        return np.array(inside if subset is not None else range(len(card.labels)), np.int64)
    except ValueError as error:
        raise DatasetError(str(error)) from None


def _read_ids(path: Path) -> list[str]:
    lines = [line.strip() for line in read_text(path).splitlines()]
    wanted = [line for line in lines if line and not line.startswith("#")]
    if not wanted:
        raise DatasetError(f"{path}: names no images; write one sample id a line, as class/image.jpg")
    return wanted


def _chosen(entries: list[Entry], wanted: Sequence[str] | None, source: str | Path | None) -> list[Entry]:
    """The entries whose ids are wanted. Raises DatasetError for an id that none or several have."""
    counts = Counter(entry.id for entry in entries)
    if twice := [key for key, count in counts.items() if count > 1]:
        raise DatasetError(f"several images have the same id, {listed(twice)}: rename them")
    if wanted is None:
        return entries
    if unknown := [key for key in dict.fromkeys(wanted) if key not in counts]:
        example = f"; ids look like {entries[0].id!r}" if entries else ""
        raise DatasetError(f"{source}: no image has the id {listed(unknown)}{example}")
    keep = set(wanted)
    return [entry for entry in entries if entry.id in keep]


def _limited(samples: list[Sample], labels: Sequence[str], limit: int | None, seed: int) -> list[Sample]:
    """`limit` of the samples, each class in proportion to its size, in id order.

    Systematic sampling: a class of n images puts its r-th in a shuffled order at (r + u)/n, u its own offset
    in [0, 1), and the lowest `limit` are taken. So a smaller limit's images are among a larger one's. Shuffle
    and offsets are hashes, which no other sample and no library's version changes.
    """
    if limit is None:
        return samples
    if limit < 1:
        raise DatasetError(f"limit must be at least 1, not {limit}")

    def uniform(text: str) -> float:
        return int.from_bytes(hashlib.sha256(f"{seed}:{text}".encode()).digest()[:8], "big") / 2**64

    members: dict[int, list[Sample]] = {}
    for sample in samples:
        members.setdefault(sample.label, []).append(sample)
    placed = []
    for label, own in members.items():
        offset = uniform(f"class:{labels[label] if label >= 0 else ''}")
        shuffled = sorted(own, key=lambda sample: (uniform(f"image:{sample.id}"), sample.id))
        placed += [((rank + offset) / len(own), sample.id, sample) for rank, sample in enumerate(shuffled)]
    placed.sort(key=lambda item: item[:2])
    return sorted((sample for *_, sample in placed[:limit]), key=lambda sample: sample.id)


def _fingerprint(samples: Sequence[Sample], labels: Sequence[str]) -> str:
    digest = hashlib.sha256("".join(f"{label}\n" for label in labels).encode())
    for sample in samples:
        digest.update(f"{sample.id}\0{labels[sample.label] if sample.label >= 0 else ''}\n".encode())
    return digest.hexdigest()
