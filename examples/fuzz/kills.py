"""Sweeps killed at random moments, each gone on with until it is whole: the trace is that of one undisturbed.

python examples/fuzz/kills.py --count 20 --seed 0
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from harness import Tally, answer
from PIL import Image

from anytime_cls.traces.read import Trace

CLASSES = ("bird", "cat", "frog", "ship")
NOT_COMPARED = ("seconds",)


def folder_of_images(root: Path, each: int) -> Path:
    """Noise of one colour, in class folders."""
    rng = np.random.default_rng(0)
    for name in CLASSES:
        (root / name).mkdir(parents=True)
        for i in range(each):
            pixels = rng.integers(0, 200, 3) + rng.integers(0, 56, (32, 32, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{i}.png")
    return root


def contents(path: Path) -> dict[str, Any]:
    """All of a finished trace but its times."""
    with Trace.open(path) as trace:
        assert trace.complete, "not complete"
        rows = {key: values.tobytes() if values.dtype != object else values.tolist()
                for key, values in trace.images.items() if key not in NOT_COMPARED}  # fmt: skip
        scores = [[getattr(s, name).tobytes() for name in ("order", "cls", "prefix", "round", "value")]
                  for _, s in trace]  # fmt: skip
        return {"labels": trace.labels, "rows": rows, "scores": scores}


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--count", type=int, default=20, help="kills")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--each", type=int, default=10, help="images a class")
    options.add_argument("--workers", type=int, default=1, help="processes of a sweep; its parent is killed")
    given = options.parse_args()
    import torch

    import anytime_cls_cli.sweep  # noqa: F401

    torch.set_num_threads(1)
    rng, tally, kills, runs = random.Random(given.seed), Tally(seconds=600), 0, 0
    with tempfile.TemporaryDirectory() as made:
        data = folder_of_images(Path(made) / "data", given.each)
        command = ["sweep", str(data), "--rule", "fixed", "--max-orders", "4", "--device", "cpu", "-q",
                   "--json", "--workers", str(given.workers)]  # fmt: skip
        start = time.monotonic()
        whole = answer([*command, "-o", f"{made}/whole.h5"], 600)
        lasted = time.monotonic() - start
        tally.add("undisturbed", whole, lines=0)
        expected = contents(Path(made) / "whole.h5")
        while kills < given.count:
            path, runs = Path(made) / f"{runs}.h5", runs + 1
            for left in (3, 2, 1, 0):  # kills of this run; then it may end
                limit = rng.uniform(0, 1.1) * lasted if left else 600
                got = answer([*command, "-o", str(path), "--resume"], limit)
                if got.code != -9:
                    break
                kills += 1
            print(f"{path.name}: {kills} kills by now", flush=True)
            wrong = "" if got.code == 0 and contents(path) == expected else "another trace"
            wrong = wrong or ("something is left" if list(path.parent.glob(f"{path.name}?*")) else "")
            tally.add(f"run {runs} after {kills} kills", got, lines=0, fault=wrong)
    print(f"{kills} kills in {runs} runs of {len(CLASSES) * given.each} images")
    return tally.end("runs")


if __name__ == "__main__":
    sys.exit(main())
