"""Data sets by way of other libraries: Hugging Face datasets (`hfds:`) and WebDataset shards (`wds:`).

Both libraries are optional extras, imported when a name asks for them.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from anytime_cls.datasets.layouts import DatasetError, Entry, Listing
from anytime_cls.datasets.which import picture
from anytime_cls.models.labels import infer_synsets
from anytime_cls.pixels.decode import Source

_SPLIT = re.compile(r"(?P<path>.+?)(?::(?P<split>[A-Za-z_][\w.-]*))?")
_LABEL_FIELDS = ("label", "labels", "fine_label", "class", "cls")


def open_hfds(text: str) -> tuple[Listing, str]:
    """The images of `NAME[/CONFIG][:SPLIT]` and the data set's identity, as "hfds:NAME/CONFIG:SPLIT".

    NAME: owner/name on the Hub (a third part is its configuration), or a local folder that `save_to_disk`
    wrote or `load_dataset` reads. Without a split: test, else validation, else the only one.
    The image column and the label column are found by their types. Raises DatasetError.
    """
    _need("datasets", "hfds")
    match = _SPLIT.fullmatch(text)
    if not match:
        raise DatasetError("hfds: needs a name: hfds:owner/name, hfds:owner/name/config:split or hfds:FOLDER")
    path, config = _hub_name(match["path"])
    spec = _HFSpec(path, config, match["split"] or _default_split(path, config))
    dataset, _ = spec.open()
    label = _label_column(dataset)
    names = getattr(dataset.features[label], "names", None) if label else None
    names = names and (infer_synsets(names) or names)  # names do not tell ImageNet's two cranes apart
    keys: list[str | None] = [None] * len(dataset)
    if label:
        keys = [_hf_key(value, names) for value in dataset[label]]
    base = Path(path).resolve().name if os.path.isdir(path) else path
    shown = f"hfds:{base}{'/' + config if config else ''}:{spec.split}"
    entries = [
        Entry(f"{spec.split}/{i:08d}", key, f"{shown}[{i}]", _HFSource(spec, i)) for i, key in enumerate(keys)
    ]
    return Listing(path, entries), shown


@dataclass(frozen=True, slots=True)
class _HFSpec:
    """What to open; a worker opens its own copy, which is memory-mapped, once."""

    path: str
    config: str | None
    split: str

    def open(self) -> tuple[Any, str]:
        """The split, its images not decoded, and the name of its image column."""
        return _open_hf(self)


@lru_cache(maxsize=4)
def _open_hf(spec: _HFSpec) -> tuple[Any, str]:
    import datasets

    dataset = _guarded(spec.path, lambda: _load_split(spec))
    columns = [name for name, kind in dataset.features.items() if isinstance(kind, datasets.Image)]
    try:
        column = picture(columns)
    except ValueError as error:
        raise DatasetError(f"hfds: {spec.path}: of its columns {error}") from None
    if column is None:
        raise DatasetError(
            f"hfds: {spec.path} has no column of images; its columns are {', '.join(dataset.features)}"
        )
    return dataset.cast_column(column, datasets.Image(decode=False)), column


def _load_split(spec: _HFSpec) -> Any:
    import datasets

    if not _saved_to_disk(spec.path):
        return datasets.load_dataset(spec.path, spec.config, split=spec.split)
    saved = datasets.load_from_disk(spec.path)
    if not isinstance(saved, datasets.DatasetDict):
        return saved
    if spec.split not in saved:
        raise DatasetError(f"hfds: {spec.path} has no split {spec.split!r}; it has {', '.join(saved)}")
    return saved[spec.split]


@dataclass(frozen=True, slots=True)
class _HFSource:
    spec: _HFSpec
    row: int

    def __call__(self) -> Source:
        dataset, column = self.spec.open()
        image = dataset[self.row][column]
        found: Source = image["bytes"] if image["bytes"] is not None else image["path"]
        return found


def _hub_name(text: str) -> tuple[str, str | None]:
    """A local folder and what follows it, or owner/name and a configuration."""
    parts = text.rstrip("/").split("/")
    for end in range(len(parts), 0, -1):
        folder = os.path.expanduser("/".join(parts[:end]))
        if folder and os.path.isdir(folder):
            return folder, "/".join(parts[end:]) or None
    return "/".join(parts[:2]), "/".join(parts[2:]) or None


def _saved_to_disk(path: str) -> bool:
    return any(os.path.isfile(os.path.join(path, name)) for name in ("state.json", "dataset_dict.json"))


def _default_split(path: str, config: str | None) -> str:
    import datasets

    if os.path.isfile(os.path.join(path, "state.json")):
        split = _guarded(path, lambda: datasets.load_from_disk(path)).split
        return str(split or "all")
    if _saved_to_disk(path):
        splits = list(_guarded(path, lambda: datasets.load_from_disk(path)))
    else:
        splits = _guarded(path, lambda: datasets.get_dataset_split_names(path, config))
    for split in ("test", "validation", "val"):
        if split in splits:
            return split
    if len(splits) != 1:
        raise DatasetError(
            f"hfds: {path} has the splits {', '.join(splits)}: name one, as hfds:{path}:{splits[0]}"
        )
    return str(splits[0])


def _guarded(path: str, read: Any) -> Any:
    try:
        return read()
    except DatasetError:
        raise
    except Exception as error:  # the library, the Hub and the network raise a hundred kinds
        lines = str(error).splitlines() or [type(error).__name__]
        raise DatasetError(f"hfds: {path} cannot be opened ({type(error).__name__}: {lines[0]})") from None


def _label_column(dataset: Any) -> str | None:
    import datasets

    features = dataset.features
    named = [name for name in _LABEL_FIELDS if name in features]
    classes = [name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    return next(iter([name for name in named if name in classes] + classes + named), None)


def _hf_key(value: Any, names: list[str] | None) -> str | None:
    """A label's name; None for the -1 of a split without labels."""
    if value is None or value == -1:
        return None
    return names[value] if names and isinstance(value, int) else str(value)


def _need(library: str, extra: str) -> None:
    if find_spec(library) is None:
        raise DatasetError(f"{extra}: needs {library}, which is not installed: pip install {library}")
