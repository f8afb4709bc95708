"""Curves files and traces, opened together for analysis and pictures."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py  # type: ignore[import-untyped, unused-ignore]

from anytime_cls.curves.file import Curves, read_curves
from anytime_cls.curves.full import full_curves
from anytime_cls.curves.live import live_curves
from anytime_cls.curves.study import StudyRun
from anytime_cls.race.fitted import Fitted
from anytime_cls.traces.known import trace_fitted
from anytime_cls.traces.read import Trace
from anytime_cls.traces.schema import MATCH_KEYS

Report = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class Material:
    """files: (name, curves) to join. traces: those among the files, for what curves do not hold."""

    files: list[tuple[str, Curves]]
    traces: list[Trace]

    def close(self) -> None:
        """Closes the traces."""
        for trace in self.traces:
            trace.close()

    def trace_of(self, run: StudyRun) -> Trace | None:
        """The trace with a run's scores: its own if it was live, else the full one it was replayed from."""
        attrs = self.files[int(run.settings["file"])][1].attrs
        for trace in self.traces:
            if same_run(trace.attrs, attrs) and (run.live or trace.attrs.get("rule") == "fixed"):
                return trace
        return None


def open_files(
    paths: Sequence[str],
    progress: Report | None = None,
    replay: bool = True,
    known: Callable[[Trace], Fitted] = trace_fitted,
) -> Material:
    """Reads curves and traces. Full traces are replayed at default grids, unless their curves are there too;
    without `replay` they are taken as they were run. known: what to replay a trace with.

    Raises TraceError, CurvesError or ReplayError in one line.
    """
    files: list[tuple[str, Curves]] = []
    traces: list[Trace] = []
    full: list[tuple[str, Trace]] = []
    for path in paths:
        name = Path(path).name
        if _is_curves(path):
            files.append((name, read_curves(path)))
            continue
        trace = Trace.open(path)
        traces.append(trace)
        if trace.attrs.get("rule") == "fixed" and "budget" not in trace.attrs:
            full.append((name, trace))
        else:
            files.append((name, live_curves(trace)))
    for name, trace in full:
        if not any(same_run(trace.attrs, curves.attrs) for _, curves in files):
            if replay:
                files.append((name, full_curves(trace, fitted=known(trace), progress=progress)))
            else:
                files.append((name, live_curves(trace)))
    return Material(files, traces)


def same_run(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Whether two files' provenance is of the same run (`labels` is kept apart from it)."""
    return all(
        a.get(key) == b.get(key) for key in (*MATCH_KEYS, "command") if key not in ("schema", "labels")
    )


def _is_curves(path: str) -> bool:
    if not os.path.isfile(path):  # HDF5 would wait for a FIFO's writer
        return False
    try:
        with h5py.File(path, "r", locking=False) as file:
            return "schema_curves" in file.attrs
    except (OSError, RuntimeError):  # RuntimeError: h5py, of damaged attributes
        return False
