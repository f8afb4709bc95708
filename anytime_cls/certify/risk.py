"""Finite-sample guarantees: choosing a threshold on held-out images so that its risk is below a target.

Risk is the expected loss of an image, of which disagreement with the K_max decision is one. Nothing is
assumed of the scores: only that later images are drawn as the held-out ones were. Pure NumPy and SciPy.

The thresholds form a family ordered from safe to loose. *Fixed-sequence testing* (Angelopoulos, Bates,
Candès, Jordan, Lei, *Learn then Test*, 2021, arXiv 2110.01052) tests "the risk is above r" at each, from the
safe end, and stops at the first that is not rejected at level ε; then P(the chosen one's risk > r) ≤ ε,
whatever the family, as long as it was fixed before those images were seen. With a loss of 0 or 1 the exact
binomial test is used, so "rejected" says "the Clopper–Pearson upper bound is at most r": that is the
upper-confidence-bound calibration of risk-controlling prediction sets (Bates et al., J. ACM 2021, arXiv
2101.02703), which Jazbec et al. (*Fast yet Safe: Early-Exiting with Risk Control*, NeurIPS 2024, arXiv
2405.20915) apply to early exits. There is no split of ε over the family, as with Bonferroni, and the risk
need not be monotone, as theirs must.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy.stats import beta, binom

Array = np.ndarray
#: loss(prediction, full, label) → [n], from int arrays [n]: the rule's answers, those of all K_max orders,
#: and the true labels (−1 unknown).
Loss = Callable[[Array, Array, Array], Array]
#: test(losses [n], risk) → p-value of "the expected loss is above the risk"
Test = Callable[[Array, float], float]


def disagreement(prediction: Array, full: Array, label: Array) -> Array:
    """1 where the rule's answer is not that of all K_max orders."""
    found: Array = (prediction != full).astype(float)
    return found


def accuracy_lost(prediction: Array, full: Array, label: Array) -> Array:
    """1 where all K_max orders were right and the rule is not, −1 the other way round, else 0."""
    found: Array = (full == label).astype(float) - (prediction == label)
    return found


LOSSES: dict[str, Loss] = {"disagreement": disagreement, "accuracy": accuracy_lost}


def p_value(losses: Array, risk: float) -> float:
    """P-value of "the expected loss exceeds `risk`", valid for any distribution on [0, 1]: losses [n].

    Exact binomial for losses of 0 and 1, else Hoeffding–Bentkus (Learn then Test, prop. 1). Raises ValueError
    for losses outside [0, 1] or none.
    """
    losses = np.asarray(losses, float)
    n, mean = len(losses), float(losses.mean()) if len(losses) else math.nan
    if not n or not (losses.min() >= 0 and losses.max() <= 1):
        raise ValueError("losses must lie in [0, 1], and there must be some")
    if np.isin(losses, (0, 1)).all():
        return float(binom.cdf(round(n * mean), n, risk))
    if mean >= risk:
        return 1.0
    divergence = _relative_entropy(mean, risk)
    bentkus = math.e * binom.cdf(math.ceil(n * mean), n, risk)
    return float(min(math.exp(-n * divergence), bentkus, 1.0))


def mean_test(losses: Array, risk: float) -> float:
    """0 where conformal risk control holds the risk, else 1: losses [n] in [0, 1].

    (Σ losses + 1) / (n + 1) ≤ r: then the risk of the next image, averaged over the draw of these n too, is
    at most r, where losses grow with the threshold (Angelopoulos et al., *Conformal risk control*, ICLR 2024,
    arXiv 2208.02814). Weaker than `p_value`'s guarantee, which holds for nearly every draw, and cheaper.
    """
    losses = np.asarray(losses, float)
    return 0.0 if (losses.sum() + 1) / (len(losses) + 1) <= risk else 1.0


def drop_p_value(losses: Array, drop: float, slack: float = 0.0025) -> float:
    """P-value of "the expected loss exceeds `drop`", for losses of −1, 0 and 1 (`accuracy_lost`): [n].

    Exact for any probabilities of the three. The difference of the counts, harmed − helped, depends on
    one more unknown, how often an image is either; the p-value is the largest over that share's one-sided
    Clopper–Pearson interval at level 1 − slack, plus `slack` (Berger & Boos, *P values maximized over a
    confidence set for the nuisance parameter*, JASA 1994). Unlike a bound for any loss in [−1, 1] it gains
    from nearly all losses being 0, as they are here.

    Raises ValueError for other losses or none.
    """
    losses = np.asarray(losses, float)
    n = len(losses)
    if not n or not np.isin(losses, (-1, 0, 1)).all():
        raise ValueError("losses must be -1, 0 or 1, and there must be some")
    difference, either = int(losses.sum()), int(np.abs(losses).sum())
    most = upper_bound(either, n, 1 - slack)
    if most < drop:  # fewer images can change at all
        return slack
    share = np.linspace(drop, most, 64)[:, None]
    changed = np.arange(int(binom.isf(1e-12, n, most)) + 1)
    # of `changed` images, harmed − helped ≤ difference: harmed ≤ (changed + difference) / 2
    below = binom.cdf((changed + difference) // 2, changed, np.minimum(1.0, (1 + drop / share) / 2))
    tail = (binom.pmf(changed, n, share) * below).sum(axis=1)
    return float(min(1.0, tail.max() + slack + 1e-12))


def drop_upper(losses: Array, confidence: float = 0.95) -> float:
    """One-sided upper bound of the expected loss of `accuracy_lost`: `drop_p_value` inverted."""
    low, high = 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        passes = drop_p_value(losses, middle, (1 - confidence) / 20) <= 1 - confidence
        low, high = (low, middle) if passes else (middle, high)
    return high


def _relative_entropy(a: float, b: float) -> float:
    """KL divergence of Bernoulli(a) from Bernoulli(b), nats."""
    left = 0.0 if a == 0 else a * math.log(a / b)
    right = 0.0 if a == 1 else (1 - a) * math.log((1 - a) / (1 - b))
    return left + right


def fixed_sequence(losses: Array, risk: float, confidence: float = 0.95, test: Test = p_value) -> int | None:
    """The loosest threshold certified: its index, or None if not even the safest is.

    losses : [T, n] of T thresholds, from safe to loose, on the same n images
    risk, confidence : P(expected loss > risk) ≤ 1 − confidence over the draw of the images
    """
    last = None
    for at, row in enumerate(losses):
        if test(row, risk) > 1 - confidence:
            break
        last = at
    return last


def images_needed(risk: float, confidence: float = 0.95) -> int:
    """Fewest images on which a rule that never errs is certified: (1 − risk)^n ≤ 1 − confidence."""
    return math.ceil(math.log(1 - confidence) / math.log1p(-risk))


def images_needed_for_drop(drop: float, confidence: float = 0.95) -> int:
    """Fewest images on which a rule that changes no answer's correctness is certified by `drop_p_value`."""

    def certified(n: int) -> bool:
        return drop_p_value(np.zeros(n), drop, (1 - confidence) / 20) <= 1 - confidence

    low, high = 0, 1
    while not certified(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if certified(middle) else (middle, high)
    return high


def upper_bound(errors: int, n: int, confidence: float = 0.95) -> float:
    """Clopper–Pearson one-sided upper bound of a proportion."""
    return 1.0 if errors >= n else float(beta.ppf(confidence, errors + 1, n - errors))
