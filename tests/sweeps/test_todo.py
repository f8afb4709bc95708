"""What a sweep says before it starts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from sweep_data import make_images, sweep

from anytime_cls.classifier import AnytimeClassifier
from anytime_cls.engine.cost import CostModel
from anytime_cls.models.zoo import read_card
from anytime_cls.plan.options import RaceOptions
from anytime_cls.race.bounds import VariancePrior
from anytime_cls.sweeps.expect import expect, usual_passes
from anytime_cls_cli.show.todo import todo


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_images(tmp_path_factory.mktemp("data") / "pictures", 3)


CALIBRATED = {
    "risk": 0.02, "k_max": 16, "order_sampler": "stratified", "prefix": 8, "n_classes": 10,
    "thresholds": {str(n): 0.01 for n in range(1, 16)}, "prior": VariancePrior(1.0, 0.0, 20.0).to_dict(),
    "held_out": {"whole_passes": 3.5},
}  # fmt: skip
RACE = {"rule": "calibrated", "delta": 0.02, "orders": "stratified", "prefix": 8, "max_orders": 16}


@pytest.fixture
def classifier(tiny_model_dir: Path) -> AnytimeClassifier:
    """A calibrated model on a machine where a whole pass takes 10 ms, an image's tokens 1 ms."""
    card = read_card(tiny_model_dir)
    card = replace(card, fields={**card.fields, "calibrated": [CALIBRATED], "race": RACE})
    found = AnytimeClassifier.load(card, "cpu")
    shape = found.scorer.shape
    found.engine.cost = CostModel(shape.flops, shape.steps, overhead=0.0, slope=0.010)
    found.tokenize_seconds, found._warm = 0.001, True
    return found


def test_rule_fixed_takes_what_its_passes_take(classifier):
    plan = classifier.plan(RaceOptions(rule="fixed", max_orders=4))
    found = expect(classifier, plan, 100)
    whole = 100 * (1.25 * 40 * 0.010 + 0.001)  # 1.25: the cost model's caution
    assert found.least == found.usual == found.most == found.full == pytest.approx(whole)


def test_a_calibrated_race_takes_what_it_took_on_held_out_images(classifier):
    plan = classifier.plan()
    assert plan.rule.name == "calibrated"
    assert usual_passes(classifier.card, plan) == 3.5
    found = expect(classifier, plan, 100)
    assert found.usual == pytest.approx(100 * (1.25 * 3.5 * 0.010 + 0.001))
    assert found.least < found.usual < found.most
    few = classifier.plan(RaceOptions(classes=[0, 1]))  # other races: nothing was measured
    assert usual_passes(classifier.card, few) is None
    assert usual_passes(classifier.card, replace(plan, budget=RaceOptions(budget="1s").limit)) is None


def test_a_budget_ends_it(classifier):
    plan = classifier.plan(RaceOptions(rule="fixed", max_orders=4, budget="0.2s"))
    found = expect(classifier, plan, 100)
    assert found.most == pytest.approx(20.0) and found.full > found.most


def test_the_lines(classifier):
    plan = classifier.plan(RaceOptions(rule="paired", orders="stratified", prefix=8, max_orders=16))
    said = todo(1200, 34, "pictures", plan, "cpu, 2 threads", expect(classifier, plan, 1200))
    assert said[0] == (
        "to do: 1,200 images of pictures (34 are done), 10 classes each, by rule paired at δ = 0.05 "
        "on at most 16 stratified orders of 8 tokens; tiny on cpu, 2 threads"
    )
    assert said[1].startswith("expected: ") and " to " in said[1]
    assert "'--rule fixed --orders stratified --prefix 8 --max-orders 16' records all" in said[2]


def test_a_sweep_says_it_and_what_its_trace_is_for(tiny_model_dir, images, tmp_path, capsys):
    options = ("--model", tiny_model_dir, "--device", "cpu", "--max-orders", 2)
    code, _, err = sweep(capsys, images, *options, "-o", tmp_path / "a.h5")
    assert code == 0 and "to do: 12 images of pictures, 10 classes each, by rule paired" in err
    assert "expected: " in err and "no other rule can be replayed on it" in err
    assert "'--rule fixed --orders uniform --max-orders 2' records all" in err
    code, _, err = sweep(capsys, images, *options, "--rule", "fixed", "-o", tmp_path / "b.h5")
    assert code == 0 and "can race any rule on it" in err and "no other rule" not in err
    code, _, err = sweep(capsys, images, *options, "-q", "-o", tmp_path / "c.h5")
    assert code == 0 and not err
