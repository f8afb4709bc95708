"""The rule `value`: gains that Monte Carlo agrees with, one price for classes and races, and sound stacks."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from fitted_rules import model_rule
from hypothesis import given, settings
from hypothesis import strategies as st
from replay_data import PRIORS, races
from scipy.integrate import quad
from scipy.special import softmax
from scipy.stats import t as student

from anytime_cls.race.race import Race
from anytime_cls.race.races import run
from anytime_cls.race.registry import SETTINGS, make_rule
from anytime_cls.race.rules import Seen, paired
from anytime_cls.race.value import PRICE, ValueRule, change_gain

K = 16
PRIOR = PRIORS["paired"]


def play(rule, scores: np.ndarray) -> Race:
    """A live race over full scores [K, C]."""
    race = Race(scores.shape[1], len(scores), rule)
    while not race.done:
        request = race.request()
        for order in request.orders:
            race.record(order, request.classes, scores[order, request.classes])
    return race


def drawn_from_the_posterior(seed: int, gap: float, var: float, df: float, n: int, draws: int):
    """K − n further differences of a race of two, given the first n's mean: [draws, K − n]."""
    rng = np.random.default_rng(seed)
    true_var = var * df / rng.chisquare(df, (draws, 1))
    mean = gap + np.sqrt(true_var / n) * rng.normal(size=(draws, 1))
    return mean + np.sqrt(true_var) * rng.normal(size=(draws, K - n))


@pytest.mark.parametrize("h", [1, 3, 12])
@pytest.mark.parametrize(("gap", "var", "n"), [(0.0, 2.0, 4), (1.0, 2.0, 4), (1.8, 4.0, 4)])
def test_gain_is_what_deciding_later_wins(gap, var, n, h):
    """Answers after h more orders against now's, right as often as the soft-max of the K_max means says.

    100,000 races drawn from the posterior; within five standard errors and 3 % (T_h is an approximation).
    """
    temperature, df = 1.3, 40.0
    more = drawn_from_the_posterior(h, gap, var, df, n, 100_000)
    later = n * gap + more[:, :h].sum(axis=1)
    final = (n * gap + more.sum(axis=1)) / K
    won = np.where(later < 0, -np.tanh(final / 2 / temperature), 0.0)
    (gain,) = change_gain(np.array([gap]), np.array([var]), df, n, h, K, temperature)
    assert gain == pytest.approx(won.mean(), rel=0.03, abs=1e-6 + 5 * won.std() / np.sqrt(len(won)))


@settings(max_examples=25, deadline=None)
@given(
    gap=st.floats(0, 10), var=st.floats(1e-3, 100), df=st.sampled_from([2.0, 13.0, 40.0, 1e4]),
    n=st.integers(1, 15), h=st.integers(1, 16), temperature=st.floats(0.05, 20),
)  # fmt: skip
def test_the_quadrature_is_scipys(gap, var, df, n, h, temperature):
    h = min(h, K - n)
    sd = np.sqrt(var * (1 / n - 1 / (n + h)))
    wide = np.sqrt(temperature**2 + np.pi / 8 * var * (1 / (n + h) - 1 / K))
    z, density = gap / sd, student(df)
    ends = [0, *(np.array([0.01, 1, 10, 100]) / (1 + z)), 1000, np.inf]
    pieces = [
        quad(lambda x: np.tanh(sd * x / 2 / wide) * density.pdf(z + x), a, b, limit=200)[0]
        for a, b in pairwise(ends)
    ]
    (gain,) = change_gain(np.array([gap]), np.array([var]), df, n, h, K, temperature)
    assert gain == pytest.approx(sum(pieces), rel=0.03, abs=1e-9)


def test_a_gain_is_never_more_than_the_chance_of_change():
    """What keep() leaves out unseen would not have been worth its price."""
    gap, var = np.meshgrid(np.linspace(0, 8, 30), np.geomspace(0.1, 30, 10))
    gap, var = gap.ravel(), var.ravel()
    bound = student(20.0).sf(gap / np.sqrt(var * (1 / 3 - 1 / K)))
    for h in (1, 5, 13):
        gain = change_gain(gap, var, 20.0, 3, h, K, 0.5)
        assert (gain <= bound * 1.01 + 1e-12).all() and (gain >= 0).all()


# races


def test_dearer_prices_take_fewer_passes():
    scores = races(1, 300, n_classes=8, k_max=K)
    passes = [run(ValueRule(PRIOR, 1.0, price), scores).passes.sum() for price in np.geomspace(1e-8, 0.3, 9)]
    assert passes == sorted(passes, reverse=True) and passes[0] > 2 * passes[-1]


@pytest.mark.parametrize("n", [1, 2, 6])
def test_who_stays_at_a_price_stays_at_a_lower_one(n):
    """Of the same state: the kept are nested, from everybody at next to nothing to the leader alone."""
    scores = races(2, 200, n_classes=6, k_max=K)[:, :n]
    alive = np.random.default_rng(n).random((200, 6)) < 0.8
    alive[:, 0] = True
    kept = [
        ValueRule(PRIOR, 1.0, price).keep(Seen(scores, alive, K)) for price in (1e-30, 1e-6, 1e-4, 1e-2, 0.9)
    ]
    for cheap, dear in pairwise(kept):
        assert (cheap | ~dear).all()
    leader = np.where(alive, scores.mean(axis=1), -np.inf).argmax(axis=1)
    assert (kept[-1] == (np.arange(6) == leader[:, None])).all()
    np.testing.assert_array_equal(kept[0], alive)


def test_nothing_is_given_away_at_a_low_price_and_no_more_than_it_says_at_a_high_one():
    """Races whose labels are drawn as the posterior says: at 1e-9 the answers are K_max's; at 1e-3 the
    accuracy lost is less than the passes saved times the price."""
    rng = np.random.default_rng(3)
    scores = races(3, 4000, n_classes=5, k_max=K)
    full = scores.mean(axis=1)
    label = (rng.random((4000, 1)) < softmax(full, axis=1).cumsum(axis=1)).argmax(axis=1)
    cheap, dear = (run(ValueRule(PRIOR, 1.0, price), scores) for price in (1e-9, 1e-3))
    assert (cheap.prediction == full.argmax(axis=1)).mean() > 0.999
    lost = (cheap.prediction == label).mean() - (dear.prediction == label).mean()
    saved = cheap.passes.mean() - dear.passes.mean()
    assert saved > 3 and lost < 1e-3 * saved + 2 * np.sqrt(0.02 / 4000)


def test_coin_tosses_are_not_paid_for():
    """Two classes nearly tied, with T ≫ their noise: `paired` goes on and on, `value` stops at once."""
    scores = races(4, 100, n_classes=2, k_max=K, spread=0.05)
    careful = run(make_rule("paired", 0.05, PRIORS), scores)
    value = run(ValueRule(PRIOR, 500.0, 1e-3), scores)
    assert careful.n.mean() > 0.7 * K and (value.n == 1).all()


@pytest.mark.parametrize("prior", [PRIOR, None], ids=["prior", "plain"])
def test_stacks_decide_as_live_races_one_by_one(prior):
    rule = ValueRule(prior, 1.3, 1e-4)
    scores = races(5, 60, n_classes=7, k_max=K)
    stack = run(rule, scores)
    for i in range(60):
        race = play(rule, scores[i])
        assert (race.leader, race.n, race.passes) == (stack.prediction[i], stack.n[i], stack.passes[i])
    if prior is None:  # no variance before two orders
        assert rule.keep(Seen(scores[:, :1], np.ones((60, 7), bool), K)).all()


def test_the_order_of_classes_does_not_matter():
    rule = ValueRule(PRIOR, 1.0, 1e-4)
    scores = races(6, 200, n_classes=9, k_max=K)
    order = np.random.default_rng(6).permutation(9)
    one, other = run(rule, scores), run(rule, scores[:, :, order])
    np.testing.assert_array_equal(one.prediction, order[other.prediction])
    np.testing.assert_array_equal(one.passes, other.passes)


def test_what_does_not_vary_is_settled():
    """Equal differences on every order leave no doubt, with or without ties; and there are no warnings."""
    scores = np.tile(np.array([3.0, 1.0, 1.0]), (1, 4, 1))
    keep = ValueRule(None, 1.0, 1e-6).keep(Seen(scores[:, :2], np.ones((1, 3), bool), 4))
    assert keep.tolist() == [[True, False, False]]
    tied = ValueRule(None, 1.0, 1e-6).keep(Seen(np.zeros((1, 2, 3)), np.ones((1, 3), bool), 4))
    assert tied.sum() == 1
    gap, _ = paired(scores, np.ones((1, 3), bool))
    assert gap.tolist() == [[0, 2, 2]]


# making it


def test_a_model_gives_it_priors_and_temperature():
    fields = {"priors": {"paired": PRIOR.to_dict()}, "temperature": 1.7}
    assert model_rule(fields, "value", 0.05, K, 5) == ValueRule(PRIOR, 1.7, PRICE)
    assert model_rule({}, "value", 0.05, K, 5, price=0.01) == ValueRule(None, 1.0, 0.01)
    prefix = {"order_sampler": "stratified", "prefix": 8, "priors": fields["priors"], "temperature": 0.9}
    fields = {"temperature": 1.7, "designs": [prefix]}
    assert model_rule(fields, "value", 0.05, K, 5, "stratified", 8) == ValueRule(PRIOR, 0.9, PRICE)
    assert model_rule(fields, "value", 0.05, K, 5, "uniform", 8) == ValueRule(None, 1.0, PRICE)
    assert SETTINGS["value"] == ("price",)
    for price in (0.0, 1.0, np.nan):
        with pytest.raises(ValueError, match="price must lie between 0 and 1"):
            make_rule("value", price=price)


def test_a_certified_price_is_taken_for_its_races():
    def entry(risk: float, price: float, k_max: int = K, loss: str = "accuracy") -> dict:
        return {"risk": risk, "price": price, "k_max": k_max, "order_sampler": "uniform", "n_classes": 5,
                "temperature": 2.0, "prior": PRIOR.to_dict(), "loss": loss}  # fmt: skip

    fields = {"prices": [entry(0.02, 0.1), entry(0.01, 0.05), entry(0.001, 0.01, 8)]}
    other = [entry(risk, 10 * risk, loss="disagreement") for risk in (0.01, 0.04, 0.08)]
    both = {"prices": [*fields["prices"], *other]}
    assert model_rule(both, "value", 0.05, K, 5) == ValueRule(PRIOR, 2.0, 0.4)  # of the risk up to δ
    assert model_rule(both, "value", 0.009, K, 5) == ValueRule(PRIOR, 2.0, 0.05)  # none is so safe
    assert model_rule({"prices": other}, "value", 0.009, K, 5) == ValueRule(None, 1.0, PRICE)
    assert model_rule(fields, "value", 0.05, K, 5) == ValueRule(PRIOR, 2.0, 0.05)
    assert model_rule(fields, "value", 0.05, K, 4) == ValueRule(None, 1.0, PRICE)
