"""Calibration's pure parts: fits recover what data were drawn from, tables say what races did."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from conftest import write_photo
from replay_data import FIELDS, full_trace, races
from scipy.special import softmax
from scipy.stats import binom

from anytime_cls.bounds import VariancePrior
from anytime_cls.calibrate import (
    ALPHAS,
    _calibrated,
    accuracy_at,
    calibrate_trace,
    decision_means,
    expected_calibration_error,
    fit_priors,
    fit_temperature,
    proportion,
    rule_table,
    split_images,
    store_calibration,
)
from anytime_cls.race import run
from anytime_cls.risk import LOSSES, disagreement, fixed_sequence, upper_bound
from anytime_cls.rules import RULES, FixedRule, make_rule, model_rule
from anytime_cls.trace import Trace
from anytime_cls.zoo import ModelError, read_card


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


# the rule calibrated


@pytest.mark.parametrize("prior_scale", [2.0, 0.2], ids=["right-prior", "wrong-prior"])
def test_the_calibrated_rule_holds_its_risk(prior_scale):
    """600 calibrations on 300 races each: at most 5 % choose a threshold whose true risk is above 0.05.

    True risks are over the 3,000 races drawn from (with replacement). It holds with a prior ten times too
    small too, where the moderated t's own levels do not; and it spends the risk. False alarms below 1e-4.
    """
    pool = races(7, 3000, n_classes=4, k_max=8, spread=1.0)
    full = pool.mean(axis=1).argmax(axis=1)
    prior = VariancePrior(prior_scale, 0.0, 40.0)
    some = ALPHAS[::4]
    rules = [_calibrated(prior, alpha, 8, 0.05) for alpha in some]
    losses = np.stack([disagreement(run(rule, pool).prediction, full, full) for rule in rules])
    true = losses.mean(axis=1)
    rng = np.random.default_rng(8)
    wrong, chosen = 0, []
    for _ in range(600):
        at = fixed_sequence(losses[:, rng.integers(0, 3000, 300)], 0.05)
        if at is not None:
            wrong += true[at] > 0.05
            chosen.append(true[at])
    assert wrong <= binom.isf(1e-4, 600, 0.05)
    assert true[-1] > 0.1 and len(chosen) > 500 and np.mean(chosen) > 0.05 / 3
    if prior_scale == 0.2:  # by its own account this one errs on 1 pair of 1,000 at a look
        assert true[np.searchsorted(some, 1e-3)] > 0.05


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A calibration of 1,000 made-up images, and their trace."""
    path = tmp_path_factory.mktemp("traces") / "full.h5"
    scores = races(9, 1000, n_classes=4, k_max=8, spread=1.5)
    full_trace(path, scores, scores.mean(axis=1).argmax(axis=1), failed={3})
    with Trace.open(path) as trace:
        return calibrate_trace(trace, [0.1, 0.02], seed=5), path, scores


def test_a_calibration_says_what_its_rule_does(fitted):
    """Its errors, bound and held-out figures, recomputed from the scores with the rule it makes."""
    result, _, scores = fitted
    usable = np.delete(np.arange(1000), 3)
    parts = split_images(usable, 0.5, seed=5)
    assert sorted(np.concatenate([parts.priors, parts.thresholds, parts.held_out])) == usable.tolist()
    assert (len(parts.priors), len(parts.held_out)) == (100, 499)
    assert [entry["risk"] for entry in result["calibrated"]] == [0.02, 0.1]
    full = scores.mean(axis=1).argmax(axis=1)
    for entry in result["calibrated"]:
        rule = model_rule(result, "calibrated", entry["risk"], 8, 4)
        outcome = run(rule, scores)
        wrong = outcome.prediction != full
        assert entry["errors"] == wrong[parts.thresholds].sum() and entry["images"] == len(parts.thresholds)
        assert entry["upper"] == upper_bound(entry["errors"], entry["images"]) <= entry["risk"]
        held = entry["held_out"]
        assert held["disagreement"]["errors"] == wrong[parts.held_out].sum()
        assert held["passes"] == pytest.approx(outcome.passes[parts.held_out].mean(), abs=0.006)
        low, high = held["disagreement"]["low"], held["disagreement"]["high"]
        assert low <= held["disagreement"]["value"] <= high
        assert held["passes"] < held["paired"]["passes"]  # what it is for
        assert held["full_accuracy"]["value"] == 1
    strict, loose = (entry["held_out"]["passes"] for entry in result["calibrated"])
    assert loose < strict
    assert result["priors"]["paired"]["scale"] == pytest.approx(2.0, rel=0.2)


def test_a_looser_threshold_would_not_be_certified(fitted):
    """The next one on the grid errs too often for the bound: the risk is spent."""
    result, _, scores = fitted
    parts = split_images(np.delete(np.arange(1000), 3), 0.5, seed=5)
    mine, full = scores[parts.thresholds], scores[parts.thresholds].mean(axis=1).argmax(axis=1)
    for entry in result["calibrated"]:
        at = int(np.abs(ALPHAS - entry["alpha"]).argmin())
        prior = VariancePrior.from_dict(entry["prior"])
        wrong = int((run(_calibrated(prior, ALPHAS[at + 1], 8, 0.1), mine).prediction != full).sum())
        assert upper_bound(wrong, len(mine)) > entry["risk"]


def test_pairs_of_orders_are_calibrated_as_pulls(tmp_path):
    """Antithetic: priors as of single orders (a pull's scale × 2), thresholds by pulls, passes by orders."""
    scores = races(10, 400, n_classes=3, k_max=16)
    with Trace.open(full_trace(tmp_path / "t.h5", scores, order_sampler="antithetic")) as trace:
        result = calibrate_trace(trace, [0.1])
    (entry,) = result["calibrated"]
    assert entry["prior"]["scale"] == pytest.approx(1.0, rel=0.2)
    assert result["priors"]["paired"]["scale"] == pytest.approx(2 * entry["prior"]["scale"])
    assert list(entry["thresholds"]) == ["1", "2", "3", "4", "6", "8"] and entry["k_max"] == 16
    rule = model_rule(result, "calibrated", 0.1, 16, 3, "antithetic")
    passes = 2 * run(rule, scores.reshape(400, 8, 2, 3).mean(axis=2)).passes
    parts = split_images(np.arange(400), 0.5, seed=0)
    assert entry["held_out"]["passes"] == pytest.approx(passes[parts.held_out].mean(), abs=0.006)
    assert "accuracy" not in entry["held_out"] and "temperature" not in result  # no labels


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (([0.01],), "risk 0.01 at confidence 0.95 needs 299 images to fit thresholds on, and 160 are left"),
        (([0.1], 0.95, 0.99), "needs more images|needs 29 images"),
        (([0.0],), "risks and the confidence must lie between 0 and 1, got 0"),
        (([0.1], 1.0), "risks and the confidence must lie between 0 and 1, got 1"),
        (([0.1], 0.95, 1.0), "the split must lie between 0 and 1, got 1"),
    ],
)  # fmt: skip
def test_what_cannot_be_calibrated_is_one_line(tmp_path, arguments, said):
    n = 20 if arguments[-1] == 0.99 else 400
    path = full_trace(tmp_path / "t.h5", races(11, n, 3, 8))
    with Trace.open(path) as trace, pytest.raises(ValueError, match=said) as caught:
        calibrate_trace(trace, *arguments)
    assert "\n" not in str(caught.value)


def test_a_risk_that_no_threshold_holds_is_refused(tmp_path, monkeypatch):
    """A loss that is always 1 cannot be held to anything."""
    monkeypatch.setitem(LOSSES, "always", lambda prediction, full, label: np.ones(len(full)))
    path = full_trace(tmp_path / "t.h5", races(12, 300, 3, 8))
    said = r"no threshold holds a risk of 0\.1: even the safest errs on 120 of 120 images"
    with Trace.open(path) as trace, pytest.raises(ValueError, match=said):
        calibrate_trace(trace, [0.1], loss="always")


# in the model


@pytest.fixture
def model(tiny_model_dir, tmp_path):
    return shutil.copytree(tiny_model_dir, tmp_path / "model")


def entry_of(risk: float, alpha: float, k_max: int = 8) -> dict:
    return {"risk": risk, "k_max": k_max, "order_sampler": "uniform", "n_classes": 10,
            "prior": FIELDS["priors"]["paired"], "thresholds": {"1": alpha}}  # fmt: skip


def test_a_calibration_goes_into_the_model_and_is_raced(model, tmp_path):
    """Added, replaced for the same race, priors kept unless asked; then classify takes it, and only it."""
    from anytime_cls.classifier import AnytimeClassifier, RaceOptions

    before = read_card(model)
    new = {"priors": {"paired": FIELDS["priors"]["paired"]}, "temperature": 9.0}
    store_calibration(model, new | {"calibrated": [entry_of(0.05, 0.1), entry_of(0.01, 0.2)]})
    path = store_calibration(model, new | {"calibrated": [entry_of(0.05, 0.3), entry_of(0.05, 0.4, 4)]})
    card = read_card(model)
    assert path == model / "model.json" and card.priors == before.priors and card.temperature == 2.0
    assert [(e["k_max"], e["risk"], e["thresholds"]["1"]) for e in card.fields["calibrated"]] == [
        (4, 0.05, 0.4), (8, 0.01, 0.2), (8, 0.05, 0.3),
    ]  # fmt: skip
    assert {key: card.fields[key] for key in before.fields} == dict(before.fields)
    classifier = AnytimeClassifier.load(str(model), device="cpu")
    rule = classifier.rule(RaceOptions(rule="calibrated", delta=0.05, max_orders=8))
    assert rule.alpha(10, 8, 1) == 0.3
    decision = classifier.classify(
        write_photo(tmp_path / "p.jpg"), RaceOptions(rule="calibrated", delta=0.05, max_orders=8)
    )
    assert decision.passes < 80
    with pytest.raises(ValueError, match=r"no calibration for risk 0\.05 or less at 32 uniform orders of 10"):
        classifier.rule(RaceOptions(rule="calibrated", delta=0.05))
    with pytest.raises(ValueError, match="at 8 uniform orders of 2 classes"):
        classifier.rule(RaceOptions(rule="calibrated", max_orders=8, classes=("cat", "dog")))
    store_calibration(model, new | {"calibrated": []}, replace_priors=True)
    assert read_card(model).temperature == 9.0 and "marginal" not in read_card(model).priors


def test_a_model_that_cannot_be_written_stays_as_it_was(model, monkeypatch):
    before = (model / "model.json").read_bytes()
    calibration = {"priors": {}, "calibrated": [entry_of(0.05, 0.1)]}
    with pytest.raises(ModelError, match="has other weights than the calibration's trace"):
        store_calibration(model, calibration | {"model_sha256": "00"})

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(ModelError, match=r"cannot write .*model\.json: No space left on device"):
        store_calibration(model, calibration)
    assert (model / "model.json").read_bytes() == before
    assert not list(model.glob(".tmp-*")) and json.loads(before)
