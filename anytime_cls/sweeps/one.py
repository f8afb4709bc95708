"""A sweep in one call, for whoever has a classifier at hand."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from pathlib import Path

from anytime_cls.classifier import AnytimeClassifier
from anytime_cls.datasets.names import open_dataset
from anytime_cls.plan.options import RaceOptions
from anytime_cls.sweeps.sweep import run_sweep, sweep_plan, sweep_provenance
from anytime_cls.traces.read import Trace
from anytime_cls.traces.write import TraceWriter


def sweep_one(
    classifier: AnytimeClassifier,
    data: str,
    options: RaceOptions | None = None,
    out: str | Path | None = None,
    limit: int | None = None,
) -> Trace:
    """`AnytimeClassifier.sweep`."""
    dataset = open_dataset(data, classifier.card, limit=limit)
    plan = sweep_plan(dataset, classifier.card, options or RaceOptions())
    folder = None if out is not None else tempfile.mkdtemp(prefix="anytime-cls-")
    path = Path(f"{folder}/trace.h5" if out is None else out)
    try:
        with TraceWriter.create(
            path, sweep_provenance(plan, dataset, classifier.card), dataset.labels
        ) as writer:
            run_sweep(classifier, dataset, plan, writer)
        trace = Trace.open(path)
    except BaseException:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    if folder is not None:
        weakref.finalize(trace, shutil.rmtree, folder, ignore_errors=True)
    return trace
