"""The trace: every log-likelihood a run scored, in the order it was scored, in one HDF5 file: reading it.

docs/trace.md describes the file; trace_write.py writes it, and says why it survives a kill at any moment.
"""

from __future__ import annotations

import csv
import math
import os
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import h5py  # type: ignore[import-untyped, unused-ignore]
import numpy as np

SCHEMA_VERSION = 1
#: What must be the same for shards to be merged; for a run to go on from a trace, `shard` too.
MATCH_KEYS = ("schema", "model_sha256", "tokenizer_sha256", "dataset", "labels", "tokens", "seed",
              "dataset_fingerprint", "pass_tokens", "prefixes", "order_sampler", "crops", "latent_noise",
              "aggregate", "rule", "delta", "k_max", "budget", "dtype", "temperature", "priors",
              "calibrated")  # fmt: skip
RESUME_KEYS = (*MATCH_KEYS, "shard")
_MEANING = {"dataset_fingerprint": "the images chosen, or their labels, differ",
            "priors": "the model was calibrated anew"}  # fmt: skip

_ROW = np.dtype([("order", "<u2"), ("cls", "<u2"), ("prefix", "<u2"), ("round", "<u2"), ("value", "<f4")])
_COLUMNS = tuple(_ROW.names or ())
_IMAGE = {"index": "<i8", "id": "str", "path": "str", "label": "<i8", "prediction": "<i8", "orders": "<i8",
          "passes": "<i8", "token_fraction": "<f8", "seconds": "<f8", "stop": "str", "probability": "<f8",
          "error": "str"}  # fmt: skip
_BLOCK = 1 << 20  # score rows in memory at once (12 MiB)
_STRINGS = 4096  # strings converted at once, so that one long path does not cost its length for every image


class TraceError(ValueError):
    """A trace that cannot be read, written or resumed; the message is one line for people."""


@dataclass(frozen=True)
class ImageRow:
    """One image of a run. `id` is its key, unique within the run; `label` is -1 where unknown.

    orders: K, the orders used. passes: forward evaluations, of any prefix. token_fraction: compute as a share
    of the full cost (all classes x K_max whole passes). seconds: wall-clock. stop: why the race stopped.
    error: why the image has no answer, else empty (kept to 300 characters).
    """

    id: str
    path: str
    label: int
    prediction: int
    orders: int
    passes: int
    token_fraction: float
    seconds: float
    stop: str
    probability: float
    error: str = ""


@dataclass(frozen=True, eq=False)
class Scores:
    """The log-likelihoods of one image, parallel 1-d arrays in the order they were scored.

    order: index of the order, from 0. cls: index into the trace's labels. prefix: tokens scored (all of them
    for a whole order). round: batch round of the race. value: nats, float64, exactly representable in float32
    (so stored without loss) and not NaN. Integers are 0 to 65535. Raises TraceError for anything else.
    """

    order: np.ndarray
    cls: np.ndarray
    prefix: np.ndarray
    round: np.ndarray
    value: np.ndarray

    def __post_init__(self) -> None:
        n = np.size(self.value)
        for name in _COLUMNS:
            given = np.asarray(getattr(self, name))
            if given.shape != (n,):
                raise TraceError(f"scores: {name} has shape {given.shape}, not the ({n},) of {n} values")
            if given.dtype.kind not in "biuf":
                raise TraceError(f"scores: {name} must be numbers, not {given.dtype}")
            with np.errstate(all="ignore"):
                column = given.astype(np.float64 if name == "value" else np.int64)
                stored = column.astype(_ROW[name])
            if not (np.array_equal(stored, column) and np.array_equal(column, given)):
                kind = "float32 values without NaN" if name == "value" else "whole numbers from 0 to 65535"
                raise TraceError(f"scores: {name} must be {kind}")
            object.__setattr__(self, name, column)

    def __len__(self) -> int:
        return len(self.value)

    @classmethod
    def empty(cls) -> Scores:
        """No scores: what an image that failed has."""
        return cls(*[np.empty(0)] * 5)


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
        tables: list[dict[str, np.ndarray]] = []
        self.attrs: dict[str, Any] = {}
        for number, name in enumerate(self.files):
            file = self._file(number)
            try:
                schema = _plain(file.attrs["schema"])
                if schema != SCHEMA_VERSION:
                    raise TraceError(f"{name} is of schema {schema}; this program reads {SCHEMA_VERSION}")
                if not number:
                    self.attrs = {key: _plain(value) for key, value in file.attrs.items()}
                    self.labels: list[str] = _read(file["labels"]).tolist()
                group = file["images"]
                table = {column: _read(group[column]) for column in _IMAGE}
                offsets = file["scores/offsets"][:]
            except (KeyError, OSError) as error:
                raise self._damaged(number, error) from error
            table["_start"], table["_stop"] = offsets[:-1], offsets[1:]
            table["_file"] = np.full(len(table["index"]), number)
            tables.append(table)
        table = {column: np.concatenate([part[column] for part in tables]) for column in tables[0]}
        first: dict[str, int] = {}  # an image done twice is kept once, the first file's
        for at, key in enumerate(table["id"]):
            first.setdefault(key, at)
        keep = sorted(first.values(), key=lambda at: (table["index"][at], table["id"][at]))
        table = {column: values[keep] for column, values in table.items()}
        self._start, self._stop, self._from = table.pop("_start"), table.pop("_stop"), table.pop("_file")
        self.images = table
        self.complete = bool(self.attrs.pop("complete")) and not np.any(self._from)

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

    @property
    def varies(self) -> bool:
        """Whether every order saw a view of its own (random crops, latent noise)."""
        return "crops" in self.attrs or "latent_noise" in self.attrs

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
        keep = scores.prefix == (prefix or self.pass_tokens)
        order = scores.order[keep]
        orders = (int(order.max(initial=-1)) + 1) if k_max is None else k_max
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
        wanted = prefix or self.pass_tokens
        some = np.flatnonzero(self._stop > self._start)
        orders = k_max or (len(self.matrix(int(some[0]), None, prefix)) if len(some) else 0)
        for first in range(0, len(self), batch):
            last = min(first + batch, len(self))
            stack = np.full((last - first, orders, len(self.labels)), np.nan)
            for a, b, rows in self._blocks(first, last):
                image = np.repeat(np.arange(a, b) - first, (self._stop - self._start)[a:b])
                keep = (rows["prefix"] == wanted) & (rows["order"] < orders)
                stack[image[keep], rows["order"][keep], rows["cls"][keep]] = rows["value"][keep]
            for i in np.flatnonzero(np.isnan(stack).any(axis=(1, 2)) | (orders == 0)) + first:
                if self._stop[i] > self._start[i] or not self.images["error"][i]:
                    raise TraceError(
                        f"{self.path}: {self.images['id'][i]} is not scored in full "
                        f"({orders} orders x {len(self.labels)} classes at {wanted} tokens)"
                    )
            yield stack

    def close(self) -> None:
        """Closes the files."""
        for number in list(self._open):
            self._drop(number)

    def __enter__(self) -> Trace:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _drop(self, number: int) -> None:
        for name in _COLUMNS:
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
        rows = np.empty(stop - start, _ROW)
        if stop > start:
            file = self._file(number)
            try:
                for name in _COLUMNS:
                    if (number, name) not in self._columns:  # kept open: HDF5's chunk cache goes with it
                        self._columns[number, name] = file["scores"][name]
                    rows[name] = self._columns[number, name][start:stop]
            except (KeyError, OSError) as error:
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


def export_csv(trace: Trace, path: str | Path) -> None:
    """The image rows as CSV, names of label and prediction added; TraceError if it cannot be written."""
    columns = _named(trace)
    try:
        with open(path, "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            writer.writerows(zip(*[values.tolist() for values in columns.values()], strict=True))
    except OSError as error:
        raise _cannot_write(Path(path), error) from error


def export_parquet(trace: Trace, path: str | Path) -> None:
    """The image rows as Parquet, as `export_csv`; TraceError too where pandas and pyarrow are missing."""
    try:
        import pandas  # type: ignore[import-not-found, import-untyped, unused-ignore]

        pandas.DataFrame(_named(trace)).to_parquet(path)
    except ImportError as error:
        raise TraceError("Parquet needs pandas and pyarrow: pip install pandas pyarrow") from error
    except OSError as error:
        raise _cannot_write(Path(path), error) from error


def summary(trace: Trace) -> dict[str, Any]:
    """What a run came to: counts, accuracy over labelled images, means over images without an error.

    Rates and means are NaN where there is nothing to take them over. seconds: their sum. bytes: on disk.
    """
    column = trace.images
    good = column["error"] == ""
    labelled = good & (column["label"] >= 0)
    orders = column["orders"][good]
    stops, counts = np.unique(column["stop"][good].astype(str), return_counts=True)

    def mean(values: np.ndarray) -> float:
        return float(values.mean()) if len(values) else math.nan

    return {
        "complete": trace.complete,
        "images": len(trace),
        "errors": int((~good).sum()),
        "classes": len(trace.labels),
        "labelled": int(labelled.sum()),
        "accuracy": mean((column["prediction"] == column["label"])[labelled]),
        "orders_mean": mean(orders),
        "orders_median": float(np.median(orders)) if len(orders) else math.nan,
        "orders_p95": float(np.quantile(orders, 0.95)) if len(orders) else math.nan,
        "passes": int(column["passes"].sum()),
        "passes_mean": mean(column["passes"][good]),
        "token_fraction_mean": mean(column["token_fraction"][good]),
        "seconds": float(column["seconds"].sum()),
        "stop": dict(zip(stops.tolist(), counts.tolist(), strict=True)),
        "scores": int((trace._stop - trace._start).sum()),
        "bytes": sum(file.stat().st_size for file in trace.files if file.exists()),
    }


def _parts(path: Path) -> Path:
    return path.with_name(path.name + ".parts")


def _files(path: Path) -> list[Path]:
    """The files of a trace, the one to trust first first."""
    head = [file for file in (path, _parts(path) / "head.h5") if file.is_file()]
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


def _must_match(
    what: str, was: Mapping[str, Any], now: Mapping[str, Any], keys: Sequence[str] = RESUME_KEYS
) -> None:
    for key in keys:
        a, b = was.get(key), now.get(key)
        if a == b:
            continue
        if isinstance(a, list) and isinstance(b, list):  # thousands of labels: the first that differ
            at = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
            a, b = (f"{len(v)} with {v[at] if at < len(v) else 'nothing'!r} at {at}" for v in (a, b))
        why = f" ({_MEANING[key]})" if key in _MEANING else ""
        raise TraceError(f"cannot {what}: {key} is {_show(a)} there and {_show(b)} here{why}")


def _show(value: Any) -> str:
    text = "absent" if value is None else str(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _read(column: h5py.Dataset) -> np.ndarray:
    if column.dtype.kind != "S":
        return column[:]
    text = column.asstr("utf-8", "surrogateescape")
    pieces = [text[a : a + _STRINGS] for a in range(0, len(column), _STRINGS)]
    return np.concatenate(pieces) if pieces else np.empty(0, object)


def _scores(rows: np.ndarray) -> Scores:
    return Scores(*[rows[name] for name in _COLUMNS])


def _named(trace: Trace) -> dict[str, np.ndarray]:
    """The image columns, with the names of label and prediction (empty for -1) after the numbers."""
    columns: dict[str, np.ndarray] = {}
    for name, values in trace.images.items():
        columns[name] = values
        if name in ("label", "prediction"):
            names = [trace.labels[i] if 0 <= i < len(trace.labels) else "" for i in values]
            columns[name + "_name"] = np.array(names, object)
    return columns
