"""Guarantees: p-values that are valid, a sequence that stops, and risks held as often as stated."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom, binomtest

from anytime_cls.certify.risk import (
    accuracy_lost,
    disagreement,
    drop_p_value,
    drop_upper,
    fixed_sequence,
    images_needed,
    images_needed_for_drop,
    p_value,
    upper_bound,
)
from anytime_cls.stats.intervals import clopper_pearson


def test_binary_losses_are_tested_exactly():
    """P(Bin(300, 0.01) ≤ k): no error of 300 has p = 0.99^300 = 0.049."""
    for errors, expected in ((0, 0.99**300), (2, binom.cdf(2, 300, 0.01)), (300, 1.0)):
        assert p_value(np.arange(300) < errors, 0.01) == pytest.approx(expected)


@pytest.mark.parametrize("risk", [0.02, 0.2, 0.6])
@pytest.mark.parametrize("shape", ["binary", "uniform", "spiky"])
def test_p_values_are_super_uniform_at_the_boundary(risk, shape):
    """Where the risk is exactly r, P(p ≤ u) ≤ u; seeds fixed, false alarms below 1e-4."""
    rng = np.random.default_rng(int(risk * 100))
    trials, n = 1000, 80
    if shape == "binary":
        losses = (rng.random((trials, n)) < risk).astype(float)
    elif shape == "uniform":
        width = min(risk, 1 - risk)
        losses = rng.uniform(risk - width, risk + width, (trials, n))
    else:
        losses = rng.beta(0.3, 0.3 * (1 - risk) / risk, (trials, n))
    p = np.array([p_value(row, risk) for row in losses])
    for u in (0.05, 0.2):
        assert (p <= u).sum() <= binom.isf(1e-4, trials, u)


def test_hoeffding_bentkus_has_power():
    """Losses of 0.1 are told from a risk of 0.2 with a hundred images, those of 0.3 never."""
    rng = np.random.default_rng(0)
    assert p_value(rng.uniform(0.05, 0.15, 100), 0.2) < 0.05
    assert p_value(rng.uniform(0.25, 0.35, 100), 0.2) == 1


@pytest.mark.parametrize("losses", [[], [-0.1, 0.5], [0.5, 1.5], [np.nan, 0.0]])
def test_losses_must_lie_in_the_unit_interval(losses):
    with pytest.raises(ValueError, match=r"losses must lie in \[0, 1\]"):
        p_value(np.array(losses), 0.1)


def test_the_sequence_stops_at_the_first_failure():
    """Threshold 3 would pass too, but comes after one that does not."""
    n = 100
    losses = np.array([np.arange(n) < errors for errors in (0, 3, 30, 0)], float)
    assert fixed_sequence(losses, 0.1) == 1
    assert fixed_sequence(losses[2:], 0.1) is None
    assert fixed_sequence(losses[:2], 0.1) == 1  # all pass: the last


@pytest.mark.parametrize(("risk", "confidence"), [(0.01, 0.95), (0.005, 0.9), (0.3, 0.99)])
def test_images_needed_is_the_fewest(risk, confidence):
    need = images_needed(risk, confidence)
    assert fixed_sequence(np.zeros((1, need)), risk, confidence) == 0
    assert fixed_sequence(np.zeros((1, need - 1)), risk, confidence) is None


@pytest.mark.parametrize(("errors", "n"), [(0, 50), (3, 50), (50, 50)])
def test_intervals_are_scipys_exact_ones(errors, n):
    exact = binomtest(errors, n).proportion_ci(0.95, method="exact")
    assert clopper_pearson(errors, n) == pytest.approx((exact.low, exact.high))
    one_sided = binomtest(errors, n, alternative="less").proportion_ci(0.95, method="exact")
    assert upper_bound(errors, n) == pytest.approx(one_sided.high)


def test_nothing_is_known_of_no_images():
    assert clopper_pearson(0, 0) == (0, 1)


def test_certified_is_bounded():
    """The certified threshold's Clopper–Pearson bound is at most the risk, the next one's is not."""
    losses = np.array([np.arange(500) < errors for errors in range(60)], float)
    at = fixed_sequence(losses, 0.05)
    assert upper_bound(at, 500) <= 0.05 < upper_bound(at + 1, 500)


@pytest.mark.parametrize("monotone", [True, False])
def test_the_risk_is_held_as_often_as_stated(monotone):
    """1,000 calibrations of 200 images: the chosen threshold's true risk is above r in at most 5 %.

    Also where risk is not monotone, and losses of neighbouring thresholds are correlated. False alarms below
    1e-4; and it must choose something, near the target, most of the time.
    """
    rng = np.random.default_rng(int(monotone))
    true = np.linspace(0, 0.3, 31)
    if not monotone:
        true = np.abs(true + 0.04 * np.sin(np.arange(31)))
    trials, wrong, chosen = 1000, 0, []
    for _ in range(trials):
        losses = (rng.random(200) < true[:, None]).astype(float)
        at = fixed_sequence(losses, 0.1)
        if at is not None:
            wrong += true[at] > 0.1
            chosen.append(true[at])
    assert wrong <= binom.isf(1e-4, trials, 0.05)
    assert len(chosen) > 0.9 * trials and np.mean(chosen) > (0.05 if monotone else 0.02)


def test_disagreement_ignores_labels():
    losses = disagreement(np.array([1, 2, 3]), np.array([1, 0, 3]), np.array([0, 2, -1]))
    assert losses.tolist() == [0, 1, 0] and not math.isnan(losses.mean())


# accuracy


@pytest.mark.parametrize(("changed", "drop", "n"), [(0.02, 0.02, 400), (0.05, 0.01, 400), (0.3, 0.05, 200)])
def test_drop_p_values_are_super_uniform_at_the_boundary(changed, drop, n):
    """Accuracy falls by exactly the drop, with other images helped and harmed alike: P(p ≤ u) ≤ u."""
    rng = np.random.default_rng(n)
    odds = [(changed + drop) / 2, (changed - drop) / 2, 1 - changed]
    p = np.array([drop_p_value(rng.choice([1.0, -1.0, 0.0], n, p=odds), drop) for _ in range(400)])
    for u in (0.05, 0.2):
        assert (p <= u).sum() <= binom.isf(1e-4, 400, u)


def test_drop_p_values_have_power_that_a_bound_for_any_loss_lacks():
    """1,000 images of which few change: a drop of 0.01 is excluded, by Hoeffding–Bentkus not one of 0.04."""
    losses = np.zeros(1000)
    losses[:5], losses[5:9] = -1, 1
    assert drop_p_value(losses, 0.01) < 0.05
    assert p_value((losses + 1) / 2, (0.04 + 1) / 2) > 0.05
    assert drop_p_value(-losses, 0.0005) > 0.5
    assert drop_upper(losses) < drop_upper(np.abs(losses)) <= upper_bound(9, 1000, 0.99)
    assert drop_p_value(losses, drop_upper(losses)) == pytest.approx(0.05, abs=1e-4)


@pytest.mark.parametrize(("drop", "confidence"), [(0.02, 0.95), (0.05, 0.99)])
def test_images_needed_for_a_drop_are_the_fewest(drop, confidence):
    """Without any change; somewhat more than a risk of that size needs, for what else might have happened."""
    need, slack = images_needed_for_drop(drop, confidence), (1 - confidence) / 20
    assert drop_p_value(np.zeros(need), drop, slack) <= 1 - confidence
    assert drop_p_value(np.zeros(need - 1), drop, slack) > 1 - confidence
    assert images_needed(drop, confidence) <= need < 2 * images_needed(drop, confidence)


@pytest.mark.parametrize("losses", [[], [0.5], [2.0], [np.nan]])
def test_a_drops_losses_are_checked(losses):
    with pytest.raises(ValueError, match="losses must be -1, 0 or 1"):
        drop_p_value(np.array(losses), 0.1)


def test_accuracy_lost_counts_what_is_harmed_and_helped():
    lost = accuracy_lost(np.array([1, 2, 3, 4]), np.array([1, 0, 3, 0]), np.array([0, 2, 3, 0]))
    assert lost.tolist() == [0, -1, 0, 1]
