"""Replay: the live race's decisions from a recorded tensor, whatever rule, setting, K_max or prefix."""

from __future__ import annotations

import json

import numpy as np
import pytest
from basics import write_photo
from hypothesis import given, settings
from hypothesis import strategies as st
from replay_data import FIELDS, PRIORS, SECONDS, full_trace, races
from scipy.special import softmax

from anytime_cls.curves.full import full_curves
from anytime_cls.curves.live import live_curves, live_run
from anytime_cls.models.known import known_of
from anytime_cls.models.zoo import read_card
from anytime_cls.race.decision import STOP_NAMES, UNRANKED
from anytime_cls.race.fitted import WHOLE, Design, Fit, Fitted
from anytime_cls.race.race import Race
from anytime_cls.race.races import run
from anytime_cls.race.registry import RULES, make_rule
from anytime_cls.replay import source as replay
from anytime_cls.traces.read import Trace
from anytime_cls.traces.schema import ReplayError

SOME_RULES = st.sampled_from(
    [
        *(make_rule(name, 0.3, PRIORS) for name in RULES),
        make_rule("paired", priors=PRIORS, alpha=0.2),
        make_rule("clark-jaini", p_value=0.2, min_scores=2),
        make_rule("halving", saving=2.0),
        make_rule("funnel", stages=((0.1, 3), (0.5, 2))),
    ]
)
DECIDED = STOP_NAMES.index("decided")


def race_of(rule, scores, block: int = 1) -> Race:
    """A live race over scores [K, C], order by order."""
    race = Race(scores.shape[1], len(scores) // block, rule, block)
    while not race.done:
        request = race.request()
        for order in request.orders:
            race.record(order, request.classes, scores[order, request.classes])
    return race


# the races


@settings(max_examples=150, deadline=None)
@given(
    rule=SOME_RULES, n_classes=st.integers(2, 7), k_max=st.integers(1, 14), seed=st.integers(0, 2**32),
    scale=st.sampled_from([0.0, 1.0, 5.0]),
)  # fmt: skip
def test_a_replay_is_the_race_driven_step_by_step(rule, n_classes, k_max, seed, scale):
    """Answer, pulls, passes, who left when, and the means that probability and ranking come from."""
    scores = races(seed, 3, n_classes, k_max, spread=scale)
    outcome = run(rule, scores)
    means = outcome.means()
    for i in range(3):
        race = race_of(rule, scores[i])
        assert (race.leader, race.n, race.passes) == (
            outcome.prediction[i], outcome.n[i], outcome.passes[i],
        )  # fmt: skip
        left = np.where(race.alive, 0, race.left_at)
        np.testing.assert_array_equal(outcome.left_at[i], left)
        np.testing.assert_allclose(means[i], race.means(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("block", [1, 2])
def test_curves_say_what_the_races_did(tmp_path, block):
    """Every column against live races, for rules at settings of every kind, in blocks of orders too."""
    scores, label = races(1, 40), np.arange(40) % 6 - 1
    sampler = "antithetic" if block == 2 else "uniform"
    path = full_trace(tmp_path / "t.h5", scores, label, order_sampler=sampler)
    with Trace.open(path) as trace:
        curves = full_curves(trace, ["paired", "marginal"], deltas=[0.05, 0.5], k_max=[8, 16])
        curves.runs += full_curves(trace, ["funnel", "halving"], k_max=[16]).runs[::7]
    np.testing.assert_array_equal(curves.full, scores.mean(axis=1).argmax(axis=1))
    np.testing.assert_array_equal(curves.label, label)
    shares = {key: 1 / block for key in PRIORS}
    for run_ in curves.runs:
        k_max, own = run_.settings["k_max"], {}
        if run_.settings["rule"] in ("paired", "marginal"):
            own = {"delta": run_.settings["delta"]}
        elif run_.settings["rule"] == "halving":
            own = {"saving": run_.settings["saving"]}
        elif run_.settings["knob"] == "stretch":
            continue
        priors = {key: type(p)(p.scale * shares[key], p.power, p.df) for key, p in PRIORS.items()}
        rule = make_rule(run_.settings["rule"], priors=priors, **own)
        for i in range(len(scores)):
            race = race_of(rule, scores[i, :k_max], block)
            probability = race.aggregate("mean", 1.5)
            order = np.lexsort((-race.means(), np.arange(5) != race.leader))
            assert run_.prediction[i] == race.leader
            assert (run_.orders[i], run_.passes[i]) == (race.orders, race.passes)
            assert (run_.stop[i] == DECIDED) == (race.n < race.k_max)
            assert run_.probability[i] == pytest.approx(probability[race.leader], abs=1e-6)
            expected = UNRANKED if label[i] < 0 else int(np.flatnonzero(order == label[i])[0])
            assert run_.rank[i] == expected
        np.testing.assert_allclose(run_.token_fraction, run_.passes / 80, rtol=1e-6)
        np.testing.assert_allclose(run_.seconds, run_.passes * SECONDS, rtol=1e-5)


def test_results_do_not_depend_on_stacks(tmp_path, monkeypatch):
    """One image at a time, or all at once; and an image that failed is left out, not raced."""
    path = full_trace(tmp_path / "t.h5", races(2, 30), np.zeros(30), failed={0, 7, 29})
    heard = []
    with Trace.open(path) as trace:
        whole = full_curves(trace, ["paired", "fixed"], progress=lambda done, n: heard.append((done, n)))
        monkeypatch.setattr(replay, "STACK", 80)
        single = full_curves(trace, ["paired", "fixed"])
    for one, other in zip(whole.runs, single.runs, strict=True):
        for name in ("prediction", "orders", "passes", "stop", "rank", "seconds", "token_fraction"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        np.testing.assert_allclose(one.probability, other.probability, rtol=1e-6)
        assert one.prediction[7] == -1 and STOP_NAMES[one.stop[7]] == "error" and one.passes[7] == 0
    assert whole.full[[0, 7, 29]].tolist() == [-1, -1, -1]
    assert heard[-1] == (27 * len(whole.runs), 27 * len(whole.runs))


def test_races_on_prefixes_cost_their_share(tmp_path):
    """Shares by FLOPs where the trace has them, else by tokens; agreement stays with whole orders."""
    scores, early = races(3, 20), races(4, 20)
    for name, attrs, share in (
        ("flops", {"flops": 100.0, "prefix_flops": [20.0]}, 0.2), ("tokens", {}, 0.25),
    ):  # fmt: skip
        path = full_trace(tmp_path / f"{name}.h5", scores, prefixes={16: early}, **attrs)
        with Trace.open(path) as trace:
            curves = full_curves(trace, ["fixed", "paired"], [0.1], prefixes=[16, 64])
        at_16 = [run_ for run_ in curves.runs if run_.settings["prefix"] == 16]
        assert {run_.settings["curve"] for run_ in at_16} == {"fixed m=16", "paired m=16"}
        last = next(run_ for run_ in at_16 if run_.settings["curve"] == "fixed m=16" and run_.orders[0] == 16)
        np.testing.assert_array_equal(last.prediction, early.mean(axis=1).argmax(axis=1))
        np.testing.assert_array_equal(curves.full, scores.mean(axis=1).argmax(axis=1))
        np.testing.assert_allclose(last.token_fraction, share, rtol=1e-6)
        np.testing.assert_allclose(last.seconds, share * 80 * SECONDS, rtol=1e-5)
    with Trace.open(tmp_path / "tokens.h5") as trace, pytest.raises(ReplayError, match="--record-prefixes 8"):
        full_curves(trace, ["fixed"], prefixes=[8])


# grids


def test_every_rule_has_a_dense_curve_by_default(tmp_path):
    """At least 20 different settings a rule, from agreement with all orders to few passes."""
    path = full_trace(tmp_path / "t.h5", races(5, 60, n_classes=10, k_max=32, spread=3.0))
    with Trace.open(path) as trace:
        curves = full_curves(trace)
    assert {run_.settings["rule"] for run_ in curves.runs} == set(RULES)
    for name in curves.names:
        runs = curves.curve(name)
        values = [run_.settings["knob_value"] for run_ in runs]
        assert len(set(values)) == len(runs) >= 20
        assert len({run_.settings["knob"] for run_ in runs}) == 1
    for name in ("paired", "strict", "marginal"):  # as safe as δ = 1e-6, and as cheap as few orders
        runs = curves.curve(name)
        assert runs[0].settings["delta"] == pytest.approx(1e-6)
        assert (runs[0].prediction == curves.full).all()
        assert runs[-1].passes.mean() < (10.5 if name != "strict" else 40)
        assert "delta" not in runs[-1].settings  # nominal: past 1 nothing is promised
        assert any(run_.settings.get("delta") == 0.05 for run_ in runs)


def test_a_point_of_the_default_grid_is_the_rule_at_that_delta(tmp_path):
    """The knob past the split is the same rule: δ = 0.05 on the curve equals --delta 0.05."""
    path = full_trace(tmp_path / "t.h5", races(6, 60, n_classes=6))
    with Trace.open(path) as trace:
        for name in ("paired", "strict", "marginal"):
            runs = {run_.settings["knob_value"]: run_ for run_ in full_curves(trace, [name]).runs}
            (asked,) = full_curves(trace, [name], [0.05]).runs
            np.testing.assert_array_equal(runs[0.05].passes, asked.passes)
            assert asked.settings["knob"] == "delta" and asked.settings["delta"] == 0.05


def test_several_k_max_are_curves_or_a_knob(tmp_path):
    """With several δ a curve for each K_max; with one δ a curve along K_max; settings likewise."""
    path = full_trace(tmp_path / "t.h5", races(7, 10))
    with Trace.open(path) as trace:
        both = full_curves(trace, ["paired"], [0.01, 0.1], k_max=[4, 16])
        along = full_curves(trace, ["paired"], [0.1], k_max=[4, 8, 16])
        savings = full_curves(trace, ["halving"], settings={"saving": [2.0, 4.0]})
        stages = full_curves(trace, ["funnel"], settings={"stages": [((0.25, 3), (0.5, 2))]})
    assert both.names == ["paired K=4", "paired K=16"]
    assert along.names == ["paired delta=0.1"]
    assert [run_.settings["knob_value"] for run_ in along.curve("paired delta=0.1")] == [4, 8, 16]
    assert [run_.settings["saving"] for run_ in savings.runs] == [2.0, 4.0]
    assert stages.runs[0].settings["stages"] == "0.25:3,0.5:2"
    assert set(stages.runs[0].passes) == {4 * 5 + 4 * 3 + 8 * 2}


# what cannot be


def test_what_cannot_be_replayed_is_one_line(tmp_path):
    full = full_trace(tmp_path / "t.h5", races(8, 5))
    with Trace.open(full) as trace:
        for rules, deltas, options, said in (
            (["pared"], None, {}, "unknown rule 'pared'"),
            (["fixed"], [0.1], {}, "δ steers paired, strict, marginal, calibrated, not fixed"),
            (["paired"], [1.5], {}, "delta must lie between 0 and 1, got 1.5"),
            (["paired"], None, {"settings": {"saving": [2.0]}}, "saving is a setting of halving, not"),
            (["paired"], None, {"settings": {"alpha": [1.0]}}, "alpha must lie between 0 and 1"),
            (["paired"], None, {"k_max": [17]}, "has 16 orders an image: no K_max of 17"),
            (["calibrated"], None, {}, "needs a calibration and this model has none"),
            (["strict"], None, {"fitted": Fitted(64)}, "'strict' needs a variance prior"),
        ):  # fmt: skip
            with pytest.raises(ValueError, match=said) as caught:
                full_curves(trace, rules, deltas, **options)
            assert "\n" not in str(caught.value)
        assert "strict" not in full_curves(trace, fitted=Fitted(64)).names
    for name, attrs in (("a", {"rule": "paired"}), ("b", {"budget": "100 passes"})):
        path = full_trace(tmp_path / f"{name}.h5", races(9, 3), **attrs)
        refused(path, r"a full trace is recorded by 'anytime-cls sweep DATASET --rule fixed -o FULL\.h5'")
    short = full_trace(tmp_path / "c.h5", races(9, 3), k_max=20)
    refused(short, r"im0 is not scored in full .*; 'anytime-cls sweep DATASET --rule fixed")
    refused(full_trace(tmp_path / "d.h5", races(9, 2), failed={0, 1}), "has no image that was scored")


def refused(path, said) -> None:
    with Trace.open(path) as trace, pytest.raises(ReplayError, match=said) as caught:
        full_curves(trace)
    assert "\n" not in str(caught.value)


def test_antithetic_orders_come_in_pairs(tmp_path):
    with Trace.open(full_trace(tmp_path / "t.h5", races(8, 5), order_sampler="antithetic")) as trace:
        runs = full_curves(trace, ["fixed"]).runs
        assert [run_.settings["k_max"] for run_ in runs] == list(range(2, 17, 2))
        with pytest.raises(ReplayError, match="come in blocks of 2: no K_max of 5"):
            full_curves(trace, ["fixed"], k_max=[5])


def test_one_constant_order_is_k_max_1(tmp_path):
    """Raster order has one order whatever k_max says."""
    with Trace.open(full_trace(tmp_path / "t.h5", races(8, 5, k_max=1), order_sampler="raster")) as trace:
        trace.attrs["k_max"] = 32
        curves = full_curves(trace, ["fixed", "paired"], k_max=None)
    assert curves.attrs["k_max"] == 1 and {run_.settings["k_max"] for run_ in curves.runs} == {1}


# whose priors


def test_priors_are_the_traces_the_models_or_a_calibrations(tmp_path, tiny_model_dir):
    entry = {"risk": 0.1, "k_max": 16, "order_sampler": "uniform", "n_classes": 5,
             "prior": FIELDS["priors"]["paired"], "thresholds": {"1": 0.1}}  # fmt: skip
    file = tmp_path / "cal.json"
    file.write_text(json.dumps({"priors": {}, "calibrated": [entry], "model_sha256": "ab" * 32}))
    with Trace.open(full_trace(tmp_path / "t.h5", races(10, 5))) as trace:
        assert known_of(trace) == Fitted(64, {(WHOLE, 64, "center"): Fit(PRIORS, 1.5)})
        known = known_of(trace, calibration=file).calibrated
        assert [(e.risk, e.design, e.prior) for e in known] == [
            (0.1, Design("uniform", 64, 16, 5), PRIORS["paired"])
        ]
        with pytest.raises(ReplayError, match=r"recorded with other weights than .*tiny"):
            known_of(trace, model=str(tiny_model_dir))
        for text, said in (("{", "is not a file of 'anytime-cls calibrate'"), ("[]", "is not a file of"),
                           (json.dumps({"priors": {}, "calibrated": [], "model_sha256": "00"}),
                            "is of another model")):  # fmt: skip
            file.write_text(text)
            with pytest.raises(ReplayError, match=said):
                known_of(trace, calibration=file)
        with pytest.raises(ReplayError, match=r"cannot read .*: No such file"):
            known_of(trace, calibration=tmp_path / "none.json")


def test_what_was_fitted_without_noise_is_not_for_traces_with_it(tmp_path, tiny_model_dir):
    card = read_card(str(tiny_model_dir))
    sha = card.sha256["transformer.safetensors"]
    assert card.fitted != Fitted(64)
    kinds = ({}, card.fitted), ({"crops": "random"}, card.fitted), ({"latent_noise": 0.1}, Fitted(64))
    for at, (more, expected) in enumerate(kinds):
        path = full_trace(tmp_path / f"{at}.h5", races(10, 5), model_sha256=sha, priors="", **more)
        with Trace.open(path) as trace:
            assert trace.varies == bool(more)
            assert known_of(trace, model=str(tiny_model_dir)) == expected


# live


@pytest.fixture(scope="module")
def live(tiny_model_dir, tmp_path_factory):
    """A full trace of six photographs, and the classifier and photographs it is of."""
    from anytime_cls.classifier import AnytimeClassifier
    from anytime_cls.plan.options import RaceOptions

    folder = tmp_path_factory.mktemp("live")
    photos = [write_photo(folder / f"{i}.jpg", i) for i in range(6)]
    classifier = AnytimeClassifier.load(str(tiny_model_dir), device="cpu")
    record(folder / "full.h5", classifier, photos, RaceOptions(rule="fixed", max_orders=16, prefixes=(16,)))
    return classifier, photos, folder


def record(path, classifier, photos, options):
    """A sweep, in small: what `sweep` records of these photographs."""
    from anytime_cls.plan.attributes import provenance
    from anytime_cls.traces.rows import image_row, positions
    from anytime_cls.traces.write import TraceWriter

    plan = classifier.plan(options)
    attrs = provenance(plan, classifier.card, "photos")
    decisions = list(classifier.classify_many(photos, plan))
    with TraceWriter.create(path, attrs, plan.labels, overwrite=True) as writer:
        for i, decision in enumerate(decisions):
            row, scores = image_row(f"im{i}", photos[i].name, i % 10, decision, positions(plan.class_ids),
                                    plan.full_passes)  # fmt: skip
            writer.append(row, scores, i)
    return decisions


@pytest.mark.parametrize(
    ("name", "delta", "k_max"), [("paired", 0.05, 16), ("paired", 0.4, 8), ("strict", 0.2, 16),
                                 ("marginal", 0.2, 16), ("funnel", 0.05, 16), ("halving", 0.05, 16)],
)  # fmt: skip
def test_a_replay_and_a_live_run_decide_the_same(live, name, delta, k_max):
    """Same model, images and seed: same answers, K, passes and stops; probabilities to rounding."""
    from anytime_cls.plan.options import RaceOptions

    classifier, photos, folder = live
    options = RaceOptions(rule=name, delta=delta, max_orders=k_max)
    with Trace.open(folder / "full.h5") as trace:
        deltas = [delta] if name in ("paired", "strict", "marginal") else None
        runs = full_curves(trace, [name], deltas, k_max=[k_max]).runs
    default = {"funnel": ("k_max", 16), "halving": ("saving", None)}.get(name, ("delta", delta))
    if name == "halving":
        with Trace.open(folder / "full.h5") as trace:
            runs = full_curves(trace, [name], settings={"saving": [16.0]}).runs
    (run_,) = [r for r in runs if default[1] is None or (
        r.settings["knob"], r.settings["knob_value"]) == default]  # fmt: skip
    decisions = record(folder / f"{name}{delta}.h5", classifier, photos, options)
    for i, decision in enumerate(decisions):
        assert run_.prediction[i] == decision.index
        assert (run_.orders[i], run_.passes[i]) == (decision.orders, decision.passes)
        assert STOP_NAMES[run_.stop[i]] == decision.stop
        assert run_.probability[i] == pytest.approx(decision.probability, abs=1e-4)
        ranking = [standing.index for standing in decision.ranking]
        assert run_.rank[i] == ranking.index(i % 10)
    with Trace.open(folder / f"{name}{delta}.h5") as trace:
        itself = live_run(trace)
    for column in ("prediction", "orders", "passes", "stop", "rank"):
        np.testing.assert_array_equal(getattr(itself, column), getattr(run_, column))
    assert itself.settings["source"] == "live" and itself.settings["seconds_kind"] == "measured"
    assert (itself.seconds > 0).all()


def test_a_live_run_of_rule_fixed_knows_what_all_orders_say(live):
    _, _, folder = live
    with Trace.open(folder / "full.h5") as trace:
        curves = live_curves(trace)
        replayed = full_curves(trace, ["fixed"])
    np.testing.assert_array_equal(curves.full, replayed.full)
    np.testing.assert_array_equal(curves.runs[0].rank, replayed.curve("fixed")[-1].rank)
    assert curves.runs[0].settings["knob_value"] == 16


def test_a_live_run_on_less_than_an_order_is_ranked_by_its_prefix(live):
    from anytime_cls.plan.options import RaceOptions

    classifier, photos, folder = live
    options = RaceOptions(rule="paired", budget="6passes", screen="none")
    decisions = record(folder / "short.h5", classifier, photos, options)
    with Trace.open(folder / "short.h5") as trace:
        curves = live_curves(trace)
    run_ = curves.runs[0]
    assert decisions[0].prefix and (run_.orders == 0).all()
    assert [STOP_NAMES[code] for code in run_.stop] == ["budget"] * 6
    ranking = [[standing.index for standing in d.ranking].index(i % 10) for i, d in enumerate(decisions)]
    assert run_.rank.tolist() == ranking
    assert (curves.full == -1).all()


def test_other_aggregates_are_ranked_by_what_they_say(live):
    from anytime_cls.plan.options import RaceOptions

    classifier, photos, folder = live
    options = RaceOptions(rule="fixed", max_orders=4, aggregate="softmax")
    decisions = record(folder / "softmax.h5", classifier, photos, options)
    with Trace.open(folder / "softmax.h5") as trace:
        run_ = live_run(trace)
    ranking = [np.argsort([-s.probability for s in d.ranking], kind="stable") for d in decisions]
    expected = [
        [d.ranking[j].index for j in order].index(i % 10)
        for i, (d, order) in enumerate(zip(decisions, ranking, strict=True))
    ]
    assert run_.rank.tolist() == expected


def test_probability_is_at_the_models_temperature(tmp_path):
    scores = races(11, 8, k_max=4)
    with Trace.open(full_trace(tmp_path / "t.h5", scores, temperature=7.0)) as trace:
        run_ = full_curves(trace, ["fixed"]).curve("fixed")[-1]
    expected = softmax(scores.mean(axis=1) / 7.0, axis=1).max(axis=1)
    np.testing.assert_allclose(run_.probability, expected, rtol=1e-5)
