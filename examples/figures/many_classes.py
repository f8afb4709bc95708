"""Compute an image against the number of classes: fixed K, a race, and a race behind a screen, at equal risk.

    anytime-cls sweep tiny-imagenet --root DATA/val --ids test.txt --rule fixed --orders stratified \\
        --prefix 16 --max-orders 16 --record-prefixes 4,8 --record-screens table,gradient -o full.h5
    python examples/figures/many_classes.py full.h5 --classes 10,50,100,200 --risk 0.05

From one full trace: for every C, evenly spread classes and their images; the race is calibrated on half of
them and measured on others (`calibrate`'s own split), so a C of few images says little. A recorded gradient
was taken at the mean of all classes, and is used as it is. Last, the exponent b of compute ~ C^b over the C
given, least squares on logarithms, and what it would come to at 1,000 classes: extrapolated, not measured.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from anytime_cls.certify.thresholds import calibrate_trace
from anytime_cls.replay.source import Source
from anytime_cls.traces.cost import screens_of
from anytime_cls.traces.read import Trace
from anytime_cls.traces.schema import Scores
from anytime_cls.traces.write import TraceWriter


def restricted(trace: Trace, classes: np.ndarray, path: Path) -> None:
    """The trace of the same run over some of its classes and their images, as far as scores tell."""
    place = np.full(len(trace.labels), -1)
    place[classes] = np.arange(len(classes))
    lost = ("plan", "complete", "schema", "labels")  # of all classes
    attrs = {key: value for key, value in trace.attrs.items() if key not in lost}
    if screens_of(attrs):
        attrs["screen_flops"] = [
            flops * (len(classes) / len(trace.labels) if name == "table" else 1)
            for name, flops in zip(attrs["screens"], attrs["screen_flops"], strict=True)
        ]
    with TraceWriter.create(path, attrs, [trace.labels[c] for c in classes]) as writer:
        for i, (row, scores) in enumerate(trace):
            if row.error or place[row.label] < 0:
                continue
            keep = place[scores.cls] >= 0
            columns = (scores.order, place[scores.cls], scores.prefix, scores.round, scores.value)
            mine = Scores(*(column[keep] for column in columns))
            own = {"label": int(place[row.label]), "prediction": max(0, int(place[row.prediction]))}
            writer.append(type(row)(**{**vars(row), **own}), mine, i)


def measured(path: Path, risk: float, stages: Sequence[int | str]) -> dict[str, Any]:
    """The figures on the images held out of a calibration."""
    with Trace.open(path) as trace:
        (entry,) = calibrate_trace(trace, [risk], stages=stages, split=0.6)["calibrated"]
        fixed = Source(trace).full_cost * Source(trace).cost()
    return entry["held_out"] | {"fixed": fixed, "with": entry.get("screening", {}).get("screen", "none")}


def exponent(classes: Sequence[int], cost: Sequence[float]) -> tuple[float, float]:
    """(b, what it comes to at 1,000 classes) of cost = a · C^b."""
    b, a = np.polyfit(np.log(classes), np.log(cost), 1)
    return float(b), float(np.exp(a) * 1000**b)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("trace", metavar="FULL.h5")
    parser.add_argument("--classes", default="10,50,100,200", metavar="C,C,...")
    parser.add_argument("--risk", type=float, default=0.05, metavar="P")
    args = parser.parse_args()
    counts = [int(c) for c in args.classes.split(",")]
    costs: dict[str, list[float]] = {"fixed": [], "race": [], "screened": []}
    print("whole passes an image at risk", args.risk)
    print(
        f"{'C':>5} {'images':>7} {'fixed':>9} {'race':>9} {'screened':>9}  screen    another answer, accuracy"
    )
    with Trace.open(args.trace) as trace, tempfile.TemporaryDirectory() as folder:
        rungs = Source(trace).prefixes
        for count in counts:
            path = Path(folder) / f"{count}.h5"
            restricted(trace, np.linspace(0, len(trace.labels) - 1, count).round().astype(int), path)
            race = measured(path, args.risk, rungs)
            screened = measured(path, args.risk, [*screens_of(trace.attrs), *rungs])
            for name, value in (("fixed", race["fixed"]), ("race", race["whole_passes"]),
                                ("screened", screened["whole_passes"])):  # fmt: skip
                costs[name].append(value)
            other, right = screened["disagreement"]["value"], screened["accuracy"]["value"]
            print(
                f"{count:>5} {screened['images']:>7} {race['fixed']:>9.1f} {race['whole_passes']:>9.2f} "
                f"{screened['whole_passes']:>9.2f}  {screened['with']:<9} {other:.2%}, {right:.1%}"
            )
    for name, values in costs.items():
        if len(counts) > 1:
            b, thousand = exponent(counts, values)
            print(f"{name:<9} C^{b:.2f}; extrapolated to 1,000 classes: {thousand:.1f} whole passes")


if __name__ == "__main__":
    main()
