"""HDF5's values as plain Python and back; where a trace's files are."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py  # type: ignore[import-untyped, unused-ignore]
import numpy as np

from anytime_cls.traces.schema import SCHEMA_VERSION, TraceError

_STRINGS = 4096  # strings converted at once, so that one long path does not cost its length for every image


def _parts(path: Path) -> Path:
    """Beside the file that is written: where `path` is a link, that is where it leads."""
    real = _real(path)
    return real.with_name(real.name + ".parts")


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def _files(path: Path) -> list[Path]:
    """The files of a trace, the one to trust first first."""
    head = [file for file in (_real(path), _parts(path) / "head.h5") if file.is_file()]
    return head + sorted(_parts(path).glob("part-*.h5"))


def _cannot_write(path: Path, error: OSError, hint: str = "") -> TraceError:
    return TraceError(f"cannot write {path}: {error.strerror or error}{hint}")


def _plain(value: Any) -> Any:
    """An attribute's value as h5py gives it, as plain Python."""
    if isinstance(value, np.ndarray):
        return [_plain(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value


def _clean(provenance: Mapping[str, Any], labels: Sequence[str] | None) -> dict[str, Any]:
    """Provenance as it will be read back, with schema and labels."""
    out: dict[str, Any] = {}
    for key, value in provenance.items():
        if value is None:
            continue
        items = list(value) if isinstance(value, (list, tuple, np.ndarray)) else [value]
        items = [item.item() if isinstance(item, np.generic) else item for item in items]
        items = [str(item) if isinstance(item, os.PathLike | str) else item for item in items]
        kinds = {type(item) for item in items}
        big = kinds == {int} and max(map(abs, items)) >= 1 << 63
        if big or len(kinds) > 1 or not kinds <= {str, int, float, bool}:
            raise TraceError(
                f"provenance: {key} must be text, a 64-bit number, or a list of one kind of them"
            )
        if kinds == {str}:  # no zero bytes or undecodable file names (of a command line) in HDF5
            items = [s.replace("\0", " ").encode("utf-8", "backslashreplace").decode() for s in items]
        out[key] = items if isinstance(value, (list, tuple, np.ndarray)) else items[0]
    if labels is not None:
        names = [str(label) for label in labels]
        if out.setdefault("labels", names) != names:
            raise TraceError("the provenance names other labels than the trace's")
    return out | {"schema": SCHEMA_VERSION}


def _read(column: h5py.Dataset) -> np.ndarray:
    if column.dtype.kind != "S":
        found: np.ndarray = column[:]
        return found
    text = column.asstr("utf-8", "surrogateescape")
    pieces = [text[a : a + _STRINGS] for a in range(0, len(column), _STRINGS)]
    return np.concatenate(pieces) if pieces else np.empty(0, object)
