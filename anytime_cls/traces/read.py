"""The trace: every log-likelihood a run scored, in the order it was scored, in one HDF5 file: reading it.

docs/trace.md describes the file; write.py writes it, and says why it survives a kill at any moment.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import h5py  # type: ignore[import-untyped, unused-ignore]
import numpy as np

from anytime_cls.traces.cost import shared_passes
from anytime_cls.traces.hdf5 import (
    _files,
    _parts,
    _plain,
    _read,
)
from anytime_cls.traces.schema import (
    _IMAGE,
    _LATER,
    READ_VERSIONS,
    ImageRow,
    Scores,
    TraceError,
    row_type,
)
from anytime_cls.traces.valid import (
    attributes,
    check_images,
    check_provenance,
    check_scores,
    column,
    offsets,
    whole_column,
)

_MATRIX = 1 << 27  # numbers of a matrix: 1 GiB
_BLOCK = 1 << 20  # score rows in memory at once (12 MiB)


class Trace:
    """A trace to read, finished or not. `open` is the way in.

    attrs: provenance. labels: names of the classes raced. images: one array a column, in the order of the
    run (`index`, then the fields of ImageRow; strings are str objects). complete: the run was finished; else
    these are the images finished so far. files: what it is read from. Scores stay on disk until asked for.
    """

    def __init__(self, path: Path, files: Sequence[Path]) -> None:
        self.path, self.files = path, list(files)
        self._open: OrderedDict[int, h5py.File] = OrderedDict()
        self._columns: dict[tuple[int, str], h5py.Dataset] = {}
        self.attrs: dict[str, Any] = {}
        self.labels: list[str] = []
        try:
            tables = [self._table(number) for number in range(len(self.files))]
        except TraceError:
            self.close()
            raise
        table = {column: np.concatenate([part[column] for part in tables]) for column in tables[0]}
        kept: dict[str, int] = {}  # an image done twice is kept once: the first answer, else the last error
        for at, key in enumerate(table["id"]):
            if table["error"][kept.setdefault(key, at)]:
                kept[key] = at
        keep = sorted(kept.values(), key=lambda at: (table["index"][at], table["id"][at]))
        table = {column: values[keep] for column, values in table.items()}
        self._start, self._stop, self._from = table.pop("_start"), table.pop("_stop"), table.pop("_file")
        self.images = table
        self.complete = bool(self.attrs.pop("complete")) and not np.any(self._from)

    def _table(self, number: int) -> dict[str, np.ndarray]:
        """The image rows of one file, and where their scores are; of the first, provenance and labels too."""
        file = self._file(number)
        try:
            schema = _plain(file.attrs["schema"])
            if schema not in READ_VERSIONS:
                known = " and ".join(map(str, READ_VERSIONS))
                raise TraceError(f"{self.files[number]} is of schema {schema}; this program reads {known}")
            if not number:
                self.attrs = attributes(file)
                check_provenance(self.attrs)
                self.attrs["complete"] = bool(self.attrs["complete"])
                self.labels = _read(whole_column(file, "labels", "str")).tolist()
                full = shared_passes(self.attrs, len(self.labels))
                self.attrs |= {} if full is None else {"full_passes": full}
            group, scores = file["images"], file["scores"]
            count = len(column(group, "index", _IMAGE["index"]))
            table = {
                name: _read(whole_column(group, name, kind, count))
                for name, kind in _IMAGE.items()
                if name in group or name not in _LATER
            }
            for name, nothing in _LATER.items():
                kind = object if isinstance(nothing, str) else type(nothing)
                table.setdefault(name, np.full(count, nothing, kind))
            if "full_passes" in self.attrs and "full_passes" not in file.attrs:  # an older file's share
                table["token_fraction"] *= len(self.labels) * self.attrs["k_max"] / self.attrs["full_passes"]
            check_images(table, len(self.labels))
            rows, kinds = len(column(scores, "value", "<f4")), row_type(self.attrs)
            for name in kinds.names or ():
                column(scores, name, kinds[name].str, rows)
            ends = offsets(scores, count, rows)
        except TraceError:
            raise
        except Exception as error:  # on a damaged file h5py raises almost any kind
            raise self._damaged(number, error) from error
        table["_start"], table["_stop"] = ends[:-1], ends[1:]
        table["_file"] = np.full(count, number)
        return table

    @classmethod
    def open(cls, path: str | Path) -> Trace:
        """Opens a finished trace, or the parts of an unfinished one; TraceError if there is neither."""
        path = Path(path)
        files = _files(path)
        if not files:
            raise TraceError(f"there is no trace at {path}")
        return cls(path, files)

    def __len__(self) -> int:
        return len(self._from)

    def __iter__(self) -> Iterator[tuple[ImageRow, Scores]]:
        """Every image in the order of the run; holds about a million scores at a time."""
        for a, b, rows in self._blocks(0, len(self)):
            for i in range(a, b):
                at = int(self._start[i] - self._start[a])
                yield self.row(i), _scores(rows[at : at + int(self._stop[i] - self._start[i])])

    def to_pandas(self) -> Any:
        """The images as a pandas DataFrame, a row each, with the names of label and prediction.

        Raises TraceError where pandas is missing.
        """
        from anytime_cls.traces.export import table

        return table(self)

    @property
    def crops(self) -> str:
        """What an order saw of an image: one of `views.CROPS`."""
        return str(self.attrs.get("crops", "center"))

    @property
    def noisy(self) -> bool:
        """Whether every order had latent noise of its own, which nothing is fitted to."""
        return "latent_noise" in self.attrs

    @property
    def varies(self) -> bool:
        """Whether every order saw a view of its own."""
        return self.crops != "center" or self.noisy

    @property
    def pass_tokens(self) -> int:
        """Tokens that a pass scores: all of an image's, or the first so many of every order."""
        return int(self.attrs.get("pass_tokens", self.attrs["tokens"]))

    def row(self, i: int) -> ImageRow:
        """The i-th image of the run."""
        return ImageRow(**{field.name: _plain(self.images[field.name][i]) for field in fields(ImageRow)})

    def scores(self, i: int) -> Scores:
        """Everything scored of the i-th image, in the order it was scored."""
        return _scores(self._rows(int(self._from[i]), int(self._start[i]), int(self._stop[i])))

    def matrix(self, i: int, k_max: int | None = None, prefix: int | None = None) -> np.ndarray:
        """Log-likelihoods of the i-th image, float64 [orders, classes], NaN where not scored.

        prefix: tokens; default whole passes. k_max: number of orders (rows); default up to the last scored.
        """
        scores = self.scores(i)
        keep = scores.prefix == (self.pass_tokens if prefix is None else prefix)
        order = scores.order[keep]
        orders = (int(order.max(initial=-1)) + 1) if k_max is None else k_max
        if orders * len(self.labels) > _MATRIX:
            raise TraceError(
                f"{self.path}: {orders} orders of {len(self.labels)} classes are too many to hold"
            )
        out = np.full((orders, len(self.labels)), np.nan)
        inside = order < orders
        out[order[inside], scores.cls[keep][inside]] = scores.value[keep][inside]
        return out

    def full_matrix(
        self, batch: int = 256, prefix: int | None = None, k_max: int | None = None
    ) -> Iterator[np.ndarray]:
        """Stacks of float64 [<= batch images, K orders, C classes], in the order of `images`.

        For traces where every order and class was scored (rule `fixed`), at `prefix` tokens (default: whole
        passes). K is `k_max`, by default what the first image scored has; further orders are left out. An
        image that failed and has no scores is a plane of NaN. Raises TraceError naming an image not scored in
        full.
        """
        wanted = self.pass_tokens if prefix is None else prefix
        some = np.flatnonzero(self._stop > self._start)
        orders = k_max or (len(self.matrix(int(some[0]), None, prefix)) if len(some) else 0)
        counts = self._stop - self._start
        for i in np.flatnonzero((counts > 0) & (counts < orders * len(self.labels))):
            raise self._not_full(int(i), orders, wanted)  # before any memory is asked for
        for first in range(0, len(self), batch):
            last = min(first + batch, len(self))
            stack = np.full((last - first, orders, len(self.labels)), np.nan)
            for a, b, rows in self._blocks(first, last):
                image = np.repeat(np.arange(a, b) - first, (self._stop - self._start)[a:b])
                keep = (rows["prefix"] == wanted) & (rows["order"] < orders)
                stack[image[keep], rows["order"][keep], rows["cls"][keep]] = rows["value"][keep]
            for i in np.flatnonzero(np.isnan(stack).any(axis=(1, 2)) | (orders == 0)) + first:
                if self._stop[i] > self._start[i] or not self.images["error"][i]:
                    raise self._not_full(int(i), orders, wanted)
            yield stack

    def _not_full(self, i: int, orders: int, tokens: int) -> TraceError:
        what = f"{orders} orders x {len(self.labels)} classes at {tokens} tokens"
        return TraceError(f"{self.path}: {self.images['id'][i]} is not scored in full ({what})")

    def close(self) -> None:
        """Closes the files."""
        for number in list(self._open):
            self._drop(number)

    def __enter__(self) -> Trace:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _drop(self, number: int) -> None:
        for name in row_type(self.attrs).names or ():
            self._columns.pop((number, name), None)
        self._open.pop(number).close()

    def _file(self, number: int) -> h5py.File:
        if number in self._open:
            self._open.move_to_end(number)
        else:
            if len(self._open) >= 16:
                self._drop(next(iter(self._open)))
            try:  # unlocked: these files never change, and some cluster file systems refuse locks
                options = {"locking": False, "rdcc_nbytes": 1 << 19}  # HDF5 2 would cache 8 MB a column
                self._open[number] = h5py.File(self.files[number], "r", **options)
            except FileNotFoundError as error:
                raise TraceError(f"{self.path} was finished while being read: open it again") from error
            except OSError as error:
                raise self._damaged(number, error) from error
        return self._open[number]

    def _damaged(self, number: int, error: Exception) -> TraceError:
        file = self.files[number]
        hint = ": delete it and resume, to score its images again" if file.parent == _parts(self.path) else ""
        return TraceError(f"{file} is damaged or not a trace{hint} ({' '.join(str(error).split())})")

    def _rows(self, number: int, start: int, stop: int) -> np.ndarray:
        rows = np.empty(stop - start, row_type(self.attrs))
        if stop > start:
            file = self._file(number)
            try:
                for name in rows.dtype.names or ():
                    if (number, name) not in self._columns:  # kept open: HDF5's chunk cache goes with it
                        self._columns[number, name] = file["scores"][name]
                    rows[name] = self._columns[number, name][start:stop]
                check_scores(rows, len(self.labels))
            except Exception as error:
                raise self._damaged(number, error) from error
        return rows

    def _blocks(self, first: int, last: int) -> Iterator[tuple[int, int, np.ndarray]]:
        """(a, b, their score rows) for runs of images that lie together, `_BLOCK` rows or one image each."""
        start, stop, source = (v[first:last].tolist() for v in (self._start, self._stop, self._from))
        a, n = 0, len(start)
        while a < n:
            b = a + 1
            while (b < n and source[b] == source[a] and start[b] == stop[b - 1]
                   and stop[b] - start[a] <= _BLOCK):  # fmt: skip
                b += 1
            yield first + a, first + b, self._rows(source[a], start[a], stop[b - 1])
            a = b


def _scores(rows: np.ndarray) -> Scores:
    return Scores(*[rows[name] for name in rows.dtype.names or ()])
