"""`anytime-cls doctor`: what is installed, what this machine has, and how fast it is, measured."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping, Sequence
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
    """Passes per second of whole orders, and the engine's own calibration, measured anew."""
    from anytime_cls.engine.bench import rows_of, seconds_of, transformer_of

    model, device = transformer_of(classifier.scorer), classifier.engine.device
    classifier.engine.settle()
    began = time.perf_counter()
    speeds = []
    for rows in BATCHES:
        if time.perf_counter() - began > LIMIT:
            break
        inputs = rows_of(model, rows)
        with torch.inference_mode():
            work = partial(model, *inputs)
            seconds_of(work, device)  # the first of a size pays for allocation
            seconds = sorted(seconds_of(work, device) for _ in range(REPEATS))
        speeds.append(
            {
                "batch": rows,
                "passes_per_second": round(rows / float(np.median(seconds)), 1),
                "seconds": {"median": float(np.median(seconds)), "min": seconds[0], "max": seconds[-1]},
            }
        )
    learned = classifier.engine.calibrate(fresh=True)
    learnt = classifier.engine.cost
    return {
        "device": str(device),
        "threads": None if classifier.engine.threads is None else str(classifier.engine.threads),
        "dtype": classifier.scorer.dtype,
        "tokens": model.config.n_tokens,
        "gflop_per_pass": round(model.config.flops() / 1e9, 4),
        "classes": model.config.n_classes,
        "speed": speeds,
        "calibration": {
            "overhead_seconds": learnt.overhead,
            "seconds_per_pass": learnt.slope,
            "took_seconds": round(learned, 3),
        },
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
            f"{duration(model['load_seconds'])}; {model['tokens']} tokens, "
            f"{model['gflop_per_pass']:g} GFLOP a pass",
        )
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
    order = learnt["overhead_seconds"] + model["classes"] * learnt["seconds_per_pass"]
    lines.append(
        (
            "calibration",
            f"{learnt['overhead_seconds'] * 1e3:.2f} ms a batch + {learnt['seconds_per_pass'] * 1e3:.3f} ms "
            f"a pass, measured just now and kept in the cache; one order of {model['classes']} classes: "
            f"{duration(order)}",
        )
    )
    return lines
