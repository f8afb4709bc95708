"""Races on prefixes, live: what a race is when nobody says, and that it decides as a replay does."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from replay_data import full_trace, races
from sweep_data import contents, make_images, sweep

from anytime_cls.certify.store import best_calibration, store_calibration
from anytime_cls.classifier import AnytimeClassifier
from anytime_cls.curves.full import full_curves
from anytime_cls.models.card import ModelError
from anytime_cls.models.zoo import read_card
from anytime_cls.plan.make import make
from anytime_cls.plan.options import RaceOptions
from anytime_cls.traces.known import trace_fitted
from anytime_cls.traces.read import Trace
from anytime_cls_cli.main import main

PRIOR = {"scale": 1.0, "power": 0.0, "df": 20.0}
ENTRY = {
    "risk": 0.05, "k_max": 16, "order_sampler": "stratified", "prefix": 8, "n_classes": 10,
    "thresholds": {"1": 0.02, "2": 0.02, "4": 0.05, "8": 0.05}, "prior": PRIOR, "rungs": [[2, 0.3]],
    "temperature": 2.0,
}  # fmt: skip
DESIGN = {"order_sampler": "stratified", "prefix": 8, "priors": {"paired": PRIOR}, "temperature": 3.0}
RACE = {"rule": "calibrated", "delta": 0.05, "orders": "stratified", "prefix": 8, "max_orders": 16}
WHOLE = {"rule": "paired", "delta": 0.05, "orders": "uniform", "prefix": None, "max_orders": 32}


@pytest.fixture(scope="module")
def model(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a race to recommend, calibrated with a rung."""
    path = tmp_path_factory.mktemp("designs") / "tiny"
    shutil.copytree(tiny_model_dir, path)
    fields = json.loads((path / "model.json").read_text())
    fields |= {"race": RACE, "designs": [DESIGN], "calibrated": [ENTRY]}
    (path / "model.json").write_text(json.dumps(fields))
    return path


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_images(tmp_path_factory.mktemp("images") / "pictures", 6, ["plane", "car", "bird", "cat"])


def settled(model: Path, **given: object) -> dict[str, object]:
    plan = make(RaceOptions(**given), read_card(model))  # type: ignore[arg-type]
    races = plan.design
    return {
        "rule": plan.rule.name, "delta": plan.delta, "orders": races.draws, "max_orders": races.k_max,
        "prefix": None if plan.whole else races.steps,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, RACE),
        ({"seed": 3, "budget": "1s"}, RACE),
        ({"delta": 0.2}, RACE | {"delta": 0.2}),  # held by the calibration at 0.05
        ({"delta": 0.01}, RACE | {"rule": "paired", "delta": 0.01}),
        ({"max_orders": 8}, RACE | {"rule": "paired", "max_orders": 8}),
        ({"classes": ["cat", "dog"]}, RACE | {"rule": "paired"}),
        ({"rule": "fixed"}, WHOLE | {"rule": "fixed"}),
        ({"orders": "uniform"}, WHOLE),
        ({"prefix": 64}, WHOLE),
        ({"prefix": 8}, WHOLE | {"prefix": 8}),
        ({"prefix": 8, "orders": "stratified", "rule": "calibrated", "max_orders": 16}, RACE),
    ],
)
def test_what_is_not_said_is_the_models_or_plain(model, given, expected):
    assert settled(model, **given) == expected


def test_a_model_that_recommends_nothing_races_whole_orders(tiny_model_dir):
    assert settled(tiny_model_dir) == WHOLE


def test_a_calibration_can_become_what_the_model_recommends(tiny_model_dir, tmp_path, capsys):
    """`calibrate --write-model --recommend`: the race of that risk, and no other, is the default."""
    model = tmp_path / "tiny"
    shutil.copytree(tiny_model_dir, model)
    fitted = {"priors": {}, "designs": [DESIGN], "calibrated": [ENTRY | {"risk": r} for r in (0.01, 0.05)]}
    store_calibration(read_card(model), fitted)
    assert settled(model) == WHOLE
    store_calibration(read_card(model), fitted, recommend=0.05)
    assert settled(model) == RACE
    with pytest.raises(ModelError, match=r"no calibration at risk 0\.2"):
        store_calibration(read_card(model), fitted, recommend=0.2)
    for args, what in (
        (("--recommend", "0.01"), "--write-model"),
        (("--recommend", "0.5", "--write-model", str(model)), "one of the --risk"),
    ):
        assert main(["calibrate", "none.h5", *args]) == 2
        err = capsys.readouterr().err
        assert what in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("accuracy", "passes", "best"),
    [
        ((0.90, 0.90, 0.90), (3.0, 1.0, 2.0), 1),
        ((0.90, 0.894, 0.896), (3.0, 1.0, 2.0), 2),  # the cheapest loses too much
        ((0.90, 0.89, 0.80), (3.0, 1.0, 2.0), 0),
        ((None, None, None), (3.0, 1.0, 2.0), 1),  # no labels
    ],
)
def test_of_several_designs_the_cheapest_that_is_as_good_is_taken(accuracy, passes, best):
    def made(a: float | None, cost: float) -> dict:
        held = {"whole_passes": cost} | ({} if a is None else {"accuracy": {"value": a}})
        dearer = ENTRY | {"risk": 0.01, "held_out": held | {"whole_passes": -cost}}
        return {"calibrated": [dearer, ENTRY | {"held_out": held}]}

    assert best_calibration([made(*some) for some in zip(accuracy, passes, strict=True)], 0.05) == best


def test_calibrate_takes_a_trace_of_every_design(tiny_model_dir, tmp_path, capsys):
    model = tmp_path / "tiny"
    shutil.copytree(tiny_model_dir, model)
    scores = races(5, 300)
    of_model = {"model_sha256": read_card(model).sha256["transformer.safetensors"],
                "order_sampler": "stratified", "tokens": 64}  # fmt: skip
    label = scores.mean(axis=1).argmax(axis=1)
    traces = [
        str(full_trace(tmp_path / f"m{m}.h5", scores, label, pass_tokens=m, pass_flops=1e6 * m, **of_model))
        for m in (4, 2, 8)
    ]
    args = ["calibrate", *traces, "--risk", "0.05", "--write-model", str(model), "--recommend", "0.05"]
    assert main(args) == 0
    out, err = capsys.readouterr()
    assert [name for name in traces if name in out] == traces and f"recommended: {traces[1]}" in err
    fields = read_card(model).fields
    assert fields["race"] == RACE | {"prefix": 2}
    assert {entry["prefix"] for entry in fields["calibrated"]} == {2, 4, 8}
    assert main([*args[:-4], "--out", str(tmp_path / "cal.json")]) == 2
    err = capsys.readouterr().err
    assert "--out holds the calibration of one trace" in err and err.count("\n") == 1


def test_a_plan_stays_as_it_is_and_says_why(model):
    classifier = AnytimeClassifier.load(str(model), "cpu")
    plan = classifier.plan(RaceOptions(delta=0.01))
    assert classifier.plan(plan) is plan and plan.rule.name == "paired"
    assert plan.why == {
        "rule": "recommended", "delta": "typed", "max_orders": "recommended", "orders": "recommended",
        "prefix": "recommended", "crops": "recommended", "temperature": "model",
    }  # fmt: skip
    fewer = classifier.plan(RaceOptions(classes=["cat", "dog"]))
    assert fewer.labels == ("cat", "dog") and fewer.rule.name == "paired" and fewer.design.n_classes == 2
    assert make(RaceOptions(rule="fixed"), classifier.card, preset=["rule"]).why["rule"] == "preset"


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({"prefix": 65}, "longer than an image's 64"),
        ({"prefix": 0}, "from 1"),
        ({"orders": "stratified"}, "one of 1, 2, 4, 8, 16, 32"),
        ({"orders": "stratified", "prefix": 12}, "divides"),
        ({"prefix": 8, "prefixes": (8,)}, "shorter than the 8 tokens of a pass"),
        ({"classes": ["cat", "unicorn"]}, "no class 'unicorn'"),
    ],
)
def test_designs_that_make_no_sense_are_refused(model, given, what):
    with pytest.raises(ValueError, match=what):
        settled(model, **given)


def test_a_decision_of_the_recommended_race(model, photo):
    classifier = AnytimeClassifier.load(str(model), "cpu")
    decision = classifier.classify(photo)
    share = classifier.scorer.shape.flops(8) / classifier.scorer.shape.flops()
    assert decision.pass_tokens == 8 and decision.full_passes == pytest.approx(160 * share)
    assert {record.prefix for record in decision.records} <= {2, 8}
    assert 0 < decision.passes <= decision.full_passes + 10 * share
    assert decision.separation <= 0.05 or decision.stop != "decided"
    assert decision.ranking[0].probability == max(standing.probability for standing in decision.ranking)


def test_priors_of_another_design_are_not_used(model):
    """`paired` on prefixes that nobody calibrated has no prior: it drops nothing before two orders."""
    card = read_card(model)
    own = make(RaceOptions(rule="paired", orders="stratified", prefix=8), card).rule
    other = make(RaceOptions(rule="paired", orders="stratified", prefix=4), card).rule
    assert type(own.bound).__name__ == "ModeratedT" and type(other.bound).__name__ == "PlainT"


def test_a_live_sweep_with_rungs_is_the_replay_of_a_full_one(model, images, tmp_path, capsys):
    """Decisions, orders, passes, compute, probabilities: the recommended race, and `paired` at its design."""
    design = ("--orders", "stratified", "--prefix", 8, "--max-orders", 16)
    full = tmp_path / "full.h5"
    code, found, _ = sweep(capsys, images, "--model", model, "--rule", "fixed", *design,
                           "--record-prefixes", "2,4", "-o", full)  # fmt: skip
    assert code == 0 and found is not None and found["images"] == 24
    with Trace.open(full) as trace:
        assert trace.pass_tokens == 8 and trace.matrix(0).shape == (16, 10)
        share = trace.attrs["pass_flops"] / trace.attrs["flops"]
        np.testing.assert_allclose(trace.images["token_fraction"], share, rtol=1e-6)
        assert trace.attrs["temperature"] == 3.0
        assert trace_fitted(trace).of("stratified", 8) == read_card(model).fitted.of("stratified", 8)
    fitted = read_card(model).fitted
    for rule in ("calibrated", "paired"):
        live = tmp_path / f"{rule}.h5"
        code, _, err = sweep(capsys, images, "--model", model, "--rule", rule, *design, "-o", live)
        assert code == 0, err
        with Trace.open(full) as trace:
            curves = full_curves(trace, [rule], None if rule == "calibrated" else [0.05], fitted=fitted)
        (run,) = curves.runs
        with Trace.open(live) as trace:
            column = trace.images
            np.testing.assert_array_equal(run.prediction, column["prediction"])
            np.testing.assert_array_equal(run.orders, column["orders"])
            np.testing.assert_array_equal(run.passes, column["passes"])
            np.testing.assert_allclose(run.token_fraction, column["token_fraction"], rtol=1e-6)
            np.testing.assert_allclose(run.probability, column["probability"], atol=1e-4)
            assert trace.attrs["temperature"] == (2.0 if rule == "calibrated" else 3.0)
            if rule == "calibrated":
                assert json.loads(trace.attrs["calibrated"])["rungs"] == [[2, 0.3]]
                rung_only = column["orders"] == 0
                assert rung_only.any() and not rung_only.all()  # or the test shows nothing
        assert run.settings["prefix"] == 8


def test_batches_leave_no_trace_on_rungs(model, images, tmp_path, capsys):
    results = []
    for name, more in (("a", ()), ("b", ("--batch-size", 16)), ("c", ("--batch-size", 40))):
        out = tmp_path / f"{name}.h5"
        code, _, err = sweep(capsys, images, "--model", model, "-o", out, *more)
        assert code == 0, err
        results.append(contents(out))
    assert results[0] == results[1] == results[2]
