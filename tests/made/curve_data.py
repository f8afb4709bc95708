"""A made-up full trace, and curves of made-up runs, for the tests of pictures and the report."""

import json
from pathlib import Path

import numpy as np

from anytime_cls.curves.file import CurveRun, Curves
from anytime_cls.race.bounds import VariancePrior
from anytime_cls.race.race import Race
from anytime_cls.race.registry import make_rule
from anytime_cls.traces.schema import ImageRow, Scores
from anytime_cls.traces.write import TraceWriter

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


def rung_scores(full, m: int):
    """Log-likelihoods after the first m of 16 tokens of every order: [I, K, C]."""
    noise = np.random.default_rng(m).normal(0, 0.5, full.shape)
    return (full * m / 16 + noise).astype("f4").astype(float)


def write_trace(
    path: Path, rule="fixed", root: Path | None = None, failed: int = -1, m: int = 16, prefixes=(), **more
) -> Path:
    """A trace of races by `rule` (its name or itself) over `scores()`; `failed` is an image with an error.

    m: tokens of a pass; the scores are what they are. prefixes: recorded too, of every order.
    """
    full, label = scores()
    racer = make_rule(rule, 0.05, {"paired": PRIOR, "marginal": PRIOR}) if isinstance(rule, str) else rule
    about = {"prefixes": list(prefixes), "prefix_flops": [p * 1e9 / 16 for p in prefixes]} if prefixes else {}
    if m != 16:
        about |= {"pass_tokens": m, "pass_flops": m * 1e9 / 16, "order_sampler": "stratified"}
    with TraceWriter.create(path, provenance(racer.name, **(about | more)), LABELS) as writer:
        for i in range(len(full)):
            key = f"{i:03d}<i>.png"
            where = str((root or Path("/nowhere")) / key)
            if i == failed:
                row = ImageRow(key, where, -1, -1, 0, 0, 0.0, 0.0, "", float("nan"), "broken file")
                writer.append(row, Scores.empty(), i)
                continue
            race = Race(len(LABELS), K_MAX, racer)
            rows, spent, turn = [], 0.0, 0
            while not race.done:
                request = race.request()
                at, n = request.prefix or m, len(request.classes)
                for order in request.orders:
                    values = (rung_scores(full, at) if request.prefix else full)[i, order, request.classes]
                    race.record(order, request.classes, values, request.prefix)
                    spent += n * at / 16
                    for p in () if request.prefix else prefixes:
                        some = rung_scores(full, p)[i, order, request.classes]
                        rows += zip([order] * n, request.classes, [p] * n, [turn] * n, some, strict=True)
                    rows += zip([order] * n, request.classes, [at] * n, [turn] * n, values, strict=True)
                turn += 1
            row = ImageRow(
                key, where, int(label[i]), race.leader, race.orders, race.passes,
                spent / (K_MAX * len(LABELS)), 0.002 * spent,
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
