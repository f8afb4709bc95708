"""Answering "none of these": evidence, thresholds that hold their rate, and what a model knows of them."""

from __future__ import annotations

import json
import shutil
import urllib.request

import numpy as np
import pytest
from basics import TINY_LABELS, write_photo
from replay_data import full_trace, races
from scipy.stats import binom
from server import served

from anytime_cls.certify.abstain import RATES, rank, thresholds
from anytime_cls.certify.designs import split_images
from anytime_cls.certify.store import store_calibration
from anytime_cls.certify.thresholds import calibrate_trace
from anytime_cls.classifier import AnytimeClassifier
from anytime_cls.models.card import WEIGHTS
from anytime_cls.models.zoo import read_card
from anytime_cls.plan.abstain import abstention, threshold, unlike
from anytime_cls.plan.make import make
from anytime_cls.plan.options import RaceOptions
from anytime_cls.race.fitted import Fitted
from anytime_cls.race.races import evidence, run
from anytime_cls.race.registry import fitted_rule
from anytime_cls.traces.read import Trace
from anytime_cls_cli.main import main


def test_evidence_by_hand():
    means = np.array([[-10.0, -12.0, -14.0], [-np.inf, -np.inf, -np.inf], [0.0, -3.0, 0.0]])
    np.testing.assert_allclose(evidence(means), [2.0, 0.0, 1.0])
    assert evidence(means[0] - 100) == pytest.approx(2.0)  # what all classes share cancels


def test_a_threshold_holds_its_rate():
    """2,000 calibrations on 100 values: at most 5 % put more than 0.1 of the values below their threshold
    (binomial, false alarm below 1e-4), and two places further along would; on average it is exact."""
    rng = np.random.default_rng(0)
    values = np.sort(rng.random((2000, 100)), axis=1)
    k = rank(100, 0.1, 0.95)
    assert 1 <= k < 10
    assert (values[:, k - 1] > 0.1).sum() <= binom.isf(1e-4, 2000, 0.05)
    assert (values[:, k + 1] > 0.1).sum() > binom.isf(1e-4, 2000, 0.05)
    assert rank(99, 0.1, None) == 10 and values[:, 9].mean() == pytest.approx(10 / 101, abs=0.005)


def test_too_few_pictures_leave_rates_out():
    """58 of them cannot hold 5 % at 95 % (0.95^58 > 0.05), 59 can: the smallest is the threshold."""
    assert list(thresholds(np.arange(58.0), 0.95)) == ["0.1", "0.2"]
    assert thresholds(np.arange(59.0), 0.95)["0.05"] == 0.0
    assert thresholds(np.arange(5.0), 0.95) == {}


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory):
    scores = races(3, 1000, n_classes=4, k_max=8, spread=1.5)
    path = full_trace(tmp_path_factory.mktemp("abstain") / "full.h5", scores, scores.mean(1).argmax(1))
    with Trace.open(path) as trace:
        return calibrate_trace(trace, [0.05, 0.1], seed=5), scores


def test_a_calibration_has_thresholds_for_its_rules_and_all_orders(calibrated):
    """Those of held-out images, recomputed from the scores with the rules that a model would race."""
    result, scores = calibrated
    held = split_images(np.arange(1000), 0.5, seed=5).held_out
    fitted = Fitted.read(result, 64)
    assert [(entry.rule, entry.risk) for entry in fitted.abstain] == [
        ("fixed", None), ("calibrated", 0.05), ("calibrated", 0.1),
    ]  # fmt: skip
    for entry in fitted.abstain:
        rule = fitted_rule(fitted, entry.rule, entry.risk or 0.05, entry.design)
        values = np.sort(evidence(run(rule, scores).means())[held])
        assert [share for share, _ in entry.thresholds] == list(RATES)
        for share, nats in entry.thresholds:
            assert nats == values[rank(len(held), share, 0.95) - 1]
            assert (values < nats).mean() <= share
        assert entry.at(0.07) == dict(entry.thresholds)[0.05] and entry.at(0.005) is None
        assert entry.rarity(values[0] - 1) == 0.01 and entry.rarity(values[-1]) is None


def test_what_is_known_of_abstaining_is_merged_by_design_and_rule(calibrated):
    """The later calibration of the same races stands; no entry is lost."""
    fitted = Fitted.read(calibrated[0], 64)
    fixed = {**calibrated[0]["abstain"][0], "thresholds": {"0.1": 7.0}}
    other = Fitted.read({"abstain": [fixed, {**fixed, "k_max": 4}]}, 64)
    both = fitted.merge(other).abstain
    assert len(both) == 4 and both[0].thresholds == ((0.1, 7.0),)


@pytest.mark.parametrize(
    "wrong", [{"thresholds": {"2": 1.0}}, {"rule": "paired"}, {"thresholds": {"0.1": "x"}}]
)
def test_entries_that_make_no_sense_are_refused(calibrated, wrong):
    entry = {**calibrated[0]["abstain"][0], **wrong}
    with pytest.raises(ValueError, match="does not make sense"):
        Fitted.read({"abstain": [entry]}, 64)


@pytest.fixture(scope="module")
def model(tiny_model_dir, tmp_path_factory):
    """The tiny model, calibrated to abstain: on eight whole orders by rule fixed."""
    path = tmp_path_factory.mktemp("model") / "tiny"
    shutil.copytree(tiny_model_dir, path)
    classifier = AnytimeClassifier.load(str(path), "cpu")
    folder = tmp_path_factory.mktemp("pictures")
    photos = [write_photo(folder / f"{i}.jpg", i) for i in range(12)]
    found = [
        one.evidence for one in classifier.classify_many(photos, RaceOptions(rule="fixed", max_orders=2))
    ]
    middle = float(np.median(found))
    entry = {
        "rule": "fixed", "k_max": 2, "order_sampler": "uniform", "n_classes": len(TINY_LABELS),
        "thresholds": {"0.05": min(found), "0.2": middle}, "images": 12, "confidence": 0.95,
    }  # fmt: skip
    card = read_card(str(path))
    store_calibration(card, {"model_sha256": card.sha256[WEIGHTS[0]], "abstain": [entry]})
    return path, photos, found, middle


def test_storing_replaces_what_was_known_of_the_same_races(model):
    path, *_ = model
    card = read_card(str(path))
    store_calibration(card, {"abstain": card.fields["abstain"]})
    store_calibration(read_card(str(path)), {"abstain": [{**card.fields["abstain"][0], "k_max": 4}]})
    assert [entry.design.k_max for entry in read_card(str(path)).fitted.abstain] == [2, 4]


def test_a_decision_s_evidence_is_of_its_ranking(model):
    path, photos, found, _ = model
    decision = AnytimeClassifier.load(str(path), "cpu").classify(
        photos[0], RaceOptions(rule="fixed", max_orders=2)
    )
    means = [standing.mean for standing in decision.ranking]
    assert decision.evidence == pytest.approx(max(means) - np.mean(means)) and decision.evidence > 0
    assert decision.evidence == pytest.approx(found[0])


def test_classify_answers_none_of_these(model, capsys, tmp_path):
    """By JSON and by trace: exactly the pictures whose evidence is below the threshold."""
    path, photos, found, middle = model
    out = tmp_path / "t.h5"
    args = ["classify", *map(str, photos), "--model", str(path), "--device", "cpu", "--rule", "fixed",
            "--max-orders", "2"]  # fmt: skip
    assert main([*args, "--json", "--abstain", "0.3", "--trace", str(out)]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["unlike"] for row in rows] == [value < middle for value in found]
    assert [row["abstained"] for row in rows] == [row["unlike"] for row in rows]
    assert 0 < sum(row["unlike"] for row in rows) < len(rows)
    with Trace.open(out) as trace:
        np.testing.assert_allclose(trace.images["evidence"], [row["evidence"] for row in rows])
        matrix = np.stack([trace.matrix(i) for i in range(len(photos))])
        np.testing.assert_allclose(trace.images["evidence"], evidence(matrix.mean(axis=1)))
    assert main([*args, "--json"]) == 0
    assert all("unlike" not in json.loads(line) for line in capsys.readouterr().out.splitlines())


def post(url, body):
    with urllib.request.urlopen(urllib.request.Request(url, body), timeout=60) as answer:
        return answer.read().decode()


def test_serve_answers_none_of_these(model):
    """The same pictures as `classify`, in rows and in the race's last event; never after a spent budget."""
    path, photos, found, middle = model
    args = ["--rule", "fixed", "--max-orders", "2", "--threads", "1"]
    with served(path, *args, "--abstain", "0.3") as server:
        rows = [json.loads(post(f"{server.url}/classify", photo.read_bytes())) for photo in photos]
        assert [row["unlike"] for row in rows] == [value < middle for value in found]
        assert [row["abstained"] for row in rows] == [row["unlike"] for row in rows]
        odd = photos[int(np.argmin(found))].read_bytes()
        last = post(f"{server.url}/race", odd).strip().split("\n\n")[-1]
        assert last.startswith("event: row") and json.loads(last.partition("data: ")[2])["unlike"] is True
        short = json.loads(post(f"{server.url}/classify?budget=10passes", odd))
        assert (short["stop"], short["unlike"], short["abstained"]) == ("budget", None, False)
    with served(path, *args) as server:
        row = json.loads(post(f"{server.url}/classify", odd))
        assert "unlike" not in row and "abstained" not in row


@pytest.mark.parametrize("command", [["classify"], ["serve", "--port", "0"]])
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--abstain", "0.01"), "the smallest share that tiny was calibrated to abstain at is 0.05"),
        (("--abstain", "0.1", "--max-orders", "3"), "not calibrated to abstain in races by rule 'fixed'"),
        (("--abstain", "0.1", "--classes", "cat,dog"), "and 2 classes: 'anytime-cls calibrate"),
        (("--abstain", "1"), "a share of false alarms lies between 0 and 1, not 1"),
    ],
)  # fmt: skip
def test_what_was_not_calibrated_is_refused_in_one_line(model, command, options, said, capsys):
    path, photos, *_ = model
    args = [*command, "--model", str(path), "--rule", "fixed", "--max-orders", "2", *options]
    assert main([*args, *([str(photos[0])] if command == ["classify"] else [])]) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1


def test_random_crops_were_not_calibrated(model, capsys):
    path, photos, *_ = model
    args = ["classify", str(photos[0]), "--model", str(path), "--rule", "fixed", "--max-orders", "2"]
    assert main([*args, "--abstain", "0.1", "--crops", "random"]) == 2
    assert "was not calibrated to abstain" in capsys.readouterr().err


def test_a_race_that_a_budget_cut_short_raises_no_alarm(model):
    path, photos, *_ = model
    card = read_card(str(path))
    plan = make(RaceOptions(rule="fixed", max_orders=2), card)
    assert abstention(card, plan) is not None and threshold(card, plan, 0.05) < threshold(card, plan, 0.2)
    classifier = AnytimeClassifier.load(str(path), "cpu")
    short = classifier.classify(photos[0], RaceOptions(rule="fixed", max_orders=2, budget="10passes"))
    whole = classifier.classify(photos[0], plan)
    assert short.stop == "budget" and unlike(short, 1e9) is None
    assert unlike(whole, 1e9) is True and unlike(whole, -1e9) is False
