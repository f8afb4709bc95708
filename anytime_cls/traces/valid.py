"""What a trace may hold: looked at before it is read, so that no file takes more than it stores.

A column's shape says nothing of its size on disk: HDF5 fills what was never written. So what is read has to
be stored, in one dimension, in this file, and in a type that the writer uses.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import h5py  # type: ignore[import-untyped, unused-ignore]
import numpy as np
from msgspec import Meta, Struct, ValidationError, convert

from anytime_cls.traces.hdf5 import _plain

Tokens = Annotated[int, Meta(ge=1, le=65535)]
Positive = Annotated[float, Meta(gt=0, le=1e300)]
NotNegative = Annotated[float, Meta(ge=0, le=1e300)]

_DEFLATE = 1100  # the most that gzip can shrink anything, and a little
_SLACK = 1 << 20  # bytes
_COLUMN = 1 << 28  # bytes of a column, or so many times the file's
_TIMES = 64
_CHUNK = 1 << 28
_ATTRIBUTE = 1 << 20  # items of a list


class Provenance(Struct):
    """The attributes that anything is computed from; others may be any plain value."""

    tokens: Tokens
    seed: int | None = None
    k_max: Annotated[int, Meta(ge=1, le=65535)] | None = None
    pass_tokens: Tokens | None = None
    prefixes: list[Tokens] = []
    screens: list[str] = []
    flops: NotNegative | None = None
    pass_flops: NotNegative | None = None
    prefix_flops: list[NotNegative] = []
    screen_flops: list[NotNegative] = []
    temperature: Positive | None = None
    delta: Annotated[float, Meta(gt=0, le=1)] | None = None
    latent_noise: NotNegative | None = None
    model_sha256: str | None = None
    tokenizer_sha256: str | None = None
    order_sampler: str | None = None
    rule: str | None = None
    aggregate: str | None = None
    crops: str | None = None
    full_passes: Positive | None = None
    budget: str | None = None
    dtype: str | None = None
    shard: str | list[str] | None = None  # a list where shards were merged
    priors: str | None = None
    calibrated: str | None = None
    plan: str | None = None
    covariate: bool = False


def attributes(group: h5py.Group) -> dict[str, Any]:
    """The attributes of a file or group as plain Python: text, numbers, and lists of these.

    Raises ValueError, naming it, for one of another kind: empty, complex, bytes, of two dimensions, a record.
    """
    found = {}
    for key in group.attrs:
        kept = group.attrs.get_id(key)
        size = kept.shape and kept.shape[0]
        text = h5py.check_string_dtype(kept.dtype) is not None
        if (
            kept.shape is None
            or len(kept.shape) > 1
            or (size or 0) > _ATTRIBUTE
            or not (text or (kept.dtype.kind in "biuf" and kept.dtype.subdtype is None))
        ):
            raise ValueError(f"attribute {key!r} is no text, number or list of them")
        value = _plain(group.attrs[key])
        if any(isinstance(item, bytes) for item in (value if isinstance(value, list) else [value])):
            raise ValueError(f"attribute {key!r} is no text, number or list of them")
        found[key] = value
    return found


def check_provenance(attrs: Mapping[str, Any]) -> None:
    """Raises ValueError, naming the attribute, for one that nothing can be computed from."""
    try:
        known = convert(attrs, Provenance)
    except ValidationError as error:
        raise ValueError(f"its attributes make no sense: {str(error).replace('$.', '')}") from None
    for key in ("pass_tokens", "prefixes"):
        given = getattr(known, key) or []
        if max(given if isinstance(given, list) else [given], default=0) > known.tokens:
            raise ValueError(f"its attributes make no sense: {key} of an image of {known.tokens} tokens")


def column(group: h5py.Group, name: str, kind: str, length: int | None = None) -> h5py.Dataset:
    """A column, none of it read. kind: "str", or a NumPy type whose kind it must have. length: if known.

    Raises KeyError if it is not there, ValueError if it is no such column, or claims more than it stores.
    """
    link = group.get(name, getlink=True)
    found = group[name] if isinstance(link, h5py.HardLink) else None
    if link is not None and not isinstance(found, h5py.Dataset):
        raise ValueError(f"{name} is no column of this file")
    found = group[name]
    if found.shape is None or len(found.shape) != 1 or found.is_virtual or found.external:
        raise ValueError(f"{name} is no column of this file")
    fits = found.dtype.kind == "S" if kind == "str" else np.can_cast(found.dtype, np.dtype(kind), "safe")
    if not fits or found.dtype.itemsize > _CHUNK:
        raise ValueError(f"{name} holds {found.dtype}, not {'text' if kind == 'str' else kind}")
    if length is not None and len(found) != length:
        raise ValueError(f"{name} has {len(found):,} rows, not {length:,}")
    size = len(found) * found.dtype.itemsize
    chunk = int(np.prod(found.chunks or (0,), dtype=float)) * found.dtype.itemsize
    if size > _DEFLATE * found.id.get_storage_size() + _SLACK or chunk > _CHUNK:
        raise ValueError(f"{name} claims {size:,} bytes, which the file does not store")
    return found


def whole_column(group: h5py.Group, name: str, kind: str, length: int | None = None) -> h5py.Dataset:
    """As `column`, of one that is going to be in memory."""
    found = column(group, name, kind, length)
    size = len(found) * found.dtype.itemsize
    if size > max(_COLUMN, _TIMES * group.file.id.get_filesize()):
        raise ValueError(f"{name} claims {size:,} bytes, which the file does not store")
    return found


def offsets(group: h5py.Group, images: int, rows: int) -> np.ndarray:
    """Where each image's scores begin, and the last end: int64 [I + 1], rising from 0 to `rows`.

    Raises ValueError for anything else.
    """
    found: np.ndarray = whole_column(group, "offsets", "<i8", images + 1)[:]
    if found[0] != 0 or found[-1] != rows or (np.diff(found) < 0).any():
        raise ValueError("offsets do not divide its scores among its images")
    return found


def check_images(table: Mapping[str, np.ndarray], classes: int) -> None:
    """Raises ValueError for labels and predictions that name no class, and numbers below 0 that count."""
    for name in ("label", "prediction"):
        if len(table[name]) and not -1 <= table[name].min() <= table[name].max() < classes:
            raise ValueError(f"{name} names no class of its {classes}")
    for name in ("index", "orders", "passes"):
        if len(table[name]) and table[name].min() < 0:
            raise ValueError(f"{name} is below 0")


def check_scores(rows: np.ndarray, classes: int) -> None:
    """Raises ValueError for scores of classes that the run had not."""
    if len(rows) and int(rows["cls"].max()) >= classes:
        raise ValueError(f"cls names no class of its {classes}")
