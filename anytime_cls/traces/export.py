"""Every log-likelihood of a trace as one long table, CSV or Parquet, in memory that does not grow with it.

The rows are in the order they were scored, image after image. Columns: `id` of the image, `order`, `cls`
(index of the class), `cls_name`, `prefix` (tokens), `round`, `value` (nats). Classes can share a name, as
ImageNet's two cranes do, so group by `cls`. `export_csv` and `export_parquet` write image rows.
"""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from anytime_cls.race.decision import SCREENED
from anytime_cls.traces.cost import screens_of
from anytime_cls.traces.hdf5 import _cannot_write
from anytime_cls.traces.read import Trace
from anytime_cls.traces.schema import ImageRow, Scores, TraceError


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


def table(trace: Trace) -> Any:
    """The image rows as a pandas DataFrame, as `export_csv`; TraceError where pandas is missing."""
    try:
        import pandas  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError as error:
        raise TraceError("a table needs pandas: pip install pandas") from error
    return pandas.DataFrame(
        {name: [bytes(v).hex() for v in values] if values.dtype.kind == "V" or values.ndim > 1 else values
         for name, values in _named(trace).items()}
    )  # fmt: skip


def export_parquet(trace: Trace, path: str | Path) -> None:
    """The image rows as Parquet, as `export_csv`; TraceError too where pandas and pyarrow are missing."""
    try:
        import pandas  # type: ignore[import-not-found, import-untyped, unused-ignore]

        pandas.DataFrame(_named(trace)).to_parquet(path)
    except ImportError as error:
        raise TraceError("Parquet needs pandas and pyarrow: pip install pandas pyarrow") from error
    except OSError as error:
        raise _cannot_write(Path(path), error) from error


def _named(trace: Trace) -> dict[str, np.ndarray]:
    """The image columns, with the names of label and prediction (empty for -1) after the numbers."""
    columns: dict[str, np.ndarray] = {}
    for name, values in trace.images.items():
        columns[name] = values
        if name in ("label", "prediction"):
            names = [trace.labels[i] if 0 <= i < len(trace.labels) else "" for i in values]
            columns[name + "_name"] = np.array(names, object)
    return columns


COLUMNS = ("id", "order", "cls", "cls_name", "prefix", "round", "value")
_ROW_GROUP = 1 << 20  # rows of a Parquet row group, and about the most that is held
Images = Iterable[tuple[ImageRow, Scores]]


def export_scores_csv(trace: Trace, path: str | Path, images: Images | None = None) -> int:
    """Writes the long table as CSV, values so that they read back exactly; returns the number of rows.

    images: what iterating over `trace` gives (a progress bar around it); by default that itself. Raises
    TraceError if the trace cannot be read or the table not be written.
    """
    names, count = [_utf8(label) for label in trace.labels], 0
    try:
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            extra = ("covariate",) if trace.attrs.get("covariate") else ()
            writer.writerow((*COLUMNS, *extra))
            for image, scores in trace if images is None else images:
                cls = scores.cls.tolist()
                columns = (scores.order.tolist(), cls, [names[c] for c in cls], scores.prefix.tolist(),
                           scores.round.tolist(), scores.value.tolist(),
                           *(getattr(scores, name).tolist() for name in extra))  # fmt: skip
                writer.writerows(zip(itertools.repeat(_utf8(image.id), len(cls)), *columns, strict=True))
                count += len(cls)
    except OSError as error:
        raise _cannot_write(Path(path), error) from error
    return count


def export_scores_parquet(trace: Trace, path: str | Path, images: Images | None = None) -> int:
    """As `export_scores_csv`, as Parquet (integers uint16, values float32, strings by dictionary).

    Needs pyarrow; TraceError where it is missing.
    """
    try:
        import pyarrow as pa  # type: ignore[import-not-found, import-untyped, unused-ignore]
        import pyarrow.parquet as pq  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError as error:
        raise TraceError("Parquet needs pyarrow: pip install pyarrow") from error

    text = pa.dictionary(pa.int32(), pa.string())
    types = (text, pa.uint16(), pa.uint16(), text, pa.uint16(), pa.uint16(), pa.float32())
    extra = [("covariate", pa.float32())] if trace.attrs.get("covariate") else []
    schema = pa.schema([*zip(COLUMNS, types, strict=True), *extra])
    names = pa.array([_utf8(label) for label in trace.labels], pa.string())

    def table(held: list[tuple[str, Scores]]) -> Any:
        def column(name: str, dtype: type[np.generic] = np.uint16) -> np.ndarray:
            return np.concatenate([getattr(scores, name) for _, scores in held]).astype(dtype)

        which = np.repeat(np.arange(len(held), dtype=np.int32), [len(scores) for _, scores in held])
        keys = pa.array([key for key, _ in held], pa.string())
        columns = [
            pa.DictionaryArray.from_arrays(which, keys),
            column("order"),
            column("cls"),
            pa.DictionaryArray.from_arrays(column("cls", np.int32), names),
            column("prefix"),
            column("round"),
            column("value", np.float32),
            *(column(name, np.float32) for name, _ in extra),
        ]
        return pa.table(columns, schema=schema)

    total, waiting = 0, 0
    held: list[tuple[str, Scores]] = []
    try:
        with pq.ParquetWriter(path, schema, compression="zstd") as writer:
            for image, scores in trace if images is None else images:
                held.append((_utf8(image.id), scores))
                waiting += len(scores)
                if waiting >= _ROW_GROUP:
                    writer.write_table(table(held), _ROW_GROUP)
                    total, waiting, held = total + waiting, 0, []
            if waiting:
                writer.write_table(table(held), _ROW_GROUP)
    except OSError as error:
        raise _cannot_write(Path(path), error) from error
    return total + waiting


def _utf8(text: str) -> str:
    """A file name that is not UTF-8 shows its bytes as \\udcXX: neither format can hold them."""
    return text.encode("utf-8", "backslashreplace").decode()


def export_npz(trace: Trace, path: str | Path, images: Images | None = None) -> int:
    """Images, and every score as a dense array where the trace is full, else as columns; returns the scores.

    A NumPy archive (docs/trace.md has the shapes): `labels` [C]; a column of `images/*` each as `image_NAME`
    [I]; `attributes`, the provenance as JSON. Of a trace whose every class has every draw `scores` [I, K, C],
    float32 nats of a trace's own passes, `scores_M` at each recorded prefix of M tokens, and `screen_NAME`
    [I, C]; of any other
    `offsets` [I + 1] and `order`, `cls`, `prefix`, `round`, `value`, as in the file. Holds all of it in
    memory. Raises TraceError.
    """
    arrays: dict[str, np.ndarray] = {
        "labels": np.array([_utf8(label) for label in trace.labels], str),
        "attributes": np.array(json.dumps(trace.attrs, sort_keys=True)),
    }
    for name, values in trace.images.items():
        text = values.dtype == object
        arrays[f"image_{name}"] = np.array([_utf8(v) for v in values], str) if text else values
    if (
        trace.attrs.get("rule") == "fixed"
        and "budget" not in trace.attrs
        and (trace._stop > trace._start).any()
    ):
        arrays["scores"] = _dense(trace, None)
        prefixes = [int(m) for m in trace.attrs.get("prefixes", ())]
        arrays |= {f"scores_{m}": _dense(trace, m) for m in prefixes}
        for at, name in enumerate(screens_of(trace.attrs)):
            stacks = list(trace.full_matrix(prefix=SCREENED, k_max=at + 1))
            arrays[f"screen_{name}"] = np.concatenate(stacks)[:, at].astype(np.float32)
        count = sum(int(np.isfinite(v).sum()) for name, v in arrays.items() if name.startswith("s"))
    else:
        held = [scores for _, scores in (trace if images is None else images)]
        sizes = [len(scores) for scores in held]
        arrays["offsets"] = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        for name, kind in zip(("order", "cls", "prefix", "round", "value"), "HHHHf", strict=True):
            columns = [getattr(scores, name) for scores in held] or [np.empty(0)]
            arrays[name] = np.concatenate(columns).astype(kind)
        count = int(arrays["offsets"][-1])
    try:
        with open(path, "wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type, unused-ignore]
    except OSError as error:
        raise _cannot_write(Path(path), error) from error
    return count


def _dense(trace: Trace, prefix: int | None) -> np.ndarray:
    """[I, K, C], NaN where an image failed. K is K_max where that many draws differ, else what there are."""
    found: np.ndarray = np.concatenate(list(trace.full_matrix(prefix=prefix))).astype(np.float32)
    return found
