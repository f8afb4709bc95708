"""Calibration's pure parts: fits recover what data were drawn from, tables say what races did."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax

from anytime_cls.certify.measure import accuracy_at, rule_table
from anytime_cls.certify.priors import fit_priors
from anytime_cls.certify.temperature import decision_means, fit_temperature
from anytime_cls.race.bounds import VariancePrior
from anytime_cls.race.races import run
from anytime_cls.race.registry import RULES, make_rule
from anytime_cls.race.rules import FixedRule
from anytime_cls.stats.intervals import proportion
from anytime_cls.stats.reliability import expected_calibration_error


def traces(seed: int, n: int, n_classes: int = 10, k_max: int = 32, shared: float = 3.0) -> np.ndarray:
    """Full traces [n, K, C]: class means of sd 3, class noise of sd 1, shared noise of an order."""
    rng = np.random.default_rng(seed)
    means = rng.normal(0, 3, (n, 1, n_classes))
    return means + rng.normal(size=(n, k_max, n_classes)) + rng.normal(0, shared, (n, k_max, 1))


def test_priors_recover_the_noise_they_were_drawn_from():
    """A paired difference has variance 2 whatever its gap; a class alone has 1 + 3² of shared noise."""
    priors = fit_priors(traces(0, 300))
    assert priors["paired"].variance(np.array([1.0, 10.0])) == pytest.approx([2.0, 2.0], rel=0.1)
    assert priors["paired"].df > 100 and priors["paired"].power < 0.05
    assert priors["marginal"].power == 0
    assert priors["marginal"].scale == pytest.approx(10.0, rel=0.1)


def test_priors_leave_the_winner_out():
    """Leader − leader is no pair: two classes of one image give one variance, too few to fit."""
    with pytest.raises(ValueError, match="at least 10 positive variances, got 9"):
        fit_priors(traces(1, 9, n_classes=2))


@pytest.mark.parametrize("temperature", [0.5, 3.0, 20.0])
def test_temperature_recovers_the_one_labels_were_drawn_at(temperature):
    rng = np.random.default_rng(2)
    means = rng.normal(-300, 2 * temperature, (4000, 10))
    odds = softmax(means / temperature, axis=1).cumsum(axis=1)
    labels = (rng.random((4000, 1)) < odds).argmax(axis=1)
    assert fit_temperature(means, labels) == pytest.approx(temperature, rel=0.1)


def test_calibration_error_by_hand():
    """0 when accuracy equals confidence in every bin; the mean distance otherwise; 1.0 has a bin."""
    assert expected_calibration_error(np.full(4, 0.75), np.array([1, 1, 1, 0])) == pytest.approx(0)
    assert expected_calibration_error(np.ones(5), np.zeros(5)) == 1
    confidence = np.array([0.95, 0.95, 0.15, 0.15])
    correct = np.array([True, False, False, False])
    assert expected_calibration_error(confidence, correct, bins=10) == pytest.approx(0.5 * 0.45 + 0.5 * 0.15)


def test_calibration_error_of_calibrated_guesses_is_small():
    rng = np.random.default_rng(3)
    confidence = rng.uniform(0.1, 1, 20_000)
    assert expected_calibration_error(confidence, rng.random(20_000) < confidence) < 0.02


def test_proportion_has_a_wilson_interval():
    """50 of 100: 0.5 ± 0.0962 (Wilson 1927); all of them: the upper end is 1, the lower is not."""
    assert proportion(np.arange(100) < 50) == {"value": 0.5, "low": 0.4038, "high": 0.5962, "n": 100}
    all_right = proportion(np.ones(100, bool))
    assert all_right["high"] == 1 and 0.95 < all_right["low"] < 0.97


def test_accuracy_at_uses_the_first_k_orders():
    """A class that wins on the first order alone is the answer at K = 1 and not at K = 4."""
    scores = np.zeros((1, 4, 2))
    scores[0, :, 0] = [5, -3, -3, -3]
    table = accuracy_at(scores, np.array([0]), ks=(1, 4, 16))
    assert set(table) == {"1", "4"}
    assert table["1"]["value"] == 1 and table["4"]["value"] == 0


def test_rule_table_reports_what_the_races_did():
    scores = traces(4, 40)
    labels = scores.mean(axis=1).argmax(axis=1)
    labels[:4] = (labels[:4] + 1) % 10
    priors = {"paired": VariancePrior(2.0, 0.0, 100.0), "marginal": VariancePrior(10.0, 0.0, 100.0)}
    rows = {row["rule"]: row for row in rule_table(scores, labels, priors, RULES)}
    assert list(rows) == list(RULES)
    fixed = rows["fixed"]
    assert (fixed["passes"], fixed["saving"], fixed["orders"]) == (320, 1, 32)
    assert fixed["agreement"]["value"] == 1 and fixed["accuracy"]["value"] == 0.9
    assert rows["paired"]["saving"] > 3 and rows["paired"]["agreement"]["value"] >= 0.95
    outcome = run(make_rule("paired", 0.05, priors), scores)
    assert rows["paired"]["passes"] == pytest.approx(outcome.passes.mean(), abs=0.05)


def test_decision_means_of_a_full_run_are_the_order_averages():
    scores = traces(5, 5, k_max=8)
    np.testing.assert_allclose(decision_means(FixedRule(), scores), scores.mean(axis=1))


def test_decision_means_lead_to_the_decision_whatever_orders_share():
    """The highest mean is the decision's, although who left saw fewer orders than who stayed; and what
    an order adds to all classes changes no probability."""
    calm = traces(6, 60, shared=0.0)
    noisy = calm + np.random.default_rng(6).normal(0, 20, (60, 32, 1))
    rule = make_rule("paired", 0.05, {"paired": VariancePrior(2.0, 0.0, 100.0)})
    means = decision_means(rule, noisy)
    np.testing.assert_array_equal(means.argmax(axis=1), run(rule, noisy).prediction)
    np.testing.assert_allclose(softmax(means, axis=1), softmax(decision_means(rule, calm), axis=1), atol=1e-9)
