"""Do harder images get more orders? Accuracy and adaptive K under corruptions, in the paper's spirit.

    python examples/figures/robustness.py DATA/cifar10/test --images 100 -o robustness.png

Gaussian noise, blur, contrast and JPEG compression at five severities, CIFAR-10-C's (`anytime_cls.shifts`),
made from clean test images; --corruptions names others. The paper's fixed-K classifier (all
classes on K whole orders) and the live race (as the model recommends, or as the options say) answer the same
images. Prints a table and whether harder images got more passes; writes the table as CSV beside the picture.
Takes 21 × images × classes × (K + 1) passes, and the races'.
"""

import argparse
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from anytime_cls import AnytimeClassifier, RaceOptions
from anytime_cls.models.card import DEFAULT_MODEL
from anytime_cls.pictures.style import FAINT, INK, save, styled
from anytime_cls.pictures.tables import write_csv
from anytime_cls.pixels.crops import center_crop
from anytime_cls.pixels.decode import decode
from anytime_cls.pixels.inputs import collect
from anytime_cls.race.decision import Decision
from anytime_cls.shifts.chance import Chance
from anytime_cls.shifts.registry import parse
from anytime_cls.stats.bootstrap import bootstrap
from anytime_cls.stats.intervals import wilson

KINDS = ("gaussian-noise", "gaussian-blur", "contrast", "jpeg-compression")


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
    parser.add_argument("data", type=Path, help="folder of class folders of test images")
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--k-max", type=int, default=16, help="orders of the fixed classifier")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--corruptions", nargs="+", default=KINDS, help="docs/shifts.md lists them")
    parser.add_argument("-o", "--out", type=Path, default=Path("robustness.png"))
    race = parser.add_argument_group("the race (default: as the model recommends)")
    race.add_argument("--rule")
    race.add_argument("--delta", type=float)
    race.add_argument("--max-orders", type=int)
    race.add_argument("--orders", help="uniform, stratified, ...")
    race.add_argument("--prefix", type=int, help="tokens of an order that a pass scores")
    args = parser.parse_args()
    if args.k_max < 2:
        parser.error("--k-max takes a number of orders from 2: K = 1 is drawn too")

    classifier = AnytimeClassifier.load(args.model)
    plan = classifier.plan(RaceOptions(
        rule=args.rule, delta=args.delta, max_orders=args.max_orders, orders=args.orders, prefix=args.prefix,
        seed=args.seed,
    ))  # fmt: skip
    fixed = {"rule": "fixed", "orders": "uniform", "seed": args.seed}
    plans = [RaceOptions(max_orders=1, **fixed), RaceOptions(max_orders=args.k_max, **fixed), plan]
    files, truth = choose_images(args.data, classifier.labels, args.images, args.seed)
    crops = [center_crop(decode(path), classifier.card.image_size) for path in files]
    rows, passes = [], {}  # passes: of every image's race, [images], by corruption and severity
    for kind, severity in [("clean", 0), *((kind, s) for kind in args.corruptions for s in range(1, 6))]:
        keys = [f"{args.seed}:{kind}:{severity}:{i}".encode() for i in range(len(crops))]
        shift = parse(f"{kind}:{severity}") if severity else None
        images = [
            shift.apply(np.asarray(crop), Chance(key)) if shift else crop
            for crop, key in zip(crops, keys, strict=True)
        ]
        answered = [
            [d for d in classifier.classify_many(images, each) if isinstance(d, Decision)] for each in plans
        ]
        raced = answered[-1]
        spent = passes[kind, severity] = np.array([d.passes for d in raced])
        orders = np.array([d.orders for d in raced], float)
        row = {"corruption": kind, "severity": severity, "images": len(truth)}
        for name, decisions in zip(("k1", f"k{args.k_max}", "race"), answered, strict=True):
            hits = np.array([d.index for d in decisions]) == truth
            row |= interval(f"accuracy_{name}", float(hits.mean()), *wilson(float(hits.mean()), len(hits)))
        for name, values in (("orders_race", orders), ("passes_race", spent)):
            low, high = bootstrap(values[:, None]).interval()
            row |= interval(name, float(values.mean()), float(low[0]), float(high[0]))
        rows.append(row)
        if severity == 0:
            print("  ".join(f"{n:>13}" for n in row if not n.endswith(("_low", "_high"))))
        shown = [v for n, v in row.items() if not n.endswith(("_low", "_high"))]
        print("  ".join(f"{f'{v:.3f}' if isinstance(v, float) else v:>13}" for v in shown), flush=True)
    write_csv(args.out.with_suffix(".csv"), rows)
    design = f"{plan.rule.name}, {plan.design.draws} orders" + (
        "" if plan.whole else f", the first {plan.design.steps} tokens of each"
    )
    save(draw(rows, f"{classifier.card.name}: {design}; {len(truth)} images a point"), args.out, "png")
    print(f"{args.out} and {args.out.with_suffix('.csv')}\n{answer(passes)}")


def interval(name: str, value: float, low: float, high: float) -> dict[str, float]:
    """A figure and its 95 % interval, as columns."""
    return {name: value, f"{name}_low": low, f"{name}_high": high}


def kinds_of(passes: dict[tuple[str, int], np.ndarray]) -> list[str]:
    """The corruptions, without the clean images."""
    return [kind for kind in dict.fromkeys(kind for kind, _ in passes) if kind != "clean"]


def answer(passes: dict[tuple[str, int], np.ndarray]) -> str:
    """Whether harder images get more compute: worst against clean, the same images paired, and by rank."""
    clean = passes["clean", 0]
    worst = np.mean([passes[kind, 5] for kind in kinds_of(passes)], axis=0)
    means = bootstrap(np.stack([worst, clean], axis=1))
    low, high = np.quantile(means.draws[:, 0] / means.draws[:, 1], (0.025, 0.975))
    kinds = {k: passes[k, 5].mean() / clean.mean() for k in kinds_of(passes)}
    severity = np.concatenate([np.full(len(spent), s) for (_, s), spent in passes.items()])
    rho = spearmanr(severity, np.concatenate(list(passes.values()))).statistic
    verdict = "yes" if low > 1 else "no, it falls" if high < 1 else "not shown"
    return (
        f"does the race spend more on harder images? {verdict}: passes at severity 5 are "
        f"{means.value[0] / means.value[1]:.2f} [{low:.2f}, {high:.2f}] times those of the clean images ("
        + ", ".join(f"{kind} {ratio:.2f}" for kind, ratio in kinds.items())
        + f"); rank correlation of severity and passes {rho:.2f}"
    )


def draw(rows: list[dict], title: str) -> Figure:
    """Accuracy above, the race's mean orders and passes below, against severity; a column a corruption."""
    few, full, race = (name for name in rows[0] if name.startswith("accuracy") and name.count("_") == 1)
    series = (
        (0, few, f"fixed K = {few.removeprefix('accuracy_k')}", FAINT, "s", (0, (1, 1))),
        (0, full, f"fixed K = {full.removeprefix('accuracy_k')}", INK, "o", (0, (4, 1.5))),
        (0, race, "race", "#D55E00", "^", "-"),
        (1, "orders_race", "race: orders (K)", "#0072B2", "D", "-"),
        (1, "passes_race", "race: passes", "#D55E00", "^", "-"),
    )
    with styled():
        figure = Figure(figsize=(7.2, 3.6), layout="constrained")
        FigureCanvasAgg(figure)
        kinds = [kind for kind in dict.fromkeys(row["corruption"] for row in rows) if kind != "clean"]
        axes = figure.subplots(2, len(kinds), squeeze=False, sharex=True, sharey="row", height_ratios=(3, 2))
        for column, kind in enumerate(kinds):
            some = [rows[0], *(row for row in rows if row["corruption"] == kind)]
            for number, (line, name, label, colour, marker, dash) in enumerate(series):
                value, low, high = (np.array([r[name + end] for r in some]) for end in ("", "_low", "_high"))
                x = np.arange(len(some)) + 0.12 * (number % 3 - 1)  # bars side by side
                scale = 1 if line else 100
                error = scale * np.stack([value - low, high - value])
                axes[line, column].errorbar(
                    x, scale * value, error, color=colour, marker=marker, ls=dash, elinewidth=0.8, label=label
                )
            axes[0, column].set_title(kind)
            axes[1, column].set_xlabel("severity")
            axes[1, column].set_xticks(range(6))
        axes[0, 0].set_ylabel("accuracy (%)")
        axes[1, 0].set_ylabel("mean an image")
        axes[1, 0].set_ylim(bottom=0)
        axes[0, 0].legend(loc="lower left")
        axes[1, 0].legend(loc="upper left")
        figure.suptitle(f"{title}; bars: 95 % intervals", fontsize=8)
    return figure


if __name__ == "__main__":
    main()
