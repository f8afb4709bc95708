"""How well a budget in seconds is kept: classify images one by one and look at the time each took.

    python examples/figures/budget_overshoot.py IMAGES_FOLDER --budget 0.5s --images 200 --rule fixed

`--rule fixed` with many orders is the hard case: it always runs into the budget.
"""

import argparse

import numpy as np

from anytime_cls import AnytimeClassifier, Decision, RaceOptions, parse_budget
from anytime_cls.pixels.inputs import collect


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--model", default="cifar10")
    parser.add_argument("--budget", default="0.5s")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--rule", help="on whole orders; default: the race that the model recommends")
    parser.add_argument("--max-orders", type=int)
    args = parser.parse_args()

    budget = parse_budget(args.budget)
    files = [item.source for item in collect([args.folder]) if item.source is not None]
    chosen = np.random.default_rng(0).choice(len(files), min(len(files), args.images), replace=False)
    classifier = AnytimeClassifier.load(args.model)
    plan = classifier.plan(RaceOptions(rule=args.rule, budget=budget, max_orders=args.max_orders))
    results = [
        r for r in classifier.classify_many((files[i] for i in chosen), plan) if isinstance(r, Decision)
    ]

    seconds = np.array([r.seconds for r in results])
    over = np.maximum(seconds / budget.amount - 1, 0)
    stopped = np.mean([r.stop == "budget" for r in results])
    print(f"{len(results)} images, budget {budget}, rule {plan.rule.name}, max orders {plan.design.k_max}")
    print(f"stopped by the budget: {stopped:.0%}; mean orders {np.mean([r.orders for r in results]):.1f}")
    for name, q in (("median", 0.5), ("95th percentile", 0.95), ("99th percentile", 0.99), ("worst", 1.0)):
        print(f"{name:>16}: {np.quantile(seconds, q):.4f} s, overshoot {np.quantile(over, q):.2%}")


if __name__ == "__main__":
    main()
