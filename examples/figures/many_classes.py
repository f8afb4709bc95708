"""Compute an image against the number of classes: fixed K, a race, and a race behind a screen, at equal risk.

    anytime-cls sweep DATA/val --ids val.txt --model MODEL --rule fixed --orders stratified --prefix 16 \\
        --max-orders 8 --record-prefixes 4,8 --record-screens table,gradient --threads 1 -o full.h5
    python examples/figures/many_classes.py full.h5 --classes 10,50,100,200 --risk 0.05

For every C, a full trace of C classes: the one given that has just so many (a sweep with `--classes`), else
evenly spread classes of the largest one and their images, where a recorded gradient was taken at the mean of
all classes and is used as it is. The race is calibrated on a part of the images and measured on the others
(`calibrate`'s own split), so a C of few images says little, and one of too few is left out.

Last, the exponent b of compute ~ C^b over the C measured, least squares on logarithms, and what it would come
to at 1,000 classes: extrapolated, not measured. Intervals: 95 %, bootstrap of the measured images of every C;
which classes and which split they are is not in them.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from anytime_cls.certify.designs import split_images
from anytime_cls.certify.thresholds import calibrate_trace
from anytime_cls.curves.full import full_curves
from anytime_cls.race.fitted import Fitted
from anytime_cls.replay.source import Source
from anytime_cls.stats.bootstrap import bootstrap
from anytime_cls.traces.cost import screens_of
from anytime_cls.traces.read import Trace
from anytime_cls.traces.schema import Scores
from anytime_cls.traces.write import TraceWriter

SPLIT = 0.6  # of the images, to calibrate on
RESAMPLES = 1000


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
    """The figures on the images held out of a calibration, `spent` (whole passes) one an image."""
    with Trace.open(path) as trace:
        source = Source(trace)
        found = calibrate_trace(trace, [risk], stages=stages, split=SPLIT)
        if not found.get("calibrated"):
            raise ValueError(f"no threshold could be certified at {source.n_classes} classes")
        (entry,) = found["calibrated"]
        fitted = Fitted.read({"calibrated": found["calibrated"]}, source.tokens)
        (run,) = full_curves(trace, ["calibrated"], fitted=fitted).runs
        fixed = source.full_cost * source.cost()
        held_out = np.isin(
            np.flatnonzero(source.good), split_images(np.flatnonzero(source.good), SPLIT, 0).held_out
        )
        spent = np.asarray(run.token_fraction)[held_out] * fixed
    screen = entry.get("screening", {}).get("screen", "none")
    return entry["held_out"] | {"fixed": fixed, "spent": spent, "with": screen}


def exponent(classes: Sequence[int], cost: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(b, what it comes to at 1,000 classes) of cost [..., len(classes)] = a · C^b."""
    x = np.log(classes) - np.log(classes).mean()
    y = np.log(cost)
    b = (y * x).sum(axis=-1) / (x * x).sum()
    middle = y.mean(axis=-1) - b * np.log(classes).mean()
    return b, np.exp(middle + b * np.log(1000))


def between(values: np.ndarray, digits: int) -> str:
    """A value and the interval of its resamples, which follow it."""
    low, high = np.quantile(values[1:], (0.025, 0.975))
    return f"{values[0]:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def resampled(spent: np.ndarray, seed: int) -> np.ndarray:
    """The mean, and those of its resamples."""
    means = bootstrap(spent[:, None], RESAMPLES, seed)
    return np.concatenate([means.value, means.draws[:, 0]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("traces", nargs="+", type=Path, metavar="FULL.h5")
    parser.add_argument("--classes", default="10,50,100,200", metavar="C,C,...")
    parser.add_argument("--risk", type=float, default=0.05, metavar="P")
    args = parser.parse_args()
    own = {}
    for path in args.traces:
        with Trace.open(path) as trace:
            own[len(trace.labels)] = path
    counts, costs = [], {"fixed": [], "race": [], "screened": []}
    print("whole passes an image at risk", args.risk)
    print("    C  images     fixed                 race             screened  screen    other answer, right")
    with tempfile.TemporaryDirectory() as folder:
        for count in map(int, args.classes.split(",")):
            path = own.get(count) or Path(folder) / f"{count}.h5"
            with Trace.open(own.get(count, own[max(own)])) as trace:
                rungs, screens = Source(trace).prefixes, screens_of(trace.attrs)
                if count not in own:
                    every = np.linspace(0, len(trace.labels) - 1, count).round().astype(int)
                    restricted(trace, every, path)
            try:
                race, screened = (measured(path, args.risk, s) for s in (rungs, [*screens, *rungs]))
            except ValueError as error:
                print(f"{count:>5}  left out: {error}")
                continue
            counts.append(count)
            costs["fixed"].append(np.full(RESAMPLES + 1, race["fixed"]))
            costs["race"].append(resampled(race["spent"], count))
            costs["screened"].append(resampled(screened["spent"], count))
            other, right = screened["disagreement"]["value"], screened["accuracy"]["value"]
            print(
                f"{count:>5} {screened['images']:>7} {race['fixed']:>9.1f} "
                f"{between(costs['race'][-1], 1):>20} {between(costs['screened'][-1], 2):>20}  "
                f"{screened['with']:<9} {other:.2%}, {right:.1%}",
                flush=True,
            )
    for name, values in costs.items():
        if len(counts) > 1:
            b, thousand = exponent(counts, np.stack(values, axis=1))
            print(
                f"{name:<9} C^{between(b, 2)}; extrapolated to 1,000 classes, not measured: "
                f"{between(thousand, 1)} whole passes"
            )


if __name__ == "__main__":
    main()
