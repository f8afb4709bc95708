"""What screens know: how often the answer of all K_max orders is among the classes that one would let in.

    anytime-cls sweep cifar10 --root DATA/cifar10/test --model MODEL --rule fixed \\
        --orders stratified --prefix 16 --max-orders 32 --record-prefixes 4 \\
        --record-screens table,gradient -o full.h5
    python examples/figures/screen_recall.py full.h5 -o screening.png

Traces are of rule `fixed`, with screens recorded; recorded prefixes of the first order (rungs) and a whole
first pull of every class are shown beside them. A shortlist is all classes within a gap of the best.
Estimates are combined by weights that are fitted on one half of the images and used on the other, both ways.
Costs are in whole passes of one class, a backward pass counted as two.
"""

import argparse

import numpy as np

from anytime_cls.replay.source import Source, run_fixed
from anytime_cls.stats.intervals import proportion
from anytime_cls.traces.cost import stage_cost
from anytime_cls.traces.read import Trace

RECALLS = (0.9, 0.95, 0.99)


def summed(parts: list[np.ndarray], means: np.ndarray) -> np.ndarray:
    """Estimates [I, C] in nats of a pull: least squares on the winner's gaps, a half by the other's fit."""
    n, n_classes = means.shape
    halves = np.array_split(np.random.default_rng(0).permutation(n), 2)
    winner = means.argmax(axis=1)[:, None]
    rival = np.arange(n_classes) != winner
    gaps = [np.take_along_axis(v, winner, axis=1) - v for v in (*parts, means)]
    out = np.zeros_like(means)
    for fit, use in (halves, halves[::-1]):
        *x, y = (gap[fit][rival[fit]] for gap in gaps)
        weights = np.linalg.lstsq(np.stack(x, axis=1), y, rcond=None)[0]
        out[use] = sum(w * part[use] for w, part in zip(weights, parts, strict=True))
    return out


def shortlists(values: np.ndarray, full: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Recall of the answer `full` and mean number of classes let in, at every gap: two arrays, rising."""
    behind = values.max(axis=1, keepdims=True) - values
    own = np.sort(behind[np.arange(len(full)), full])
    recall = np.arange(1, len(own) + 1) / len(own)
    size = np.searchsorted(np.sort(behind, axis=None), own, side="right") / len(own)
    return recall, size


def gather(source: Source) -> tuple[np.ndarray, dict[str, np.ndarray], dict[str, float]]:
    """K_max means [I, C], and by name: estimates [I, C] and their cost in whole passes."""
    named = [*source.screens, *(m for m in source.prefixes if m < source.pass_tokens)]
    means, first, found = [], [], {name: [] for name in named}
    for _, pulls, estimates in source.stacks_with_stages(None, named):
        means.append(pulls.mean(axis=1))
        first.append(pulls[:, 0])
        for name in named:
            found[name].append(estimates[name])
    every = np.full((1, len(named)), source.n_classes)
    cost = dict(zip(named, stage_cost(source.trace.attrs, named, every)[0], strict=True))
    values = {name: np.concatenate(parts) for name, parts in found.items()}
    if {"table", "gradient"} <= set(named):
        both = [values["table"], values["gradient"]]
        values["table + gradient"] = summed(both, np.concatenate(means))
        cost["table + gradient"] = cost["table"] + cost["gradient"]
    m = source.pass_tokens
    values[f"one order, {m} tokens"] = np.concatenate(first)
    cost[f"one order, {m} tokens"] = source.n_classes * source.cost()
    words = {name: f"one order, {name} tokens" if isinstance(name, int) else name for name in values}
    return (
        np.concatenate(means),
        {words[name]: v for name, v in values.items()},
        {words[name]: float(c) for name, c in cost.items()},
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("traces", nargs="+", metavar="FULL.h5")
    parser.add_argument("-o", "--out", metavar="PICTURE")
    args = parser.parse_args()
    panels = []
    for path in args.traces:
        with Trace.open(path) as trace:
            source = Source(trace)
            means, values, cost = gather(source)
            label = trace.images["label"][source.good]
        full = run_fixed(means[:, None])
        right = proportion(full == label)
        print(
            f"{path}: {len(full)} images, all classes on {source.k_max} orders of {source.pass_tokens} "
            f"tokens ({source.full_cost * source.cost():.1f} passes) {_percent(right)} right"
        )
        lines = {}
        for name, estimate in values.items():
            recall, size = shortlists(estimate, full)
            best = estimate.argmax(axis=1)
            at = [float(size[np.searchsorted(recall, share)]) for share in RECALLS]
            print(
                f"  {name}: {cost[name]:.2f} passes, {_percent(proportion(best == label))} right, "
                f"{_percent(proportion(best == full))} the answer; lets in "
                + ", ".join(f"{n:.1f} for {share:.0%}" for n, share in zip(at, RECALLS, strict=True))
            )
            lines[name] = (cost[name] + size * source.cost(), recall)
        panels.append((str(trace.attrs["model"]), lines))
    if args.out:
        draw(panels, args.out)


def _percent(share: dict[str, float]) -> str:
    return f"{100 * share['value']:.1f} % [{100 * share['low']:.1f}, {100 * share['high']:.1f}]"


def draw(panels: list[tuple[str, dict[str, tuple[np.ndarray, np.ndarray]]]], out: str) -> None:
    """Recall against the passes of screen and of one more pull of all that it lets in, a panel a model."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = dict.fromkeys(name for _, lines in panels for name in lines)
    colours = {name: f"C{i}" for i, name in enumerate(names)}
    figure, axes = plt.subplots(
        1, len(panels), figsize=(3.4 * len(panels), 3), layout="constrained", squeeze=False
    )
    for ax, (title, lines) in zip(axes[0], panels, strict=True):
        for name, (passes, recall) in lines.items():
            ax.plot(passes, 100 * recall, color=colours[name], label=name, lw=1.4)
        ax.set(
            xscale="log", title=title, ylim=(50, 100.5), xlabel="passes: screen, and one pull of who is in"
        )
        ax.set_xticks(ticks := [0.1, 0.3, 1, 3, 10, 30, 100], [f"{tick:g}" for tick in ticks], minor=False)
        ax.minorticks_off()
        every = np.concatenate([passes for passes, _ in lines.values()])
        ax.set_xlim(every.min() / 1.3, every.max() * 1.3)
        ax.grid(alpha=0.25)
        ax.legend(frameon=False, fontsize=6.5, loc="best")
    axes[0, 0].set_ylabel("answer of all orders still in, %")
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    main()
