"""Methods side by side: each at its best rule, honestly chosen, and what one costs at another's accuracy.

A method's best run is the cheapest, in FLOPs, that is not inferior to all its draws (the fixed K of most
compute): the paired difference of accuracy, less a standard error, is above `-MARGIN`. Of hundreds of runs
the cheapest that merely happens to be as accurate would be a lucky one. Chosen and measured on the same
images even this one would flatter itself, so it is cross-fitted: images are halved by a hash of their ids,
each half answered by the run chosen on the other.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from anytime_cls.curves.pareto import Saving, saving
from anytime_cls.curves.study import Study, StudyError, StudyRun
from anytime_cls.race.registry import SCREEN_RULES
from anytime_cls.stats.bootstrap import Means, bootstrap, percentile_interval
from anytime_cls.stats.intervals import wilson
from anytime_cls.stats.reliability import reliability

Array = np.ndarray
MARGIN = 0.01  # of accuracy that a method's best run may lose to all its draws
RunKey = tuple[int, str, float]  # design of the method, curve, knob


@dataclass(frozen=True, eq=False)
class Contestant:
    """A method in a study. kind: as `sweeps.contest.Entrant` has it. files: its designs', in order, by their
    place among the study's files."""

    name: str
    kind: str
    files: tuple[int, ...]

    def runs(self, study: Study, screens: bool = False) -> list[int]:
        """Its runs by index; those of screens alone, which are methods of their own, only if asked for."""
        return [
            i for i, run in enumerate(study.runs)
            if int(run.settings["file"]) in self.files and (screens or run.rule not in SCREEN_RULES)
        ]  # fmt: skip

    def key(self, run: StudyRun) -> RunKey:
        """What finds the same run among those of other images."""
        return self.files.index(int(run.settings["file"])), run.curve, float(run.settings["knob_value"])

    def find(self, study: Study, key: RunKey) -> int:
        """The run of this key, or where the settings of a curve differ, as they do with other classes, the
        nearest. Raises StudyError."""
        design, curve, value = key
        same = [
            i for i in self.runs(study, True)
            if study.runs[i].curve == curve and study.runs[i].settings["file"] == self.files[design]
        ]  # fmt: skip
        if not same:
            raise StudyError(f"{self.name} has no curve {curve!r} on these images")
        return min(same, key=lambda i: abs(float(study.runs[i].settings["knob_value"]) - value))


@dataclass(frozen=True)
class Choice:
    """A method's best run: chosen on all images, and for each half on the other."""

    best: RunKey
    halves: tuple[RunKey, RunKey]

    @classmethod
    def only(cls, key: RunKey) -> Choice:
        """Nothing to choose from."""
        return cls(key, (key, key))


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a method did to each image, all [I]."""

    right: Array  # 1.0 where it was
    flops: Array
    passes: Array
    orders: Array
    probability: Array


def half_of(ids: Sequence[str]) -> Array:
    """0 or 1 for each image, by a hash of its id: int64 [I]."""
    return np.array([hashlib.sha256(key.encode()).digest()[0] & 1 for key in ids])


def choose(study: Study, method: Contestant) -> Choice:
    """The method's best runs. Raises StudyError where no image has a label, or FLOPs are not known."""
    half = half_of(study.ids)
    every = np.ones(len(half), bool)

    def best(inside: Array) -> RunKey:
        return method.key(study.runs[_best(study, method.runs(study), inside if inside.any() else every)])

    return Choice(best(every), (best(half == 1), best(half == 0)))


def _best(study: Study, members: Sequence[int], inside: Array) -> int:
    """Of these runs the cheapest that on these images is not inferior to the dearest fixed one."""
    right = np.array([_right(study, study.runs[i])[inside] for i in members])
    cost = np.array([_flops(study.runs[i])[inside].mean() for i in members])
    fixed = [at for at, i in enumerate(members) if study.runs[i].rule == "fixed"]
    if not fixed:
        raise StudyError("a method has no fixed run to compare its others with")
    full = max(fixed, key=lambda at: cost[at])
    gain = right - right[full]
    bound = gain.mean(axis=1) - gain.std(axis=1) / math.sqrt(gain.shape[1])
    good = np.flatnonzero(bound >= -MARGIN)  # the fixed run itself is among them
    return members[int(good[np.argmin(cost[good])])]


def outcome(study: Study, method: Contestant, choice: Choice, own: bool = True) -> Outcome:
    """What the method did by its choice. own: whether the images are those it was chosen on, shifted or not,
    so that halves are kept apart; other images are all answered by `best`."""
    half = half_of(study.ids) if own else np.zeros(len(study.ids), int)
    keys = choice.halves if own else (choice.best, choice.best)
    runs = [study.runs[method.find(study, key)] for key in keys]

    def of(values: Sequence[Array]) -> Array:
        return np.where(half == 0, values[0], values[1])

    return Outcome(
        of([_right(study, run) for run in runs]), of([_flops(run) for run in runs]),
        *(of([getattr(run, name) for run in runs]) for name in ("passes", "orders", "probability")),
    )  # fmt: skip


def full_run(study: Study, method: Contestant) -> int:
    """The method's fixed run of most compute: all its draws."""
    fixed = [i for i in method.runs(study) if study.runs[i].rule == "fixed"]
    return max(fixed, key=lambda i: float(_flops(study.runs[i]).mean()))


def measured(found: Outcome, resamples: int = 1000, seed: int = 0) -> dict[str, float]:
    """Accuracy with Wilson's interval, FLOPs with the bootstrap's, passes, draws, calibration error with its
    interval and floor; NaN where probabilities are not known."""
    n = len(found.right)
    accuracy = float(found.right.mean())
    low, high = wilson(accuracy, n)
    flops = bootstrap(found.flops[:, None], resamples, seed)
    flops_low, flops_high = flops.interval()
    row = {
        "images": n, "accuracy": accuracy, "accuracy_low": low, "accuracy_high": high,
        "flops": float(flops.value[0]), "flops_low": float(flops_low[0]), "flops_high": float(flops_high[0]),
        "passes": float(found.passes.mean()), "draws": float(found.orders.mean()),
    }  # fmt: skip
    known = np.isfinite(found.probability)
    if not known.all():
        return row | dict.fromkeys(("ece", "ece_low", "ece_high", "ece_floor"), math.nan)
    got = reliability(found.probability, found.right, 15, resamples, seed)
    return row | {"ece": got.ece, "ece_low": got.ece_low, "ece_high": got.ece_high, "ece_floor": got.floor}


@dataclass(frozen=True)
class Ratio:
    """How much dearer another method is at equal accuracy. cost: `pareto.Saving` in FLOPs (index: the
    other's run). lead: accuracy minus that of the other's best run that costs no more (the cheapest, if all
    cost more), with its interval."""

    cost: Saving
    lead: float
    lead_low: float
    lead_high: float


def ratio(
    study: Study, point: Outcome, members: Sequence[int], resamples: int = 1000, seed: int = 0
) -> Ratio:
    """A method's outcome against another's runs. In every resample the other's run is found anew; of many
    runs the first that happens to be accurate enough counts, so chance speaks for the other."""
    runs = [study.runs[i] for i in members]
    x = bootstrap(np.stack([point.flops, *map(_flops, runs)], axis=1), resamples, seed)
    y = bootstrap(np.stack([point.right, *(_right(study, r) for r in runs)], axis=1), resamples, seed)
    found = saving(x, y, 0, np.arange(1, len(runs) + 1))
    cost = Saving(found.ratio, found.low, found.high, members[found.index - 1], found.reached)
    lead, draws = _lead(x.value[None], y.value[None])[0], _lead(x.draws, y.draws)
    low, high = percentile_interval(draws, np.asarray(lead))
    return Ratio(cost, float(lead), float(low), float(high))


def _lead(x: Array, y: Array) -> Array:
    """Column 0's accuracy less the best of the others that cost no more: [B]."""
    within = x[:, 1:] <= x[:, :1] * (1 + 1e-9)
    cheapest = x[:, 1:] == x[:, 1:].min(axis=1, keepdims=True)
    within = np.where(within.any(axis=1, keepdims=True), within, cheapest)
    found: Array = y[:, 0] - np.where(within, y[:, 1:], -np.inf).max(axis=1)
    return found


def screens_of(study: Study, method: Contestant) -> dict[str, Choice]:
    """The method's screens alone, each a reference of its own: name → its one run."""
    found: dict[str, Choice] = {}
    for i in method.runs(study, True):
        run = study.runs[i]
        if run.rule in SCREEN_RULES and run.rule not in found:
            found[run.rule] = Choice.only(method.key(run))
    return found


def means(study: Study, members: Sequence[int], resamples: int = 1000, seed: int = 0) -> tuple[Means, Means]:
    """FLOPs and accuracy of runs, for bands (`pareto.band`)."""
    runs = [study.runs[i] for i in members]
    return (
        bootstrap(np.stack([_flops(run) for run in runs], axis=1), resamples, seed),
        bootstrap(np.stack([_right(study, run) for run in runs], axis=1), resamples, seed),
    )


def setting(study: Study, index: int) -> str:
    """A run for people: `paired m=8, δ = 0.05`."""
    run = study.runs[index]
    return f"{run.curve}, {run.setting}"


def labelled(study: Study) -> Study:
    """The study over its images with labels. Raises StudyError where there is none."""
    known = study.label >= 0
    if not known.any():
        raise StudyError("no image has a label: methods are compared by accuracy")
    return study if known.all() else study.of(known)


def _right(study: Study, run: StudyRun) -> Array:
    found: Array = (run.prediction == study.label).astype(float)
    return found


def _flops(run: StudyRun) -> Array:
    if run.flops is None:
        raise StudyError(f"{run.series} does not say what a pass costs in FLOPs")
    found: Array = np.maximum(run.flops, 1.0)  # a calibrated race may end before its first pass
    return found


Row = Mapping[str, Any]
