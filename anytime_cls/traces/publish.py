"""A finished trace file, whole or not at all: parts become one file, sorted and synced."""

from __future__ import annotations

import os
import uuid
from collections.abc import (
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import h5py  # type: ignore[import-untyped, unused-ignore]
import numpy as np

from anytime_cls.files import sync
from anytime_cls.traces.hdf5 import _STRINGS, _cannot_write
from anytime_cls.traces.read import Trace
from anytime_cls.traces.schema import _IMAGE, row_type

_CHUNK = 1 << 16  # score rows a chunk on disk: 128 or 256 KiB a column before compression


def _merge(trace: Trace, out: Path, folder: Path, complete: bool) -> None:
    """Writes all of a trace into one file, block by block; `folder` has the temporary one meanwhile."""
    blocks = (rows for _, _, rows in trace._blocks(0, len(trace)))
    counts = trace._stop - trace._start
    _publish(out, trace.attrs, trace.labels, trace.images, counts, blocks, complete, folder)


def _publish(final: Path, attrs: Mapping[str, Any], labels: Sequence[str], images: Mapping[str, Any],
             counts: Any, blocks: Iterable[np.ndarray], complete: bool = False,
             folder: Path | None = None) -> None:  # fmt: skip
    """Writes a trace file so that it is at `final` whole and durable, or not at all.

    images: the columns of _IMAGE. counts: score rows of each image. blocks: those rows, in any cut.
    """
    temporary = (folder or final.parent) / f".tmp-{uuid.uuid4().hex}"
    try:
        with open(temporary, "x+b", buffering=0) as raw:
            sink = _Sink(raw)
            try:  # HDF5 1.10's format: room for long attributes, and 12 KB a part where the oldest takes 50
                with h5py.File(sink, "w", libver=("v110", "v110")) as file:
                    for key, value in attrs.items():
                        file.attrs[key] = value
                    file.attrs["complete"] = complete
                    _column(file, "labels", "str", labels)
                    group = file.create_group("images")
                    for name, kind in _IMAGE.items():
                        _column(group, name, kind, images.get(name, ()))
                    group = file.create_group("scores")
                    offsets = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
                    _column(group, "offsets", "<i8", offsets)
                    kinds = row_type(attrs)
                    for name in kinds.names or ():
                        _dataset(group, name, int(offsets[-1]), kinds[name], _CHUNK)
                    at = 0
                    for slab in _slabs(blocks):
                        for name in kinds.names or ():
                            group[name][at : at + len(slab)] = slab[name]
                        at += len(slab)
                        sink.check()
            except Exception:
                sink.check()
                raise
            sink.check()
            os.fsync(raw.fileno())
        os.replace(temporary, final)
        sync(final.absolute().parent)
    except OSError as error:
        raise _cannot_write(final, error, "; what was finished before is safe") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def _dataset(group: h5py.Group, name: str, size: int, dtype: Any, chunk: int) -> h5py.Dataset:
    packed = {"chunks": (min(size, chunk),), "compression": "gzip", "shuffle": True} if size else {}
    return group.create_dataset(name, (size,), dtype, **packed)


def _column(group: h5py.Group, name: str, kind: str, values: Any) -> None:
    """Writes a column. Strings are as long as the longest: gzip shrinks padding, but not vlen strings."""
    if kind != "str":
        _dataset(group, name, len(values), kind, _CHUNK)[:] = np.asarray(values, kind)
        return
    raw = [text.encode("utf-8", "surrogateescape") for text in values]
    dtype = h5py.string_dtype("utf-8", max(map(len, raw), default=0) or 1)
    column = _dataset(group, name, len(raw), dtype, _STRINGS)
    for a in range(0, len(raw), _STRINGS):
        column[a : a + _STRINGS] = np.array(raw[a : a + _STRINGS], dtype)


def _slabs(blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """The same rows in whole chunks: each is compressed once, and the file does not depend on the cut."""
    held: list[np.ndarray] = []
    count = 0
    for block in blocks:
        held.append(block)
        count += len(block)
        if count >= _CHUNK:
            rows = np.concatenate(held)
            count = len(rows) % _CHUNK
            for a in range(0, len(rows) - count, _CHUNK):
                yield rows[a : a + _CHUNK]
            held = [rows[len(rows) - count :]]
    if count:
        yield np.concatenate(held)


class _Sink:
    """A file for HDF5 that never fails: it keeps the first error and drops what comes after.

    HDF5 cannot close a file whose writes fail: it keeps the dirty pages and may bring the process down.
    """

    def __init__(self, raw: Any) -> None:
        self.raw = raw
        self.error: BaseException | None = None

    def check(self) -> None:
        if self.error:
            raise self.error

    def write(self, data: Any) -> int:
        left = memoryview(data).cast("B")
        while len(left) and not self.error:
            left = left[self._try(self.raw.write, left) :]
        return len(data)

    def __getattr__(self, name: str) -> Callable[..., Any]:  # seek, tell, readinto, truncate, flush
        return partial(self._try, getattr(self.raw, name))

    def _try(self, call: Callable[..., Any], *args: Any) -> Any:
        try:
            return call(*args)
        except BaseException as error:  # Ctrl-C too: it is raised again once HDF5 is out of the way
            self.error = self.error or error
            return 0
