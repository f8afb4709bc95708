"""The default race against the paper's classifier, on the same images: accuracy, compute, time.

    anytime-cls sweep cifar10 --root DATA/test --limit 2000 --rule fixed --max-orders 20 -o whole.h5
    anytime-cls sweep cifar10 --root DATA/test --limit 2000 -o race.h5
    python examples/figures/against_paper.py whole.h5 race.h5

The paper's classifier gives every class K whole orders. Where that costs too much to record (200 classes),
whole.h5 may be a race on whole orders instead, of rule `paired` at K_max = K: its answers stand for those of
all K orders, up to its δ, and the compute is counted as C × K passes. It may be several: a.h5,b.h5.

With --all FULL.h5, a trace of rule `fixed` of the race's own orders and prefix, also how often the race
answers otherwise than all of those, and how few of them for every class are as accurate as the race.
Differences and ratios come with 95 % bootstrap intervals over the images (paired), shares with Wilson's.
"""

import argparse
from dataclasses import dataclass, fields

import numpy as np

from anytime_cls.stats.bootstrap import bootstrap
from anytime_cls.stats.intervals import clopper_pearson, wilson
from anytime_cls.stats.reliability import expected_calibration_error
from anytime_cls.traces.cost import pass_cost
from anytime_cls.traces.read import Trace

RESAMPLES = 2000


@dataclass
class Side:
    """Answers and costs on some images: arrays [I]."""

    prediction: np.ndarray
    passes: np.ndarray  # whole ones
    seconds: np.ndarray
    probability: np.ndarray
    hit: np.ndarray


def read(trace: Trace, ids: np.ndarray, orders: int | None = None) -> Side:
    """These images of a trace. orders: K of the paper's classifier, for which it then stands."""
    at = {one: i for i, one in enumerate(trace.images["id"])}
    rows = np.array([at[one] for one in ids])
    columns, n_classes, k_max = trace.images, len(trace.labels), int(trace.attrs["k_max"])
    prediction, probability = columns["prediction"][rows], columns["probability"][rows]
    passes = columns["token_fraction"][rows] * (n_classes * k_max)
    seconds = columns["seconds"][rows].astype(float)
    if orders is not None:
        if trace.attrs["rule"] == "fixed":
            means = np.concatenate([stack.mean(axis=1) for stack in trace.full_matrix(k_max=orders)])
            prediction = means.argmax(axis=1)[rows]
        elif k_max != orders:
            raise SystemExit(f"{trace.path} was raced at K_max = {k_max}, not {orders}")
        seconds *= n_classes * orders / passes
        passes = np.full(len(rows), float(n_classes * orders))
    hit = (prediction == columns["label"][rows]).astype(float)
    return Side(prediction, passes, seconds, probability, hit)


def joined(sides: list[Side]) -> Side:
    """Several as one."""
    return Side(*(np.concatenate([getattr(side, one.name) for side in sides]) for one in fields(Side)))


def labelled(trace: Trace) -> np.ndarray:
    """Ids of the images whose class is known."""
    return trace.images["id"][trace.images["label"] >= 0]


def share(hits: np.ndarray) -> str:
    low, high = wilson(float(hits.mean()), len(hits))
    return f"{hits.mean():.1%} [{low:.1%}, {high:.1%}]"


def ratio(a: np.ndarray, b: np.ndarray) -> str:
    """Mean of a over mean of b, with its interval."""
    draws = bootstrap(np.stack([a, b], axis=1), RESAMPLES).draws
    low, high = np.quantile(draws[:, 0] / draws[:, 1], (0.025, 0.975))
    return f"{a.mean() / b.mean():.3g}x [{low:.3g}, {high:.3g}]"


def against_all(path: str, race: Side, ids: np.ndarray) -> list[str]:
    """The race against the fixed numbers of its own orders, which a full trace holds."""
    with Trace.open(path) as full:
        at = {one: i for i, one in enumerate(full.images["id"])}
        both = np.array([i for i, one in enumerate(ids) if one in at])
        rows = np.array([at[ids[i]] for i in both])
        answers = np.concatenate([s.cumsum(axis=1).argmax(axis=2) for s in full.full_matrix()])[rows]
        right = (answers == full.images["label"][rows][:, None]).mean(axis=0)  # at K = 1, 2, ...
        cost = len(full.labels) * pass_cost(full.attrs)
    wrong, n, most = int((answers[:, -1] != race.prediction[both]).sum()), len(both), answers.shape[1]
    low, high = clopper_pearson(wrong, n)
    enough = np.flatnonzero(right >= race.hit[both].mean() - 1e-9)
    fixed = f"none; all {most} are right on {right[-1]:.1%}"
    if len(enough):
        k = int(enough[0]) + 1
        fixed = f"K = {k}, {k * cost / race.passes[both].mean():.3g}x the compute"
    return [
        f"not what all {most} say  {wrong} of {n:,} images, {wrong / n:.2%} [{low:.2%}, {high:.2%}]",
        f"cheapest fixed K     {fixed} (as accurate, of the race's own orders)",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("whole")
    parser.add_argument("race")
    parser.add_argument("--all", metavar="FULL.h5", help="all orders of the race's own design")
    parser.add_argument("--orders", type=int, default=20, help="K of the paper's classifier")
    args = parser.parse_args()

    with Trace.open(args.race) as race:
        known, papers, ids = set(labelled(race)), [], []
        for path in args.whole.split(","):
            with Trace.open(path) as whole:
                ids.append(np.array([one for one in labelled(whole) if one in known]))
                if not len(ids[-1]) or whole.attrs["model_sha256"] != race.attrs["model_sha256"]:
                    raise SystemExit("the traces need labelled images in common, and one model")
                papers.append(read(whole, ids[-1], args.orders))
        both = np.concatenate(ids)
        paper, mine = joined(papers), read(race, both)
        design = f"{race.attrs['rule']}, {race.attrs['order_sampler']}, {race.pass_tokens} tokens"
        print(f"{len(both):,} images, {len(race.labels)} classes, model {race.attrs['model']}")
    gain = bootstrap((mine.hit - paper.hit)[:, None], RESAMPLES)
    points, low, high = (100 * float(x[0]) for x in (gain.value, *gain.interval()))
    ece = expected_calibration_error(mine.probability, mine.hit > 0)
    lines = [
        f"K = {args.orders} whole orders  {share(paper.hit)}, {paper.passes.mean():,.0f} passes",
        f"the race             {share(mine.hit)}, {mine.passes.mean():.3g} whole passes' compute ({design})",
        f"difference           {points:+.2f} points [{low:+.2f}, {high:+.2f}]",
        f"less compute         {ratio(paper.passes, mine.passes)}",
        f"less time            {ratio(paper.seconds, mine.seconds)} (each as its sweep measured it)",
        f"calibration error    {ece:.3f} of the race's probabilities",
    ]
    print("\n".join(lines + (against_all(args.all, mine, both) if args.all else [])))


if __name__ == "__main__":
    main()
