"""A small data set, sweeps over it, and processes to kill in the middle of one: for the sweep tests."""

from __future__ import annotations

import json
import multiprocessing
import os
from pathlib import Path
from typing import Any

import numpy as np
from basics import TINY_LABELS
from PIL import Image

from anytime_cls.traces.read import Trace
from anytime_cls.traces.write import TraceWriter
from anytime_cls_cli.main import main

CLASSES = TINY_LABELS[:4]


def make_images(root: Path, each: int, classes: list[str] = CLASSES, size: int = 32) -> Path:
    """`each` noisy pictures of every class, in class folders."""
    rng = np.random.default_rng(0)
    for name in classes:
        (root / name).mkdir(parents=True)
        for i in range(each):
            base = rng.integers(0, 200, 3)
            pixels = (base + rng.integers(0, 56, (size, size, 3))).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return root


def contents(path: Path) -> dict[str, Any]:
    """Everything that two runs must agree on, byte for byte: all but the seconds."""
    with Trace.open(path) as trace:
        assert trace.complete
        images = {k: v.tolist() for k, v in trace.images.items() if k not in ("seconds", "probability")}
        images["probability"] = trace.images["probability"].tobytes()
        scores = [
            b"".join(getattr(s, name).tobytes() for name in ("order", "cls", "prefix", "round", "value"))
            for _, s in trace
        ]
        return {"labels": trace.labels, "images": images, "scores": scores}


def sweep(capsys: Any, *args: object) -> tuple[int, dict[str, Any] | None, str]:
    """Exit code, JSON and standard error of `sweep ARGS --json` in this process."""
    code = main(["sweep", "--device", "cpu", "--json", *map(str, args)])
    out, err = capsys.readouterr()
    assert out.count("\n") <= 1
    return code, json.loads(out) if out else None, err


# forkserver: a server that has imported torch, and run nothing, forks every child in no time; a fork of the
# test process itself could hang, since torch's threads do not survive one
_SERVER = multiprocessing.get_context("forkserver") if hasattr(os, "fork") else None
if _SERVER:
    _SERVER.set_forkserver_preload(["sweep_data", "anytime_cls.sweeps.workers", "anytime_cls_cli.show.sweep"])


def start(args: list[object], log: Path, images_per_part: int = 2, limit: int = 0, slow: float = 0) -> Any:
    """A process that runs `anytime-cls ARGS`, its output in `log`; killable without a wait for torch.

    images_per_part: so that short runs write parts too. limit: bytes a file may have. slow: seconds that
    every tile of a batch takes longer.
    """
    assert _SERVER is not None
    process = _SERVER.Process(target=_child, args=(list(map(str, args)), log, images_per_part, limit, slow))
    process.start()
    return process


def _child(args: list[str], log: Path, images_per_part: int, limit: int, slow: float) -> None:
    import resource
    import time

    import torch

    from anytime_cls.scorers.randar import RandAR

    output = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    torch.set_num_threads(1)
    init = TraceWriter.__init__

    def small_parts(self: TraceWriter, path: str | Path, *_: object) -> None:
        init(self, path, images_per_part, 10.0)

    TraceWriter.__init__ = small_parts  # type: ignore[method-assign]
    if slow:
        score = RandAR.forward

        def slowly(self: RandAR, *given: Any) -> Any:
            time.sleep(slow)
            return score(self, *given)

        RandAR.forward = slowly  # type: ignore[method-assign, assignment]
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    os._exit(main(args))
