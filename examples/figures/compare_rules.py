"""Score test images on every order once, then race every rule over the scores: a table of rules.

    python examples/figures/compare_rules.py DATA/test --images 1000

DATA/test holds a folder of images per class, named as the model's labels. Takes one full trace
(classes × K_max passes an image), so about 20 minutes for 1,000 CIFAR-10 images on two CPU cores.
"""

import argparse
from pathlib import Path

import numpy as np

from anytime_cls import AnytimeClassifier
from anytime_cls.certify.measure import accuracy_at, rule_table
from anytime_cls.pixels.inputs import collect
from anytime_cls.race.registry import RULES
from anytime_cls.training.scores import full_scores


def choose_images(data: Path, labels: list[str], n: int, seed: int) -> tuple[list[Path], np.ndarray]:
    """About n images of data/<label>/, the same number of each class, and their labels [n]."""
    rng = np.random.default_rng(seed)
    chosen, truth = [], []
    for label, name in enumerate(labels):
        files = [item.source for item in collect([str(data / name)]) if isinstance(item.source, Path)]
        if not files:
            raise SystemExit(f"{data / name}: no images; expected a folder for each of {', '.join(labels)}")
        keep = rng.choice(len(files), min(len(files), n // len(labels)), replace=False)
        chosen += [files[i] for i in sorted(keep)]
        truth += [label] * len(keep)
    return chosen, np.array(truth)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="cifar10")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--k-max", type=int, default=32)
    parser.add_argument("--delta", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", type=Path, help="keep the scores [I, K, C] and labels in this .npz")
    args = parser.parse_args()

    classifier = AnytimeClassifier.load(args.model)
    chosen, truth = choose_images(args.data, classifier.labels, args.images, args.seed)

    def progress(done: int) -> None:
        if done % 50 == 0:
            print(f"{done}/{len(chosen)}", flush=True)

    images = (classifier.encode(path) for path in chosen)
    scores = full_scores(classifier.engine, images, args.k_max, args.seed, progress)
    if args.save:
        np.savez_compressed(args.save, scores=scores, labels=truth)

    print(f"\n{len(truth)} images, {args.k_max} orders, model {classifier.card.name}, delta {args.delta}")
    for k, value in accuracy_at(scores, truth, (1, 2, 4, 8, 16, args.k_max)).items():
        print(f"fixed K = {k:>2}: {value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}]")
    print(f"\n{'rule':12} {'accuracy':>22} {'agreement':>22} {'passes':>7} {'saving':>7} {'orders':>7}")
    for row in rule_table(scores, truth, classifier.card.priors, RULES, args.delta):
        cells = [
            f"{row[k]['value']:.3f} [{row[k]['low']:.3f}, {row[k]['high']:.3f}]"
            for k in ("accuracy", "agreement")
        ]
        print(
            f"{row['rule']:12} {cells[0]:>22} {cells[1]:>22} {row['passes']:7} {row['saving']:6}x "
            f"{row['orders']:7}"
        )


if __name__ == "__main__":
    main()
