"""A made-up full trace, and curves of made-up runs, for the tests of pictures and the report."""

import json
from pathlib import Path

import numpy as np

from anytime_cls.bounds import VariancePrior
from anytime_cls.curves import CurveRun, Curves
from anytime_cls.race import Race
from anytime_cls.rules import make_rule
from anytime_cls.trace import ImageRow, Scores
from anytime_cls.trace_write import TraceWriter

LABELS = ["cat", "dog", "<b>épagneul</b>", "frog", "ship", "truck"]
PRIOR = VariancePrior(scale=1.0, power=0.0, df=20.0)
N_IMAGES, K_MAX = 60, 8


def scores(n_images: int = N_IMAGES, seed: int = 0):
    """Full scores [I, K, C] (exact in float32) and labels: some images are easy, some are not."""
    rng = np.random.default_rng(seed)
    label = np.arange(n_images) % len(LABELS)
    merit = rng.normal(0, 1, (n_images, len(LABELS)))
    merit[np.arange(n_images), label] += rng.exponential(4, n_images)
    noise = rng.normal(0, 1, (n_images, K_MAX, len(LABELS))) + rng.normal(0, 3, (n_images, K_MAX, 1))
    return (merit[:, None] + noise - 300).astype("f4").astype(float), label


def provenance(rule: str, **more):
    return {
        "model": "tiny", "model_sha256": "ab" * 32, "tokenizer_sha256": "cd" * 32, "dataset": "made-up",
        "tokens": 16, "seed": 0, "order_sampler": "uniform", "rule": rule, "delta": 0.05, "k_max": K_MAX,
        "dtype": "float32", "temperature": 1.0, "flops": 1e9, "aggregate": "mean",
        "priors": json.dumps({"paired": PRIOR.to_dict(), "marginal": PRIOR.to_dict()}),
        "command": "anytime-cls sweep '<script>alert(1)</script>' -o full.h5", **more,
    }  # fmt: skip


def write_trace(path: Path, rule: str = "fixed", root: Path | None = None, failed: int = -1, **more) -> Path:
    """A trace of races by `rule` over `scores()`; `failed` is an image with an error."""
    full, label = scores()
    racer = make_rule(rule, 0.05, {"paired": PRIOR, "marginal": PRIOR})
    with TraceWriter.create(path, provenance(rule, **more), LABELS) as writer:
        for i in range(len(full)):
            key = f"{i:03d}<i>.png"
            where = str((root or Path("/nowhere")) / key)
            if i == failed:
                row = ImageRow(key, where, -1, -1, 0, 0, 0.0, 0.0, "", float("nan"), "broken file")
                writer.append(row, Scores.empty(), i)
                continue
            race = Race(len(LABELS), K_MAX, racer)
            rows = []
            while not race.done:
                request = race.request()
                for order in request.orders:
                    race.record(order, request.classes, full[i, order, request.classes])
                    rows += [(order, c, 16, 0, full[i, order, c]) for c in request.classes]
            row = ImageRow(
                key, where, int(label[i]), race.leader, race.orders, race.passes,
                race.passes / (K_MAX * len(LABELS)), 0.002 * race.passes,
                "decided" if race.orders < K_MAX else "max-orders",
                float(race.aggregate("mean")[race.leader]),
            )  # fmt: skip
            writer.append(row, Scores(*np.array(rows).T), i)
    return path


def run(prediction, passes, orders=None, rank=0, **settings) -> CurveRun:
    """A made-up run; passes may be one number for all images."""
    n = len(prediction)
    base = {"rule": "paired", "source": "replay", "k_max": K_MAX, "prefix": 16, "curve": "paired",
            "knob": "delta", "knob_value": 0.05, "seconds_kind": "estimated"}  # fmt: skip
    passes = np.broadcast_to(passes, n)
    orders = passes // len(LABELS) if orders is None else np.broadcast_to(orders, n)
    return CurveRun(
        base | settings, np.asarray(prediction), orders, passes, passes / (K_MAX * len(LABELS)), np.zeros(n),
        np.full(n, 0.8), np.broadcast_to(rank, n), 0.01 * passes,
    )  # fmt: skip


def fixed_run(prediction, k: int, **settings) -> CurveRun:
    named = {"rule": "fixed", "curve": "fixed", "knob": "k_max", "knob_value": float(k), "k_max": k}
    return run(prediction, k * len(LABELS), k, **(named | settings))


def curves(runs, label, full=None, ids=None, **attrs) -> Curves:
    n = len(label)
    full = np.full(n, -1) if full is None else full
    ids = [f"im{i}" for i in range(n)] if ids is None else ids
    return Curves(provenance("fixed", **attrs), LABELS, np.array(ids, object), label, full, runs)
