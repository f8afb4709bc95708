"""Where the evidence for a class lies: the paper's Figures 1, 3, 4 and 5, for any model and labelled images.

    python examples/figures/token_evidence.py DATA/cifar10/test --images 50 --orders 8 -o evidence.png

DATA/test holds a folder of images per class, named as the model's labels. Takes images × orders × classes
passes. The first image is the one of Figures 1 and 3; --image names another, whose folder is its class.

Figure 1: what each single order answers. Figure 3: log p(x_i | c_true) - log p(x_i | c_false) of every token,
from one order and averaged over all, cut off at 0; c_false is the best other class over all orders. Figure 4:
how often one token alone is right about the class, by its position. Figure 5: the same by how many tokens
were seen before it.
"""

import argparse
from collections import Counter
from pathlib import Path

import numpy as np
import torch

from anytime_cls import AnytimeClassifier
from anytime_cls.draws.orders import OrderSampler
from anytime_cls.pixels.crops import center_crop
from anytime_cls.pixels.decode import decode
from anytime_cls.pixels.inputs import collect


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


def token_scores(
    classifier: AnytimeClassifier, path: Path, n_orders: int, seed: int, rows: int
) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities of every token by its step: float32 [K, C, N], and the orders, int64 [K, N]."""
    tokens, content = classifier.encode(path)
    sampler = OrderSampler("uniform", len(tokens), seed)
    orders = np.stack([sampler.order(content, k) for k in range(n_orders)])
    n_classes, device = len(classifier.labels), classifier.engine.device
    order, label = (grid.ravel() for grid in np.mgrid[:n_orders, :n_classes])
    parts = []
    with torch.inference_mode():
        for start in range(0, len(order), rows):
            some = slice(start, start + rows)
            arrays = np.tile(tokens, (len(order[some]), 1)), label[some], orders[order[some]]
            parts.append(
                classifier.scorer.model(*(torch.from_numpy(a).to(device) for a in arrays)).float().cpu()
            )
    return torch.cat(parts).numpy().reshape(n_orders, n_classes, -1), orders


def by_position(scores: np.ndarray, orders: np.ndarray) -> np.ndarray:
    """[K, C, N] by step → by position in the image, raster order."""
    placed = np.empty_like(scores)
    np.put_along_axis(placed, np.broadcast_to(orders[:, None], scores.shape), scores, axis=2)
    return placed


def evidence(placed: np.ndarray, truth: int) -> np.ndarray:
    """Figure 3's map from every single order, [K, N], against the best other class over all of them."""
    totals = placed.sum(axis=2).mean(axis=0)
    totals[truth] = -np.inf
    return placed[:, truth] - placed[:, int(totals.argmax())]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="cifar10")
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--orders", type=int, default=20, help="K (default: %(default)s)")
    parser.add_argument("--image", type=Path, help="of Figures 1 and 3; its folder is its class")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rows", type=int, default=32, help="passes at a time (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--out", type=Path, help="a picture; needs matplotlib")
    args = parser.parse_args()

    classifier = AnytimeClassifier.load(args.model, args.device)
    files, truth = choose_images(args.data, classifier.labels, args.images, args.seed)
    if args.image:
        if args.image.absolute().parent.name not in classifier.labels:
            raise SystemExit(f"{args.image}: its folder is none of {', '.join(classifier.labels)}")
        files = [args.image, *files]
        truth = np.concatenate([[classifier.labels.index(args.image.absolute().parent.name)], truth])

    n_tokens = classifier.scorer.tokenizer.n_tokens
    step_right, one_right, all_right = (np.zeros(n_tokens) for _ in range(3))
    shown = maps = None
    for done, (path, label) in enumerate(zip(files, truth, strict=True), 1):
        scores, orders = token_scores(classifier, path, args.orders, args.seed, args.rows)
        placed = by_position(scores, orders)
        step_right += (scores.argmax(axis=1) == label).mean(axis=0)
        one_right += (placed.argmax(axis=1) == label).mean(axis=0)
        all_right += placed.mean(axis=0).argmax(axis=0) == label
        if shown is None:
            shown, maps = path, evidence(placed, label)
            answers = Counter(classifier.labels[c] for c in scores.sum(axis=2).argmax(axis=1))
            total = classifier.labels[scores.sum(axis=2).mean(axis=0).argmax()]
            print(f"Figure 1: {path}: single orders say {dict(answers)}, all together {total}")
        if done % 10 == 0:
            print(f"{done}/{len(files)}", flush=True)
    step_right, one_right, all_right = (x / len(files) for x in (step_right, one_right, all_right))

    side = int(n_tokens**0.5)
    inner = np.zeros((side, side), bool)
    inner[side // 4 : -(side // 4), side // 4 : -(side // 4)] = True
    for name, right in (("1 order", one_right), (f"{args.orders} orders", all_right)):
        centre, border = right[inner.ravel()].mean(), right[~inner.ravel()].mean()
        print(f"Figure 4, {name}: one token is right in {centre:.3f} (centre), {border:.3f} (border)")
    fifths = np.array_split(np.arange(n_tokens), min(8, n_tokens))
    print("Figure 5, accuracy of one token by the tokens seen before it: " + ", ".join(
        f"{part[0]}-{part[-1]}: {step_right[part].mean():.3f}" for part in fifths
    ))  # fmt: skip
    if args.out:
        draw(classifier, shown, maps, (one_right, all_right), step_right, args.out)


def draw(classifier, shown, maps, grids, steps, out: Path) -> None:
    """All figures in one picture."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    side, n_orders = int(len(steps) ** 0.5), len(maps)
    figure, axes = plt.subplots(2, 3, figsize=(11, 7), layout="constrained")
    axes[0, 0].imshow(center_crop(decode(shown), classifier.card.image_size))
    axes[0, 0].set_title(shown.name)
    # clipped after averaging: an order's noise about zero must not add up
    for axis, chosen, name in ((axes[0, 1], maps[:1], "1 order"), (axes[0, 2], maps, f"{n_orders} orders")):
        picture = axis.imshow(np.maximum(chosen.mean(axis=0), 0).reshape(side, side))
        axis.set_title(f"evidence, nats, {name}")
        figure.colorbar(picture, ax=axis, shrink=0.8)
    low, high = min(g.min() for g in grids), max(g.max() for g in grids)
    for axis, grid, name in zip(axes[1], grids, ("1 order", f"{n_orders} orders"), strict=False):
        picture = axis.imshow(grid.reshape(side, side), vmin=low, vmax=high)
        axis.set_title(f"accuracy of one token, {name}")
        figure.colorbar(picture, ax=axis, shrink=0.8)
    for axis in axes.flat[:5]:
        axis.set_axis_off()
    axes[1, 2].plot(np.arange(len(steps)), steps)
    axes[1, 2].set(xlabel="tokens seen before", ylabel="accuracy of one token", ylim=(0, None))
    figure.savefig(out, dpi=150)


if __name__ == "__main__":
    main()
