"""Races whose passes score a prefix of every order, and races with rungs: drawn beside whole orders."""

import csv
import json
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from curve_data import K_MAX, LABELS, PRIOR, curves, fixed_run, run, scores, write_trace

from anytime_cls.curves.analysis import analyse, point_rows
from anytime_cls.curves.files import Material
from anytime_cls.curves.full import full_curves
from anytime_cls.curves.progress import plan_of, replayed, trace_progress
from anytime_cls.curves.study import StudyError, join, select
from anytime_cls.pictures import draw as album
from anytime_cls.pictures.gallery import race_scores
from anytime_cls.pictures.tables import budget_rows, classes_left_rows
from anytime_cls.pictures.wording import verdict
from anytime_cls.plan.written import read
from anytime_cls.race.bounds import ModeratedT
from anytime_cls.race.rules import CalibratedRule
from anytime_cls.traces.cost import pass_cost
from anytime_cls.traces.read import Trace
from anytime_cls.traces.schema import ImageRow, Scores
from anytime_cls.traces.write import TraceWriter
from anytime_cls_cli.main import main

N, C = 200, len(LABELS)
TRUTH = np.arange(N) % C
RUNGS = CalibratedRule(
    ModeratedT(PRIOR), 0.05, thresholds=tuple((n, 1e-3) for n in (1, 2, 4)), rungs=((2, 3.0), (4, 1.0))
)


def answers(right: int):
    return np.where(np.arange(N) < right, TRUTH, (TRUTH + 1) % C)


def strata(runs, k_max: int, m: int = 4, **attrs):
    """Curves of races on the first m of 16 tokens: FLOPs in proportion, K_max of their own."""
    for made in runs:
        made.settings["prefix"] = m
        made.token_fraction = np.asarray(made.passes * (m / 16) / (k_max * C), "f4")
    about = {"order_sampler": "stratified", "pass_tokens": m, "pass_flops": m * 1e9 / 16, "k_max": k_max}
    return curves(runs, TRUTH, full=answers(170), **(about | attrs))


@pytest.fixture
def both():
    """Whole: fixed K = 1, 2, 4, 8 right on 120, 150, 160, 160. Prefixes of a quarter: K = 4 as good for 6."""
    whole = curves([fixed_run(answers(r), k) for k, r in ((1, 120), (2, 150), (4, 160), (8, 160))], TRUTH,
                   full=answers(160))  # fmt: skip
    short = [fixed_run(answers(r), k) for k, r in ((1, 100), (4, 160), (32, 170))]
    return [("whole.h5", whole), ("m4.h5", strata([run(answers(160), 12), *short], 32))]


def test_designs_are_told_apart_and_share_a_scale(both):
    study = join(both)
    assert list(study.series) == ["fixed", "fixed m=4 stratified", "paired m=4 stratified"]
    runs = {(r.series, r.setting): r for r in study.runs}
    assert runs["fixed", "K = 4"].flops[0] == 24e9 and runs["fixed", "K = 4"].whole
    quarter = runs["fixed m=4 stratified", "K = 4"]
    assert quarter.flops[0] == pytest.approx(6e9) and quarter.passes[0] == pytest.approx(6)
    assert not quarter.whole and quarter.orders[0] == 4
    race = runs["paired m=4 stratified", "δ = 0.05"]
    assert race.passes[0] == pytest.approx(3)
    agree = analyse(study, "flops", "agreement", resamples=0)  # each with all orders of its own design
    at = study.runs.index(race)
    assert agree.y.value[at] == pytest.approx(190 / 200) and agree.y.value[3] == 1


def test_a_saving_is_against_the_cheapest_fixed_k_of_any_prefix(both):
    analysis = analyse(join(both), "flops", resamples=100)
    at = next(i for i, r in enumerate(analysis.study.runs) if r.rule == "paired")
    got, full = analysis.savings[at], analysis.savings_full[at]
    assert got.ratio == pytest.approx(6 / 3) and analysis.fixed_name(got.index) == "m=4 stratified K = 4"
    assert full.ratio == pytest.approx(48 / 3) and analysis.fixed_name(full.index) == "K = 8"
    assert analysis.study.runs[analysis.reference].whole and analysis.paper_baseline
    assert "fixed K as good, K = 4 of 4 tokens (6G FLOPs)" in verdict(analysis, at)
    (row,) = [row for row in point_rows(analysis) if row["rule"] == "paired"]
    assert row["saving_against"] == "m=4 stratified K = 4" and row["prefix"] == 4
    alone = analyse(join(both[1:]), "flops", resamples=0)
    assert not alone.paper_baseline and next(iter(alone.study.series)) == "fixed m=4"


def test_images_are_paired_by_id(both):
    order = np.random.default_rng(0).permutation(N)[:150]
    name, made = both[1]
    for one in made.runs:
        for column in (f.name for f in fields(one) if f.name not in ("settings", "plan")):
            setattr(one, column, getattr(one, column)[order])
    made.ids, made.label, made.full = made.ids[order], made.label[order], made.full[order]
    study = join([both[0], (name, made)])
    assert len(study.ids) == 150 and study.left_out == 50
    for one in study.runs:
        if one.rule == "paired":
            assert (one.prediction == study.label).sum() == (order < 160).sum()


def test_curves_can_be_chosen(both):
    other = curves([run(answers(90), 30, rule="marginal", curve="marginal"), run(answers(90), 9)], TRUTH)
    study = join([*both, ("other.h5", other)])
    assert list(select(study, ["paired"]).series) == [
        "fixed", "fixed m=4 stratified", "paired m=4 stratified", "paired",
    ]  # fmt: skip
    assert "marginal" in select(study, []).series and "paired" not in select(study, ["marginal"]).series
    with pytest.raises(StudyError, match="there is no curve 'pair'"):
        select(study, ["pair"])


def test_weights_of_one_name_are_told_apart():
    old, new = (curves([fixed_run(answers(100), 1)], TRUTH, model_sha256=sha * 32) for sha in ("ab", "cd"))
    names = [r.series for r in join([("a", old), ("b", new)]).runs]
    assert names == ["tiny ababab: fixed", "tiny cdcdcd: fixed"]


def test_live_races_of_another_design_do_not_borrow_its_answers(both):
    live = strata([run(answers(100), 12, source="live")], 32)
    live.full[:] = -1
    assert (join([both[0], ("live.h5", live)]).runs[-1].full == -1).all()
    assert (join([*both, ("live.h5", live)]).runs[-1].full == answers(170)).all()


def test_what_a_pass_costs():
    attrs = {"tokens": 64, "flops": 100.0, "pass_tokens": 8, "pass_flops": 10.0, "prefixes": [2, 4],
             "prefix_flops": [2.0, 4.5]}  # fmt: skip
    assert [pass_cost(attrs, m) for m in (None, 2, 4, 8, 64, 16)] == [0.1, 0.02, 0.045, 0.1, 1, 0.25]
    assert pass_cost({"tokens": 64}) == 1 and pass_cost({"tokens": 64}, 16) == 0.25


# --- races as they went ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def traces(tmp_path_factory):
    """Full and live traces, whole and of 4 tokens a pass; full and live ones of a rule with rungs."""
    folder = tmp_path_factory.mktemp("designs")
    write_trace(folder / "whole.h5", prefixes=(2, 4, 8))
    write_trace(folder / "m4.h5", m=4, prefixes=(2,))
    write_trace(folder / "live4.h5", "paired", m=4, failed=7)
    write_trace(folder / "rungs.h5", RUNGS)
    return folder


def same(a, b, rows=slice(None)):
    for name in ("leader", "spent", "racing"):
        np.testing.assert_allclose(getattr(a, name)[rows], getattr(b, name)[rows], rtol=1e-9)


def test_a_race_on_prefixes_went_as_its_replay(traces):
    with Trace.open(traces / "m4.h5") as full, Trace.open(traces / "live4.h5") as live:
        made = full_curves(full, ["paired"], deltas=[0.05]).runs[0]
        went = trace_progress(full, plan_of(full, made))
        np.testing.assert_array_equal(went.leader[:, -1], made.prediction)
        np.testing.assert_allclose(went.spent[:, -1], made.passes / 4)
        same(went, trace_progress(live), np.arange(60) != 7)
        for i in (0, 31):
            ours = race_scores(full, i, plan_of(full, made))
            np.testing.assert_array_equal(ours, race_scores(live, i, None))
            assert len(ours) == made.orders[i]


def test_a_recorded_prefix_is_raced_too(traces):
    with Trace.open(traces / "whole.h5") as trace:
        made = full_curves(trace, ["fixed", "paired"], prefixes=[4, 16])
        material = Material([("whole.h5", made)], [trace])
        analysis = analyse(join(material.files), resamples=20)
        went = album.races(analysis, material)
        assert set(went) == {"fixed", "fixed m=4", "paired", "paired m=4"}
        for name, race in went.items():
            shown = analysis.study.runs[analysis.default[name]]
            np.testing.assert_array_equal(race.leader[:, -1], shown.prediction)
            np.testing.assert_allclose(race.spent[:, -1], shown.passes, rtol=1e-6)
        rows = budget_rows(went, dict.fromkeys(went, analysis.study.label), dict.fromkeys(went, 1.0), 20)
    first = {name: next(r["budget"] for r in rows if r["curve"] == name) for name in went}
    assert first["fixed m=4"] == pytest.approx(C / 4) and first["fixed"] == pytest.approx(C)


def test_rungs_are_steps_of_a_race(traces):
    with Trace.open(traces / "whole.h5") as full, Trace.open(traces / "rungs.h5") as live:
        plan = replace(read(full.attrs, full.labels), rule=RUNGS)
        ours, theirs = trace_progress(full, plan), trace_progress(live)
        assert ours.rungs == theirs.rungs == 2
        same(ours, theirs)
        images = live.images
        np.testing.assert_array_equal(theirs.leader[:, -1], images["prediction"])
        np.testing.assert_allclose(theirs.spent[:, -1], images["token_fraction"] * K_MAX * C)
        alone = next(replayed(full, plan, np.array([9])))[1]
        np.testing.assert_array_equal(race_scores(live, 9, None), alone.orders[0, : images["orders"][9]])
    assert (ours.racing[:, 0] == C).all() and (np.diff(ours.racing, axis=1) <= 0).all()
    assert (ours.spent[:, 0] == C * 2 / 16).all() and (ours.at(C * 2 / 16) >= 0).all()
    early = images["orders"] == 0  # decided at a rung
    assert 0 < early.sum() < len(early)
    left = classes_left_rows({"calibrated": ours})
    assert len(left) == K_MAX and left[0]["decided"] == (ours.racing[:, 2] <= 1).mean()


def test_an_answer_that_a_budget_cut_short_costs_what_it_took(tmp_path):
    """One image has one order, the other only 5 of 16 tokens of it (and part of what was begun)."""
    full, _ = scores(2)
    with TraceWriter.create(tmp_path / "t.h5", {"tokens": 16, "rule": "fixed", "k_max": 2}, LABELS) as writer:
        for i, (m, orders) in enumerate(((16, 1), (5, 0))):
            some = Scores([0] * C, range(C), [m] * C, [0] * C, full[i, 0].astype("f4"))
            row = ImageRow(f"im{i}", "", 0, int(full[i, 0].argmax()), orders, C, 0.1, 0.1, "budget", 0.5)
            writer.append(row, some, i)
    with Trace.open(tmp_path / "t.h5") as trace:
        went = trace_progress(trace)
    np.testing.assert_allclose(went.first(), [C, C * 5 / 16])
    assert went.at(C).tolist() == full[:, 0].argmax(axis=1).tolist()
    assert went.at(C * 5 / 16).tolist() == [-1, full[1, 0].argmax()]


# --- commands ----------------------------------------------------------------------------------------------


def test_designs_in_one_picture(traces, monkeypatch, capsys):
    monkeypatch.chdir(traces)
    assert main(["plot", "whole.h5", "m4.h5", "live4.h5", "-o", "both.svg", "--kind", "all", "--x", "flops",
                 "--curve", "paired", "--bootstrap", "20"]) == 0  # fmt: skip
    out, err = capsys.readouterr()
    assert "paired m=4 stratified (live)" in out
    assert "no fixed K over whole" not in err and "left out" not in err
    with open("both.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["curve"] for row in rows} == {
        "fixed", "paired", "fixed m=4 stratified", "paired m=4 stratified", "paired m=4 stratified (live)",
    }  # fmt: skip
    with open("both-budget.csv", newline="", encoding="utf-8") as file:
        assert len({row["curve"] for row in csv.DictReader(file)}) == 5
    assert main(["plot", "m4.h5", "-o", "page.html", "--bootstrap", "0"]) == 0
    _, err = capsys.readouterr()
    assert "no fixed K over whole orders among these files" in err
    assert "Races, from easy to hard" in Path("page.html").read_text(encoding="utf-8")


def test_trace_info_says_how_long_a_pass_is(traces, capsys):
    path = str(traces / "m4.h5")
    assert main(["trace", "info", path]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "stratified, seed 0, tokens 16, 4 of them a call" in out and "pass_tokens" not in out
    assert "4.0× less compute than all classes on all whole orders (25.0 % of it)" in out
    assert main(["trace", "info", "--json", path]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["prefixes"] == [2, 4] and found["saving"] == 4 and found["full_passes"] == K_MAX * C / 4
