"""Joining files, the numbers of points, and what is said of them."""

import numpy as np
import pytest
from curve_data import K_MAX, LABELS, curves, fixed_run, run, scores, write_trace

from anytime_cls.curves.analysis import analyse, default_run, point_rows, summary_row
from anytime_cls.curves.file import read_curves, write_curves
from anytime_cls.curves.files import Material
from anytime_cls.curves.full import full_curves
from anytime_cls.curves.progress import plan_of, trace_progress
from anytime_cls.curves.study import StudyError, join
from anytime_cls.pictures import draw as album
from anytime_cls.pictures.tables import budget_rows, classes_left_rows, csv_text, orders_rows
from anytime_cls.pictures.wording import verdict
from anytime_cls.race.races import run as race_run
from anytime_cls.replay.progress import Scored, progress, recorded
from anytime_cls.traces.read import Trace

N = 200
TRUTH = np.arange(N) % len(LABELS)


def answers(right: int):
    """The first `right` images answered right, the others wrong."""
    return np.where(np.arange(N) < right, TRUTH, (TRUTH + 1) % len(LABELS))


@pytest.fixture
def known():
    """Fixed K = 1, 2, 4, 8 right on 120, 150, 160, 160 images; a race as good as K = 4 in 10 passes."""
    fixed = [fixed_run(answers(r), k) for k, r in ((1, 120), (2, 150), (4, 160), (8, 160))]
    racing = [
        run(answers(r), p, knob_value=d) for r, p, d in ((130, 8, 0.5), (160, 10, 0.05), (160, 16, 1e-3))
    ]
    return curves([*racing, *fixed], TRUTH, full=answers(160))


def test_numbers_of_a_known_study(known):
    analysis = analyse(join([("a.h5", known)]), resamples=200)
    runs = analysis.study.runs
    assert analysis.default == {"fixed": 6, "paired": 1} and analysis.focus == analysis.best == 1
    got, full = analysis.savings[1], analysis.savings_full[1]
    assert got.ratio == pytest.approx(24 / 10) and runs[got.index].k_max == 4
    assert full.ratio == pytest.approx(48 / 10) and runs[full.index].k_max == 8
    assert analysis.savings[3] is None  # a fixed K saves nothing over itself
    assert analysis.y.value[1] == 0.8 and analysis.x.value[1] == 10
    assert analysis.front.tolist() == [True, True, False, True, False, False, False]
    text = verdict(analysis, 1)
    assert "2.4× fewer passes" in text and "K = 4 (24 passes)" in text and "4.8× fewer passes" in text


def test_a_screen_alone_is_what_a_saving_is_against(known):
    """A table that is right as often as the race, for nearly nothing: the race saves nothing against it."""
    table = run(answers(160), 0.01, 0, rule="table", curve="table", knob="k_max", knob_value=8.0)
    known.runs.append(table)
    analysis = analyse(join([("a.h5", known)]), resamples=100)
    at = [r.rule for r in analysis.study.runs].index("table")
    got = analysis.savings[1]
    assert got.index == at and got.ratio == pytest.approx(0.001) and analysis.savings[at] is None
    assert analysis.focus != at and analysis.best != at
    assert "the cheapest alternative as good, the table alone" in verdict(analysis, analysis.focus)
    assert all(r.rule != "table" for r in analyse(join([("a.h5", known)]), "orders", resamples=50).study.runs)


def test_rows_hold_every_point(known):
    analysis = analyse(join([("a.h5", known)]), resamples=100)
    rows = point_rows(analysis)
    assert [row["curve"] for row in rows] == ["fixed"] * 4 + ["paired"] * 3
    assert [row["x_mean"] for row in rows] == [6, 12, 24, 48, 8, 10, 16]
    row = rows[5]
    assert row["y_low"] < row["y_mean"] == 0.8 < row["y_high"] and row["default"] and row["on_front"]
    assert row["y_minus_full"] == 0 == row["y_minus_full_low"]  # the same answers as K = 8 on every image
    assert row["agreement"] == 1 and row["agreement_low"] < 1  # Wilson's, where no resample can differ
    text = csv_text(rows)
    assert text.count("\n") == len(rows) + 1 and "nan" not in text and "np." not in text


def test_a_race_that_saves_nothing_is_said_to():
    fixed = [fixed_run(answers(160), k) for k in (1, 2)]
    analysis = analyse(join([("a.h5", curves([run(answers(160), 9), *fixed], TRUTH))]), resamples=50)
    assert analysis.savings[0].ratio == pytest.approx(6 / 9)
    assert "saves nothing" in verdict(analysis, 0)


def test_a_saving_that_may_be_none_is_said_to(known):
    known.runs[5] = fixed_run(answers(160), 4)
    known.runs[4] = fixed_run(answers(159), 2)  # one image short of the race's accuracy
    known.runs[1] = run(answers(160), 14)
    known.runs[1].prediction[3] = (TRUTH[3] + 1) % len(LABELS)
    known.runs[1].prediction[170] = TRUTH[170]
    analysis = analyse(join([("a.h5", known)]), resamples=300)
    assert analysis.savings[1].low < 1 < analysis.savings[1].ratio
    assert "the interval holds 1" in verdict(analysis, 1)


def test_agreement_and_cost_kinds(known):
    study = join([("a.h5", known)])
    agree = analyse(study, "flops", "agreement", resamples=20)
    assert agree.y.value[1] == 1 and agree.x.value[1] == 10e9
    assert analyse(study, "seconds", resamples=0).x.value[1] == pytest.approx(0.1)
    assert analyse(study, "orders", resamples=0).x.value[3] == 1
    top5 = [run(answers(100), 10, rank=np.where(np.arange(N) < 150, 4, 5))]
    assert analyse(join([("a", curves(top5, TRUTH))]), y_kind="top5", resamples=0).y.value[0] == 0.75


def test_a_prefix_counts_its_share():
    whole, part = run(answers(100), 20), run(answers(100), 20, prefix=4, curve="m=4")
    part.token_fraction = whole.token_fraction / 5
    study = join([("a", curves([whole, part], TRUTH))])
    np.testing.assert_allclose([r.passes.mean() for r in study.runs], [20, 4], rtol=1e-6)


def test_files_are_joined_by_image():
    order = np.random.default_rng(0).permutation(N)
    ids = [f"im{i}" for i in range(N)]
    a = curves([fixed_run(answers(120), 1)], TRUTH, full=answers(160))
    b = curves([run(answers(140)[order], 9, source="live")], TRUTH[order], ids=[ids[i] for i in order])
    b.runs[0].prediction[order == 7] = -1  # failed there
    study = join([("a.h5", a), ("b.h5", b)])
    assert study.left_out == 1 and len(study.ids) == N - 1 and "im7" not in study.ids
    assert [r.series for r in study.runs] == ["fixed", "paired (live)"]
    analysis = analyse(study, y_kind="agreement", resamples=0)  # a.h5 knows what all orders answer
    assert analysis.y.value[1] == pytest.approx((N - 1 - 20) / (N - 1))
    assert summary_row(analysis, 1)["images"] == N - 1


def test_the_same_curve_of_two_files_is_told_apart():
    one, two = (curves([run(answers(r), 9)], TRUTH) for r in (100, 150))
    study = join([("a.h5", one), ("b.h5", two)])
    assert [r.series for r in study.runs] == ["paired", "paired [b.h5]"]
    other = curves([run(answers(150), 9)], TRUTH, model="big")
    assert [r.series for r in join([("a", one), ("b", other)]).runs] == ["tiny: paired", "big: paired"]


def test_savings_stay_within_a_model():
    small = curves([run(answers(100), 9)], TRUTH)
    big = curves([fixed_run(answers(150), 1)], TRUTH, model="big")
    assert analyse(join([("a", small), ("b", big)]), resamples=0).savings[0] is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: setattr(c, "labels", ["a", "b"]), "different classes"),
        (lambda c: setattr(c, "ids", np.array([f"x{i}" for i in range(N)], object)), "no image in common"),
        (lambda c: c.label.__setitem__(3, 5), "different labels"),
        (lambda c: c.runs.clear(), "no runs"),
    ],
)
def test_files_that_do_not_fit(change, message):
    a, b = (curves([run(answers(100), 9)], TRUTH.copy()) for _ in range(2))
    change(b)
    with pytest.raises(StudyError, match=message):
        join([("a.h5", a), ("b.h5", b)])


def test_what_cannot_be_drawn_is_refused():
    unlabelled = curves([run(answers(100), 9)], np.full(N, -1))
    with pytest.raises(StudyError, match="no image has a label"):
        analyse(join([("a", unlabelled)]))
    with pytest.raises(StudyError, match="not known"):
        analyse(join([("a", unlabelled)]), y_kind="agreement")
    free = curves([run(answers(100), 0, orders=0)], TRUTH)
    with pytest.raises(StudyError, match="took no passes"):
        analyse(join([("a", free)]))
    dear = curves([run(answers(100), 9)], TRUTH)
    del dear.attrs["flops"]
    with pytest.raises(StudyError, match="FLOPs"):
        analyse(join([("a", dear)]), "flops")


def test_the_default_of_other_knobs():
    study = join([("a", curves(
        [run(answers(r), p, knob="p_value", knob_value=v) for r, p, v in ((90, 9, 0.5), (99, 10, 3e-3))],
        TRUTH,
    ))])  # fmt: skip
    assert default_run(study.runs, [0, 1], np.zeros(2)) == 1
    for made in study.runs:
        made.settings["knob"] = "unheard-of"
    assert default_run(study.runs, [0, 1], np.array([0.5, 0.4])) == 0  # the best, where nothing is known


# --- races as they went ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def full_trace(tmp_path_factory):
    return write_trace(tmp_path_factory.mktemp("traces") / "full.h5")


@pytest.mark.parametrize("rule", ["paired", "strict", "marginal", "fixed", "funnel", "halving"])
def test_progress_ends_where_the_replay_does(full_trace, rule):
    with Trace.open(full_trace) as trace:
        for made in full_curves(trace, [rule]).runs[::5]:
            went = trace_progress(trace, plan_of(trace, made))
            np.testing.assert_array_equal(went.leader[:, -1], made.prediction)
            np.testing.assert_array_equal(went.spent[:, -1], made.passes)
            still = (np.diff(went.spent, axis=1) > 0).sum(axis=1) + 1
            np.testing.assert_array_equal(still, made.orders)


def test_a_live_trace_went_as_its_replay(full_trace, tmp_path):
    with Trace.open(full_trace) as full, Trace.open(write_trace(tmp_path / "live.h5", "paired")) as live:
        made = full_curves(full, ["paired"], deltas=[0.05]).runs[0]
        ours, theirs = trace_progress(live), trace_progress(full, plan_of(full, made))
        for name in ("leader", "spent", "racing"):
            np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
        assert (ours.racing[:, 0] == len(LABELS)).all() and (np.diff(ours.racing, axis=1) <= 0).all()


def test_the_answer_at_a_budget_by_hand(full_trace):
    full, _ = scores()
    with Trace.open(full_trace) as trace:
        went = trace_progress(trace)
        assert sum(len(images) for images, _ in recorded(trace, images=7)) == len(trace)
    classes = len(LABELS)
    for k in range(1, K_MAX + 1):  # a fixed race that may spend k orders' passes answers as fixed K = k
        expected = full[:, :k].mean(axis=1).argmax(axis=1)
        np.testing.assert_array_equal(went.at(k * classes), expected)
        np.testing.assert_array_equal(went.at(np.full(len(full), k * classes + classes - 1)), expected)
    assert (went.at(classes - 1) == -1).all()


def test_pairs_of_orders_answer_together():
    full, _ = scores()
    none = np.empty((len(full), 0, len(LABELS)))
    scored = Scored(full, none, none[..., 0])
    single, pairs = progress(scored), progress(scored, block=2)
    assert (pairs.leader[:, 0] == -1).all()  # half a pull is no answer
    np.testing.assert_array_equal(pairs.first(), np.full(len(full), 2 * len(LABELS)))
    np.testing.assert_array_equal(pairs.leader[:, 1::2], single.leader[:, 1::2])
    np.testing.assert_array_equal(pairs.leader[:, 2::2], single.leader[:, 1:-1:2])


def test_a_run_is_drawn_by_the_plan_it_ran_by(full_trace, tmp_path):
    """Written and read again, whatever its model's card says by then."""
    full, _ = scores()
    names = ("funnel", "clark-jaini", "strict", "paired", "marginal", "halving", "value", "fixed")
    with Trace.open(full_trace) as trace:
        write_curves(tmp_path / "c.h5", full_curves(trace, names))
        for name in names:
            made = read_curves(tmp_path / "c.h5").curve(name)[-1]
            plan = plan_of(trace, made)
            outcome = race_run(plan.rule, full[:, : plan.pulls])
            np.testing.assert_array_equal(outcome.passes, made.passes)
            assert plan.rule.name == name and plan.design.k_max == made.settings["k_max"]
        made.plan = ""
        with pytest.raises(StudyError, match="replay the trace again"):
            plan_of(trace, made)


def test_tables_of_races(full_trace):
    with Trace.open(full_trace) as trace:
        material = Material([("c", full_curves(trace, ["fixed", "paired"]))], [trace])
        analysis = analyse(join(material.files), resamples=50)
        went = album.races(analysis, material)
    assert list(went) == ["fixed", "paired"]
    left = classes_left_rows(went)
    assert [row["mean"] for row in left if row["curve"] == "fixed"] == [len(LABELS)] * K_MAX
    racing = [row["mean"] for row in left if row["curve"] == "paired"]
    assert racing[0] == len(LABELS) > racing[2] >= racing[-1] >= 1
    truth = dict.fromkeys(went, analysis.study.label)
    rows = budget_rows(went, truth, {"fixed": 2.0, "paired": 2.0}, 50)
    last = {row["curve"]: row["y"] for row in rows}  # the largest budget: everyone is done
    for name, index in analysis.default.items():
        assert last[name] == pytest.approx(analysis.y.value[index])
        shares = sum(row["share"] for row in orders_rows(analysis) if row["curve"] == name)
        assert shares == pytest.approx(1)
    assert rows[0]["budget"] == pytest.approx(2 * len(LABELS))
