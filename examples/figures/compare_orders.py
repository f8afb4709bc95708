"""Which order sampler should be the default: uniform orders against antithetic pairs (π and its reverse).

    python examples/figures/compare_orders.py DATA/test --images 200

Scores the same images under both, twice the passes of examples/figures/compare_rules.py. Priors are fitted on
every other image and the race is run on the rest, so that both samplers are judged alike.
"""

import argparse
from pathlib import Path

import numpy as np
from compare_rules import choose_images

from anytime_cls import AnytimeClassifier
from anytime_cls.certify.measure import rule_table
from anytime_cls.certify.priors import fit_priors
from anytime_cls.training.scores import full_scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="cifar10")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--k-max", type=int, default=32)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()

    classifier = AnytimeClassifier.load(args.model)
    files, truth = choose_images(args.data, classifier.labels, args.images, args.seed)
    for orders, block in (("uniform", 1), ("antithetic", 2)):
        images = (classifier.encode(path) for path in files)
        scores = full_scores(classifier.engine, images, args.k_max, args.seed, orders=orders)
        pulls = scores.reshape(len(scores), -1, block, scores.shape[2]).mean(axis=2)
        ranked = np.argsort(-pulls.mean(axis=1), axis=1)
        first, second = (np.take_along_axis(pulls, ranked[:, [i], None], axis=2)[..., 0] for i in (0, 1))
        variance = (first - second).var(axis=1, ddof=1).mean() * block
        row = rule_table(pulls[1::2], truth[1::2], fit_priors(pulls[::2]), ["paired"])[0]
        accuracy = [
            f"K={k}: {np.mean(scores[:, :k].mean(axis=1).argmax(axis=1) == truth):.3f}" for k in (2, 4, 8, 32)
        ]
        print(f"{orders}: {', '.join(accuracy)}")
        print(f"  variance of leader − runner-up, per order: {variance:.3f} nats²")
        passes, agreement = row["passes"] * block, row["agreement"]["value"]
        print(f"  paired at delta 0.05: {passes:.1f} passes, agreement {agreement:.3f}")


if __name__ == "__main__":
    main()
