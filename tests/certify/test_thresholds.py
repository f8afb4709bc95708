"""Calibrated rules: risks held, spent, and measured as the races say; rungs, prefixes, the model's file."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from basics import write_photo
from fitted_rules import model_rule
from replay_data import FIELDS, full_trace, races
from scipy.special import softmax, stdtr
from scipy.stats import binom

from anytime_cls.certify.choose import _clearly_less
from anytime_cls.certify.designs import ALPHAS, _rule, split_images
from anytime_cls.certify.risk import (
    LOSSES,
    accuracy_lost,
    disagreement,
    drop_upper,
    fixed_sequence,
    upper_bound,
)
from anytime_cls.certify.stages import (
    ScreenFit,
    StageFit,
    Tail,
    candidates,
    fit_stages,
    fit_tail,
    winners_behind,
    winners_margin,
)
from anytime_cls.certify.store import store_calibration
from anytime_cls.certify.thresholds import calibrate_trace
from anytime_cls.models.card import ModelError
from anytime_cls.models.zoo import read_card
from anytime_cls.race.bounds import VariancePrior
from anytime_cls.race.races import run
from anytime_cls.race.rules import CalibratedRule, ScreenRule
from anytime_cls.race.value import ValueRule
from anytime_cls.stats.reliability import expected_calibration_error
from anytime_cls.traces.read import Trace


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
    rules = [_rule(prior, 8, StageFit(0.05), alpha) for alpha in some]
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
        wrong = int((run(_rule(prior, 8, StageFit(0.1), ALPHAS[at + 1]), mine).prediction != full).sum())
        assert upper_bound(wrong, len(mine)) > entry["risk"]


def test_pairs_of_orders_are_calibrated_as_pulls(tmp_path):
    """Antithetic: priors as of single orders (a pull's scale × 2), thresholds by pulls, passes by orders."""
    scores = races(10, 400, n_classes=3, k_max=16)
    with Trace.open(full_trace(tmp_path / "t.h5", scores, order_sampler="antithetic")) as trace:
        result = calibrate_trace(trace, [0.1])
    (entry,) = result["calibrated"]
    assert entry["prior"]["scale"] == pytest.approx(1.0, rel=0.2)
    assert result["priors"]["paired"]["scale"] == pytest.approx(2 * entry["prior"]["scale"])
    assert list(entry["thresholds"]) == [str(n) for n in range(1, 9)] and entry["k_max"] == 16
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
    monkeypatch.setitem(LOSSES, "disagreement", lambda prediction, full, label: np.ones(len(full)))
    path = full_trace(tmp_path / "t.h5", races(12, 300, 3, 8))
    said = r"no threshold holds a risk of 0\.1: even the safest errs on 120 of 120 images"
    with Trace.open(path) as trace, pytest.raises(ValueError, match=said):
        calibrate_trace(trace, [0.1])


# rungs and prefixes


def prefix_races(seed: int, n: int, n_classes: int = 6, k_max: int = 8) -> dict[int, np.ndarray]:
    """Running scores after 4, 16 and 64 tokens, [n, K, C] each: most of what tells classes apart is early."""
    rng = np.random.default_rng(seed)
    means = rng.normal(0, 3, (n, 1, n_classes))
    total, out = np.zeros((n, k_max, n_classes)), {}
    for m, share in ((4, 0.4), (16, 0.3), (64, 0.3)):
        shared = rng.normal(0, 3, (n, k_max, 1))
        total = total + share * means + shared + np.sqrt(share) * rng.normal(size=total.shape)
        out[m] = total.astype("f4").astype(float)
    return out


@pytest.fixture(scope="module")
def rung_trace(tmp_path_factory):
    """900 images with recorded prefixes; every tenth label is not K_max's answer."""
    scores = prefix_races(20, 900)
    label = (scores[64].mean(axis=1).argmax(axis=1) + (np.arange(900) % 10 == 0)) % 6
    path = tmp_path_factory.mktemp("rungs") / "full.h5"
    return full_trace(path, scores[64], label, prefixes={4: scores[4], 16: scores[16]}), scores, label


@pytest.fixture(scope="module")
def screen_trace(tmp_path_factory):
    """900 images with two screens: one that knows much of the K_max means, one that knows nothing."""
    scores, rng = prefix_races(21, 900)[64], np.random.default_rng(22)
    means = scores.mean(axis=1)
    good = (2 * (means - means.mean(axis=1, keepdims=True)) + rng.normal(0, 1, means.shape)).astype("f4")
    screens = {
        "table": good.astype(float),
        "gradient": rng.normal(0, 1, means.shape).astype("f4").astype(float),
    }
    path = tmp_path_factory.mktemp("screens") / "full.h5"
    return full_trace(path, scores, means.argmax(axis=1), screens=screens), scores, screens


def test_a_screen_is_calibrated_with_its_race(screen_trace):
    """The one that knows something is taken, at its slope; its races are cheaper, within the risk; and the
    figures are those of the rule that a model would race."""
    path, scores, screens = screen_trace
    with Trace.open(path) as trace:
        plain = calibrate_trace(trace, [0.05], split=0.6)
        result = calibrate_trace(trace, [0.05], split=0.6, stages=["table", "gradient"])
        useless = calibrate_trace(trace, [0.05], split=0.6, stages=["gradient"])
    (entry,) = result["calibrated"]
    assert entry["screening"]["screen"] == "table"
    assert entry["screening"]["scale"] == pytest.approx(0.5, abs=0.05)
    held = entry["held_out"]
    assert held["whole_passes"] - 3 < 0.5 * plain["calibrated"][0]["held_out"]["whole_passes"]
    assert held["disagreement"]["low"] <= 0.05
    assert "screening" not in useless["calibrated"][0]
    rule = model_rule(result, "calibrated", 0.05, 8, 6)
    races = run(rule, scores, screens)
    parts = split_images(np.arange(900), 0.6, 0)
    wrong = races.prediction != scores.mean(axis=1).argmax(axis=1)
    assert held["disagreement"]["errors"] == wrong[parts.held_out].sum()
    assert held["passes"] == pytest.approx(races.passes[parts.held_out].mean(), abs=0.01)
    assert held["whole_passes"] == pytest.approx(3 + races.passes[parts.held_out].mean(), abs=0.01)


def test_a_screen_alone_has_a_temperature_of_its_own(screen_trace):
    """So that rule `table`'s probability means something: the fitted one, in the rule that a model races."""
    path, _, screens = screen_trace
    with Trace.open(path) as trace:
        result = calibrate_trace(trace, [0.05], split=0.6, stages=["table"])
        label = trace.images["label"]
    rule = model_rule(result, "table", 0.05, 8, 6)
    assert rule == ScreenRule("table", result["screens"]["table"]) and 0.1 < rule.temperature < 10
    p = softmax(screens["table"] / rule.temperature, axis=1)
    right = p.argmax(axis=1) == label
    off = expected_calibration_error(p.max(axis=1), right)
    assert off < expected_calibration_error(softmax(screens["table"] / 0.2, axis=1).max(axis=1), right)


def test_a_screen_that_was_not_recorded_is_one_line(screen_trace):
    with (
        Trace.open(screen_trace[0]) as trace,
        pytest.raises(ValueError, match=r"no screen 'x'.*--record-screens x"),
    ):
        calibrate_trace(trace, [0.1], stages=["x"])


def test_risks_held_on_average_are_held_and_cost_less(screen_trace):
    """(errors + 1) / (n + 1) ≤ r at the chosen threshold; never more passes than with confidence."""
    with Trace.open(screen_trace[0]) as trace:
        sure = calibrate_trace(trace, [0.05], split=0.6)["calibrated"][0]
        mean = calibrate_trace(trace, [0.05], split=0.6, mean=True)["calibrated"][0]
        chosen = calibrate_trace(trace, [0.05], split=0.6, designs=4)["calibrated"][0]
    assert (mean["errors"] + 1) / (mean["images"] + 1) <= 0.05
    assert mean["guarantee"] == "mean" and "confidence" not in mean
    assert mean["held_out"]["passes"] <= sure["held_out"]["passes"] <= chosen["held_out"]["passes"]
    assert chosen["confidence"] == pytest.approx(1 - 0.05 / 4)


def test_a_tail_is_read_where_it_can_be_and_extended_beyond():
    """Exponential data: the quantile at 1 in 1,000 from 300 of them, within three standard errors."""
    values = np.random.default_rng(0).exponential(2.0, 300)
    tail = fit_tail(values)
    assert tail.beyond == pytest.approx(0.2, abs=0.01)
    assert tail.quantile(0.001) == pytest.approx(2 * np.log(1000), abs=3 * 2 * np.log(200) / np.sqrt(60))
    assert tail.quantile(0.5) == tail.quantile(0.2) == tail.start
    assert fit_tail(np.r_[np.zeros(96), 1, 1, 2, 3]) is None
    assert fit_tail(np.r_[np.zeros(95), 1, 1, 2, 3, 3]) == Tail(0.0, 0.05, 2.0)


def test_rungs_loosen_with_the_threshold():
    """The share of the risk that they spend is in proportion to the threshold."""
    fit = StageFit(0.1, ((8, Tail(1.0, 0.2, 2.0)), (16, Tail(0.5, 0.2, 1.0))), alpha=0.01)
    at = dict(fit.at(0.01)[1])
    assert at[8] == pytest.approx(1 + 2 * np.log(0.2 / 0.015)) and at[16] == pytest.approx(
        0.5 + np.log(0.2 / 0.015)
    )
    assert dict(fit.at(0.001)[1])[8] == pytest.approx(at[8] + 2 * np.log(10))
    assert StageFit(0.1).at(0.2) == (None, ())
    assert candidates([16, 8]) == [(), (8,), (16,), (8, 16)]
    assert candidates(["b", 8, "a"]) == [(), ("a",), ("b",), (8,), ("a", 8), ("b", 8)]


def test_winners_are_behind_by_what_the_best_leads_them():
    scores = np.array([[1.0, 3.0, 2.5], [5.0, 4.0, 0.0]])
    np.testing.assert_allclose(winners_behind(scores, np.array([2, 0])), [0.5, 0.0])
    np.testing.assert_allclose(winners_margin(scores, np.array([2, 0])), [0.5, -1.0])
    assert fit_stages({8: scores}, scores, [8], VariancePrior(1.0, 0.5, 10.0), 0.1) is None


def test_rungs_that_may_save_by_luck_are_not_taken():
    """400 pairs of equally costly races on 48 images: at most 5 % (binomial, false alarm below 1e-3) look
    clearly cheaper, where half look cheaper; a tenth less does."""
    rng = np.random.default_rng(3)
    cost = rng.gamma(2.0, 5.0, (400, 48))
    other = cost + rng.normal(0, 2, cost.shape)
    lucky = sum(_clearly_less(a, b) for a, b in zip(other, cost, strict=True))
    assert lucky <= binom.isf(1e-3, 400, 0.05)
    assert 0.4 < (other.mean(axis=1) < cost.mean(axis=1)).mean() < 0.6
    assert all(_clearly_less(0.9 * a, a) for a in cost)


@pytest.mark.parametrize("prefix", [None, 16])
def test_rungs_make_cheaper_races_within_the_risk(rung_trace, prefix):
    """Its figures, recomputed with the rule a model would race, rungs and all; fewer tokens than without."""
    path, scores, _ = rung_trace
    m, rungs = prefix or 64, [4] if prefix else [4, 16]
    with Trace.open(path) as trace:
        plain = calibrate_trace(trace, [0.05], prefix=prefix, split=0.6)
        result = calibrate_trace(trace, [0.05], prefix=prefix, split=0.6, stages=rungs)
    (entry,) = result["calibrated"]
    assert entry["rungs"] and {rung for rung, _ in entry["rungs"]} <= set(rungs)
    assert entry.get("prefix") == prefix and "rungs" not in plain["calibrated"][0]
    rule = model_rule(result, "calibrated", 0.05, 8, 6, prefix=prefix)
    assert isinstance(rule, CalibratedRule) and [list(rung) for rung in rule.rungs] == entry["rungs"]
    parts = split_images(np.arange(900), 0.6, 0)
    outcome = run(rule, scores[m], {rung: scores[rung][:, 0] for rung in rungs})
    wrong = outcome.prediction != scores[m].mean(axis=1).argmax(axis=1)
    held = entry["held_out"]
    assert entry["errors"] == wrong[parts.thresholds].sum()
    assert held["disagreement"]["errors"] == wrong[parts.held_out].sum()
    tokens = (outcome.passes * m + outcome.tokens)[parts.held_out]
    assert held["tokens"] == pytest.approx(tokens.mean(), abs=0.06)
    rows = (outcome.passes + outcome.stage_rows.sum(axis=1))[parts.held_out]
    assert held["passes"] == pytest.approx(rows.mean(), abs=0.006)
    assert held["saving"] == pytest.approx(8 * 6 * m / tokens.mean(), rel=0.001)
    assert held["tokens"] < plain["calibrated"][0]["held_out"]["tokens"]
    assert held["disagreement"]["low"] <= 0.05


def test_a_prefixes_priors_are_its_designs(rung_trace):
    """Not the whole orders', which a model keeps; races of another prefix are refused, and say so."""
    with Trace.open(rung_trace[0]) as trace:
        result = calibrate_trace(trace, [0.1], prefix=16)
    (design,) = result["designs"]
    assert (design["order_sampler"], design["prefix"], result["priors"]) == ("uniform", 16, {})
    assert design["priors"]["paired"]["scale"] == pytest.approx(2 * 0.7, rel=0.2)
    assert design["temperature"] > 0 and design["calibration_images"] == 90
    rule = model_rule(result, "paired", 0.1, 8, 6, prefix=16)
    assert rule.bound.prior == VariancePrior.from_dict(design["priors"]["paired"])
    for prefix, there in ((None, "8 uniform orders of 64"), (8, r"orders of 8 tokens and 6")):
        with pytest.raises(ValueError, match=f"no calibration for risk 0.1 or less at .*{there}"):
            model_rule(result, "calibrated", 0.1, 8, 6, prefix=prefix)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"prefix": 32}, "no prefix of 32 tokens \\(it has 4, 16\\): .*--record-prefixes 32"),
        ({"stages": [8]}, "no prefix of 8 tokens"),
        ({"stages": [16], "prefix": 16}, "a rung of 16 tokens is not shorter than a pass, which has 16"),
        ({"drops": [0.001]}, "accuracy drop 0.001 at confidence 0.95 needs .* or raise --accuracy-drop"),
    ],
)  # fmt: skip
def test_what_a_trace_lacks_is_one_line(rung_trace, options, said):
    with Trace.open(rung_trace[0]) as trace, pytest.raises(ValueError, match=said) as caught:
        calibrate_trace(trace, [0.1], **options)
    assert "\n" not in str(caught.value)


# accuracy


def test_accuracy_is_held(rung_trace):
    """A threshold and a price whose loss of accuracy is bounded by the drop; the next are not."""
    path, scores, label = rung_trace
    with Trace.open(path) as trace:
        result = calibrate_trace(trace, drops=[0.05], split=0.6)
    (entry,), (priced,) = result["calibrated"], result["prices"]
    parts = split_images(np.arange(900), 0.6, 0)
    full = scores[64].mean(axis=1).argmax(axis=1)
    rule = model_rule(result, "calibrated", 0.05, 8, 6, loss="accuracy")
    value = model_rule(result, "value", 0.05, 8, 6)
    assert isinstance(value, ValueRule) and value.price == priced["price"]
    assert value.temperature == priced["temperature"] and value.prior.to_dict() == priced["prior"]
    for racer, found in ((rule, entry), (value, priced)):
        lost = accuracy_lost(run(racer, scores[64]).prediction, full, label)
        assert found["loss"] == "accuracy" and found["errors"] == (lost[parts.thresholds] > 0).sum()
        assert found["upper"] == pytest.approx(drop_upper(lost[parts.thresholds])) and found["upper"] <= 0.05
        held = found["held_out"]
        assert held["lost"]["value"] == pytest.approx(lost[parts.held_out].mean(), abs=1e-5)
        assert held["lost"]["harmed"] == (lost[parts.held_out] > 0).sum()
        assert held["passes"] < held["paired"]["passes"]
    with pytest.raises(ValueError, match=r"no calibration for risk 0.05 .* there is accuracy drop 0.05 at 8"):
        model_rule(result, "calibrated", 0.05, 8, 6)
    assert model_rule(result, "value", 0.05, 8, 6, price=0.01).price == 0.01


def test_a_price_that_holds_a_risk(rung_trace):
    """Rule `value` certified for another answer: the dearest price of the family whose errors allow it."""
    path, scores, _ = rung_trace
    with Trace.open(path) as trace:
        result = calibrate_trace(trace, [0.1], split=0.6, value=True)
        assert "prices" not in calibrate_trace(trace, [0.1], split=0.6)
    (priced,) = result["prices"]
    parts = split_images(np.arange(900), 0.6, 0)
    full = scores[64].mean(axis=1).argmax(axis=1)
    rule = model_rule(result, "value", 0.1, 8, 6)
    assert isinstance(rule, ValueRule) and rule.price == priced["price"]
    wrong = run(rule, scores[64]).prediction != full
    assert (priced["loss"], priced["risk"]) == ("disagreement", 0.1)
    assert priced["errors"] == wrong[parts.thresholds].sum() and priced["upper"] <= 0.1
    assert priced["held_out"]["disagreement"]["value"] == pytest.approx(
        wrong[parts.held_out].mean(), abs=1e-5
    )


def test_accuracy_needs_labels(tmp_path):
    path = full_trace(tmp_path / "t.h5", races(13, 300, 3, 8))
    with Trace.open(path) as trace, pytest.raises(ValueError, match=r"t\.h5 has no labelled images"):
        calibrate_trace(trace, drops=[0.1])


# in the model


@pytest.fixture
def model(tiny_model_dir, tmp_path):
    return shutil.copytree(tiny_model_dir, tmp_path / "model")


def entry_of(risk: float, alpha: float, k_max: int = 8) -> dict:
    return {"risk": risk, "k_max": k_max, "order_sampler": "uniform", "n_classes": 10,
            "prior": FIELDS["priors"]["paired"], "thresholds": {"1": alpha}}  # fmt: skip


def test_a_calibration_goes_into_the_model_and_is_raced(model, tmp_path):
    """Added, replaced for the same race, priors kept unless asked; then classify takes it, and only it."""
    from anytime_cls.classifier import AnytimeClassifier
    from anytime_cls.plan.options import RaceOptions

    before = read_card(model)
    new = {"priors": {"paired": FIELDS["priors"]["paired"]}, "temperature": 9.0}
    store_calibration(read_card(model), new | {"calibrated": [entry_of(0.05, 0.1), entry_of(0.01, 0.2)]})
    path = store_calibration(
        read_card(model), new | {"calibrated": [entry_of(0.05, 0.3), entry_of(0.05, 0.4, 4)]}
    )
    card = read_card(model)
    assert (
        path == model / "model.json"
        and card.fitted.of("uniform", 64) == before.fitted.of("uniform", 64)
        and card.temperature == 2.0
    )
    assert [(e["k_max"], e["risk"], e["thresholds"]["1"]) for e in card.fields["calibrated"]] == [
        (4, 0.05, 0.4), (8, 0.01, 0.2), (8, 0.05, 0.3),
    ]  # fmt: skip
    assert {key: card.fields[key] for key in before.fields} == dict(before.fields)
    classifier = AnytimeClassifier.load(str(model), device="cpu")
    rule = classifier.plan(RaceOptions(rule="calibrated", delta=0.05, max_orders=8)).rule
    assert rule.alpha(10, 8, 1) == 0.3
    decision = classifier.classify(
        write_photo(tmp_path / "p.jpg"), RaceOptions(rule="calibrated", delta=0.05, max_orders=8)
    )
    assert decision.passes < 80
    with pytest.raises(ValueError, match=r"no calibration for risk 0\.05 or less at 32 uniform orders of 64"):
        classifier.plan(RaceOptions(rule="calibrated", delta=0.05))
    with pytest.raises(ValueError, match="at 8 uniform orders of 64 tokens and 2 classes"):
        classifier.plan(RaceOptions(rule="calibrated", max_orders=8, classes=("cat", "dog")))
    store_calibration(read_card(model), new | {"calibrated": []}, replace_priors=True)
    assert (
        read_card(model).temperature == 9.0
        and "marginal" not in read_card(model).fitted.of("uniform", 64).priors
    )


def test_a_model_that_cannot_be_written_stays_as_it_was(model, monkeypatch):
    before = (model / "model.json").read_bytes()
    calibration = {"priors": {}, "calibrated": [entry_of(0.05, 0.1)]}
    with pytest.raises(ModelError, match="has other weights than the calibration's trace"):
        store_calibration(read_card(model), calibration | {"model_sha256": "00"})

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(ModelError, match=r"cannot write .*model\.json: No space left on device"):
        store_calibration(read_card(model), calibration)
    assert (model / "model.json").read_bytes() == before
    assert not list(model.glob(".tmp-*")) and json.loads(before)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.5, 2.0])
def test_a_screen_s_gap_is_the_race_s_own_test_at_no_pull(power):
    """At the gap the tail of the moderated t, with the prior alone, is α; larger α, smaller gaps."""
    prior = VariancePrior(2.0, power, 12.0)
    fit = ScreenFit("table", 0.5, 3.0, prior)
    gaps = [fit.at(alpha).gap for alpha in (1e-4, 0.01, 0.1, 0.4)]
    assert gaps == sorted(gaps, reverse=True)
    for alpha, gap in zip((1e-4, 0.01, 0.1, 0.4), gaps, strict=True):
        if 0 < gap < 1e6:
            spread = np.sqrt(prior.variance(np.array(gap)) / 3.0)
            assert stdtr(12.0, -gap / spread) == pytest.approx(alpha, rel=1e-6)
