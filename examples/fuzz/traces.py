"""Traces damaged at random: every command gives an answer or one line.

    python examples/fuzz/traces.py --count 100 --seed 0

A case is a full trace of made-up races with bytes changed or cut off, or with an attribute or a column put
in the place of one that is there. `trace info --json`, `merge`, `replay`, `calibrate` and `plot` are asked.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from harness import Tally, answer

from anytime_cls.traces.schema import ImageRow, Scores
from anytime_cls.traces.write import TraceWriter

PRIOR = '{"scale": 2.0, "power": 0.0, "df": 40.0}'
PRIORS = f'{{"paired": {PRIOR}, "marginal": {PRIOR}}}'
ATTRIBUTES: list[Any] = [
    h5py.Empty("f4"), 1 + 2j, np.ones((2, 2)), np.bytes_(b"\xff"), np.zeros(1, [("a", "i4")])[0],
    "", "x", "[" * 10_000, 0, -1, 3, 1 << 40, 0.5, -0.5, float("nan"),
    float("inf"), [1, 2], [0.5], ["a", "b"], True, np.zeros(0),
]  # fmt: skip


def full_trace(path: Path, images: int = 60, orders: int = 8, classes: int = 5) -> None:
    """A trace of rule fixed over random scores."""
    rng = np.random.default_rng(0)
    run = {
        "model": "made-up", "model_sha256": "ab" * 32, "tokenizer_sha256": "cd" * 32, "dataset": "made-up",
        "temperature": 1.5, "priors": PRIORS, "tokens": 64, "seed": 0, "order_sampler": "uniform",
        "rule": "fixed", "delta": 0.05, "k_max": orders, "dtype": "float32", "flops": 1e6,
    }  # fmt: skip
    order, cls = (grid.ravel() for grid in np.meshgrid(range(orders), range(classes), indexing="ij"))
    with TraceWriter.create(path, run, [f"class {c}" for c in range(classes)]) as writer:
        for i in range(images):
            means = rng.normal(0, 2, classes) - 300
            scores = (rng.normal(0, 1, (orders, classes)) + means).astype("f4")
            answered = int(scores.mean(axis=0).argmax())
            row = ImageRow(f"im{i}", f"{i}.png", i % classes, answered, orders, len(order), 1.0, 0.1, "", 0.5)
            writer.append(
                row, Scores(order, cls, np.full(len(order), 64), np.zeros(len(order)), scores.ravel()), i
            )


def damage(rng: random.Random, path: Path) -> str:
    kind = rng.choice(("bytes", "cut", "attribute", "attribute", "column", "number", "gone"))
    if kind in ("bytes", "cut"):
        data = bytearray(path.read_bytes())
        if kind == "cut":
            data = data[: rng.randrange(len(data))]
        else:
            for _ in range(rng.choice((1, 10, 200))):
                data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(data)
        return kind
    with h5py.File(path, "a") as file:
        columns = ["labels", *(f"{group}/{name}" for group in ("images", "scores") for name in file[group])]
        name = rng.choice(columns)
        if kind == "attribute":
            key = rng.choice([*file.attrs, "note", "prefixes", "plan", "images", "screens", "pass_tokens"])
            value = rng.choice(ATTRIBUTES)
            file.attrs[key] = value
            return f"{key} = {str(value)[:20]}"
        if kind == "number":
            column = file[name]
            values = [b"", b"\xff" * 5] if column.dtype.kind == "S" else [0, 1, 77, 40_000]
            column[rng.randrange(len(column))] = rng.choice(values)
            return f"a number of {name}"
        del file[name]
        if kind == "column":
            shape = rng.choice([(), (0,), (60,), (61,), (2400,), (60, 2), (1 << 40,), (1 << 20,)])
            dtype = rng.choice(["i8", "u2", "f4", "f8", "S5", "c16", "S1000000"])
            chunks = (1,) * len(shape) if shape and 0 not in shape else None
            file.create_dataset(name, shape, dtype, chunks=chunks)
            return f"{name} as {dtype} {shape}"
        return f"no {name}"


def case(seed: int, number: int, sound: bytes, folder: Path, tally: Tally) -> None:
    rng = random.Random(f"{seed}/{number}")
    path = folder / "full.h5"
    path.write_bytes(sound)
    name = f"{number} ({damage(rng, path)})"
    for command in (
        ["trace", "info", str(path), "--json"],
        ["trace", "merge", str(path), "-o", str(folder / "merged.h5")],
        ["replay", str(path), "-q"],
        ["calibrate", str(path), "-q"],
        ["plot", str(path), "-o", str(folder / "x.html"), "--bootstrap", "10", "-q"],
    ):
        tally.add(f"{name} {command[0]} {command[1] if command[0] == 'trace' else ''}", answer(command, 200))


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--count", type=int, default=100)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--only", type=int, help="this case alone")
    given = options.parse_args()
    import matplotlib.figure  # noqa: F401
    import scipy.stats  # noqa: F401

    import anytime_cls.curves.full  # noqa: F401

    tally = Tally(seconds=100, peak=1 << 30)
    with tempfile.TemporaryDirectory() as made:
        full_trace(Path(made) / "full.h5")
        sound = (Path(made) / "full.h5").read_bytes()
    for number in range(given.count) if given.only is None else [given.only]:
        with tempfile.TemporaryDirectory() as folder:
            case(given.seed, number, sound, Path(folder), tally)
    return tally.end(f"commands on {given.count} damaged traces")


if __name__ == "__main__":
    sys.exit(main())
