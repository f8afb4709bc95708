"""A run's folder: one process's at a time, gone on with by the recipe and the images it was begun with.

Other images would put some that were held out among those trained on, and accuracy and calibration would be
of images that the model has seen.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from anytime_cls.datasets.base import Dataset
from anytime_cls.files import lock, replace_file
from anytime_cls.training.place import no_folder
from anytime_cls.training.recipe import ImageSet, Recipe

CHECKPOINTS = ("checkpoint-tokenizer.pt", "checkpoint-transformer.pt", "checkpoint-contrast.pt")
OF_START = ("checkpoint-classes.pt", "checkpoint-tuning.pt")  # of a model that was begun from another
_OTHER = "go on with the images it was begun with, or choose another --out"


@contextmanager
def taken(out: Path) -> Iterator[None]:
    """The folder is this process's for the block, and made if it is not there.

    A block that fails before it has written anything leaves no folder that was not there. Raises ValueError
    if another process trains into it, OSError if it cannot be made.
    """
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    try:
        out.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise no_folder(out) from None
    locked = out / ".lock"
    fresh = not locked.exists()
    try:
        held = lock(locked)
    except BlockingIOError:
        raise ValueError(
            f"{out}: another training is at work there; wait for it, or choose another --out"
        ) from None
    with held:
        try:
            yield
        except BaseException:
            if fresh and [path.name for path in out.iterdir()] == [locked.name]:
                with suppress(OSError):  # somebody else's files are in one of them
                    locked.unlink()
                    for folder in made:
                        folder.rmdir()
            raise


def check_recipe(out: Path, recipe: Recipe, resume: bool) -> None:
    """Raises ValueError unless the folder is free, or of a run of this recipe that is to go on."""
    marker = out / "recipe.json"
    if not marker.exists():
        if there := [name for name in (*CHECKPOINTS, *OF_START, "model.json") if (out / name).exists()]:
            raise ValueError(f"{out} holds {there[0]}, but no recipe.json: choose another --out")
        return
    if not resume:
        raise ValueError(f"{out} holds a run already: add --resume to go on, or choose another --out")
    saved = _read(marker)  # what was written before a setting existed was trained with its default
    if _plain(Recipe()) | saved != _plain(recipe):
        raise ValueError(f"{out} was started with another recipe: see {marker}")


def begun_recipe(out: Path, typed: Mapping[str, Any]) -> Recipe | None:
    """The recipe that a folder's run was begun with, but for what is typed now; None where there is none."""
    marker = out / "recipe.json"
    if not marker.exists():
        return None
    known = {field.name for field in dataclasses.fields(Recipe)}
    saved = {key: as_tuple(value) for key, value in _read(marker).items() if key in known}
    return Recipe(**{**saved, **typed})


def as_tuple(value: Any) -> Any:
    return tuple(as_tuple(inner) for inner in value) if isinstance(value, list) else value


def is_finished(out: Path) -> bool:
    """Whether a run's model is there, calibrated and measured: nothing is left to do."""
    path = out / "model.json"
    return path.exists() and "metrics" in _read(path)


def claim(out: Path, recipe: Recipe, images: ImageSet, limit: int | None, held_out: Dataset) -> None:
    """Remembers what a run is begun with, in recipe.json, data.json and holdout.txt; none is written twice.

    images: all of them, of which `held_out` are kept from training. Raises ValueError where the folder
    remembers other images.
    """
    now = {
        "images": len(images),
        "limit": limit,
        "ids": images.dataset.fingerprint,
        "pixels": hashlib.sha256(images.images.numpy().tobytes()).hexdigest(),
    }
    data, holdout = out / "data.json", out / "holdout.txt"
    ids = "".join(f"{sample.id}\n" for sample in held_out.samples).encode()
    if data.exists():
        _compare(out, _read(data), now)
    if holdout.exists() and holdout.read_bytes() != ids:  # also a run's from before there was data.json
        raise ValueError(f"{holdout} lists other images than would be held out of these: {_OTHER}")
    for path, content in (
        (out / "recipe.json", _written(dataclasses.asdict(recipe))), (data, _written(now)), (holdout, ids),
    ):  # fmt: skip
        if not path.exists():
            replace_file(path, content)


def _compare(out: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Raises ValueError, saying in what the images differ."""
    if all(before.get(key) == now[key] for key in ("ids", "pixels")):
        return

    def said(images: dict[str, Any]) -> str:
        return f"{images.get('images')} images" + (
            f" (--limit {images['limit']})" if images.get("limit") else ""
        )

    if said(before) != said(now):
        what = f"was begun with {said(before)}, not with {said(now)}"
    elif before.get("ids") != now["ids"]:
        what = f"was begun with {said(before)} of other names or classes"
    else:
        what = f"was begun with other pixels under the same names ({said(now)})"
    raise ValueError(f"{out} {what}: {_OTHER}")


def _plain(recipe: Recipe) -> dict[str, Any]:
    """As JSON has it: lists, not tuples."""
    fields: dict[str, Any] = json.loads(_written(dataclasses.asdict(recipe)))
    return fields


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ValueError(f"{path} is damaged: choose another --out")
    return found


def _written(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields, indent=1).encode()
