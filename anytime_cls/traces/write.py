"""Writing traces, so that whatever moment a run is killed at, all it had finished is whole.

A torn HDF5 file cannot be read, so the only copy of anything is never written to. Finished images go to
small files in `NAME.h5.parts/`, each a trace in itself: written under a temporary name, synced, renamed, and
the folder synced. At the end they are merged in the same way into `NAME.h5`, and only then removed. The merge
sorts by the images' index in the run and keeps one copy of each, so the result does not depend on who did
what in how many attempts: it is the same file, byte for byte, if the rows are the same.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from anytime_cls.files import destination, lock, sync
from anytime_cls.race.decision import SCREENED
from anytime_cls.traces.cost import screens_of
from anytime_cls.traces.hdf5 import (
    _cannot_write,
    _clean,
    _files,
    _parts,
)
from anytime_cls.traces.publish import _merge, _publish
from anytime_cls.traces.read import _BLOCK, Trace
from anytime_cls.traces.schema import (
    _COLUMNS,
    _IMAGE,
    ImageRow,
    Scores,
    TraceError,
    _must_match,
    row_type,
)


class TraceWriter:
    """Writes a trace. Get one from `create`, `resume` or (workers of a run) `attach`; use it in a `with`.

    Leaving the `with` normally finishes the trace; leaving it by an exception keeps what is finished as
    parts, from which `resume` goes on. A part is written every `images_per_part` images or
    `seconds_per_part` seconds, as images arrive, so a kill costs no more than that and the image in flight.
    """

    def __init__(self, path: str | Path, images_per_part: int, seconds_per_part: float) -> None:
        try:
            self.path = destination(path)
        except OSError as error:
            raise _cannot_write(Path(path), error) from error
        self.parts = _parts(self.path)
        self.done: set[str] = set()  #: ids of the images that need no scoring any more
        self.failed: dict[str, str] = {}  #: ids of those to try again → the error that is their row
        self.compared = False  #: whether the images done were compared with the data set's
        self.attrs: dict[str, Any] = {}
        self.labels: list[str] = []
        self._limits = images_per_part, seconds_per_part
        self._index: dict[int, str] = {}
        self._images: list[dict[str, Any]] = []
        self._rows: list[np.ndarray] = []
        self._since = 0.0
        self._lock: Any = None

    @classmethod
    def create(cls, path: str | Path, provenance: Mapping[str, Any], labels: Sequence[str],
               overwrite: bool = False, images_per_part: int = 64,
               seconds_per_part: float = 10.0) -> TraceWriter:  # fmt: skip
        """Starts a new trace of `labels` (the classes raced; `Scores.cls` indexes them).

        provenance: flat; strings, numbers and lists of one kind, None for absent. It must say `tokens`, the
        length of a whole order. Raises TraceError if there is a trace already and not `overwrite`, or if
        another process is writing it.
        """
        self = cls(path, images_per_part, seconds_per_part)
        self.attrs = _clean(provenance, labels)
        self.labels = self.attrs.pop("labels")
        tokens = self.attrs.get("tokens")
        if not (isinstance(tokens, int) and 1 <= tokens < 1 << 16 and 1 <= len(self.labels) < 1 << 16):
            raise TraceError("a trace needs 1 to 65535 labels, and `tokens` (1 to 65535) in its provenance")
        self._may_write(overwrite)
        with self._taken():
            self._may_write(overwrite)
            for old in _files(self.path):
                old.unlink()
            _publish(self.parts / "head.h5", self.attrs, self.labels, {}, [], [])
        return self

    @classmethod
    def resume(cls, path: str | Path, provenance: Mapping[str, Any], labels: Sequence[str] | None = None,
               images_per_part: int = 64, seconds_per_part: float = 10.0) -> TraceWriter:  # fmt: skip
        """Goes on from an unfinished (or finished) trace: `done` says which images not to score again. Those
        with an error are not among them: an answer, or another error, replaces it.

        labels may be given here or as provenance["labels"]. Where there is no trace yet and `labels` is given
        it creates one. Raises TraceError if one of RESUME_KEYS differs, or if another process is writing it.
        """
        self = cls(path, images_per_part, seconds_per_part)
        now = _clean(provenance, labels)
        if not _files(self.path):
            if labels is None:
                raise TraceError(f"there is no trace at {self.path} to resume")
            return cls.create(path, provenance, labels, False, images_per_part, seconds_per_part)
        with self._taken():
            self.refresh()
            _must_match(f"resume {self.path}", self.attrs | {"labels": self.labels}, now)
        return self

    @classmethod
    def attach(cls, path: str | Path, provenance: Mapping[str, Any], labels: Sequence[str] | None = None,
               images_per_part: int = 64, seconds_per_part: float = 10.0) -> TraceWriter:  # fmt: skip
        """A worker's writer for a trace that another process created or resumed: it adds parts, never merges.

        Any number may write at once; the creator closes its own last. Raises TraceError as `resume` does.
        """
        self = cls(path, images_per_part, seconds_per_part)
        self.refresh()
        now = _clean(provenance, labels)
        _must_match(f"add to {self.path}", self.attrs | {"labels": self.labels}, now)
        return self

    def refresh(self) -> set[str]:
        """Reads again what is on disk, other workers' parts included, and returns `done`."""
        with Trace.open(self.path) as trace:
            self.attrs, self.labels = trace.attrs, trace.labels
            columns = [trace.images[name].tolist() for name in ("index", "id", "error")]
        pending = [(image["index"], image["id"], image["error"]) for image in self._images]
        self._index, self.done, self.failed = {}, set(), {}
        for row in [*zip(*columns, strict=True), *pending]:
            self._note(*row)
        return self.done

    def _note(self, index: int, key: str, error: str) -> None:
        self._index[index] = key
        if not error:
            self.done.add(key)
            self.failed.pop(key, None)
        elif key not in self.done:
            self.failed[key] = error

    @property
    def pending(self) -> int:
        """Finished images that are not on disk yet."""
        return len(self._images)

    def append(self, row: ImageRow, scores: Scores, index: int) -> None:
        """Adds a finished image. index: its position in the run, by which the finished file is sorted.

        An image that is there already (a chunk done again) is ignored, unless it has an error there. Raises
        TraceError for an index that is another image's, for scores that do not fit the trace, and when a part
        cannot be written; then nothing is lost, and `flush` tries again.
        """
        image = _image(row, index)
        there, key = self._index.get(index), row.id
        if there == key and (key in self.done or self.failed.get(key) == image["error"]):
            return
        if there != key and (there is not None or key in self.done or key in self.failed):
            other = next(at for at, name in self._index.items() if at == index or name == row.id)
            raise TraceError(
                f"{self.path}: image {row.id!r} at {index}, but {self._index[other]!r} is at {other}: "
                "ids must be unique, and the list of images the same when a run goes on"
            )
        tokens, classes = self.attrs["tokens"], len(self.labels)
        if scores.cls.max(initial=0) >= classes:
            raise TraceError(f"image {row.id!r}: class {scores.cls.max()}, but there are {classes} labels")
        screened = scores.order[scores.prefix == SCREENED]
        if scores.prefix.min(initial=1) < SCREENED or scores.prefix.max(initial=1) > tokens:
            raise TraceError(f"image {row.id!r}: prefixes must be 1 to {tokens} tokens, or {SCREENED}")
        if screened.max(initial=-1) >= len(screens_of(self.attrs)):
            raise TraceError(f"image {row.id!r}: screen {screened.max()}, which the trace does not name")
        if len(np.unique((scores.order << 32) | (scores.cls << 16) | scores.prefix)) < len(scores):
            raise TraceError(f"image {row.id!r}: the same order, class and prefix is scored twice")
        rows = np.empty(len(scores), row_type(self.attrs))
        if "covariate" in (rows.dtype.names or ()):
            rows["covariate"] = np.nan if scores.covariate is None else scores.covariate
        for name in _COLUMNS:
            rows[name] = getattr(scores, name)
        if not self._images:
            self._since = time.monotonic()
        self._images.append(image)
        self._rows.append(rows)
        self._note(index, row.id, image["error"])
        images, seconds = self._limits
        late = time.monotonic() - self._since >= seconds
        if late or len(self._images) >= images or sum(map(len, self._rows)) >= _BLOCK:
            self.flush()

    def flush(self) -> None:
        """Writes the finished images as a part, durably. On TraceError they are kept for another try."""
        if self._images:
            first = min(image["index"] for image in self._images)
            part = self.parts / f"part-{first:09d}-{uuid.uuid4().hex}.h5"
            columns = {name: [image[name] for image in self._images] for name in _IMAGE}
            counts = [len(rows) for rows in self._rows]
            _publish(part, self.attrs, self.labels, columns, counts, self._rows)
            self._images, self._rows = [], []

    def close(self, finish: bool = True) -> None:
        """Flushes and, for the run's own writer, merges the parts into the one file, unless not `finish`.

        The merge streams: its memory does not grow with the scores. Raises TraceError if something cannot be
        written; everything finished stays readable, and closing again tries again.
        """
        self.flush()
        if self._lock and finish:
            with Trace.open(self.path) as trace:
                if not trace.complete:
                    _merge(trace, self.path, self.parts, True)
                merged = [file for file in trace.files if file.parent == self.parts]
            for file in merged:
                file.unlink(missing_ok=True)
        self._release()

    def discard(self) -> None:
        """Closes a run that came to nothing: where no image is finished, nothing is left behind."""
        head = self.parts / "head.h5"
        if self._lock and not self._images and _files(self.path) == [head]:
            head.unlink(missing_ok=True)
        self._release()

    def _may_write(self, overwrite: bool) -> None:
        if _files(self.path) and not overwrite:
            raise TraceError(f"{self.path} exists already: resume it (--resume) or replace it (--overwrite)")

    @contextmanager
    def _taken(self) -> Iterator[None]:
        """Takes the parts folder for this process, until `close` or the block fails, and tidies it."""
        try:
            self.parts.mkdir(exist_ok=True)
            sync(self.path.absolute().parent)
            self._lock = lock(self.parts / "lock")
            for leftover in self.parts.glob(".tmp-*"):
                leftover.unlink(missing_ok=True)
            yield
        except BlockingIOError as error:
            raise TraceError(f"{self.path} is being written by another process") from error
        except BaseException as error:
            self._release()
            if isinstance(error, OSError):
                raise _cannot_write(self.path, error) from error
            raise

    def _release(self) -> None:
        """Gives the folder up, and removes it if no part is left in it."""
        if self._lock:
            self._lock.close()
            self._lock = None
            if not any(self.parts.glob("*.h5")):
                with suppress(OSError):  # a stray worker's new part: the next resume reads it
                    (self.parts / "lock").unlink(missing_ok=True)
                    self.parts.rmdir()

    def __enter__(self) -> TraceWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if kind is None:
            return self.close()
        with suppress(TraceError):  # the first error is the one to show
            self.close(finish=False) if self.done or self.failed else self.discard()
        return None


def _image(row: ImageRow, index: int) -> dict[str, Any]:
    """A row as it is stored, or TraceError: what is wrong must come out now, not when the part is written."""
    values = asdict(row) | {"index": index}
    error = str(row.error).replace("\0", " ")[:300]
    values["error"] = error.encode("utf-8", "backslashreplace").decode()
    for name, kind in _IMAGE.items():
        try:
            if kind == "str":
                good = b"\0" not in values[name].encode("utf-8", "surrogateescape")
            else:
                stored = np.dtype(kind).type(values[name]).item()
                good = (stored == values[name] or stored != stored) and (name != "index" or stored >= 0)
                values[name] = stored if good else values[name]
        except (TypeError, ValueError, OverflowError, AttributeError):
            good = False
        if not good:
            raise TraceError(f"image {row.id!r}: {name} cannot be {values[name]!r}")
    return values
