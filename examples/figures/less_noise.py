"""What would make an order say more? Control variates and rank weights, judged on a full trace.

    anytime-cls sweep cifar10 --root DATA/cifar10/test --rule fixed --record-prefixes 8,16,32 -o full.h5
    python examples/figures/less_noise.py full.h5 --model cifar10

Half of the images (by --seed) fit, the other half judge.

Control variate: the share of the variance of leader − rival over orders that a linear function of the
order's mean log-likelihood over all classes (what the order adds to every class) explains, within an image.
That much of the noise would go if the expectation of the variate were known; pairing has removed the rest.
With --model the same of the null class's log-likelihood, log p(x | order), scored here on the trace's orders
of --null-images of its images, which must still be where they were.

Rank weights: a token's weight depends on its rank in the order, here on the segment between recorded
prefixes. Weights are fitted to the labels by maximum likelihood (soft-max of the weighted mean
log-likelihoods), which also finds the scale, and compared with the plain sum and each prefix at the same K.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.special import log_softmax

from anytime_cls import AnytimeClassifier
from anytime_cls.draws.orders import OrderSampler
from anytime_cls.stats.intervals import wilson
from anytime_cls.traces.read import Trace


def segments(trace: Trace, k_max: int) -> tuple[np.ndarray, list[int]]:
    """Log-likelihood of each segment of an order: [I, K, C, segments], and where the segments end."""
    ends = [*map(int, trace.attrs.get("prefixes", ())), trace.pass_tokens]
    sums = [np.concatenate(list(trace.full_matrix(256, m, k_max))) for m in ends]
    return np.diff(np.stack(sums, axis=-1), axis=-1, prepend=0.0), ends


def explained(scores: np.ndarray, variate: np.ndarray) -> float:
    """Share of leader − rival's variance within an image that a variate explains: [I, K, C], [I, K]."""
    leader = scores.mean(axis=1).argmax(axis=1)
    difference = np.take_along_axis(scores, leader[:, None, None], axis=2) - scores
    variate = variate[:, :, None]
    difference = difference - difference.mean(axis=1, keepdims=True)
    variate = variate - variate.mean(axis=1, keepdims=True)
    slope = (difference * variate).sum(axis=1, keepdims=True) / (variate**2).sum(axis=1, keepdims=True)
    orders = scores.shape[1]
    left = ((difference - slope * variate) ** 2).sum() / (orders - 2)  # unbiased: the slope was fitted
    return 1 - left / ((difference**2).sum() / (orders - 1))


def null_scores(trace: Trace, images: np.ndarray, classifier: AnytimeClassifier, k_max: int) -> np.ndarray:
    """log p(x | order) of the null class on the orders that the trace's images were raced on: [I, K]."""
    if classifier.card.sha256["transformer.safetensors"] != trace.attrs["model_sha256"]:
        raise SystemExit(f"{trace.path} was recorded with another model than {classifier.card.name}")
    length, n_tokens = trace.pass_tokens, classifier.scorer.tokenizer.n_tokens
    prefix = None if length == n_tokens else length
    sampler = OrderSampler(trace.attrs["order_sampler"], n_tokens, int(trace.attrs["seed"]), prefix)
    null = torch.full((k_max,), classifier.scorer.model.config.n_classes)
    out = []
    for i in images:
        tokens, content = classifier.encode(Path(trace.row(int(i)).path))
        orders = torch.from_numpy(np.stack([sampler.order(content, k) for k in range(k_max)]))
        with torch.inference_mode():
            log_p = classifier.scorer.model(
                torch.from_numpy(np.tile(tokens, (k_max, 1))), null, orders, prefix
            )
        out.append(log_p.double().sum(dim=1).numpy())
    return np.stack(out)


def fit_weights(means: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Weights ≥ 0 of the segments by maximum likelihood: means [I, C, S] → [S]."""

    def loss(log_w: np.ndarray) -> float:
        log_p = log_softmax(means @ np.exp(log_w), axis=1)
        return -float(log_p[np.arange(len(label)), label].mean())

    start = np.full(means.shape[2], -1.0)
    return np.exp(minimize(loss, start, method="Nelder-Mead", options={"maxiter": 4000}).x)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("trace", help="of rule fixed, with recorded prefixes and labels")
    parser.add_argument("--orders", type=int, help="K, of the weights' fit; default: the trace's")
    parser.add_argument("--model", help="the trace's: scores the null class too")
    parser.add_argument("--null-images", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    with Trace.open(args.trace) as trace:
        k_max = args.orders or int(trace.attrs["k_max"])
        parts, ends = segments(trace, k_max)
        label = trace.images["label"]
        shuffled = np.random.default_rng(args.seed).permutation(np.flatnonzero(label >= 0))
        fitting, judging = np.array_split(shuffled, 2)
        some = judging[: args.null_images]
        if args.model:
            null = null_scores(trace, some, AnytimeClassifier.load(args.model, "cpu"), k_max)
    print(f"{len(fitting)} images to fit, {len(judging)} to judge; {k_max} orders, segments end at {ends}")

    whole = parts[judging].sum(axis=3)
    share = explained(whole, whole.mean(axis=2))
    print(f"control variate: the classes' mean explains {share:.1%} of a paired difference's variance")
    if args.model:
        share = explained(parts[some].sum(axis=3), null)
        print(f"                 the null class explains {share:.1%} of it ({len(some)} images)")

    weights = fit_weights(parts[fitting].mean(axis=1), label[fitting])
    per_token = weights / weights[0]
    text = ", ".join(f"to {end}: {w:.2f}" for end, w in zip(ends, per_token, strict=True))
    print(f"rank weights, against the first segment's: {text}")
    methods = {f"first {end}": np.arange(len(ends)) <= at for at, end in enumerate(ends)}
    methods["weighted"] = weights
    print(f"{'K':>3}  " + "  ".join(f"{name:>22}" for name in methods))
    for k in (k for k in (1, 2, 4, 8, 16, 32) if k <= k_max):
        row = []
        for weight in methods.values():
            answer = (parts[judging, :k].mean(axis=1) @ np.asarray(weight, float)).argmax(axis=1)
            hits = float(np.mean(answer == label[judging]))
            low, high = wilson(hits, len(judging))
            row.append(f"{hits:.1%} [{low:.1%}, {high:.1%}]")
        print(f"{k:>3}  " + "  ".join(f"{cell:>22}" for cell in row))


if __name__ == "__main__":
    main()
