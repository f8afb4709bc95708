"""Do harder images get more orders? Accuracy and adaptive K under corruptions, in the paper's spirit.

    python examples/robustness.py DATA/cifar10/test --images 100 -o robustness.png

Gaussian noise, blur, contrast and JPEG compression at five severities, with CIFAR-10-C's parameters
(Hendrycks & Dietterich, ICLR 2019), made here from clean test images. Every class is scored on all K_max
orders, so that the paper's fixed-K classifier and the race (default rule) are judged on the same numbers.
Prints a table, writes it as CSV beside the picture. Takes 21 × images × classes × K_max passes.
"""

import argparse
import csv
import io
from pathlib import Path

import numpy as np
from compare_rules import choose_images
from PIL import Image, ImageFilter

from anytime_cls import AnytimeClassifier, RaceOptions
from anytime_cls.calibrate import full_scores
from anytime_cls.image import center_crop, decode
from anytime_cls.race import run

SEVERITIES = {
    "noise": (0.04, 0.06, 0.08, 0.09, 0.10),  # standard deviation, pixels in 0..1
    "blur": (0.4, 0.6, 0.7, 0.8, 1.0),  # standard deviation, pixels
    "contrast": (0.75, 0.5, 0.4, 0.3, 0.15),  # factor about the mean
    "jpeg": (80, 65, 58, 50, 40),  # quality
}


def corrupt(image: Image.Image, kind: str, severity: int, rng: np.random.Generator) -> Image.Image:
    """The image (RGB, at the model's size) under one corruption, severity 1 to 5; 0 leaves it alone."""
    if severity == 0:
        return image
    amount = SEVERITIES[kind][severity - 1]
    if kind == "blur":
        return image.filter(ImageFilter.GaussianBlur(amount))
    if kind == "jpeg":
        file = io.BytesIO()
        image.save(file, "JPEG", quality=int(amount))
        return Image.open(file).convert("RGB")
    x = np.asarray(image) / 255.0
    if kind == "noise":
        x = x + rng.normal(0, amount, x.shape)
    else:
        mean = x.mean(axis=(0, 1), keepdims=True)
        x = (x - mean) * amount + mean
    return Image.fromarray((x.clip(0, 1) * 255).round().astype(np.uint8))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of class folders of test images")
    parser.add_argument("--model", default="cifar10")
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--k-max", type=int, default=16)
    parser.add_argument("--delta", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("-o", "--out", type=Path, default=Path("robustness.png"))
    args = parser.parse_args()

    classifier = AnytimeClassifier.load(args.model)
    files, truth = choose_images(args.data, classifier.labels, args.images, args.seed)
    crops = [center_crop(decode(path), classifier.card.image_size) for path in files]
    rule = classifier.rule(RaceOptions(delta=args.delta, max_orders=args.k_max))
    rows = []
    for kind, severity in [("clean", 0), *((kind, s) for kind in SEVERITIES for s in range(1, 6))]:
        rng = np.random.default_rng([args.seed, severity])
        images = (classifier.tokens(corrupt(crop, kind, severity, rng)) for crop in crops)
        scores = full_scores(classifier.engine, images, args.k_max, args.seed)
        raced = run(rule, scores)
        right = {k: float(np.mean(scores[:, :k].mean(1).argmax(1) == truth)) for k in (1, args.k_max)}
        rows.append(
            {
                "corruption": kind,
                "severity": severity,
                "images": len(truth),
                "accuracy_k1": right[1],
                f"accuracy_k{args.k_max}": right[args.k_max],
                "accuracy_race": float(np.mean(raced.prediction == truth)),
                "orders_race": float(raced.pulls.mean()),
                "passes_race": float(raced.passes.mean()),
            }
        )
        values = [f"{v:.3f}" if isinstance(v, float) else str(v) for v in rows[-1].values()]
        if severity == 0:
            print("  ".join(f"{name:>13}" for name in rows[-1]))
        print("  ".join(f"{value:>13}" for value in values), flush=True)
    with open(args.out.with_suffix(".csv"), "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    draw(rows, args)


def draw(rows: list[dict], args: argparse.Namespace) -> None:
    """Accuracy above, mean K of the race below, against severity, a column for each corruption."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, len(SEVERITIES), figsize=(10, 4.6), sharex=True, sharey="row")
    for column, kind in enumerate(SEVERITIES):
        some = [rows[0], *(row for row in rows if row["corruption"] == kind)]
        severity = [row["severity"] for row in some]
        above, below = axes[:, column]
        above.plot(severity, [row["accuracy_k1"] for row in some], "s:", color="0.55", label="fixed K = 1")
        key = f"accuracy_k{args.k_max}"
        above.plot(severity, [row[key] for row in some], "o-", color="0.15", label=f"fixed K = {args.k_max}")
        above.plot(severity, [row["accuracy_race"] for row in some], "x", color="#d55e00", label="race")
        below.plot(severity, [row["orders_race"] for row in some], "o-", color="#d55e00")
        above.set_title(kind)
        below.set_xlabel("severity")
    axes[0, 0].set_ylabel("accuracy")
    axes[1, 0].set_ylabel("mean orders of the race")
    axes[1, 0].set_ylim(bottom=0)
    axes[0, 0].legend(frameon=False, fontsize=8, loc="lower left")
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    figure.suptitle(f"{args.model}, {rows[0]['images']} test images a point, δ = {args.delta:g}", fontsize=10)
    figure.tight_layout()
    figure.savefig(args.out, dpi=150)
    print(f"{args.out} and {args.out.with_suffix('.csv')}")


if __name__ == "__main__":
    main()
