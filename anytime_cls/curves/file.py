"""Curves: what each rule, at each of its settings, did to every image of a run. One HDF5 file.

The output of `replay`, the input of `plot`; docs/curves.md describes the file. A *run* is one rule at one
setting over all images; runs that differ in one knob (δ, K_max, ...) form a curve.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import h5py  # type: ignore[import-untyped, unused-ignore]
import numpy as np

from anytime_cls.files import replace_file
from anytime_cls.race.decision import STOP_NAMES
from anytime_cls.traces.cost import shared_passes
from anytime_cls.traces.hdf5 import _clean, _read
from anytime_cls.traces.publish import _column, _dataset
from anytime_cls.traces.schema import TraceError
from anytime_cls.traces.valid import attributes, whole_column

SCHEMA_CURVES = 1
_NEEDED = ("rule", "source", "k_max", "curve", "knob", "knob_value")
_COLUMNS = {"prediction": "<i4", "orders": "<u2", "passes": "<i4", "token_fraction": "<f4", "stop": "|u1",
            "probability": "<f4", "rank": "<u2", "seconds": "<f4"}  # fmt: skip


class CurvesError(ValueError):
    """A file of curves that cannot be read or written; the message is one line for people."""


@dataclass(eq=False)
class CurveRun:
    """One rule at one setting over all I images: `settings`, and arrays [I] parallel to `Curves.ids`.

    settings : flat. `rule`, `source` ("replay" or "live"), `k_max`, `curve` (runs of one curve share it),
        `knob` (what differs along the curve) and `knob_value` are always there; `prefix` (tokens of a pass),
        `delta` (where the rule has one) and `seconds_kind` ("estimated" or "measured") as a rule
    prediction : int32, index into `Curves.labels`; −1 for an image that could not be read
    orders : uint16, K used
    passes : int32, forward evaluations (of `prefix` tokens)
    token_fraction : float32, compute as a share of that of all classes on the *source's* k_max whole orders
        (`traces.cost.full_passes` of `Curves.attrs`, whatever the run's K_max): a scale that runs of one file
        share
    stop : uint8, index into `STOP_NAMES`
    probability : float32, the answer's; NaN where there is none
    rank : uint16, of the true label in the final ranking, 0 = best, `UNRANKED` for an unknown label
    seconds : float32
    plan : how it was raced (`plan.written.write_race`); "" for a live run, whose trace has its plan

    Raises CurvesError for arrays of different length or a missing setting.
    """

    settings: dict[str, Any]
    prediction: np.ndarray
    orders: np.ndarray
    passes: np.ndarray
    token_fraction: np.ndarray
    stop: np.ndarray
    probability: np.ndarray
    rank: np.ndarray
    seconds: np.ndarray
    plan: str = ""

    def __post_init__(self) -> None:
        missing = [name for name in _NEEDED if name not in self.settings]
        if missing:
            raise CurvesError(f"a run of curves needs the settings {', '.join(missing)}")
        for name, dtype in _COLUMNS.items():
            setattr(self, name, np.asarray(getattr(self, name)).astype(dtype))
        if len({getattr(self, name).shape for name in _COLUMNS} | {(len(self),)}) > 1:
            raise CurvesError(f"run {self.name}: its columns differ in length")

    def __len__(self) -> int:
        return len(self.prediction)

    @property
    def name(self) -> str:
        """For people: `paired delta=0.05`."""
        return f"{self.settings['curve']} {self.settings['knob']}={self.settings['knob_value']:g}"


@dataclass(eq=False)
class Curves:
    """Runs over the same images.

    attrs : the source trace's provenance (docs/trace.md); labels : names of the classes raced
    ids, label : per image [I], its key and its label (int64, −1 unknown)
    full : int64 [I], argmax of the mean over all of the source's k_max whole orders, −1 for an image that
        could not be read (or where the source is a live run that did not score everything)
    """

    attrs: dict[str, Any]
    labels: list[str]
    ids: np.ndarray
    label: np.ndarray
    full: np.ndarray
    runs: list[CurveRun] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ids = np.asarray(self.ids, object)
        self.label, self.full = np.asarray(self.label, np.int64), np.asarray(self.full, np.int64)
        for run in self.runs:
            if len(run) != len(self.ids):
                raise CurvesError(f"run {run.name} has {len(run)} images, not the file's {len(self.ids)}")

    def curve(self, name: str) -> list[CurveRun]:
        """The runs of one curve, by knob value."""
        runs = [run for run in self.runs if run.settings["curve"] == name]
        return sorted(runs, key=lambda run: run.settings["knob_value"])

    @property
    def names(self) -> list[str]:
        """The curves, in the order they were added."""
        return list(dict.fromkeys(run.settings["curve"] for run in self.runs))


def write_curves(path: str | Path, curves: Curves, overwrite: bool = True) -> None:
    """Writes the file whole and durable, or not at all (under a temporary name, synced, renamed).

    Raises CurvesError if it cannot be written, or exists and not `overwrite`.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise CurvesError(f"{path} exists already: choose another name or replace it (--overwrite)")
    memory = io.BytesIO()  # HDF5 cannot be trusted to fail well on a full disk
    with h5py.File(memory, "w", libver=("v110", "v110")) as file:
        attrs = _attributes(curves.attrs | {"schema_curves": SCHEMA_CURVES, "stop_names": list(STOP_NAMES)})
        for key, value in attrs.items():
            file.attrs[key] = value
        _column(file, "labels", "str", curves.labels)
        _column(file, "images/id", "str", curves.ids.tolist())
        for name, values in (("images/label", curves.label), ("full/prediction", curves.full)):
            _dataset(file, name, len(values), "<i8", 1 << 16)[:] = values
        file.create_group("runs")
        for number, run in enumerate(curves.runs):
            group = file.create_group(f"runs/{number:04d}")
            for key, value in _attributes(run.settings | {"plan": run.plan or None}).items():
                group.attrs[key] = value
            for name, dtype in _COLUMNS.items():
                _dataset(group, name, len(run), dtype, 1 << 16)[:] = getattr(run, name)
    try:
        replace_file(path, memory.getbuffer(), durable=True)
    except OSError as error:
        raise CurvesError(f"cannot write {path}: {error.strerror or error}") from error


def read_curves(path: str | Path) -> Curves:
    """Reads a file of curves; CurvesError if it is not there, damaged, or something else."""
    path = Path(path)
    if not path.is_file():
        raise CurvesError(f"there are no curves at {path}")
    try:
        with h5py.File(path, "r", locking=False) as file:
            attrs = attributes(file)
            schema = attrs.pop("schema_curves", None)
            if schema is None:
                kind = "a trace: `anytime-cls replay` makes curves of it" if "scores" in file else "no curves"
                raise CurvesError(f"{path} is {kind}")
            if schema != SCHEMA_CURVES:
                raise CurvesError(f"{path} is of schema {schema}; this program reads {SCHEMA_CURVES}")
            stop_of = _stop_map(path, attrs.pop("stop_names"))
            runs = []
            for number in sorted(file["runs"]):
                group = file["runs"][number]
                columns = {name: whole_column(group, name, kind)[:] for name, kind in _COLUMNS.items()}
                columns["stop"] = stop_of[columns["stop"]]
                settings = attributes(group)
                plan = str(settings.pop("plan", ""))
                runs.append(CurveRun(settings, **columns, plan=plan))
            labels = _read(whole_column(file, "labels", "str")).tolist()
            full = shared_passes(attrs, len(labels))
            if full is not None:  # an older file
                attrs["full_passes"] = full
                times = len(labels) * attrs["k_max"] / full
                runs = [replace(run, token_fraction=run.token_fraction * times) for run in runs]
            return Curves(
                attrs, labels,
                _read(whole_column(file, "images/id", "str")),
                whole_column(file, "images/label", "<i8")[:],
                whole_column(file, "full/prediction", "<i8")[:], runs,
            )  # fmt: skip
    except CurvesError:
        raise
    except Exception as error:  # on a damaged file h5py raises almost any kind
        text = " ".join(str(error).split())
        raise CurvesError(f"{path} is damaged or holds no curves ({text})") from error


def merge_curves(several: Sequence[Curves]) -> Curves:
    """Curves of the same images in one: the first's provenance, all runs. CurvesError if images differ."""
    first = several[0]
    for other in several[1:]:
        same = np.array_equal(first.ids, other.ids) and np.array_equal(first.label, other.label)
        if not same or first.labels != other.labels:
            raise CurvesError("curves of different images or classes cannot be joined")
    known = next((curves for curves in several if (curves.full >= 0).any()), first)
    return Curves(
        first.attrs, first.labels, first.ids, first.label, known.full,
        [run for curves in several for run in curves.runs],
    )  # fmt: skip


def _attributes(values: Mapping[str, Any]) -> dict[str, Any]:
    try:
        cleaned = _clean(values, None)
    except TraceError as error:
        raise CurvesError(str(error)) from error
    own = {"schema": values["schema"]} if "schema" in values else {}  # the trace's, whatever is written now
    return {k: v for k, v in cleaned.items() if k != "schema"} | own


def _stop_map(path: Path, names: Sequence[str]) -> np.ndarray:
    """The file's stop codes → ours."""
    unknown = [name for name in names if name not in STOP_NAMES]
    if unknown:
        raise CurvesError(f"{path}: unknown stop reason {unknown[0]!r}")
    return np.array([STOP_NAMES.index(name) for name in names], np.uint8)


assert tuple(_COLUMNS) == tuple(f.name for f in fields(CurveRun))[1:-1]
