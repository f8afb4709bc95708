"""The trace of a `classify` run: provenance, and decisions as rows."""

from __future__ import annotations

import math
import platform
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import anytime_cls
from anytime_cls.classifier import AnytimeClassifier, Decision, Failure, RaceOptions
from anytime_cls.trace import ImageRow, Scores
from anytime_cls.trace_write import TraceWriter

from .errors import readable


class Recorder:
    """Adds the images of one run to a trace. The context manager closes the trace, as TraceWriter does."""

    def __init__(
        self, path: str, classifier: AnytimeClassifier, options: RaceOptions, command: Sequence[str]
    ):
        ids = classifier.card.class_ids(options.classes).tolist()
        self._position = {index: at for at, index in enumerate(ids)}
        labels = [classifier.labels[index] for index in ids]
        self._writer = TraceWriter.create(path, provenance(classifier, options, command), labels)

    def add(self, index: int, path: str, result: Decision | Failure) -> None:
        """One image, the index-th of the run, as soon as it is done."""
        path = path.replace("\0", "\ufffd")
        key = f"{index}:{path}"
        if isinstance(result, Failure):
            row = ImageRow(key, path, -1, -1, 0, 0, 0.0, 0.0, "", math.nan, result.error)
            self._writer.append(row, Scores.empty(), index)
            return
        row = ImageRow(
            id=key, path=path, label=-1,
            prediction=self._position[result.index],
            orders=result.orders,
            passes=sum(len(record.classes) for record in result.records),
            token_fraction=result.passes / result.full_passes,
            seconds=result.seconds, stop=result.stop, probability=result.probability,
        )  # fmt: skip
        self._writer.append(row, scores_of(result), index)

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *error: Any) -> None:
        self._writer.__exit__(*error)


def scores_of(decision: Decision) -> Scores:
    """Everything the race scored, as the trace's columns."""
    records = decision.records
    if not records:
        return Scores.empty()
    sizes = [len(record.classes) for record in records]
    return Scores(
        order=np.repeat([record.order for record in records], sizes),
        cls=np.concatenate([record.classes for record in records]),
        prefix=np.repeat([record.prefix for record in records], sizes),
        round=np.repeat([record.round for record in records], sizes),
        value=np.concatenate([record.values for record in records]),
    )


def provenance(classifier: AnytimeClassifier, options: RaceOptions, command: Sequence[str]) -> dict[str, Any]:
    """Where a run's numbers come from: docs/trace.md. command: its arguments."""
    card, weight = classifier.card, classifier.model.output.weight
    return {
        "model": card.name,
        "model_sha256": card.sha256["randar.safetensors"],
        "tokenizer_sha256": card.sha256["tokenizer.safetensors"],
        "temperature": card.temperature,
        "dataset": "files",
        "tokens": classifier.tokenizer.n_tokens,
        "seed": options.seed,
        "order_sampler": options.orders,
        "aggregate": options.aggregate,
        "rule": options.rule,
        "delta": options.delta,
        "k_max": options.k_max,
        "budget": None if options.budget is None else str(options.budget),
        "dtype": str(weight.dtype).removeprefix("torch."),
        "device": str(weight.device),
        "command": readable(shlex.join(["anytime-cls", *command])),
        "git_revision": git_revision(),
        **{f"version_{name}": version for name, version in versions().items()},
    }


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on; the JPEG library too, since it decides pixels."""
    import PIL
    import torch
    from PIL import features

    jpeg = "libjpeg-turbo" if features.check("libjpeg_turbo") else "libjpeg"
    number = features.version("libjpeg_turbo") or features.version("jpg") or "missing"
    return {
        "anytime_cls": anytime_cls.__version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),  # a subclass of str
        "numpy": np.__version__,
        "pillow": PIL.__version__,
        "jpeg": f"{jpeg} {number}",
    }


def git_revision() -> str | None:
    """The commit of the checkout this program runs from, if it does."""
    root = Path(anytime_cls.__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        command = ["git", "-C", str(root), "rev-parse", "HEAD"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
