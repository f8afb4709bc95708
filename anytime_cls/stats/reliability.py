"""Is a probability what it says: reliability diagrams and the expected calibration error."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from anytime_cls.stats.bootstrap import bootstrap, percentile_interval
from anytime_cls.stats.intervals import wilson

Array = np.ndarray


def expected_calibration_error(confidence: Array, correct: Array, bins: int = 15) -> float:
    """Σ_b (n_b / n) |accuracy_b − confidence_b| over equal-width bins (Guo et al., ICML 2017)."""
    bin_of = np.minimum((confidence * bins).astype(int), bins - 1)
    total = 0.0
    for b in np.unique(bin_of):
        at = bin_of == b
        total += at.mean() * abs(correct[at].mean() - confidence[at].mean())
    return float(total)


def error_floor(confidence: Array, bins: int = 15, trials: int = 200, seed: int = 0) -> float:
    """The expected calibration error that so many images show where every probability is exactly right.

    The mean over `trials` draws of right and wrong from the probabilities [I] themselves. An ECE means
    something only by how far it is above this.
    """
    rng = np.random.default_rng(seed)
    bin_of = np.minimum((confidence * bins).astype(int), bins - 1)
    total = 0.0
    for b in np.unique(bin_of):
        at = confidence[bin_of == b]
        off = (rng.random((trials, len(at))) < at).mean(axis=1) - at.mean()
        total += len(at) / len(confidence) * float(np.abs(off).mean())
    return total


@dataclass(frozen=True, eq=False)
class Reliability:
    """Confidence against accuracy in equal-width bins that hold images; parallel [b], and the ECE."""

    confidence: Array  # mean probability in the bin
    accuracy: Array
    low: Array  # Wilson's 95 % interval of the accuracy
    high: Array
    count: Array
    left: Array  # the bin's edges
    right: Array
    ece: float
    ece_low: float
    ece_high: float
    floor: float  # of a perfectly calibrated probability on as many images


def reliability(
    probability: Array, correct: Array, bins: int = 15, resamples: int = 1000, seed: int = 0
) -> Reliability:
    """The reliability diagram: probability of the answer [I] and whether it was right [I].

    ECE = Σ_b (n_b / n) |accuracy_b − confidence_b| (Guo et al., ICML 2017), with a bootstrap interval. The
    ECE of a finite sample is biased upwards (noise in a bin adds), and so is its interval: see `floor`.
    """
    probability, correct = np.asarray(probability, float), np.asarray(correct, float)
    edges = np.linspace(0, 1, bins + 1)
    bin_of = np.minimum((probability * bins).astype(int), bins - 1)
    member = np.eye(bins)[bin_of]
    gap = bootstrap(member * (correct - probability)[:, None], resamples, seed)
    ece, draws = np.abs(gap.value).sum(), np.abs(gap.draws).sum(axis=1)
    low, high = percentile_interval(draws, ece)
    count = member.sum(axis=0).astype(int)
    held = np.flatnonzero(count)
    accuracy = (member * correct[:, None]).sum(axis=0)[held] / count[held]
    intervals = np.array([wilson(a, n) for a, n in zip(accuracy, count[held], strict=True)])
    return Reliability(
        confidence=(member * probability[:, None]).sum(axis=0)[held] / count[held],
        accuracy=accuracy, low=intervals[:, 0], high=intervals[:, 1], count=count[held],
        left=edges[held], right=edges[held + 1],
        ece=float(ece), ece_low=float(low), ece_high=float(high), floor=error_floor(probability, bins),
    )  # fmt: skip
