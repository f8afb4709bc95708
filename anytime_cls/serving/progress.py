"""What a race has come to so far, as plain data."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, final

import numpy as np

from anytime_cls.engine.job import Job
from anytime_cls.plan.plan import RacePlan

ALL = 20  # up to so many classes all are told, in the model's order; of more, the best `BEST`
BEST = 12
SHARE = 0.1  # of the race's time, at most, goes into telling of it
STEP = 1 / 50  # updates are this share of the elapsed time apart,
LONGEST = 0.1  # but no more than so many seconds


@final
class Teller:
    """An engine's `on_update` that tells of one race, at first after every batch and less often later."""

    def __init__(self, labels: Sequence[str], plan: RacePlan, tell: Callable[[dict[str, Any]], None]):
        self.labels, self.plan, self.tell = labels, plan, tell
        self._next = 0.0

    def __call__(self, job: Job) -> None:
        began = time.perf_counter()
        if began < self._next and not job.race.done:
            return
        self.tell(snapshot(job, self.labels, self.plan.temperature))
        ended = time.perf_counter()
        elapsed = 0.0 if job.spending is None else job.spending.seconds
        self._next = ended + max((ended - began) / SHARE, min(LONGEST, elapsed * STEP))


def snapshot(job: Job, labels: Sequence[str], temperature: float) -> dict[str, Any]:
    """A race between two batches: the leader, who is left, what was spent. docs/serve.md has the keys.

    None stands for what is not there yet, and for a bound that is infinite.
    """
    race, spending = job.race, job.spending
    begun = bool(race.n) or race.estimated
    means = race.means() if begun else race.by_order[0]
    known = np.isfinite(means)
    leader = race.leader if begun else int(np.where(known, means, -np.inf).argmax()) if known.any() else None
    # before every class has a score there is no probability
    probability = race.aggregate("mean", temperature) if begun else np.full(race.n_classes, np.nan)
    lower, upper = race.intervals()
    shown = np.arange(race.n_classes)
    if race.n_classes > ALL:
        key = np.where(known, means, -np.inf) + np.where(race.alive, 0, -1e12)
        shown = np.argsort(-key, kind="stable")[:BEST]
    return {
        "leader": None if leader is None else labels[job.classes[leader]],
        "index": None if leader is None else int(job.classes[leader]),
        "probability": None if leader is None else _number(probability[leader]),
        "classes_left": int(race.alive.sum()),
        "classes": race.n_classes,
        "orders": race.orders,
        "max_orders": race.k_max * race.block,
        "passes": spending.passes if spending else float(race.passes),
        "full_passes": job.full_passes,
        "elapsed": spending.seconds if spending else job.seconds,
        "standings": [
            {
                "label": labels[job.classes[c]],
                "index": int(job.classes[c]),
                "probability": _number(probability[c]),
                "mean": _number(means[c]),
                "lower": _number(lower[c]),
                "upper": _number(upper[c]),
                "alive": bool(race.alive[c]),
                "orders": int(race.n if race.alive[c] else race.left_at[c]) * race.block,
            }
            for c in shown.tolist()
        ],
    }


def _number(x: float) -> float | None:
    return float(x) if np.isfinite(x) else None
