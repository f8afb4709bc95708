"""Names of classes: ImageNet's table, finding a class by any of its names, label files.

The table (`data/imagenet.tsv`) is ImageNet-1k in the standard order with WordNet's names; the README
beside it has its source and licence.
"""

from __future__ import annotations

import csv
import json
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_DATA = Path(__file__).parent / "data"
_SYNSET = re.compile(r"n\d{8}")


class LabelError(ValueError):
    """A label file that cannot be used; one line saying where and why."""


@dataclass(frozen=True)
class ImageNetLabels:
    """The 1,000 classes of ImageNet-1k in the standard order: tuples whose position is the class index.

    synsets: WordNet ids, as "n01440764", rising; names: all names of a class, separated by ", ";
    labels: the first name of each, unique whatever its case.
    """

    synsets: tuple[str, ...]
    names: tuple[str, ...]
    labels: tuple[str, ...]


@cache
def imagenet_labels() -> ImageNetLabels:
    """ImageNet-1k's synsets and names."""
    rows = [line.split("\t") for line in (_DATA / "imagenet.tsv").read_text(encoding="utf-8").splitlines()]
    names = tuple(row[1] for row in rows)
    return ImageNetLabels(tuple(row[0] for row in rows), names, tuple(n.split(", ")[0] for n in names))


@cache
def imagenet_subset(name: str) -> tuple[str, ...]:
    """The synsets of the 200 classes of "imagenet-r" or "imagenet-a", sorted."""
    return tuple((_DATA / f"{name}.txt").read_text(encoding="utf-8").split())


def is_synset(text: str) -> bool:
    """Whether a text is a WordNet id of a noun, as ImageNet's folders are called."""
    return _SYNSET.fullmatch(text) is not None


def infer_synsets(labels: Sequence[str]) -> list[str] | None:
    """The synsets of a model's labels, if the labels say: they are synsets, or ImageNet's 1,000 in order.

    The published lists of ImageNet names (torchvision, CLIP, imagenet-simple-labels) share 81 to 99.8 % of
    their names with the table at the same index, and name at most one class by another's name. A list in any
    other order shares next to none, and two classes swapped are two such names.
    """
    if all(is_synset(label) for label in labels):
        return list(labels)
    table = imagenet_labels()
    if len(labels) != len(table.synsets):
        return None
    index = _imagenet_index()
    found = [
        {i for name in [label, *label.split(",")] for i in index.find(name, ids=False)} for label in labels
    ]
    agree = sum(at in owners for at, owners in enumerate(found))
    other = sum(bool(owners) and at not in owners for at, owners in enumerate(found))
    return list(table.synsets) if agree >= 0.75 * len(labels) and other <= 1 else None


@cache
def _imagenet_index() -> ClassIndex:
    table = imagenet_labels()
    return ClassIndex(table.labels, table.synsets)


class ClassIndex:
    """Finds a model's classes by label, synonym, synset or class id.

    A label's synonyms are its parts between commas, and the names that WordNet gives its synset. Case,
    underscores for spaces and Unicode composition do not matter, unless labels differ in nothing else.
    """

    def __init__(self, labels: Sequence[str], synsets: Sequence[str] | None = None):
        self.labels = list(labels)
        self.synsets = None if synsets is None else list(synsets)
        wordnet = dict(zip(imagenet_labels().synsets, imagenet_labels().names, strict=True))
        synonyms = [
            (name.strip(), i)
            for i, label in enumerate(self.labels)
            for names in (label, wordnet.get(self.synsets[i], "") if self.synsets else "")
            for name in names.split(",")
        ]
        self._exact = _gather((_compose(label), i) for i, label in enumerate(self.labels))
        self._exact_synonyms = _gather((_compose(name), i) for name, i in synonyms)
        # what is found in an earlier one of these hides the later
        self._levels = [
            _gather((_fold(label), i) for i, label in enumerate(self.labels)),
            _gather((_fold(name), i) for name, i in synonyms),
            _gather((_fold(synset), i) for i, synset in enumerate(self.synsets or ())),
        ]

    def find(self, text: str, ids: bool = True) -> tuple[int, ...]:
        """The class ids that a name may mean: none if it is unknown, several if it is ambiguous.

        A label comes before a synonym, a synonym before a synset, and a class id (if `ids`) is last.
        """
        text = _compose(text.strip())
        if text in self._exact:
            return self._exact[text]
        for level in self._levels:
            if _fold(text) in level:  # "Cardigan" is no sweater where WordNet writes a dog so
                return tuple(sorted({*level[_fold(text)], *self._exact_synonyms.get(text, ())}))
        if ids and text.isdecimal() and int(text) < len(self.labels):
            return (int(text),)
        return ()

    def find_any(self, names: str) -> tuple[int, ...]:
        """As `find` without ids, for names separated by commas: all of them as one label, then each."""
        whole = self.find(names, ids=False)
        return whole or tuple(sorted({i for name in names.split(",") for i in self.find(name, ids=False)}))

    def find_synset(self, synset: str) -> tuple[int, ...]:
        """As `find` for a synset; a model without synsets is asked for the names WordNet gives it.

        Names that belong to several of ImageNet's classes, as "crane" does, are not used for that.
        """
        if found := self.find(synset, ids=False):
            return found
        table = imagenet_labels()
        if self.synsets is not None or synset not in table.synsets:
            return ()
        names = table.names[table.synsets.index(synset)]
        own = [name for name in names.split(",") if len(_imagenet_index().find(name)) == 1]
        return self.find(names, ids=False) or self.find_any(",".join(own))

    def ambiguous(self, text: str, candidates: Sequence[int]) -> str:
        """One line that says which classes a name may mean, and what to give instead."""
        synsets = [f", {synset}" for synset in self.synsets] if self.synsets else [""] * len(self.labels)
        shown = ", ".join(f"{self.labels[i]!r} (id {i}{synsets[i]})" for i in candidates[:5])
        more = f" and {len(candidates) - 5} more" if len(candidates) > 5 else ""
        return f"{text!r} may mean {shown}{more}: give the full label, the synset or the id"


def _compose(name: str) -> str:
    """One Unicode form: file systems differ in how they write é."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def _fold(name: str) -> str:
    return " ".join(_compose(name).casefold().replace("_", " ").split())


def _gather(pairs: Iterable[tuple[str, int]]) -> dict[str, tuple[int, ...]]:
    found: dict[str, set[int]] = {}
    for name, index in pairs:
        if name:
            found.setdefault(name, set()).add(index)
    return {name: tuple(sorted(indices)) for name, indices in found.items()}


def read_table(path: Path) -> dict[str, str]:
    """A text of two columns, tab-separated: folder or synset, names. Lines without a tab are skipped."""
    rows = [line.split("\t") for line in read_text(path).splitlines()]
    return {row[0].strip(): row[1].strip() for row in rows if len(row) > 1 and row[1].strip()}


def read_label_file(path: str | Path) -> dict[str, str] | list[str]:
    """Which class each folder is: {folder: name}, or the names alone, in the folders' order.

    By content and extension: JSON (an object of folder: name, or a list of names), lines of
    folder<TAB>name, a .csv of folder,name, or one name a line. Blank lines and # comments are skipped (not
    `#cat<TAB>name`: a folder may be called so), and so is a first row "folder, name" or the like.
    Raises LabelError.
    """
    path = Path(path)
    text = read_text(path)
    suffix = path.suffix.lower()
    begins = re.compile(
        r"#\S[^,]*,\s*\S" if suffix == ".csv" else r"#\S[^\t]*\t\s*\S"
    )  # its name begins with #
    lines = [s for s in text.splitlines() if s.strip() and (s[0] != "#" or begins.match(s))]
    if suffix == ".json":
        return _from_json(path, text)
    if suffix != ".csv" and not any("\t" in line for line in lines):
        names = [line.strip() for line in lines]
        if not names:
            raise LabelError(f"{path}: names no classes; write folder<TAB>name, or one name a line")
        return names
    rows = list(csv.reader(lines)) if suffix == ".csv" else [line.split("\t") for line in lines]
    if rows and rows[0][0].strip().lower() in ("folder", "class", "synset", "wnid", "id", "label"):
        rows = rows[1:]
    for row in rows:
        if len(row) < 2 or not row[1].strip():
            raise LabelError(f"{path}: no name beside {row[0]!r}; every line needs a folder and a name")
    pairs = [(row[0].strip(), row[1].strip()) for row in rows]
    if not pairs:
        raise LabelError(f"{path}: names no classes; write folder<TAB>name, or one name a line")
    found = dict(pairs)
    for folder, name in pairs:
        if found[folder] != name:
            raise LabelError(f"{path}: {folder!r} is named twice, {name!r} and {found[folder]!r}: keep one")
    return found


def _from_json(path: Path, text: str) -> dict[str, str] | list[str]:
    try:
        content = json.loads(text)
    except ValueError as error:
        raise LabelError(f"{path}: not JSON ({error})") from None
    values = list(content.values()) if isinstance(content, dict) else content
    plain = isinstance(values, list) and all(
        isinstance(value, str | int) and not isinstance(value, bool) for value in values
    )
    if not plain or not values:
        raise LabelError(f"{path}: expected {{folder: name}} or a list of names")
    if isinstance(content, dict):
        return {folder: str(name) for folder, name in content.items()}
    return [str(name) for name in content]


def read_text(path: Path) -> str:
    """A UTF-8 text, with or without a byte order mark. Raises LabelError."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise LabelError(f"{path}: not UTF-8 text; save it as UTF-8") from None
    except OSError as error:
        raise LabelError(f"{path}: cannot be read ({error.strerror or error})") from None
