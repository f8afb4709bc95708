"""Which classes and images of a data set are raced: matched, listed, limited, fingerprinted."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from anytime_cls.datasets.base import Dataset, Sample
from anytime_cls.datasets.layouts import (
    DatasetError,
    Entry,
    Listing,
    listed,
)
from anytime_cls.models.card import ModelCard
from anytime_cls.models.labels import (
    ClassIndex,
    imagenet_labels,
    imagenet_subset,
    is_synset,
    read_text,
)


def _match(
    listing: Listing,
    index: ClassIndex,
    model: str,
    given: dict[str, str] | list[str] | None,
    known: bool = False,
) -> dict[str, int]:
    """The model's class id of each key. Raises DatasetError naming the keys it does not know, or with `known`
    where it knows none."""
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
    if unknown and not (known and found):
        others = ", or leave them out with --classes known" if found else ""
        raise DatasetError(
            f"model {model!r} does not know {len(unknown)} of the {len(keys)} classes of {listing.root}: "
            f"{listed(unknown)}; rename the folders or give a label file (folder<TAB>name){others}"
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
    """The lines of a list, blank ones and comments too: only the data set's ids tell a comment from an id."""
    text = read_text(path)
    return text.split("\0") if "\0" in text else text.split("\n")  # names may hold all other separators


def _chosen(entries: list[Entry], wanted: Sequence[str] | None, source: str | Path | None) -> list[Entry]:
    """The entries whose ids are wanted. Raises DatasetError for an id that none or several have."""
    counts = Counter(entry.id for entry in entries)
    if twice := [key for key, count in counts.items() if count > 1]:
        raise DatasetError(f"several images have the same id, {listed(twice)}: rename them")
    if wanted is None:
        return entries
    keep: set[str] = set()
    unknown: dict[str, None] = {}
    folders = {key.partition("/")[0] for key in counts}
    for line in wanted:
        key = line if line in counts else line.strip()
        if key in counts:
            keep.add(key)
        elif key and not (key[0] == "#" and key.partition("/")[0] not in folders):  # else blank, or a comment
            unknown[key] = None
    if unknown:
        example = f"; ids look like {entries[0].id!r}" if entries else ""
        raise DatasetError(f"{source}: no image has the id {listed(unknown)}{example}")
    if not keep:
        raise DatasetError(f"{source}: names no images; write one sample id a line, as class/image.jpg")
    return [entry for entry in entries if entry.id in keep]


def choose(
    name: str, root: str, labels: list[str], class_ids: np.ndarray, samples: list[Sample],
    limit: int | None, seed: int,
) -> Dataset:  # fmt: skip
    """The data set of these samples, sorted by id, or of `limit` of them (`_limited`)."""
    samples = _limited(samples, labels, limit, seed)
    return Dataset(name, root, labels, class_ids, samples, _fingerprint(samples, labels))


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
