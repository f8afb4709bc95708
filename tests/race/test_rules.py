"""Rules: what they promise of a whole race, shown by Monte Carlo, and which promise nothing.

Races are drawn from the model the bounds assume: normal class noise of sd 1 (so a paired difference has
variance 2, the prior's), plus ups and downs that an order gives to all classes. A sound rule fails one
of these tests with probability below 1e-4; seeds are fixed.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from fitted_rules import TOKENS, design, model_rule
from scipy.stats import binom, ttest_rel

from anytime_cls.race.bounds import ModeratedT, PlainT, VariancePrior
from anytime_cls.race.fitted import Design, Fit, Fitted
from anytime_cls.race.peers import ClarkJainiRule, FunnelRule, HalvingRule, MarginalRule, top
from anytime_cls.race.races import aggregate_scores, run
from anytime_cls.race.registry import CALIBRATED, RULES, make_rule
from anytime_cls.race.rules import CalibratedRule, PairedRule, Seen, paired, sparse_looks

PRIORS = {
    "paired": VariancePrior(scale=2.0, power=0.0, df=40.0),
    "marginal": VariancePrior(scale=1.0, power=0.0, df=40.0),
}
K = 16


def races(seed: int, n: int, n_classes: int, spread: float = 0.0, shared: float = 5.0, k_max: int = K):
    """Scores [n, K, C]: class means spread apart, an order's shared noise, class noise of sd 1."""
    rng = np.random.default_rng(seed)
    means = rng.normal(0, spread, (n, 1, n_classes))
    return means + rng.normal(0, shared, (n, k_max, 1)) + rng.normal(size=(n, k_max, n_classes))


def wrong(rule, scores) -> int:
    """Races whose answer is not that of all K_max orders."""
    return int((run(rule, scores).prediction != scores.mean(axis=1).argmax(axis=1)).sum())


def at_most(errors: int, n: int, delta: float) -> bool:
    return errors <= binom.isf(1e-4, n, delta)


# δ


@pytest.mark.parametrize("spread", [0.0, 1.0], ids=["all-tied", "spread"])
@pytest.mark.parametrize(("n_classes", "n"), [(2, 2000), (10, 1000), (100, 150)])
@pytest.mark.parametrize("name", ["paired", "strict", "marginal"])
def test_a_race_disagrees_with_k_max_at_most_delta(name, n_classes, n, spread):
    """P(answer ≠ K_max answer) ≤ δ over all rivals and looks, whatever the means."""
    shared = 0.0 if name == "marginal" else 5.0  # the marginal prior above is of class noise alone
    scores = races(n_classes, n, n_classes, spread, shared)
    for delta in (0.05, 0.3):
        assert at_most(wrong(make_rule(name, delta, PRIORS), scores), n, delta)


def test_the_plain_t_holds_too():
    """Without priors `paired` falls back to the plain t, which knows no variance but what it sees."""
    scores = 7.0 * races(1, 1000, 10)
    for name in ("paired", "marginal"):
        assert at_most(wrong(make_rule(name, 0.05), scores), 1000, 0.05)


def test_two_classes_spend_what_delta_allows():
    """One tied rival: the union over looks is the only slack, so a bound that never acts fails here."""
    errors = wrong(make_rule("paired", 0.3, PRIORS), races(2, 2000, 2))
    assert errors > 0.03 * 2000


# power


def test_clear_races_end_early():
    """Class means 6 noise deviations apart: a tenth of the full cost suffices, strict needs a third."""
    scores = races(3, 200, 20, spread=6.0)
    full = K * 20
    assert run(make_rule("paired", 0.05, PRIORS), scores).passes.mean() < 0.15 * full
    assert run(make_rule("strict", 0.05, PRIORS), scores).passes.mean() < 0.4 * full
    assert run(make_rule("paired", 0.05), scores).passes.mean() < 0.4 * full  # plain t


def test_looser_delta_is_never_slower_and_k_max_bounds_all():
    scores = races(4, 100, 10, spread=2.0)
    passes = [
        run(make_rule("paired", delta, PRIORS), scores).passes.sum() for delta in (1e-4, 0.01, 0.1, 0.5)
    ]
    assert passes == sorted(passes, reverse=True)
    assert passes[0] <= 100 * K * 10


def test_shared_noise_cancels_for_paired_and_blinds_marginal():
    """An order's ups and downs of 20 deviations: `paired` does not notice, `marginal` drops nobody."""
    calm = races(5, 100, 10, spread=4.0, shared=0.0)
    noisy = calm + np.random.default_rng(5).normal(0, 20, (100, K, 1))
    rule = make_rule("paired", 0.05, PRIORS)
    assert run(rule, calm).passes.sum() == run(rule, noisy).passes.sum()
    full = 100 * K * 10
    marginal = make_rule("marginal", 0.05)
    assert run(marginal, noisy).passes.sum() > 0.95 * full
    assert run(marginal, calm).passes.sum() < 0.8 * full


# where there is no promise


def test_clark_jaini_promises_nothing_over_many_classes_and_looks():
    """p < 2e-3 for each of 19 rivals at each of 9 looks: of classes with the very same expectation one is
    dropped in far more than 2e-3, or 5 %, of the races."""
    scores, alive, rule = races(6, 60, 20, shared=0.0, k_max=100), np.ones((60, 20), bool), ClarkJainiRule()
    dropped = np.zeros(60, bool)
    for n in range(20, 101, 10):
        dropped |= ~rule.keep(Seen(scores[:, :n], alive, 10_000)).all(axis=1)
    assert dropped.mean() > 0.2


def test_funnel_and_halving_promise_nothing():
    scores = races(7, 300, 10)
    for name in ("funnel", "halving"):
        assert wrong(make_rule(name), scores) > 0.2 * 300


def test_paired_does_not_hold_when_variances_are_not_the_prior_s():
    """Noise of three times the fitted deviation: far more than δ of the races disagree."""
    prior = {"paired": VariancePrior(scale=2.0 / 9, power=0.0, df=40.0)}
    assert wrong(make_rule("paired", 0.05, prior), races(8, 300, 10)) > 0.3 * 300


def test_marginal_at_one_order_leans_on_its_prior_alone():
    """One order says nothing of a class's variance: the plain t keeps all, a prior that has not seen
    the classes' true noise drops the winner."""
    scores = races(9, 300, 10, shared=0.0)
    alive = np.ones((300, 10), bool)
    assert make_rule("marginal", 0.05).keep(Seen(scores[:, :1], alive, K)).all()
    narrow = MarginalRule(ModeratedT(VariancePrior(0.05, 0.0, 40.0)), 0.05)
    kept = narrow.keep(Seen(scores[:, :1], alive, K))
    winner = scores.mean(axis=1).argmax(axis=1)
    assert (~kept[np.arange(300), winner]).mean() > 0.3


def test_paired_bounds_the_mean_of_log_p_and_no_other_aggregate():
    """log-mean-exp is led by a class's luckiest order: a class with lower mean and more spread wins
    there, and `paired` drops it in nearly every race."""
    scores = np.random.default_rng(10).normal(size=(200, K, 2)) * [0.1, 4.0] - [0.0, 4.0]
    rule = PairedRule(PlainT(), 0.05)
    assert wrong(rule, scores) <= 0.05 * 200
    other = aggregate_scores(scores, "logmeanexp").argmax(axis=1)
    assert (run(rule, scores).prediction != other).mean() > 0.5


# every rule


@pytest.mark.parametrize("k_max", [1, 2, 3, 5, 19, 20, 21, 32, 100])
@pytest.mark.parametrize("n_classes", [2, 3, 10, 1000])
@pytest.mark.parametrize("name", RULES)
def test_looks_ascend_and_end_at_k_max(name, n_classes, k_max):
    looks = make_rule(name, 0.05, PRIORS).looks(n_classes, k_max)
    assert looks[0] >= 1 and looks[-1] == k_max
    assert list(looks) == sorted(set(looks))


def test_sparse_looks():
    assert sparse_looks(32) == (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
    assert sparse_looks(20) == (1, 2, 3, 4, 6, 8, 12, 16, 20)
    assert sparse_looks(1) == (1,)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", RULES)
def test_the_leader_stays_the_dead_stay_dead_and_nan_is_theirs_alone(name):
    """At every look: the living leader is kept, no class returns, and the NaN of the dead warn nobody."""
    rng = np.random.default_rng(11)
    scores = rng.normal(size=(50, 40, 12)) * 3
    rule = make_rule(name, 0.05, PRIORS)
    alive = np.ones((50, 12), bool)
    for look in rule.looks(12, 40)[:-1]:
        seen = np.where(alive[:, None], scores[:, :look], np.nan)
        keep = rule.keep(Seen(seen, alive, 40))
        leader = np.where(alive, scores[:, :look].mean(axis=1), -np.inf).argmax(axis=1)
        assert keep[np.arange(50), leader].all()
        assert not (keep & ~alive).any()
        alive = keep


@pytest.mark.parametrize("name", ["paired", "strict", "marginal", "clark-jaini"])
def test_ties_are_kept(name):
    """Classes with the leader's very scores are never dropped before K_max."""
    column = np.random.default_rng(12).normal(size=(1, 30, 1))
    scores = np.repeat(column, 4, axis=2)
    rule = make_rule(name, 0.5, PRIORS)
    for look in rule.looks(4, 31)[:-1]:
        assert rule.keep(Seen(scores[:, :look], np.ones((1, 4), bool), 31)).all()


def test_paired_splits_delta_over_rivals_and_looks():
    rule = make_rule("paired", 0.05, PRIORS)
    assert rule.alpha(10, 32) == pytest.approx(0.05 / 9 / 9)  # 9 rivals, 9 looks before K_max
    assert rule.alpha(2, 1) == 0.05
    assert make_rule("strict", 0.05, PRIORS).alpha(10, 32) == pytest.approx(0.05 / 9)  # anytime: no looks


def test_paired_differences_by_hand():
    scores = np.array([[[1.0, 3.0, 0.0], [3.0, 4.0, np.nan]]])
    gap, var = paired(scores, np.array([[True, True, False]]))
    np.testing.assert_allclose(gap[0], [1.5, 0.0, np.nan])
    np.testing.assert_allclose(var[0], [0.5, 0.0, np.nan])


def test_clark_jaini_is_scipys_paired_t_test():
    """Their p-value is `ttest_rel`'s, which is two-sided; nothing happens before 20 scores."""
    scores = races(13, 1, 30, spread=0.7, k_max=60)
    rule = ClarkJainiRule()
    assert rule.looks(30, 60)[0] == 20 and rule.looks(30, 12) == (12,)
    keep = rule.keep(Seen(scores[:, :25], np.ones((1, 30), bool), 60))[0]
    seen = scores[0, :25]
    lead = seen[:, [seen.mean(axis=0).argmax()]]
    with np.errstate(invalid="ignore", divide="ignore"):
        p = ttest_rel(np.repeat(lead, 30, axis=1), seen).pvalue
    assert 0 < keep.sum() < 30
    np.testing.assert_array_equal(~keep, np.nan_to_num(p, nan=1.0) < 2e-3)


@pytest.mark.parametrize(("k_max", "passes"), [(32, 2 * 10 + 6 * 5 + 24 * 2), (1, 10), (4, 10 + 3 * 2)])
def test_funnel_costs_the_same_for_every_image(k_max, passes):
    """Best 5 after K/16, best 2 after K/4; stages that fall together keep the fewer."""
    assert set(run(FunnelRule(), races(14, 20, 10, k_max=k_max)).passes) == {passes}


@pytest.mark.parametrize(("n_classes", "k_max"), [(2, 8), (10, 32), (100, 32), (100, 128), (1000, 64)])
def test_halving_halves_in_log2_rounds(n_classes, k_max):
    """Each round keeps ⌈half⌉, ⌈log2 C⌉ rounds leave one class if K_max allows (Baharav & Tse 2019)."""
    plan = HalvingRule()._plan(n_classes, k_max)
    left = n_classes
    for kept in plan.values():
        assert kept == math.ceil(left / 2)
        left = kept
    assert left == 1 or max(plan) == k_max
    assert len(plan) <= math.ceil(math.log2(n_classes))


@pytest.mark.parametrize(("n_classes", "k_max"), [(16, 256), (32, 256), (10, 256)])
def test_halving_spends_its_budget_in_equal_rounds(n_classes, k_max):
    """t_r = ⌊T / (|S_r| ⌈log2 C⌉)⌋ new orders a round, so every round costs about T / ⌈log2 C⌉."""
    plan = HalvingRule(saving=8.0)._plan(n_classes, k_max)
    budget, rounds = n_classes * k_max / 8.0, math.ceil(math.log2(n_classes))
    left, before = n_classes, 0
    for n, kept in plan.items():
        cost = (n - before) * left
        assert budget / rounds - left < cost <= budget / rounds
        left, before = kept, n


def test_top_breaks_ties_by_index():
    assert top(np.array([[1.0, 2.0, 2.0, -np.inf]]), 1).tolist() == [[False, True, False, False]]
    assert top(np.array([[1.0, 2.0]]), 5).all()


# make_rule


@pytest.mark.parametrize("name", RULES)
def test_make_rule_names_what_it_makes(name):
    assert make_rule(name, 0.05, PRIORS).name == name


def test_make_rule_refuses_in_one_line():
    with pytest.raises(ValueError, match=r"unknown rule 'pared': choose from paired, strict"):
        make_rule("pared")
    for delta in (0, 1, -0.1, math.nan):
        with pytest.raises(ValueError, match="delta must lie between 0 and 1"):
            make_rule("paired", delta)
    with pytest.raises(ValueError, match="needs a variance prior"):
        make_rule("strict")


def test_settings_reach_their_rule_and_no_other():
    assert make_rule("halving", saving=4.0) == HalvingRule(saving=4.0)
    assert make_rule("clark-jaini", p_value=0.1, min_scores=3) == ClarkJainiRule(0.1, 3)
    assert make_rule("funnel", stages=((0.5, 2),)) == FunnelRule(((0.5, 2),))
    for name, classes in (("paired", 9), ("marginal", 10)):  # δ's share as alpha is δ
        share = 0.05 / classes / 9
        one, other = make_rule(name, 0.05, PRIORS), make_rule(name, 0.9, PRIORS, alpha=share)
        scores = races(20, 50, 10, spread=1.0, k_max=32)
        np.testing.assert_array_equal(run(one, scores).passes, run(other, scores).passes)
    with pytest.raises(ValueError, match="rule 'funnel' has no setting 'saving'; it has stages"):
        make_rule("funnel", saving=4.0)
    with pytest.raises(ValueError, match="rule 'fixed' has no setting 'alpha'; it has none"):
        make_rule("fixed", alpha=0.1)
    with pytest.raises(ValueError, match="alpha must lie between 0 and 1"):
        make_rule("paired", alpha=0.0)


# calibrated


def calibration(
    risk: float, alpha: float, k_max: int = 32, n_classes: int = 10, sampler: str = "uniform", **more
):
    return more | {
        "risk": risk, "k_max": k_max, "n_classes": n_classes, "order_sampler": sampler,
        "prior": PRIORS["paired"].to_dict(), "thresholds": {"1": alpha, "4": alpha / 2, "16": alpha},
    }  # fmt: skip


def read(*entries: dict):
    return Fitted.read({"calibrated": list(entries)}, TOKENS).calibrated


ENTRIES = read(calibration(0.01, 0.1), calibration(0.05, 0.3), calibration(0.02, 0.2, k_max=8))


def test_calibrated_takes_the_largest_risk_up_to_delta():
    for delta, risk, alpha in ((0.01, 0.01, 0.1), (0.03, 0.01, 0.1), (0.05, 0.05, 0.3), (0.9, 0.05, 0.3)):
        rule = make_rule(CALIBRATED, delta, calibrated=ENTRIES, design=design(32, 10))
        assert (rule.name, rule.delta, rule.alpha(10, 32, 1)) == ("calibrated", risk, alpha)
    assert make_rule(CALIBRATED, 0.05, calibrated=ENTRIES, design=design(8, 10)).delta == 0.02


def test_calibrated_looks_where_it_was_fitted():
    """Its own looks and thresholds; between two looks (for intervals) the one before holds."""
    rule = make_rule(CALIBRATED, 0.05, calibrated=ENTRIES, design=design(32, 10))
    assert isinstance(rule, CalibratedRule) and rule.looks(10, 32) == (1, 4, 16, 32)
    assert [rule.alpha(10, 32, n) for n in (1, 3, 4, 15, 31)] == [0.3, 0.3, 0.15, 0.15, 0.3]
    scores = races(21, 50, 10, spread=1.0, k_max=32)
    kept = rule.keep(Seen(scores[:, :4], np.ones((50, 10), bool), 32))
    gap, var = paired(scores[:, :4], np.ones((50, 10), bool))
    tail = ModeratedT(PRIORS["paired"]).tail(gap, var, 4, 32)
    np.testing.assert_array_equal(kept, tail >= 0.15)


@pytest.mark.parametrize(
    ("delta", "races"),
    [(0.005, design(32, 10)), (0.05, design(16, 10)), (0.05, design(32, 9)),
     (0.05, design(32, 10, "antithetic"))],
)  # fmt: skip
def test_calibrated_is_refused_for_other_races_listing_what_there_is(delta, races):
    with pytest.raises(
        ValueError, match=r"is risk 0\.01 at 32 uniform orders of 64 tokens and 10 classes; "
    ) as caught:
        make_rule(CALIBRATED, delta, calibrated=ENTRIES, design=races)
    assert "\n" not in str(caught.value)


def test_calibrated_needs_a_calibration_that_can_be_read():
    with pytest.raises(ValueError, match="this model has none: 'anytime-cls calibrate' makes one"):
        make_rule(CALIBRATED, 0.05)
    good = calibration(0.01, 0.1)
    for entry, said in (
        ({"risk": 0.01}, r"missing required field `k_max`.* at `\$\.calibrated\[0\]`"),
        ("risk", r"Expected `object`, got `str` - at `\$\.calibrated\[0\]`"),
        (good | {"thresholds": {"a": 1}}, r"\$\.calibrated\[0\]\.thresholds"),
        (good | {"thresholds": {"1": math.nan}}, r"\$\.calibrated\[0\]\.thresholds"),
        (good | {"risk": "x"}, r"Expected `float`, got `str` - at `\$\.calibrated\[0\]\.risk`"),
        (good | {"temperature": 0}, r"\$\.calibrated\[0\]\.temperature"),
        (good | {"rungs": [[0, 1.0]]}, r"\$\.calibrated\[0\]\.rungs"),
    ):
        with pytest.raises(ValueError, match="what was fitted does not make sense: .*" + said):
            read(entry)


def test_a_models_rule_has_its_priors_by_the_pull():
    """Antithetic pairs vary half as much as orders do; one constant order makes K_max 1."""
    fields = {"priors": {key: prior.to_dict() for key, prior in PRIORS.items()},
              "calibrated": [calibration(0.01, 0.1, k_max=1, sampler="constant")]}  # fmt: skip
    rule = model_rule(fields, "paired", 0.1, 32, 10, "antithetic")
    assert rule == PairedRule(ModeratedT(Fit(PRIORS).of_pulls(2)["paired"]), 0.1)
    assert rule.bound.prior.scale == 1.0 and rule.bound.prior.df == 40
    assert model_rule(fields, CALIBRATED, 0.1, 32, 10, "constant").delta == 0.01
    assert model_rule({}, "paired", 0.1, 32) == PairedRule(PlainT(), 0.1)


def test_calibrated_is_for_one_prefix_and_one_loss():
    """A whole order's threshold says nothing of a prefix's, nor one for accuracy of disagreement."""
    entries = read(
        calibration(0.05, 0.3), calibration(0.05, 0.2, prefix=8), calibration(0.01, 0.4, loss="accuracy"),
        calibration(0.05, 0.1, sampler="stratified", prefix=8, rungs=[[4, 2.5], [2, 3.5]]),
    )  # fmt: skip

    def made(races: Design, delta: float = 0.05, **settings):
        return make_rule(CALIBRATED, delta, calibrated=entries, design=races, **settings)

    assert made(design(32, 10)).alpha(10, 32) == 0.3
    assert made(design(32, 10, prefix=8)).alpha(10, 32) == 0.2
    assert made(design(32, 10), loss="accuracy").alpha(10, 32) == 0.4
    strata = made(design(32, 10, "stratified", 8))
    assert strata.alpha(10, 32) == 0.1 and strata.rungs == ((2, 3.5), (4, 2.5))
    assert made(design(32, 10)).rungs == ()
    said = (
        r"for risk 0\.05 or less at 32 stratified orders of 16 tokens and 10 classes: "
        r"there is risk 0\.05 at 32 uniform orders of 64 tokens and 10 classes; "
        r"risk 0\.05 at 32 uniform orders of 8 tokens and 10 classes; "
        r"accuracy drop 0\.01 at 32 uniform orders of 64 tokens and 10 classes"
    )
    with pytest.raises(ValueError, match=said):
        made(design(32, 10, "stratified", 16))
    with pytest.raises(
        ValueError, match=r"for accuracy drop 0\.005 or less at 32 uniform orders of 64 tokens"
    ):
        made(design(32, 10), 0.005, loss="accuracy")
    with pytest.raises(ValueError, match="loss must be disagreement or accuracy, got 'cost'"):
        made(design(32, 10), loss="cost")


def test_a_design_has_its_own_fields_or_none():
    """A prefix never borrows the whole order's priors: `paired` then drops nothing before two orders."""
    whole = {"paired": PRIORS["paired"].to_dict()}
    part = {"paired": PRIORS["paired"].to_dict() | {"scale": 0.5}}
    part_fields = {"order_sampler": "stratified", "prefix": 8, "priors": part, "temperature": 0.7}
    fields = {"priors": whole, "temperature": 2.0, "designs": [part_fields]}
    fitted = Fitted.read(fields, TOKENS)
    assert fitted.of("stratified", 8) == Fit({"paired": replace(PRIORS["paired"], scale=0.5)}, 0.7)
    assert fitted.of("antithetic", 64) == fitted.of("uniform", 64) == Fit({"paired": PRIORS["paired"]}, 2.0)
    assert fitted.of("uniform", 8) == fitted.of("stratified", 16) == Fit()
    assert model_rule(fields, "paired", 0.1, 32, 10, "stratified", 8).bound.prior.scale == 0.5
    assert model_rule(fields, "paired", 0.1, 32, 10, "stratified", 16).bound == PlainT()
    with pytest.raises(ValueError, match="needs a variance prior"):
        model_rule(fields, "strict", 0.1, 32, 10, "uniform", 8)


def test_a_merge_loses_nothing():
    """Where both know something the other's is taken; an entry without priors takes nothing away."""
    fit = {"priors": {"paired": PRIORS["paired"].to_dict()}, "temperature": 2.0}
    short = {"order_sampler": "stratified", "prefix": 8, **fit}
    model = Fitted.read({**fit, "designs": [short], "calibrated": [calibration(0.01, 0.1)]}, TOKENS)
    newer = calibration(0.01, 0.2)
    own = {"designs": [short | {"prefix": 16}, short | {"temperature": 3.0}], "temperature": 9.0}
    both = model.merge(Fitted.read({**own, "calibrated": [newer, calibration(0.05, 0.3)]}, TOKENS))
    assert both.of("stratified", 8).temperature == 3.0 and both.of("stratified", 16).temperature == 2.0
    assert both.of("uniform", TOKENS) == model.of("uniform", TOKENS)
    assert [(entry.risk, entry.thresholds[0][1]) for entry in both.calibrated] == [(0.01, 0.2), (0.05, 0.3)]
