"""Made-up images and scores that the trace tests write and check."""

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from anytime_cls.traces.read import Trace
from anytime_cls.traces.schema import ImageRow, Scores
from anytime_cls.traces.write import TraceWriter

ROOT = Path(__file__).parents[2]
LABELS = ["cat", "dog", "épagneul"]
RUN = {
    "model_sha256": "ab" * 32, "tokenizer_sha256": "cd" * 32, "dataset": "cifar10",
    "dataset_fingerprint": "ef" * 32, "tokens": 64, "prefixes": [16, 32], "seed": 7,
    "pass_tokens": None, "crops": None, "latent_noise": None,
    "order_sampler": "uniform", "rule": "paired", "delta": 0.05, "k_max": 32, "budget": None,
    "dtype": "float32", "aggregate": "mean", "temperature": 2.0, "priors": "{}", "calibrated": None,
    "shard": None, "device": "cpu", "versions": ["numpy 2", "torch 2"], "command": "anytime-cls sweep é",
}  # fmt: skip


def posix(test):
    """For tests that fork; their children touch no thread of another test, whatever Python 3.12 fears."""
    test = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")(test)
    return pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")(test)


def scores_of(i: int) -> Scores:
    """What image i had scored: ragged, in no sorted order, and the same whoever asks."""
    rng = np.random.default_rng(i)
    grid = np.array([(o, c, p) for o in range(4) for c in range(3) for p in (16, 64)])
    order, cls, prefix = rng.permutation(grid)[: rng.integers(0, len(grid) + 1)].T
    return Scores(
        order, cls, prefix, np.arange(len(order)) // 3, rng.normal(-300, 3, len(order)).astype("f4")
    )


def row_of(i: int) -> ImageRow:
    return ImageRow(
        f"im{i}", f"/data/é/{i}.png", i % 4 - 1, i % 3, 4, 12, i / 7, i / 9, "decided", 0.1 + 0.2 * i
    )


def write(path: Path, indices, provenance=RUN, resume: bool = False, **options) -> None:
    start = TraceWriter.resume if resume else TraceWriter.create
    with start(path, provenance, LABELS, **options) as writer:
        for i in indices:
            if f"im{i}" not in writer.done:
                writer.append(row_of(i), scores_of(i), i)


def digest(path: Path) -> str:
    assert not path.with_name(path.name + ".parts").exists()
    return hashlib.sha256(path.read_bytes()).hexdigest()


def check(trace: Trace, indices) -> None:
    """Every image is there, equal to what was scored, in the order of the run."""
    assert trace.images["index"].tolist() == sorted(indices)
    for i, (row, scores) in zip(sorted(indices), trace, strict=True):
        assert row == row_of(i)
        for name in ("order", "cls", "prefix", "round", "value"):
            np.testing.assert_array_equal(getattr(scores, name), getattr(scores_of(i), name))
            assert getattr(scores, name).dtype == (np.float64 if name == "value" else np.int64)


def in_child(work) -> int:
    """Runs work() in a forked process and returns its exit status (negative: the signal that ended it)."""
    pid = os.fork()
    if not pid:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
