"""Bounds: each holds under the model it assumes, has power, and is shown where it does not hold.

A Monte Carlo test fails when a sound bound would produce such a count with probability below 1e-4
(`ALARM`): at most the 1 − 1e-4 binomial quantile of errors. Seeds are fixed.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from anytime_cls.certify.priors import fit_variance_prior
from anytime_cls.draws.orders import OrderSampler
from anytime_cls.race.bounds import Bound, ModeratedT, NormalMixture, PlainT, VariancePrior, effective_n

ALARM = 1e-4
K = 16
N = 10_000
PRIOR = VariancePrior(scale=4.0, power=0.0, df=10.0)
SLOPED = VariancePrior(scale=4.0, power=1.0, df=10.0)
BOUNDS: list[Bound] = [PlainT(), PlainT(finite=False), ModeratedT(PRIOR), NormalMixture(PRIOR)]
SLOPED_BOUNDS: list[Bound] = [ModeratedT(SLOPED), NormalMixture(SLOPED)]


def at_most(errors: int, n: int, alpha: float) -> bool:
    """Errors a bound of level α may make in n trials; a sound one breaks this with probability ≤ ALARM."""
    return errors <= binom.isf(ALARM, n, alpha)


def at_least(errors: int, n: int, alpha: float) -> bool:
    """Errors that show a true rate not below α, up to chance."""
    return errors >= binom.ppf(ALARM, n, alpha)


def draw_variance(rng: np.random.Generator, prior: VariancePrior, gap: float, n: int) -> np.ndarray:
    """σ² from the prior: s0²(gap) · d0 / χ²(d0)."""
    return prior.variance(np.asarray(gap)) * prior.df / rng.chisquare(prior.df, n)


def differences(
    seed: int, gap: float, prior: VariancePrior = PRIOR, n: int = N, k_max: int = K
) -> np.ndarray:
    """Paired differences [n, k_max], normal with the prior's variances, whose K_max mean is exactly `gap`.

    gap = 0 is the least favourable pair that can still err.
    """
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, k_max)) * np.sqrt(draw_variance(rng, prior, gap, n))[:, None]
    return x - x.mean(axis=1, keepdims=True) + gap


def excluded(bound: Bound, x: np.ndarray, alpha: float, looks: Iterable[int]) -> np.ndarray:
    """Whether the bound of level α puts the class behind, at each look: bool [n, looks]."""
    out = []
    for n in looks:
        gap = x[:, :n].mean(axis=1)
        var = x[:, :n].var(axis=1, ddof=1) if n > 1 else np.zeros(len(x))
        out.append(gap > bound.radius(gap, var, n, x.shape[1], alpha))
    return np.stack(out, axis=1)


# what is exact


@pytest.mark.parametrize("n", [1, 2, 7, 15, 16])
def test_effective_n_is_the_variance_of_mean_n_minus_mean_kmax(n):
    """Var(mean_n − mean_K) = σ²/τ: the squared length of the weights that make that difference."""
    weights = np.where(np.arange(K) < n, 1 / n, 0) - 1 / K
    assert np.sum(weights**2) == pytest.approx(1 / effective_n(n, K))


def test_effective_n_without_a_finite_population():
    assert effective_n(5, None) == 5
    assert effective_n(16, 16) == np.inf


@pytest.mark.parametrize("bound", [PlainT(), *SLOPED_BOUNDS], ids=repr)
def test_nothing_is_left_to_chance_at_k_max(bound):
    """With all K_max orders scored the radius is 0, and any positive gap is certain."""
    gap, var = np.array([-1.0, 0.0, 1e-9, 5.0]), np.full(4, 3.0)
    assert bound.radius(gap, var, K, K, 1e-6).max() == 0
    assert bound.tail(gap, var, K, K).tolist() == [1, 1, 0, 0]


def test_plain_t_says_nothing_of_one_order_and_moderated_does():
    gap, var = np.array([50.0]), np.zeros(1)
    assert PlainT().radius(gap, var, 1, K, 0.05)[0] == np.inf
    assert PlainT().tail(gap, var, 1, K)[0] == 1
    assert ModeratedT(PRIOR).tail(gap, var, 1, K)[0] < 1e-6


@settings(max_examples=100, deadline=None)
@given(
    bound=st.sampled_from([*BOUNDS, *SLOPED_BOUNDS]),
    gap=st.floats(0.01, 100),
    var=st.floats(0.01, 100),
    n=st.integers(2, K - 1),
)
def test_radius_and_tail_are_two_faces_of_one_bound(bound, gap, var, n):
    """The tail is the level whose radius just reaches the gap."""
    alpha = float(bound.tail(np.array(gap), np.array(var), n, K))
    if 1e-12 < alpha < 0.4:
        assert bound.radius(np.array(gap), np.array(var), n, K, alpha) == pytest.approx(gap, rel=1e-5)


@pytest.mark.parametrize("bound", [*BOUNDS, *SLOPED_BOUNDS], ids=repr)
def test_negative_and_zero_gaps_are_never_evidence(bound):
    gap = np.array([-3.0, 0.0])
    for n in (1, 2, 5):
        assert (bound.tail(gap, np.full(2, 1.0), n, K) >= 0.5).all()
        assert not (gap > bound.radius(gap, np.full(2, 1.0), n, K, 0.05)).any()


@pytest.mark.parametrize("bound", [PlainT(), PlainT(finite=False), ModeratedT(SLOPED)], ids=repr)
def test_a_tie_without_variance_is_no_evidence(bound):
    """Identical scores of two classes: gap 0 and variance 0 is 0/0, and must not read as certainty."""
    assert bound.tail(np.zeros(1), np.zeros(1), 3, K)[0] >= 0.5


def test_figures_of_design_md():
    """Gap/sd needed on 100 classes, K_max 20, at n = 1, 2, 3, 5.

    The moderated figures split δ = 0.05 over 99 rivals and 19 looks (every order before K_max). The
    uncorrected ones are Clark & Jaini's test: two-sided p < 2e-3, no split, no finite population.
    """
    alpha = 0.05 / 99 / 19
    moderated = ModeratedT(VariancePrior(scale=1.0, power=0.0, df=40.0))
    needed = [float(moderated.radius(np.array(1.0), np.array(1.0), n, 20, alpha)) for n in (1, 2, 3, 5)]
    assert needed == pytest.approx([4.4, 3.0, 2.4, 1.7], abs=0.05)
    plain = PlainT(finite=False)
    needed = [float(plain.radius(np.array(1.0), np.array(1.0), n, 20, 1e-3)) for n in (1, 2, 3, 5)]
    assert needed == pytest.approx([np.inf, 225, 12.9, 3.2], rel=0.01)


def test_normal_mixture_tends_to_howards_known_variance_boundary():
    """d0 → ∞ gives gap² = (σ²/τ)(1 + ρ/τ)·log((τ+ρ)/(ρα²)) (Howard et al. 2021, eq. 14)."""
    sure = NormalMixture(VariancePrior(scale=4.0, power=0.0, df=1e9), rho=2.0)
    for n in (1, 4, 12):
        tau, alpha = effective_n(n, K), 0.01
        square = 4.0 / tau * (1 + 2.0 / tau) * np.log((tau + 2.0) / (2.0 * alpha**2))
        assert sure.radius(np.array(1.0), np.array(9.0), n, K, alpha) == pytest.approx(
            np.sqrt(square), rel=1e-4
        )


# where the bounds hold


@pytest.mark.parametrize("alpha", [0.05, 0.002])
@pytest.mark.parametrize("bound", [PlainT(), ModeratedT(PRIOR)], ids=repr)
def test_t_bounds_err_at_exactly_alpha_at_each_look(bound, alpha):
    """For a pair tied over K_max: P(excluded at n) = α, at every n: no more, and (power) no less."""
    looks = [2, 3, 5, 10, 15] if isinstance(bound, PlainT) else [1, 2, 3, 5, 10, 15]
    for errors in excluded(bound, differences(1, 0.0), alpha, looks).sum(axis=0):
        assert at_most(errors, N, alpha) and at_least(errors, N, alpha)


@pytest.mark.parametrize("gap", [0.0, -0.5, -3.0])
def test_a_prior_that_depends_on_the_gap_stays_on_the_safe_side(gap):
    """Variance grows with the true gap, the bound looks it up at the observed one: still ≤ α.

    A larger observed gap brings a larger prior variance; a true gap below zero must be overcome first.
    """
    for errors in excluded(ModeratedT(SLOPED), differences(2, gap, SLOPED), 0.05, [1, 2, 4, 8, 15]).sum(
        axis=0
    ):
        assert at_most(errors, N, 0.05)


@pytest.mark.parametrize("k_max", [K, 64])
@pytest.mark.parametrize("prior", [PRIOR, SLOPED], ids=["flat", "sloped"])
def test_normal_mixture_holds_at_all_looks_at_once(prior, k_max):
    """P(ever excluded before K_max) ≤ α, looking after every order and stopping when one likes.

    Stopping at the first exclusion is the stopping rule that is hardest on the bound.
    """
    alpha, n = 0.05, N // 4
    x = differences(3, 0.0, prior, n, k_max)
    ever = excluded(NormalMixture(prior), x, alpha, range(1, k_max)).any(axis=1)
    assert at_most(ever.sum(), n, alpha)
    if prior.power == 0:
        assert ever.mean() > alpha / 20  # it is a bound, not a refusal


def test_normal_mixture_is_two_sided():
    """The mixture spends its α on shifts of both signs: a shift of either sign is ever seen with P ≤ α."""
    x, n = differences(4, 0.0, n=N // 2), N // 2
    mixture = NormalMixture(PRIOR)
    either = excluded(mixture, x, 0.05, range(1, K)) | excluded(mixture, -x, 0.05, range(1, K))
    assert at_most(either.any(axis=1).sum(), n, 0.05)


def test_plain_t_without_the_finite_factor_is_only_wider():
    gap, var = np.ones(1), np.ones(1)
    for n in range(2, K):
        assert PlainT().radius(gap, var, n, K, 0.01) < PlainT(False).radius(gap, var, n, K, 0.01)


# where they have power


@pytest.mark.parametrize(
    ("bound", "n", "power"),
    [
        (PlainT(), 2, 0.004),
        (PlainT(), 8, 0.9),
        (ModeratedT(PRIOR), 1, 0.25),
        (ModeratedT(PRIOR), 2, 0.9),
        (NormalMixture(PRIOR), 4, 0.7),
        (NormalMixture(PRIOR), 6, 0.95),
    ],
    ids=str,
)
def test_a_gap_of_four_deviations_is_seen(bound, n, power):
    """K_max gap 8 nats at s0 = 2 nats, α = 5e-4: the share excluded at n is at least this."""
    assert excluded(bound, differences(5, 8.0, n=4000), 5e-4, [n]).mean() >= power


def test_moderation_beats_the_plain_t_when_orders_are_few():
    gap, var = np.ones(1), np.full(1, PRIOR.scale)
    for n in (1, 2, 3, 5):
        assert ModeratedT(PRIOR).radius(gap, var, n, K, 1e-3) < 0.8 * PlainT().radius(gap, var, n, K, 1e-3)


# where they do not hold


def test_t_bounds_do_not_hold_over_uncorrected_looks():
    """One α at every look: the chance that some look errs is well above α. Hence the split over looks."""
    for bound in (PlainT(), ModeratedT(PRIOR)):
        ever = excluded(bound, differences(6, 0.0), 0.05, range(2, K)).any(axis=1)
        assert ever.mean() > 2 * 0.05


def test_moderated_t_does_not_hold_where_the_variance_is_far_outside_the_prior():
    """True variance 9 × s0² with a confident prior: errors at n = 1 are over 50 × α, later fewer."""
    prior = VariancePrior(scale=4.0, power=0.0, df=40.0)
    x = 3.0 * differences(7, 0.0, VariancePrior(4.0, 0.0, 1e6))
    rate = excluded(ModeratedT(prior), x, 1e-3, [1, 15]).mean(axis=0)
    assert rate[0] > 50 * 1e-3
    assert rate[1] > 1e-3  # a confident wrong prior is still felt at the end


def test_moderated_t_does_not_hold_where_variances_are_heavier_tailed_than_fitted():
    """Variances with d0 = 3 called d0 = 40: errors at small α, which is where a race works, multiply."""
    x = differences(8, 0.0, VariancePrior(4.0, 0.0, 3.0))
    rate = excluded(ModeratedT(VariancePrior(4.0, 0.0, 40.0)), x, 1e-3, [1, 2]).mean(axis=0)
    assert (rate > 5 * 1e-3).all()


def test_bounds_do_not_hold_for_heavy_tailed_orders():
    """Differences with Student-2 tails (infinite variance), prior fitted to typical ones: not at n = 1."""
    x = np.random.default_rng(9).standard_t(2, size=(N, K)) * 2
    x -= x.mean(axis=1, keepdims=True)
    assert excluded(ModeratedT(VariancePrior(4.0, 0.0, 40.0)), x, 1e-3, [1]).mean() > 5 * 1e-3
    ever = excluded(NormalMixture(VariancePrior(4.0, 0.0, 40.0)), x, 1e-3, range(1, K))
    assert ever.any(axis=1).mean() > 2 * 1e-3


def test_a_variance_steeper_than_the_squared_gap_would_not_hold():
    """Up to power 2 the observed gap may stand in for the true one; at power 4 a losing class with a
    huge variance looks like a small gap with a small one. Hence the fit's limit on the power."""
    steep = VariancePrior(scale=0.01, power=4.0, df=1e4)
    x = differences(10, -6.0, steep)
    assert excluded(ModeratedT(steep), x, 1e-3, [1]).mean() > 10 * 1e-3


# the fit


def sampled(seed: int, prior: VariancePrior, df: int, n: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    """Gaps and sample variances of `df` degrees of freedom under a prior."""
    rng = np.random.default_rng(seed)
    gap = np.exp(rng.uniform(np.log(0.2), np.log(50), n))
    sigma2 = prior.variance(gap) * prior.df / rng.chisquare(prior.df, n)
    return gap, sigma2 * rng.chisquare(df, n) / df


@pytest.mark.parametrize("truth", [VariancePrior(2.0, 0.0, 5.0), VariancePrior(0.5, 0.7, 30.0)], ids=str)
def test_the_fit_recovers_the_prior_it_was_drawn_from(truth):
    fitted = fit_variance_prior(*sampled(11, truth, df=31), df=31)
    assert fitted.scale == pytest.approx(truth.scale, rel=0.1)
    assert fitted.power == pytest.approx(truth.power, abs=0.03)
    assert fitted.df == pytest.approx(truth.df, rel=0.15)


def test_the_fit_ignores_signs_zeros_and_missing_values():
    gap, var = sampled(12, PRIOR, df=7, n=200)
    dirty_gap, dirty_var = np.r_[-gap, 1.0, np.nan], np.r_[var, 0.0, 1.0]
    assert fit_variance_prior(dirty_gap, dirty_var, 7) == fit_variance_prior(gap, var, 7)


def test_the_fit_refuses_fewer_than_ten_variances():
    with pytest.raises(ValueError, match="at least 10"):
        fit_variance_prior(np.ones(9), np.ones(9), 3)


def test_equal_variances_give_a_sure_prior():
    """No spread beyond sampling noise: d0 at its cap, s0² the common variance."""
    rng = np.random.default_rng(13)
    var = 3.0 * rng.chisquare(31, 5000) / 31
    fitted = fit_variance_prior(rng.uniform(1, 9, 5000), var, 31, power=0.0)
    assert fitted.df > 200 and fitted.scale == pytest.approx(3.0, rel=0.02)


@pytest.mark.parametrize(("true_power", "fitted_power"), [(-1.0, 0.0), (3.0, 2.0)])
def test_the_fitted_power_stays_where_the_bounds_hold(true_power, fitted_power):
    """0 ≤ power ≤ 2: below, a lucky gap would look sure; above, see the test that does not hold."""
    fitted = fit_variance_prior(*sampled(14, VariancePrior(1.0, true_power, 20.0), df=31), df=31)
    assert fitted.power == fitted_power


def test_equal_gaps_leave_the_power_at_zero():
    """Nothing can be said of a slope when all gaps are equal (or below the floor)."""
    var = sampled(15, PRIOR, df=7, n=100)[1]
    fitted = fit_variance_prior(np.full(100, 0.05), var, 7)
    assert fitted.power == 0 and np.isfinite(fitted.scale)


def test_priors_survive_their_metadata():
    assert VariancePrior.from_dict(SLOPED.to_dict()) == SLOPED
    floor = SLOPED.variance(np.array([0.0, -0.01, SLOPED.gap_floor]))
    assert (floor == floor[0]).all() and floor[0] > 0


def test_stratified_orders_err_less_than_the_effective_number_says():
    """Scores that are sums over places: a whole tiling knows them exactly; no look is worse than τ says."""
    n, m, k_max, orders = 64, 16, 16, OrderSampler("stratified", 64, prefix=16)
    rng = np.random.default_rng(0)
    ratio = np.zeros(k_max - 1)
    for image in range(300):
        place = rng.normal(size=n)
        x = np.array([place[orders.order(image.to_bytes(4, "big"), k)[:m]].sum() for k in range(k_max)])
        for k in range(1, k_max):
            error = x[:k].mean() - x.mean()
            ratio[k - 1] += error**2 * effective_n(k, k_max) / (n * (m / n) * (1 - m / n)) / 300
    assert (ratio < 1.3).all() and ratio[[3, 7, 11]].max() < 1e-9
    assert ratio[[1, 5, 9, 13]].max() < 0.9
