"""A screen before the race: who it lets in, what it is worth in the means, and a race without it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anytime_cls.race.bounds import ModeratedT, VariancePrior, effective_n
from anytime_cls.race.race import Race
from anytime_cls.race.races import Races, run
from anytime_cls.race.registry import make_rule
from anytime_cls.race.rules import CalibratedRule, Screening, ScreenRule

PRIOR = VariancePrior(scale=2.0, power=0.5, df=20.0)
LOOKS = tuple((n, 0.05) for n in (1, 2, 3, 4, 6))


def calibrated(gap: float, weight: float, scale: float = 0.5, rungs=()) -> CalibratedRule:
    return CalibratedRule(
        ModeratedT(PRIOR), thresholds=LOOKS, rungs=rungs, screening=Screening("table", scale, gap, weight)
    )


@st.composite
def races(draw):
    """Log-likelihoods [I, K, C], and a screen that knows something of them."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    n, k, c = draw(st.integers(1, 6)), draw(st.integers(2, 8)), draw(st.integers(2, 6))
    true = rng.normal(0, 2, (n, 1, c))
    return true + rng.normal(0, 1, (n, k, c)) - 50, 2 * true[:, 0] + rng.normal(0, 2, (n, c))


def play(rule, scores, screen) -> Race:
    race = Race(scores.shape[1], len(scores), rule)
    race.screen("table", screen)
    while not race.done:
        request = race.request()
        for order in request.orders:
            race.record(order, request.classes, scores[order, request.classes])
    return race


@settings(max_examples=60, deadline=None)
@given(tensor=races(), gap=st.sampled_from([0.0, 1.0, 5.0]), weight=st.sampled_from([0.0, 0.5, 4.0]))
def test_live_races_with_a_screen_are_run(tensor, gap, weight):
    """Answers, pulls, passes and means of a stack are those of each race alone."""
    scores, screen = tensor
    rule = calibrated(gap, weight)
    stack = run(rule, scores, {"table": screen})
    means = stack.means()
    for i in range(len(scores)):
        race = play(rule, scores[i], screen[i])
        assert (race.leader, race.n) == (stack.prediction[i], stack.n[i])
        assert race.passes == stack.passes[i]
        np.testing.assert_allclose(race.means(), means[i], atol=1e-9)
        assert race.means().argmax() == race.leader


@settings(max_examples=60, deadline=None)
@given(tensor=races(), gap=st.sampled_from([0.5, 2.0]))
def test_who_is_too_far_behind_by_the_screen_is_never_scored(tensor, gap):
    scores, screen = tensor
    stack = run(calibrated(gap, 1.0), scores, {"table": screen})
    out = 0.5 * (screen.max(axis=1, keepdims=True) - screen) > gap
    assert (stack.seen[out] == 0).all() and (stack.left_stage[out] == 0).all()
    alone = (~out).sum(axis=1) == 1
    assert (stack.n[alone] == 0).all() and stack.decided[alone].all()
    assert (stack.prediction[alone] == screen.argmax(axis=1)[alone]).all()


@settings(max_examples=40, deadline=None)
@given(tensor=races())
def test_at_k_max_the_answer_is_that_of_all_orders(tensor):
    """However much a screen counts for before: it is an estimate of these means."""
    scores, screen = tensor
    rule = CalibratedRule(
        ModeratedT(PRIOR), thresholds=((scores.shape[1], 0.05),),
        screening=Screening("table", 0.5, 1e9, 100.0),
    )  # fmt: skip
    stack = run(rule, scores, {"table": screen})
    assert (stack.n == scores.shape[1]).all()
    assert (stack.prediction == scores.mean(axis=1).argmax(axis=1)).all()


def test_a_screen_counts_as_so_many_pulls():
    """By hand: two classes, one pull of four, a screen worth two; α of 5 % on the blended gap."""
    rule = calibrated(gap=1e9, weight=2.0, scale=0.5)
    pulls, free = np.array([[[0.0, -1.0]]]), np.array([[3.0, 0.0]])
    from anytime_cls.race.rules import Seen

    gap, radius = rule.radius(Seen(pulls, np.ones((1, 2), bool), 4, free))
    tau = effective_n(1, 4)
    assert gap[0].tolist() == [0.0, pytest.approx((tau * 1.0 + 2 * 3.0) / (tau + 2))]
    var, df = ModeratedT(PRIOR).variance(gap, np.zeros((1, 2)), 1)
    from scipy import stats

    assert radius[0, 1] == pytest.approx(stats.t.isf(0.05, df) * np.sqrt(var[0, 1] / (tau + 2)))


def test_a_budget_that_allows_no_screen_races_without_it():
    scores = np.random.default_rng(0).normal(size=(8, 4))
    race, plain = (
        Race(4, 8, calibrated(0.0, 4.0)),
        Race(4, 8, CalibratedRule(ModeratedT(PRIOR), thresholds=LOOKS)),
    )
    race.screen("table", None)
    for one in (race, plain):
        while not one.done:
            request = one.request()
            for order in request.orders:
                one.record(order, request.classes, scores[order, request.classes])
    assert race.left_at.tolist() == plain.left_at.tolist()
    np.testing.assert_allclose(race.means(), plain.means())


def test_a_screen_that_no_rule_waits_for_answers_until_the_first_order():
    race = Race(3, 4, make_rule("paired", 0.05, {"paired": PRIOR}))
    race.screen("gradient", np.array([0.0, 2.0, 1.0]))
    assert race.leader == 1 and race.alive.all() and race.request().orders == (0,)
    race.record(0, np.arange(3), [0.0, -1.0, -1.0])
    assert race.leader == 0


@pytest.mark.parametrize("name", ["table", "gradient"])
def test_a_screen_alone_is_a_rule(name):
    """Its best class, for no pass at all."""
    rule = make_rule(name)
    assert rule == ScreenRule(name)
    scores = np.random.default_rng(1).normal(size=(20, 8, 5))
    screen = np.random.default_rng(2).normal(size=(20, 5))
    stack = run(rule, scores, {name: screen})
    assert (stack.prediction == screen.argmax(axis=1)).all() and stack.passes.sum() == 0
    assert stack.stage_rows.tolist() == [[5]] * 20 and stack.decided.all()
    with pytest.raises(ValueError, match=f"a stage at screen '{name}', which was not scored"):
        run(rule, scores)


def test_recorded_races_have_the_means_they_ended_with():
    scores = np.random.default_rng(3).normal(0, 2, (6, 8, 5))
    stack = run(make_rule("paired", 0.2, {"paired": PRIOR}), scores)
    kept = np.where(np.arange(8)[:, None] < stack.seen[:, None], scores, np.nan)
    for i, n in enumerate(stack.n.tolist()):
        again = Races.recorded(kept[i : i + 1, :n])
        np.testing.assert_allclose(again.means()[0], stack.means()[i], atol=1e-9)
