"""How right a model's race is, and what it spends, on every corruption of CIFAR-10-C at every severity.

    python examples/figures/robustness.py DATA/cifar10/test --ids test.txt --images 500 -o robustness

Each point is a sweep (`anytime-cls sweep --shift KIND:SEVERITY`) of the same pictures by the race that the
model recommends, its trace in the folder -o. The same command goes on where it was cut short: a trace that is
whole is not scored again. What follows -- is given to every sweep: -- --rule fixed --max-orders 8 makes the
points of the classifier without a race, in a folder of their own.

Prints, and writes as robustness.csv and robustness.png beside the traces: right and passes of each point,
their means over the corruptions with 95 % intervals (bootstrap over pictures), and whether harder pictures
get more passes. The published sets are of all test pictures; these are made anew (docs/shifts.md).
"""

import argparse
import contextlib
import io
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from anytime_cls.models.card import DEFAULT_MODEL
from anytime_cls.pictures.style import FAINT, INK, percent_ticks, save, styled
from anytime_cls.pictures.tables import write_csv
from anytime_cls.shifts.registry import CLEAN, EXTRA, SEVERITIES, STANDARD
from anytime_cls.stats.bootstrap import bootstrap
from anytime_cls.stats.intervals import wilson
from anytime_cls.traces.read import Trace
from anytime_cls_cli.main import main as anytime_cls

Array = np.ndarray
MEAN = "mean"
GROUPS = {  # of the picture: CIFAR-10-C's own groups, and their colours
    "noise": ("#D55E00", ("gaussian-noise", "shot-noise", "impulse-noise", "speckle-noise")),
    "blur": ("#0072B2", ("defocus-blur", "glass-blur", "motion-blur", "zoom-blur", "gaussian-blur")),
    "weather": ("#009E73", ("snow", "frost", "fog", "brightness", "spatter")),
    "digital": ("#CC79A7", ("contrast", "elastic-transform", "pixelate", "jpeg-compression", "saturate")),
}


@dataclass(frozen=True, eq=False)
class Point:
    """One corruption at one severity (0: clean). ids: its pictures'; right, passes: float64 [n], of each."""

    kind: str
    severity: int
    ids: list[str]
    right: Array
    passes: Array


def points(kinds: Sequence[str]) -> Iterator[tuple[str, int]]:
    """The clean pictures, then every corruption at every severity."""
    yield CLEAN, 0
    for kind in kinds:
        for severity in SEVERITIES:
            yield kind, severity


def scored(args: argparse.Namespace, kind: str, severity: int) -> Point:
    """A point from its trace, which is made, or gone on with, where it is not whole. Raises SystemExit."""
    path = args.out / (f"{kind}-{severity}.h5" if severity else f"{kind}.h5")
    words = ["sweep", str(args.data), "--model", args.model, "--seed", str(args.seed), "-o", str(path), "-q"]
    words += ["--limit", str(args.images), "--device", args.device, "--json"]
    for name, value in (
        ("--ids", args.ids), ("--threads", args.threads), ("--shift", severity and f"{kind}:{severity}"),
    ):  # fmt: skip
        words += [name, str(value)] if value else []
    with contextlib.redirect_stdout(io.StringIO()):  # a table of each is too much
        code = anytime_cls([*words, *args.more, *(["--resume"] if path.exists() else [])])
    if code:
        raise SystemExit(code)
    with Trace.open(path) as trace:
        column, whole = trace.images, trace.attrs["k_max"] * len(trace.labels)
        right = (column["prediction"] == column["label"]).astype(float)
        return Point(kind, severity, column["id"].tolist(), right, column["token_fraction"] * whole)


def means(found: Sequence[Point]) -> list[dict[str, Any]]:
    """A row a severity ("all": of every set): each picture's mean over the corruptions, averaged."""
    hard = [point for point in found if point.severity]
    rows = []
    for severity in (*SEVERITIES, "all"):
        some = [point for point in hard if severity in (point.severity, "all")]
        both = [np.mean([getattr(point, name) for point in some], axis=0) for name in ("right", "passes")]
        got = bootstrap(np.stack(both, axis=1))
        low, high = got.interval()
        row: dict[str, Any] = {"corruption": MEAN, "severity": severity, "images": len(both[0])}
        for at, name in enumerate(("right", "passes")):
            row |= interval(name, got.value[at], low[at], high[at])
        rows.append(row)
    return rows


def row_of(point: Point) -> dict[str, Any]:
    """A point's figures with their 95 % intervals."""
    n, share = len(point.right), float(point.right.mean())
    got = bootstrap(point.passes[:, None])
    low, high = got.interval()
    head = {"corruption": point.kind, "severity": point.severity, "images": n}
    return (
        head | interval("right", share, *wilson(share, n)) | interval("passes", got.value[0], low[0], high[0])
    )


def interval(name: str, value: float, low: float, high: float) -> dict[str, float]:
    """A figure and its 95 % interval, as columns."""
    return {name: float(value), f"{name}_low": float(low), f"{name}_high": float(high)}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Corruption × severity, right in % and passes in each; below, the means and their intervals."""
    found = {(row["corruption"], row["severity"]): row for row in rows}
    clean = found.pop((CLEAN, 0))
    lines = [f"{'right %, passes':18}" + "".join(f"{f'severity {s}':>14}" for s in SEVERITIES)]
    for kind in dict.fromkeys(kind for kind, _ in found):
        lines.append(f"{kind:18}" + "".join(f"{short(found[kind, s]):>14}" for s in SEVERITIES))
    for said, row in (("clean", clean), *((f"{MEAN}, {s}", found[MEAN, s]) for s in (*SEVERITIES, "all"))):
        right, passes = (
            f"{scale * row[name]:.{places}f} [{scale * row[f'{name}_low']:.{places}f}, "
            f"{scale * row[f'{name}_high']:.{places}f}]"
            for name, scale, places in (("right", 100, 1), ("passes", 1, 2))
        )
        lines.append(f"{said:18}  right {right} %, passes {passes}")
    return "\n".join(lines)


def short(row: dict[str, Any]) -> str:
    return f"{100 * row['right']:.1f} {row['passes']:6.2f}"


def answer(found: Sequence[Point]) -> str:
    """Whether harder pictures get more compute: the same pictures at severity 5 and clean, paired."""
    worst = np.mean([point.passes for point in found if point.severity == SEVERITIES[-1]], axis=0)
    got = bootstrap(np.stack([worst, found[0].passes], axis=1))
    low, high = np.quantile(got.draws[:, 0] / got.draws[:, 1], (0.025, 0.975))
    verdict = "yes" if low > 1 else "no, it falls" if high < 1 else "not shown"
    return (
        f"does the race spend more on harder pictures? {verdict}: passes at severity {SEVERITIES[-1]} are "
        f"{got.value[0] / got.value[1]:.2f} [{low:.2f}, {high:.2f}] times those of the clean ones"
    )


def draw(rows: Sequence[dict[str, Any]], title: str) -> Figure:
    """Right (left) and passes (right) against severity: a line a corruption, the mean with its band."""
    with styled():
        figure = Figure(figsize=(7.0, 3.1), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(1, 2)
        clean = rows[0]
        for kind in dict.fromkeys(row["corruption"] for row in rows[1:]):
            mine = [row for row in rows if row["corruption"] == kind and row["severity"] != "all"]
            group = next((name for name, (_, kinds) in GROUPS.items() if kind in kinds), None)
            colour = INK if kind == MEAN else FAINT if group is None else GROUPS[group][0]
            for ax, name in zip(axes, ("right", "passes"), strict=True):
                x = [0, *(row["severity"] for row in mine)]
                y, low, high = (
                    [clean[name + end], *(row[name + end] for row in mine)] for end in ("", "_low", "_high")
                )
                if kind == MEAN:
                    ax.fill_between(x, low, high, color=colour, alpha=0.2, lw=0)
                    ax.plot(x, y, color=colour, lw=1.8, marker="o", ms=3, label=kind, zorder=4)
                else:
                    seen = group in ax.get_legend_handles_labels()[1]
                    ax.plot(x, y, color=colour, lw=0.8, alpha=0.7, label="_" if seen else group)
        for ax, label in zip(axes, ("right (%)", "passes a picture"), strict=True):
            ax.set_xlabel("severity (0: clean)")
            ax.set_ylabel(label)
            ax.set_ylim(bottom=0)
        percent_ticks(axes[0])
        axes[0].legend(loc="lower left")
        figure.suptitle(f"{title}; band: 95 % interval of the mean", fontsize=8)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="folder of class folders of test pictures")
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--ids", type=Path, help="only pictures listed here, an id a line")
    parser.add_argument(
        "--images", type=int, default=500, help="of these so many, spread evenly over the classes"
    )
    parser.add_argument("--seed", type=int, default=0, help="decides which, and how they are corrupted")
    parser.add_argument(
        "--corruptions", nargs="+", default=STANDARD, choices=(*STANDARD, *EXTRA), metavar="KIND",
        help="default: the fifteen that CIFAR-10-C's mean is over",
    )  # fmt: skip
    parser.add_argument("--threads", type=int)
    parser.add_argument("--device", default="auto")
    parser.add_argument("-o", "--out", type=Path, default=Path("robustness"), help="folder of the traces")
    words = sys.argv[1:]
    cut = words.index("--") if "--" in words else len(words)
    args = parser.parse_args(words[:cut])
    args.more = words[cut + 1 :]
    args.out.mkdir(parents=True, exist_ok=True)
    found: list[Point] = []
    for kind, severity in points(args.corruptions):
        point = scored(args, kind, severity)
        if found and point.ids != found[0].ids:
            raise SystemExit(f"{args.out}: {kind}:{severity} is of other pictures than {found[0].kind}")
        found.append(point)
        print(f"{kind}:{severity}  {short(row_of(point))}", file=sys.stderr, flush=True)
    rows = [*map(row_of, found), *means(found)]
    print(f"{table(rows)}\n{answer(found)}")
    write_csv(args.out / "robustness.csv", rows)
    title = f"{args.model}: {len(found[0].ids)} pictures a point, corruptions: {len(args.corruptions)}"
    save(draw(rows, title), args.out / "robustness.png", "png")


if __name__ == "__main__":
    main()
