"""Files of other programs' runs, told apart and read: images of a trace (`traces.foreign`)."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anytime_cls.models.card import ModelError
from anytime_cls.models.results import SUFFIXES, read_results
from anytime_cls.traces.foreign import (
    LATENT,
    Foreign,
    adaptive,
    class_numbers,
    dit_errors,
    likelihoods,
    positions_of,
)

_CLASS = re.compile(r"(?:^|_)cls(\d{1,5})(?:_|$)")  # in the name of a folder of eval_prob_dit.py's
ADAPTIVE, DIT, LIKELIHOODS = "diffusion-classifier", "diffusion-classifier DiT", "ar-classifier"


@dataclass(frozen=True)
class Names:
    """What columns are called, and which number each class has in the run. classes : empty: 0, 1, 2, ..."""

    labels: tuple[str, ...] = ()
    classes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Run:
    """One program's run. images : reads them anew, one at a time."""

    program: str
    unit: str  # of scores, as traces say it
    labels: tuple[str, ...]
    images: Callable[[], Iterator[Foreign]]
    missing: int = 0  # images that not every class has a file of: left out


def read_names(path: Path) -> Names:
    """From lines, a class each, or a CSV file with a column `classname` and perhaps `classidx`, as prompts of
    diffusion-classifier are. Raises ModelError.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix != ".csv":
            return Names(tuple(line.strip() for line in text.splitlines() if line.strip()))
        rows = list(csv.DictReader(text.splitlines()))
        labels = tuple(str(row["classname"]) for row in rows)
        return Names(labels, tuple(int(row["classidx"]) for row in rows) if "classidx" in rows[0] else ())
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror or error}") from None
    except (KeyError, IndexError, ValueError, TypeError, csv.Error):
        raise ModelError(
            f"{path}: no list of classes: a name a line, or a CSV with a column classname"
        ) from None


def find_files(paths: Sequence[Path]) -> list[Path]:
    """The files named, and those in folders and below, in natural order. Raises ModelError where there are
    none."""
    found: list[Path] = []
    for path in paths:
        inside = (
            (p for p in path.rglob("*") if p.suffix in SUFFIXES and p.is_file()) if path.is_dir() else [path]
        )
        found += sorted(
            inside, key=lambda p: [int(x) if x.isdigit() else x for x in re.split(r"(\d+)", str(p))]
        )
    if not found:
        raise ModelError(f"there are no {', '.join(SUFFIXES)} files in {', '.join(map(str, paths))}")
    return found


def read_run(
    paths: Sequence[Path], names: Names, targets: Path | None = None, elements: int | None = None
) -> Run:
    """Which program left these files, and what is in them. Raises ModelError, naming the file, for what has
    none of the layouts.

    targets : a file of each image's class number. elements : numbers of the latent that a squared error is
    the mean of; default by the layout
    """
    files = find_files(paths)
    given = None if targets is None else _numbers(targets)
    first = read_results(files[0])
    if isinstance(first, dict) and "errors" in first:
        return _adaptive(files, names, elements or LATENT)
    if _class_of(files[0]) is not None and isinstance(first, np.ndarray):
        return _dit(files, names, given, elements)
    if len(files) > 1:
        raise ModelError(f"{files[0]}: a tensor of likelihoods is one file; name one, got {len(files)}")
    try:
        scores, own, classes = likelihoods(first)
        given = own if given is None else class_numbers(given, len(scores), "--targets")
        numbered = names.classes or tuple(range(scores.shape[2]) if classes is None else classes.tolist())
        labels = _labels(names, numbered, scores.shape[2])
        truth = [-1] * len(scores) if given is None else positions_of(given.tolist(), numbered)
    except ValueError as error:
        raise ModelError(f"{files[0]}: {error}") from None

    def images() -> Iterator[Foreign]:
        for i, one in enumerate(scores):
            yield Foreign(str(i), f"{files[0]}#{i}", np.asarray(one, float), truth[i])

    return Run(LIKELIHOODS, "nats", labels, images)


def _adaptive(files: Sequence[Path], names: Names, elements: int) -> Run:
    """A file an image."""
    try:
        count = adaptive(read_results(files[0]))[0].shape[1]
        numbered = names.classes or tuple(range(count))
        labels = _labels(names, numbered, count)
        positions_of([], numbered)
    except ValueError as error:
        raise ModelError(f"{files[0]}: {error}") from None

    def images() -> Iterator[Foreign]:
        for file in files:
            try:
                scores, label = adaptive(read_results(file), elements)
                if scores.shape[1] != count:
                    raise ValueError(f"{scores.shape[1]} prompts, where the first file has {count}")
                truth = -1 if label is None else positions_of([label], numbered)[0]
            except ModelError:
                raise
            except ValueError as error:
                raise ModelError(f"{file}: {error}") from None
            yield Foreign(file.stem, str(file), scores, truth)

    return Run(ADAPTIVE, "loss", labels, images)


def _class_of(file: Path) -> int | None:
    """The class that a file is of, by the folders it lies in."""
    found = [match for part in reversed(file.parts[:-1]) if (match := _CLASS.search(part))]
    return int(found[0][1]) if found else None


def _dit(files: Sequence[Path], names: Names, targets: np.ndarray | None, elements: int | None) -> Run:
    """A folder a class, a file an image in it, named by its number."""
    by_image: dict[str, dict[int, Path]] = {}
    for file in files:
        number = _class_of(file)
        if (
            number is None
            or file in by_image.setdefault(file.stem, {}).values()
            or number in by_image[file.stem]
        ):
            raise ModelError(
                f"{file}: a run of DiT is a folder ..._clsN_... a class, and an image once in each"
            )
        by_image[file.stem][number] = file
    numbered = tuple(sorted({number for one in by_image.values() for number in one}))
    if len(numbered) < 2:
        raise ModelError(f"{files[0]}: a race needs at least two classes; name the folders of all")
    whole = {image: one for image, one in by_image.items() if len(one) == len(numbered)}
    if not whole:
        raise ModelError(f"{files[0]}: no image has a file of every class")
    labels = _labels(Names(), numbered, len(numbered))
    if names.labels:
        known = dict(zip(names.classes or range(len(names.labels)), names.labels, strict=True))
        labels = tuple(known.get(number, str(number)) for number in numbered)
    latent = elements or (LATENT if "512x512" in str(files[0]) else LATENT // 4)

    def truth(image: str) -> int:
        inside = targets is not None and image.isdigit() and int(image) < len(targets)
        return positions_of([targets[int(image)]], numbered)[0] if inside and targets is not None else -1

    def images() -> Iterator[Foreign]:
        for image, one in whole.items():
            columns = []
            for number in numbered:
                try:
                    columns.append(dit_errors(read_results(one[number]), latent))
                    if len(columns[-1]) != len(columns[0]):
                        raise ValueError("other draws than the first class has")
                except ModelError:
                    raise
                except ValueError as error:
                    raise ModelError(f"{one[number]}: {error}") from None
            yield Foreign(image, str(one[numbered[0]]), np.stack(columns, axis=1), truth(image))

    return Run(DIT, "loss", labels, images, len(by_image) - len(whole))


def _labels(names: Names, numbered: Sequence[int], count: int) -> tuple[str, ...]:
    """Raises ValueError where names are not as many as columns."""
    for given in (names.labels, numbered):
        if given and len(given) != count:
            raise ValueError(f"{len(given)} classes are named, and it has {count}")
    return names.labels or tuple(str(number) for number in numbered)


def _numbers(path: Path) -> np.ndarray:
    """Whole numbers [n] of a file: lines, or an array. Raises ModelError."""
    if path.suffix in SUFFIXES:
        found: Any = read_results(path)
        found = found.get("targets") if isinstance(found, dict) else found
    else:
        try:
            found = [int(line) for line in path.read_text(encoding="utf-8").split()]
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "no list of whole numbers"
            raise ModelError(f"{path}: {why}") from None
    array = np.asarray(found)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise ModelError(f"{path}: no list of whole numbers, a class an image")
    return array
