"""`anytime-cls doctor`: what is installed, what this machine has, and how fast it is, measured."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from anytime_cls.classifier import AnytimeClassifier
from anytime_cls.engine import cost
from anytime_cls.engine.device import DTYPES, choose_device, choose_dtype
from anytime_cls.environment import versions
from anytime_cls.models.zoo import embedded_names

from .errors import FAILED, Refused, readable
from .show.output import duration, print_json

BATCHES = (1, 4, 16, 32)
REPEATS = 5
GREY = np.zeros((8, 8, 3), np.uint8)  # a picture that any machine has
LIMIT = 20.0  # seconds after which no further batch size is measured


def run(model: str, device: str, dtype: str, as_json: bool, threads: int | None = None) -> int:
    """Returns 1 if something is broken, else 0."""
    try:
        choose_dtype(dtype)
        where = choose_device(device)
    except ValueError as error:
        raise Refused(str(error)) from None
    report = look(where)
    try:
        classifier = AnytimeClassifier.load(model, str(where), dtype, threads=threads)
        report["model"] = {"name": classifier.card.name, "load_seconds": round(classifier.load_seconds, 3)}
        report["model"] |= measure(classifier)
    except (ValueError, RuntimeError) as error:  # no such model, damaged, a dtype that does not run
        report["model"] = {"name": model, "error": " ".join(str(error).split())}
    if as_json:
        print_json(report)
    else:
        print_report(report)
    return FAILED if "error" in report["model"] else 0


def look(where: torch.device) -> dict[str, Any]:
    """Versions, devices, threads, dtypes: everything but the model."""
    cuda = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "versions": versions(),
        "platform": platform.platform(),
        "cpu": {
            "cores": os.cpu_count(),
            "usable_cores": usable,
            "threads": torch.get_num_threads(),
            "instructions": torch.backends.cpu.get_cpu_capability(),
        },
        "devices": ["cpu", *(f"cuda:{i} ({name})" for i, name in enumerate(cuda))]
        + (["mps"] if torch.backends.mps.is_available() else []),
        "device": str(where),
        "dtypes": {name: runs(where, kind) for name, kind in DTYPES.items()},
        "embedded_models": embedded_names(),
        "cache": cache(),
    }


def cache() -> dict[str, Any]:
    """The file of what was measured; None for a user without a home folder."""
    try:
        file = cost.cache_file()
        return {"file": str(file), "exists": file.is_file()}
    except OSError as error:
        return {"file": None, "exists": False, "error": error.strerror}


def runs(device: torch.device, dtype: torch.dtype) -> str:
    """Whether the device multiplies matrices of this dtype: "runs", or the error."""
    try:
        ones = torch.ones(8, 8, device=device, dtype=dtype)
        return "runs" if float((ones @ ones).sum()) == 512 else "wrong result"
    except (RuntimeError, TypeError) as error:
        return " ".join(str(error).split())[:120]


def measure(classifier: AnytimeClassifier) -> dict[str, Any]:
    """A picture scored for all classes, passes per second of whole draws, and the engine's own calibration,
    measured anew. Raises ValueError where the scores cannot be raced."""
    from anytime_cls.engine.bench_scorer import check_scores, pass_words

    scorer, classes = classifier.scorer, len(classifier.labels)
    classifier.engine.settle()
    encoded = classifier.encode(GREY)[0]
    check_scores(scorer, encoded, classes)
    speeds = list(speed(classifier, encoded))
    learned = classifier.engine.calibrate(fresh=True)
    learnt, shape = classifier.engine.cost, scorer.shape
    return {
        "device": str(classifier.engine.device),
        "threads": None if classifier.engine.threads is None else str(classifier.engine.threads),
        "dtype": scorer.dtype,
        "method": classifier.card.method,
        "tokens": shape.steps,
        "gflop_per_pass": round(shape.flops(shape.steps, 1) / 1e9, 4),
        "classes": classes,
        "a_pass": pass_words(shape, classes),
        "speed": speeds,
        "calibration": {
            "overhead_seconds": learnt.overhead,
            "seconds_per_pass": learnt.slope,
            "draw_seconds": learnt.expected(classes, shape.steps),
            "took_seconds": round(learned, 3),
        },
    }


def speed(classifier: AnytimeClassifier, encoded: Any) -> Iterator[dict[str, Any]]:
    """Passes a second at every batch size: of a transformer alone where it is one of ours, else of the scorer
    as a race asks it."""
    from anytime_cls.engine.bench import rows_of, seconds_of
    from anytime_cls.engine.bench_scorer import pieces
    from anytime_cls.scorers.any_order import AnyOrder

    scorer, device, classes = classifier.scorer, classifier.engine.device, len(classifier.labels)
    steps = scorer.shape.steps
    began = time.perf_counter()
    for rows in BATCHES:
        if time.perf_counter() - began > LIMIT:
            break
        if isinstance(scorer, AnyOrder):
            work: Callable[[], object] = partial(scorer.model, *rows_of(scorer.model, rows))
        else:
            work = partial(scorer.score, pieces(scorer, encoded, classes, rows, steps), (steps,))
        with torch.inference_mode():
            seconds_of(work, device)  # the first of a size pays for allocation
            seconds = sorted(seconds_of(work, device) for _ in range(REPEATS))
        yield {
            "batch": rows,
            "passes_per_second": round(rows / float(np.median(seconds)), 1),
            "seconds": {"median": float(np.median(seconds)), "min": seconds[0], "max": seconds[-1]},
        }


def print_report(report: Mapping[str, Any]) -> None:
    """The report for people: a name and what was found, a line each."""
    cpu, model, cache = report["cpu"], report["model"], report["cache"]
    lines: list[tuple[str, str]] = [
        ("versions", ", ".join(f"{name} {version}" for name, version in report["versions"].items())),
        ("platform", report["platform"]),
        (
            "cpu",
            f"{cpu['usable_cores']} of {cpu['cores']} cores usable, {cpu['threads']} threads "
            f"(OMP_NUM_THREADS sets them), {cpu['instructions']}",
        ),
        ("devices", ", ".join(report["devices"]) + f"; used: {report['device']}"),
        ("dtypes", ", ".join(f"{name} {state}" for name, state in report["dtypes"].items())),
        ("embedded", ", ".join(report["embedded_models"]) or "none"),
        ("cache", cache.get("error") or cache["file"] + ("" if cache["exists"] else " (not written yet)")),
    ]
    if "error" in model:
        lines.append(("model", f"BROKEN: {model['error']}"))
    else:
        lines += model_lines(model)
    width = max(len(name) for name, _ in lines)
    for name, text in lines:
        print(f"{name:{width}}  {readable(text)}")


def model_lines(model: Mapping[str, Any]) -> Sequence[tuple[str, str]]:
    learnt = model["calibration"]
    where = model["device"] + (f" with {model['threads']}" if model["threads"] else "")
    lines = [
        (
            "model",
            f"{model['name']} in {model['dtype']} on {where}, loaded in "
            f"{duration(model['load_seconds'])}; a picture scored for {model['classes']} classes",
        ),
        ("a pass", f"{model['gflop_per_pass']:g} GFLOP; {model['a_pass']}"),
    ]
    for row in model["speed"]:
        seconds = row["seconds"]
        lines.append(
            (
                "speed",
                f"batch of {row['batch']:2}: {row['passes_per_second']:g} passes a second "
                f"(median of {REPEATS}; a batch took {seconds['min'] * 1e3:.1f} to "
                f"{seconds['max'] * 1e3:.1f} ms)",
            )
        )
    lines.append(
        (
            "calibration",
            f"{learnt['overhead_seconds'] * 1e3:.2f} ms a batch + {learnt['seconds_per_pass'] * 1e3:.3f} ms "
            f"a pass, measured just now and kept in the cache; one draw of {model['classes']} classes: "
            f"{learnt['draw_seconds'] * 1e3:.3g} ms",
        )
    )
    return lines
