"""Does a model know pictures of no class of its own? Scores compared, on folders of other pictures.

    python examples/figures/unlike.py DATA/cifar10/test DATA/tiny-imagenet-32/val DATA/imagenet-sample --model cifar10

The first folder has pictures of the model's classes, the others have not. From `--images` of each, the AUROC (of a
picture of the others being told from one of the first; 0.5 is chance) with its 95 % interval of:

    evidence, when the race ends   what every race gives for nothing: the answer's mean above that of all classes
    probability, when the race ends
    evidence, probability          after all K_max orders
    log p(x | best class)          after all K_max orders, nats
    log p(x | null class)          for one class more
    typicality                     the distance of log p(x | best) from its median on the first folder's pictures
    best over null                 log p(x | best) - log p(x | null)

and, where the model was calibrated to abstain in such races, the share that --abstain answers "none of these".
Needs an any-order model: the null class is the last row of its class embedding.
"""  # noqa: E501

import argparse
from pathlib import Path

import numpy as np
from scipy.special import softmax

from anytime_cls import AnytimeClassifier, RaceOptions
from anytime_cls.pixels.inputs import collect
from anytime_cls.plan.abstain import abstention, unlike
from anytime_cls.race.races import evidence
from anytime_cls.scorers.base import Piece
from anytime_cls.stats.auroc import auroc
from anytime_cls.stats.intervals import wilson


def choose(folder: Path, n: int, seed: int) -> list[Path]:
    """n pictures of a folder and those in it, at random."""
    files = [item.source for item in collect([str(folder)]) if isinstance(item.source, Path)]
    if len(files) < 2:
        raise SystemExit(f"{folder}: fewer than two pictures")
    order = np.random.default_rng(seed).permutation(len(files))[:n]
    return [files[i] for i in sorted(order)]


def full_means(classifier: AnytimeClassifier, path: Path, plan) -> np.ndarray:
    """Mean log-likelihoods over all K_max orders of every class and the null class: float64 [C + 1]."""
    encoded, content = classifier.encode(path)
    every = np.arange(len(classifier.labels) + 1)
    draws = [plan.draws.at(plan.seed, content, k) for k in range(plan.design.k_max)]
    rows = classifier.engine.run([Piece(encoded, draw, every) for draw in draws], (plan.design.steps,), False)
    return np.mean([row[:, -1] for row in rows], axis=0)


def numbers(classifier: AnytimeClassifier, files: list[Path], plan) -> tuple[dict[str, np.ndarray], list]:
    """Every score of every picture, higher for those that are like the model's, [n] each; and decisions."""
    decisions = list(classifier.classify_many(files, plan))
    means = np.stack([full_means(classifier, path, plan) for path in files])
    classes, null = means[:, :-1], means[:, -1]
    best = classes.max(axis=1)
    return {
        "evidence, when the race ends": np.array([one.evidence for one in decisions]),
        "probability, when the race ends": np.array([one.probability for one in decisions]),
        "evidence": evidence(classes),
        "probability": softmax(classes / plan.temperature, axis=1).max(axis=1),
        "log p(x | best class)": best,
        "log p(x | null class)": null,
        "best over null": best - null,
    }, decisions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("own", type=Path, help="pictures of the model's classes")
    parser.add_argument("others", type=Path, nargs="+", help="pictures of none of them")
    parser.add_argument("--model", default="cifar10")
    parser.add_argument("--images", type=int, default=500, help="of each folder (default: %(default)s)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    classifier = AnytimeClassifier.load(args.model, args.device)
    plan = classifier.plan(RaceOptions())
    entry = abstention(classifier.card, plan)
    print(f"{args.model}: rule {plan.rule.name}, {plan.design}")
    known, decided = numbers(classifier, choose(args.own, args.images, args.seed), plan)
    middle = np.median(known["log p(x | best class)"])
    known["typicality"] = -np.abs(known["log p(x | best class)"] - middle)

    def flagged(decisions, folder: Path) -> None:
        for rate, nats in entry.thresholds if entry else ():
            hits = [bool(unlike(one, nats)) for one in decisions]
            low, high = wilson(np.mean(hits), len(hits))
            print(f"  --abstain {rate:g}: {np.mean(hits):.1%} [{low:.1%}, {high:.1%}] of {folder}")

    flagged(decided, args.own)
    for folder in args.others:
        found, decided = numbers(classifier, choose(folder, args.images, args.seed), plan)
        found["typicality"] = -np.abs(found["log p(x | best class)"] - middle)
        print(f"{folder}: {len(decided)} pictures")
        for name, values in found.items():
            area = auroc(known[name], values)
            print(f"  {name:32} {area['value']:.3f} [{area['low']:.3f}, {area['high']:.3f}]")
        flagged(decided, folder)


if __name__ == "__main__":
    main()
