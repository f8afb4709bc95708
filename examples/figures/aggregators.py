"""The paper's aggregators side by side: mean of log p, log of mean p, and mean of soft-max, over K orders.

    anytime-cls sweep cifar10 --root DATA/cifar10 --rule fixed --limit 1000 -o full.h5
    python examples/figures/aggregators.py full.h5

Needs no model: everything is computed from the log-likelihoods of a full trace (`--rule fixed`). As in the
paper's own evaluation, accuracy at K is averaged over all disjoint groups of K of the trace's orders. The
differences to the mean have 95 % bootstrap intervals over images.
"""

import argparse

import numpy as np

from anytime_cls.race.races import AGGREGATORS, aggregate_scores
from anytime_cls.traces.read import Trace

NAMES = {"mean": "mean of log p", "logmeanexp": "log of mean p", "softmax": "mean of soft-max"}


def correctness(scores: np.ndarray, labels: np.ndarray, k: int, how: str) -> np.ndarray:
    """How often each image is right over disjoint groups of k orders: scores [I, K, C] → [I] in [0, 1]."""
    n_images, n_orders, n_classes = scores.shape
    groups = scores[:, : n_orders // k * k].reshape(n_images, n_orders // k, k, n_classes)
    return (aggregate_scores(groups, how).argmax(axis=2) == labels[:, None]).mean(axis=1)


def interval(values: np.ndarray, seed: int, resamples: int = 2000) -> tuple[float, float]:
    """95 % percentile bootstrap of the mean over images."""
    rng = np.random.default_rng(seed)
    means = [rng.choice(values, len(values)).mean() for _ in range(resamples)]
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("trace")
    parser.add_argument("--k", default="1,2,4,8,16,32", help="numbers of orders (default: %(default)s)")
    parser.add_argument("--prefix", type=int, help="of recorded prefixes: only the first so many tokens")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap")
    args = parser.parse_args()

    with Trace.open(args.trace) as trace:
        if trace.attrs.get("rule") != "fixed":
            raise SystemExit(f"{args.trace}: not all classes were scored; record it with --rule fixed")
        scores = np.concatenate(list(trace.full_matrix(256, args.prefix)))
        labels = trace.images["label"]
        about = {key: trace.attrs.get(key) for key in ("model", "dataset", "order_sampler", "dtype")}
    usable = (labels >= 0) & np.isfinite(scores).all(axis=(1, 2))
    scores, labels = scores[usable], labels[usable]
    print(f"{len(labels)} images, {scores.shape[1]} orders, {scores.shape[2]} classes; {about}")
    print(f"\n| K | groups | {' | '.join(NAMES[how] for how in AGGREGATORS)} |")
    print("| --- | --- |" + " --- |" * len(AGGREGATORS))
    for k in sorted({int(word) for word in args.k.split(",")}):
        if not 1 <= k <= scores.shape[1]:
            raise SystemExit(f"--k {k}: the trace holds {scores.shape[1]} orders")
        right = {how: correctness(scores, labels, k, how) for how in AGGREGATORS}
        cells = [f"{right['mean'].mean():.4f}"]
        for how in AGGREGATORS[1:]:
            low, high = interval(right[how] - right["mean"], args.seed)
            gain = (right[how] - right["mean"]).mean()
            cells.append(f"{right[how].mean():.4f} ({gain:+.4f} [{low:+.4f}, {high:+.4f}])")
        print(f"| {k} | {scores.shape[1] // k} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
