"""The trace of a `classify` run: decisions as rows, one trace a run."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from anytime_cls.classifier import AnytimeClassifier
from anytime_cls.plan.attributes import provenance as provenance_of
from anytime_cls.plan.plan import RacePlan, Runtime
from anytime_cls.race.decision import Decision, Failure
from anytime_cls.traces.rows import image_row, positions
from anytime_cls.traces.write import TraceWriter

from .errors import readable, without_secrets


class Recorder:
    """Adds the images of one run to a trace. The context manager closes the trace, as TraceWriter does."""

    def __init__(self, path: str, classifier: AnytimeClassifier, plan: RacePlan, command: Sequence[str]):
        self._position = positions(plan.class_ids)
        self._full_passes = plan.full_passes
        self._writer = TraceWriter.create(path, provenance(classifier, plan, command), plan.labels)

    def add(self, index: int, path: str, result: Decision | Failure) -> None:
        """One image, the index-th of the run, as soon as it is done."""
        key = f"{index}:{path}".replace("\0", "\ufffd")
        self._writer.append(*image_row(key, path, -1, result, self._position, self._full_passes), index)

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *error: Any) -> None:
        self._writer.__exit__(*error)


def provenance(classifier: AnytimeClassifier, plan: RacePlan, command: Sequence[str]) -> dict[str, Any]:
    """Where the numbers of a run over files come from: docs/trace.md. command: its arguments."""
    runtime = Runtime(classifier.scorer.device, classifier.scorer.dtype)
    return provenance_of(plan, classifier.card, "files", runtime, typed(command))


def typed(command: Sequence[str]) -> str:
    """The command line as it was typed, in printable characters and without secrets: traces are passed on."""
    return readable(shlex.join(["anytime-cls", *map(without_secrets, command)]))
