"""One image's race: any way of feeding it gives the same decisions as `run`, and its answers are honest."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp, softmax
from scipy.stats import binom

from anytime_cls.race.bounds import ModeratedT, NormalMixture, PlainT, VariancePrior
from anytime_cls.race.peers import ClarkJainiRule, FunnelRule, HalvingRule
from anytime_cls.race.race import Race, advance
from anytime_cls.race.races import AGGREGATORS, Races, aggregate_scores, run
from anytime_cls.race.registry import RULES, make_rule
from anytime_cls.race.rules import Rule

PRIOR = VariancePrior(scale=2.0, power=0.5, df=20.0)
PRIORS = {"paired": PRIOR, "marginal": VariancePrior(scale=2.0, power=0.0, df=20.0)}
PAIRED = make_rule("paired", 0.2, PRIORS)
ANY_RULE = st.sampled_from(
    [
        *(make_rule(name, 0.3, PRIORS) for name in RULES),
        make_rule("paired", 0.3),
        ClarkJainiRule(p_value=0.2, min_scores=2),
        FunnelRule(((0.1, 3), (0.5, 2))),
        HalvingRule(saving=2.0),
    ]
)
PAIRED_RULES = st.sampled_from(
    [make_rule("paired", 0.3, PRIORS), make_rule("paired", 0.3), make_rule("strict", 0.3, PRIORS)]
)


@st.composite
def score_tensors(draw, integer: bool | None = None):
    """Scores [K·block, C] and block; integer scores have ties and exact arithmetic."""
    n_classes, k_max = draw(st.integers(2, 7)), draw(st.integers(1, 14))
    block = draw(st.sampled_from([1, 1, 2]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    scale = draw(st.sampled_from([0.0, 1.0, 10.0]))
    scores = rng.normal(size=(k_max * block, n_classes)) + rng.normal(0, scale, n_classes)
    if integer or (integer is None and draw(st.booleans())):
        scores = np.round(scores)
    return scores - 100.0, block


def pulls_of(scores, block):
    return scores.reshape(-1, block, scores.shape[1]).mean(axis=1)


def play(rule: Rule, scores, block: int = 1, rng: np.random.Generator | None = None) -> Race:
    """Race to the end; with `rng` every request is answered in random pieces, in random order."""
    race = Race(scores.shape[1], len(scores) // block, rule, block)
    while not race.done:
        request = race.request()
        assert request.passes > 0
        pieces = [(order, request.classes) for order in request.orders]
        if rng is not None:
            cells = [(order, c) for order in request.orders for c in request.classes]
            pieces = [(cells[i][0], np.array([cells[i][1]])) for i in rng.permutation(len(cells))]
        for order, classes in pieces:
            race.record(order, classes, scores[order, classes])
    return race


# the same decisions, however fed


@settings(max_examples=100, deadline=None)
@given(rule=ANY_RULE, tensor=score_tensors(), seed=st.integers(0, 2**32))
def test_live_races_in_any_interleaving_are_run(rule, tensor, seed):
    """Answer, pulls and passes of a live race, fed one score at a time at random, equal `run`'s."""
    scores, block = tensor
    race = play(rule, scores, block, np.random.default_rng(seed))
    outcome = run(rule, pulls_of(scores, block)[None])
    assert race.leader == outcome.prediction[0]
    assert race.n == outcome.n[0]
    assert race.passes == outcome.passes[0] * block
    assert outcome.decided[0] == (race.n < race.k_max)
    assert race.alive.sum() == 1 and race.done and race.request().passes == 0


@settings(max_examples=60, deadline=None)
@given(rule=ANY_RULE, tensor=score_tensors(), seed=st.integers(0, 2**32))
def test_scores_that_arrive_early_wait_their_turn(rule, tensor, seed):
    """Everything fed at once, unasked and in any order: who left, and when, is as if it had been asked."""
    scores, block = tensor
    asked = play(rule, scores, block)
    race = Race(scores.shape[1], len(scores) // block, rule, block)
    cells = [(order, c) for order in range(len(scores)) for c in range(scores.shape[1])]
    for i in np.random.default_rng(seed).permutation(len(cells)):
        order, c = cells[i]
        race.record(order, [c], [scores[order, c]])
    np.testing.assert_array_equal(race.left_at, asked.left_at)
    assert (race.leader, race.n) == (asked.leader, asked.n)


@settings(max_examples=60, deadline=None)
@given(rule=ANY_RULE, tensor=score_tensors(), seed=st.integers(0, 2**32))
def test_looking_ahead_changes_no_decision(rule, tensor, seed):
    """Orders taken before their turn, of whoever was in then: the same answer after the same pulls."""
    scores, block = tensor
    rng = np.random.default_rng(seed)
    asked = play(rule, scores, block)
    race = Race(scores.shape[1], len(scores) // block, rule, block)
    while not race.done:
        requests = [race.request(), *(race.request_ahead() for _ in range(rng.integers(0, 4)))]
        for request in requests:
            for order in request.orders:
                race.record(order, request.classes, scores[order, request.classes])
    np.testing.assert_array_equal(race.left_at, asked.left_at)
    assert (race.leader, race.n) == (asked.leader, asked.n) and race.passes >= asked.passes
    np.testing.assert_allclose(race.means(), asked.means())


@settings(max_examples=40, deadline=None)
@given(rule=ANY_RULE, tensors=st.lists(st.integers(0, 2**32), min_size=1, max_size=5))
def test_a_stack_of_races_is_each_race(rule, tensors):
    """`run` on I images is `run` on each: no race sees another. Memory layout does not matter."""
    scores = np.stack([np.random.default_rng(s).normal(0, 2, (9, 5)) for s in tensors])
    stack = run(rule, scores)
    laid_out = run(rule, np.asfortranarray(scores))
    for i in range(len(tensors)):
        one = run(rule, scores[i : i + 1])
        for field in ("prediction", "n", "passes", "decided"):
            assert getattr(one, field)[0] == getattr(stack, field)[i] == getattr(laid_out, field)[i]


@settings(max_examples=40, deadline=None)
@given(rule=ANY_RULE, block=st.sampled_from([1, 2]), seed=st.integers(0, 2**32))
def test_races_that_share_a_stack_do_not_see_each_other(rule, block, seed):
    """Rows taken and given back, scores of several races put before any looks: as each alone."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(0, 2, (5, 8 * block, 4))
    stack = Races(3, 4, 8, rule, block)
    waiting, active, free = list(range(5)), {}, [0, 1, 2]
    while waiting or active:
        while waiting and free:
            i = waiting.pop()
            active[i] = Race(4, 8, rule, block)
            active[i].join(stack, free.pop())
        some = [i for i in active if rng.random() < 0.7]
        for i in some:
            request = active[i].request()
            for order in request.orders:
                active[i].put(order, request.classes, scores[i][order, request.classes])
        advance(active[i] for i in some)
        for i in [i for i in active if active[i].done]:
            race, alone = active.pop(i), play(rule, scores[i], block)
            free.append(race.row)
            race.leave()
            stack.scores[free[-1]] = np.nan  # what comes after it in its row is nothing to it
            np.testing.assert_array_equal(race.left_at, alone.left_at)
            assert race.means().tolist() == alone.means().tolist()
            assert (race.leader, race.n, race.passes) == (alone.leader, alone.n, alone.passes)


@settings(max_examples=60, deadline=None)
@given(rule=PAIRED_RULES, tensor=score_tensors(integer=True), seed=st.integers(0, 2**32))
def test_what_an_order_adds_to_all_classes_changes_nothing(rule, tensor, seed):
    """Paired rules, their separation and the probabilities see differences only."""
    scores, _ = tensor
    shift = np.random.default_rng(seed).integers(-50, 50, (len(scores), 1))
    one, other = play(rule, scores), play(rule, scores + shift)
    np.testing.assert_array_equal(one.left_at, other.left_at)
    assert one.separation(rule.bound) == other.separation(rule.bound)
    np.testing.assert_allclose(one.aggregate("mean"), other.aggregate("mean"), atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(rule=ANY_RULE, tensor=score_tensors(integer=False), seed=st.integers(0, 2**32))
def test_renaming_classes_renames_the_answer(rule, tensor, seed):
    scores, block = tensor
    permutation = np.random.default_rng(seed).permutation(scores.shape[1])
    one, other = play(rule, scores, block), play(rule, scores[:, permutation], block)
    assert permutation[other.leader] == one.leader
    np.testing.assert_array_equal(other.left_at, one.left_at[permutation])


def test_run_takes_single_precision_as_the_live_race_does():
    """A float32 trace is raced in float64: sums in float32 would differ from the live race's."""
    scores = (np.random.default_rng(0).normal(0, 1, (300, 32, 10)) - 20_000).astype(np.float32)
    one, other = run(PAIRED, scores), run(PAIRED, scores.astype(float))
    np.testing.assert_array_equal(one.prediction, other.prediction)
    np.testing.assert_array_equal(one.passes, other.passes)


# what is asked and counted


@settings(max_examples=40, deadline=None)
@given(tensor=score_tensors())
def test_fixed_is_the_paper_s_classifier(tensor):
    """All C · K passes, and exactly the argmax of the mean."""
    scores, block = tensor
    race = play(make_rule("fixed"), scores, block)
    assert race.passes == scores.size
    assert race.leader == pulls_of(scores, block).mean(axis=0).argmax()


@settings(max_examples=60, deadline=None)
@given(rule=ANY_RULE, tensor=score_tensors())
def test_no_score_is_asked_twice_nor_of_the_dead(rule, tensor):
    scores, block = tensor
    race = Race(scores.shape[1], len(scores) // block, rule, block)
    asked = np.zeros(scores.shape, int)
    while not race.done:
        request = race.request()
        assert race.alive[request.classes].all()
        assert race.request().passes == 0  # asked already
        leader = race.leader if race.n else None
        assert leader is None or leader in request.classes
        for order in request.orders:
            asked[order, request.classes] += 1
            race.record(order, request.classes, scores[order, request.classes])
    assert asked.max() == 1 and asked.sum() == race.passes


def test_a_request_reaches_to_the_rules_next_look():
    """Orders between two looks are asked for together: 5 and 6 after look 4, in pairs for block 2."""
    race = Race(3, 32, PAIRED, block=2)
    seen = []
    while race.n < 6:
        request = race.request()
        seen.append(request.orders)
        for order in request.orders:
            race.record(order, request.classes, np.zeros(len(request.classes)))
    assert seen == [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9, 10, 11)]


def test_half_an_antithetic_pair_is_no_pull():
    race = Race(2, 4, PAIRED, block=2)
    race.record(0, [0, 1], [0.0, 50.0])
    assert (race.n, race.orders, race.passes) == (0, 0, 2)
    race.record_prefix([0.0, 50.0])  # a budget may end here
    assert race.leader == 1 and np.isneginf(race.intervals()[0]).all()
    race.record(1, [0, 1], [10.0, 0.0])
    assert (race.n, race.orders, race.passes) == (1, 2, 4)
    assert race.means().tolist() == [5, 25] and race.leader == 1


def test_one_order_at_most_is_argmax():
    """k_max = 1: the first order decides, as `fixed` with K = 1."""
    for name in RULES:
        race = play(make_rule(name, 0.05, PRIORS), np.array([[-3.0, -1.0, -2.0]]))
        assert (race.leader, race.n, race.passes) == (1, 1, 3)
        assert race.separation(ModeratedT(PRIOR)) == 0


@pytest.mark.parametrize(("n_classes", "k_max"), [(1, 4), (0, 4), (2, 0)])
def test_races_without_rivals_or_orders_are_refused(n_classes, k_max):
    with pytest.raises(ValueError, match="at least"):
        Race(n_classes, k_max, PAIRED)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_no_numbers_are_refused(bad):
    """A NaN taken silently would stall the race for ever (it reads as not scored yet)."""
    race = Race(2, 4, PAIRED)
    with pytest.raises(ValueError, match=r"finite|number|NaN"):
        race.record(0, np.array([0, 1]), np.array([bad, 1.0]))


# the answer at any moment


def test_before_the_first_order_a_prefix_answers():
    race = Race(3, 8, PAIRED)
    np.testing.assert_allclose(race.aggregate("mean"), np.full(3, 1 / 3))  # nothing known
    assert race.separation(PlainT()) == 1
    race.record_prefix([-5.0, -1.0, -3.0])
    assert race.leader == 1
    np.testing.assert_allclose(race.aggregate("mean", 2.0), softmax(np.array([-2.5, -0.5, -1.5])))
    assert race.separation(PlainT()) == 1
    assert np.isneginf(race.intervals()[0]).all() and np.isposinf(race.intervals()[1]).all()
    race.record(0, [0, 1, 2], [0.0, -1.0, -1.0])
    assert race.leader == 0  # a whole order outranks a prefix


def test_a_budget_that_ends_amid_an_order_leaves_the_answer_of_whole_orders():
    race = Race(4, 8, make_rule("fixed"))
    race.record(0, np.arange(4), [0.0, 3.0, 1.0, 2.0])
    race.record(1, np.array([0, 2]), [100.0, 200.0])
    assert (race.leader, race.n, race.orders, race.passes) == (1, 1, 1, 6)
    assert race.means().tolist() == [0, 3, 1, 2]


@settings(max_examples=60, deadline=None)
@given(rule=PAIRED_RULES, tensor=score_tensors(integer=False), shared=st.sampled_from([0.0, 30.0]))
def test_the_most_probable_class_is_the_answer(rule, tensor, shared):
    """Who left saw fewer orders; had those been kind to all classes, its own mean would beat the
    leader's. Means must be compared on the orders that are shared."""
    scores, block = tensor
    scores = scores + np.random.default_rng(1).normal(0, shared, (len(scores), 1))
    race = play(rule, scores, block)
    probability = race.aggregate("mean")
    assert probability.sum() == pytest.approx(1)
    assert probability[race.leader] == probability.max()  # who left may tie with it, not beat it


def test_who_left_keeps_its_distance_to_the_leader():
    """Class 1 leaves after order 0, 50 nats behind on an order 100 nats above the second."""
    race = Race(3, 4, make_rule("paired", 0.2, PRIORS))
    race.record(0, np.arange(3), [0.0, -50.0, -0.1])
    assert race.alive.tolist() == [True, False, True]
    race.record(1, np.array([0, 2]), [-100.0, -100.1])
    means = race.means()
    assert means[0] - means[1] == pytest.approx(50)
    assert means[0] - means[2] == pytest.approx(0.1)


# how sure it is


@settings(max_examples=100, deadline=None)
@given(rule=PAIRED_RULES, tensor=score_tensors(integer=False))
def test_decided_means_separated_at_delta(rule, tensor):
    """A race that its rule ended before K_max is separated at the rule's δ or better, by the same bound."""
    scores, block = tensor
    race = play(rule, scores, block)
    if race.n < race.k_max:
        assert race.separation(rule.bound) <= rule.delta * (1 + 1e-9)
    elif (race.left_at[~race.alive] == race.k_max).all():
        assert race.separation(rule.bound) == 0


@pytest.mark.parametrize("bound", [PlainT(), ModeratedT(PRIOR), NormalMixture(PRIOR)], ids=repr)
def test_tied_classes_are_not_separated(bound):
    """Two classes of identical scores (a label given twice) are at best an even bet, never certain."""
    race = Race(2, 8, make_rule("fixed"))
    for order in range(3):
        race.record(order, [0, 1], [-1.0 * order, -1.0 * order])
    assert race.separation(bound) >= 0.5


@pytest.mark.parametrize("n", [1, 3, 10])
def test_separation_is_honest(n):
    """Stopped by a budget after n of 16 orders: P(separation ≤ δ and another K_max answer) ≤ δ."""
    rng = np.random.default_rng(n)
    bound, trials, errors = ModeratedT(VariancePrior(2.0, 0.0, 1e4)), 200, {0.05: 0, 0.5: 0}
    for _ in range(trials):
        scores = rng.normal(size=(16, 4)) + rng.normal(0, 0.7, 4)
        race = Race(4, 16, make_rule("fixed"))
        for order in range(n):
            race.record(order, np.arange(4), scores[order])
        if race.leader != scores.mean(axis=0).argmax():
            for delta in errors:
                errors[delta] += race.separation(bound) <= delta
    for delta, count in errors.items():
        assert count <= binom.isf(1e-4, trials, delta)


@pytest.mark.parametrize("name", ["paired", "strict", "marginal"])
def test_a_class_leaves_when_its_interval_says_so(name):
    """At the last look: living classes' upper bounds reach the leader's mean (marginal: its lower bound),
    those of the classes that left did not. Rules without bounds show none."""
    scores = np.random.default_rng(3).normal(size=(6, 8)) - 1.5 * np.arange(8)
    race = Race(8, 16, make_rule(name, 0.2, PRIORS))
    alive = race.alive
    for order in range(6):
        if race.done:
            break
        alive = race.alive
        race.record(order, np.flatnonzero(alive), scores[order, alive])
    lower, upper = race.intervals()
    assert (lower <= upper).all() and np.isfinite(upper).all() and (~race.alive).sum() > 0
    lead = race.leader
    bar = lower[lead] if name == "marginal" else race.means()[lead]
    living = np.flatnonzero(race.alive)
    assert (upper[living] >= bar).all()
    assert (upper[race.left_at == race.n] < bar).all()
    assert lower[lead] <= race.means()[lead] <= upper[lead]


def test_rules_without_bounds_show_none():
    lower, upper = play(FunnelRule(), np.random.default_rng(4).normal(size=(16, 8))).intervals()
    assert np.isneginf(lower).all() and np.isposinf(upper).all()


# aggregation


def test_aggregates_by_hand():
    """(1/K) Σ log p, log (1/K) Σ p and (1/K) Σ softmax, over the second last axis."""
    p = np.array([[0.5, 0.2], [0.1, 0.2]])
    np.testing.assert_allclose(aggregate_scores(np.log(p), "mean"), np.log(np.sqrt([0.05, 0.04])))
    np.testing.assert_allclose(aggregate_scores(np.log(p), "logmeanexp"), np.log([0.3, 0.2]))
    np.testing.assert_allclose(
        aggregate_scores(np.log(p), "softmax"), [(5 / 7 + 1 / 3) / 2, (2 / 7 + 2 / 3) / 2]
    )
    with pytest.raises(ValueError, match="choose from mean, logmeanexp, softmax"):
        aggregate_scores(p, "median")


def test_aggregates_survive_log_likelihoods_of_whole_images():
    """−20,000 nats: nothing underflows; probabilities sum to one, log-mean-exp as SciPy's."""
    scores = np.random.default_rng(5).normal(-20_000, 5, (8, 10))
    race = play(make_rule("fixed"), scores)
    for how in AGGREGATORS:
        assert race.aggregate(how, 3.0).sum() == pytest.approx(1)
    expected = softmax((logsumexp(scores, axis=0) - np.log(8)) / 3.0)
    np.testing.assert_allclose(race.aggregate("logmeanexp", 3.0), expected)


def test_other_aggregates_than_the_mean_need_every_score():
    race = play(PAIRED, np.random.default_rng(6).normal(size=(16, 4)) - [0, 0, 0, 30])
    assert race.n > 1 and race.passes < 4 * race.n
    for how in ("logmeanexp", "softmax"):
        with pytest.raises(ValueError, match="rule 'fixed'"):
            race.aggregate(how)
