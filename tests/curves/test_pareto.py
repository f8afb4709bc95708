"""Bootstrap, bands, front and saving, on made-up numbers whose answers are known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from anytime_cls.curves.pareto import band, common_grid, front_steps, interpolate, pareto_front, saving
from anytime_cls.stats.bootstrap import Means, bootstrap, difference
from anytime_cls.stats.intervals import proportion, wilson
from anytime_cls.stats.reliability import expected_calibration_error, reliability


def still(values, draws: int = 0) -> Means:
    """Means that do not vary between resamples."""
    values = np.asarray(values, float)
    return Means(values, np.tile(values, (draws, 1)))


# --- the bootstrap ------------------------------------------------------------------------------------------


def test_bootstrap_equals_resampling_by_hand():
    values = np.random.default_rng(1).normal(size=(7, 3))
    rng = np.random.default_rng(5)
    by_hand = [values[rng.integers(0, 7, 7)].mean(axis=0) for _ in range(40)]
    means = bootstrap(values, 40, seed=5)
    np.testing.assert_allclose(means.draws, by_hand)
    np.testing.assert_allclose(means.value, values.mean(axis=0))


def test_chunks_draw_what_one_pass_draws(monkeypatch):
    values = np.random.default_rng(1).normal(size=(50, 2))
    whole = bootstrap(values, 30, seed=2).draws
    monkeypatch.setattr("anytime_cls.stats.bootstrap._ROOM", 350)  # seven resamples at a time
    np.testing.assert_allclose(bootstrap(values, 30, seed=2).draws, whole)


def test_resamples_are_shared_between_calls_and_columns():
    base = np.random.default_rng(0).normal(size=(100, 1))
    a, b = bootstrap(base + 3, 200, seed=4), bootstrap(base, 200, seed=4)
    value, low, high = difference(a, b)  # paired: the difference is 3 on every image, so without any spread
    np.testing.assert_allclose([value, low, high], 3)
    other = bootstrap(base, 200, seed=5)
    assert not np.allclose(other.draws, b.draws)


def test_bootstrap_refuses_what_has_no_mean():
    with pytest.raises(ValueError, match="no images"):
        bootstrap(np.empty((0, 2)))
    with pytest.raises(ValueError, match="finite"):
        bootstrap(np.array([[1.0], [np.nan]]))
    with pytest.raises(ValueError, match="negative"):
        bootstrap(np.ones((3, 1)), -1)


def test_no_resamples_gives_the_values_as_their_intervals():
    means = bootstrap(np.array([[1.0, 4.0], [3.0, 0.0]]), 0)
    low, high = means.interval()
    assert low.tolist() == high.tolist() == [2.0, 2.0]


def test_coverage_of_means_and_paired_differences():
    """95 % intervals hold the truth about 95 % of the time; unpaired ones would be far too wide."""
    rng = np.random.default_rng(11)
    trials, n = 300, 150
    mean_hits = difference_hits = 0
    widths = []
    for trial in range(trials):
        hard = rng.random(n)  # shared by both rules
        a, b = (hard < 0.80).astype(float), (hard < 0.77).astype(float)
        means = bootstrap(np.stack([a, b], axis=1), 200, seed=trial)
        low, high = means.interval()
        mean_hits += low[0] <= 0.80 <= high[0]
        _, low, high = difference(means[[0]], means[[1]])
        difference_hits += low[0] <= 0.03 <= high[0]
        widths.append(high[0] - low[0])
    assert 0.90 <= mean_hits / trials <= 0.98
    assert 0.88 <= difference_hits / trials <= 0.99
    assert np.mean(widths) < 0.08  # independent resamples: 2 · 1.96 · sqrt(2 · 0.17 / 150) = 0.19


@given(st.integers(1, 300), st.data())
def test_wilson_is_scipys(n, data):
    k = data.draw(st.integers(0, n))
    hits = np.arange(n) < k
    expected = proportion(hits)
    low, high = wilson(k / n, n)
    assert low == pytest.approx(expected["low"], abs=1e-4) and high == pytest.approx(
        expected["high"], abs=1e-4
    )
    assert 0 <= low <= k / n <= high <= 1


# --- the front ----------------------------------------------------------------------------------------------

coarse = st.integers(0, 6).map(float)  # so that ties happen


@given(st.lists(st.tuples(coarse, coarse), min_size=1, max_size=12))
def test_front_by_brute_force(points):
    x, y = np.array(points).T
    expected = [
        not any(u <= a and v >= b and (u < a or v > b) for u, v in points)
        for a, b in points
    ]  # fmt: skip
    assert pareto_front(x, y).tolist() == expected


@given(st.lists(st.tuples(coarse, coarse), min_size=1, max_size=12))
def test_steps_are_the_best_reachable(points):
    x, y = np.array(points).T
    xs, ys = front_steps(x, y, right=10.0)
    assert xs[-1] == 10.0 and (np.diff(xs) >= 0).all() and (np.diff(ys) >= 0).all()
    for cost in np.unique(x):
        held = ys[np.searchsorted(xs, cost, side="right") - 1] if cost >= xs[0] else None
        reachable = y[x <= cost]
        assert held == (reachable.max() if len(reachable) else None)


# --- curves -------------------------------------------------------------------------------------------------


def test_interpolation_is_linear_in_log_cost():
    got = interpolate(
        np.array([[100.0, 1.0]]), np.array([[0.9, 0.5]]), np.array([0.1, 1.0, 10.0, 100.0, 1e3])
    )
    np.testing.assert_allclose(got, [[0.5, 0.5, 0.7, 0.9, 0.9]])


def test_band_spans_its_curve_and_narrows_when_paired():
    rng = np.random.default_rng(0)
    hard = rng.random((400, 1))
    y = bootstrap((hard < np.array([0.6, 0.7, 0.75])).astype(float), 300)
    x = still([10, 20, 80], 300)
    grid = common_grid(np.array([1.0, 10, 20, 80, 500]), 50)
    plain, paired = band(x, y, grid), band(x, y, grid, against=y[[2]])
    assert plain.grid.min() == 10 and plain.grid.max() == 80
    assert ((plain.low <= plain.value) & (plain.value <= plain.high)).all()
    at_end = paired.grid == 80
    assert paired.low[at_end] == pytest.approx(paired.high[at_end])  # the reference against itself
    assert ((paired.high - paired.low) <= (plain.high - plain.low) + 1e-9).all()
    # at a point of the curve the band is that point's own interval
    low, high = y.interval()
    at = plain.grid == 20
    assert plain.low[at] == pytest.approx(low[1]) and plain.high[at] == pytest.approx(high[1])


@given(hnp.arrays(float, st.integers(1, 20), elements=st.floats(0.01, 1e6)))
def test_common_grid_holds_every_point(x):
    grid = common_grid(x, 30)
    assert set(x) <= set(grid) and (np.diff(grid) > 0).all()


# --- the saving ---------------------------------------------------------------------------------------------

#: fixed K = 1, 2, 4, 8 in columns 0 to 3 and a rule in column 4
FIXED = np.arange(4)


def test_saving_is_against_the_cheapest_fixed_k_as_accurate():
    x, y = still([10, 20, 40, 80, 16], 5), still([0.70, 0.80, 0.79, 0.80, 0.80], 5)
    got = saving(x, y, 4, FIXED)
    assert (got.ratio, got.low, got.high) == pytest.approx((1.25, 1.25, 1.25))
    assert got.index == 1 and got.reached
    against_all = saving(x, y, 4, FIXED, reference=3)
    assert against_all.ratio == pytest.approx(5) and against_all.index == 3 and against_all.reached


def test_saving_below_one_where_one_order_is_enough():
    got = saving(still([10, 20, 40, 80, 16]), still([0.81, 0.80, 0.79, 0.80, 0.80]), 4, FIXED)
    assert got.ratio == pytest.approx(10 / 16) and got.index == 0 and got.reached


def test_saving_where_no_fixed_k_is_as_accurate():
    got = saving(still([10, 20, 40, 80, 16]), still([0.70, 0.80, 0.83, 0.83, 0.85]), 4, FIXED)
    assert got.index == 2 and not got.reached and got.ratio == pytest.approx(2.5)


def test_equal_accuracies_count_as_equal_whatever_the_rounding():
    third = 1 / 3
    y = still([0.1, third + 1e-16, 0.5, 0.6, 1 - 2 * third])
    assert saving(still([10, 20, 40, 80, 16]), y, 4, FIXED).index == 1


def test_interval_knows_that_the_equal_k_is_uncertain():
    x = still([10, 20, 40, 80, 10], 100)
    y = still([0.70, 0.80, 0.80, 0.80, 0.80], 100)
    y.draws[:50, 1] = 0.79  # in half of the resamples K = 2 falls short, and K = 4 is needed
    got = saving(x, y, 4, FIXED)
    assert got.ratio == pytest.approx(2) and (got.low, got.high) == pytest.approx((2, 4))


def test_saving_recovers_a_known_ratio():
    """A rule that answers as K = 8 does, at costs with mean 16: 5 times cheaper, and the interval holds 5."""
    rng = np.random.default_rng(3)
    n = 2000
    skill = np.array([0.60, 0.68, 0.74, 0.80])
    correct = (rng.random((n, 1)) < skill).astype(float)
    correct = np.concatenate([correct, correct[:, [3]]], axis=1)
    cost = np.concatenate([np.tile([10.0, 20, 40, 80], (n, 1)), rng.exponential(16, (n, 1))], axis=1)
    got = saving(bootstrap(cost, 400), bootstrap(correct, 400), 4, FIXED)
    assert got.index == 3 and got.low <= 5 <= got.high
    assert got.high - got.low < 1


# --- reliability --------------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(hnp.arrays(float, 40, elements=st.floats(0, 1)), hnp.arrays(bool, 40), st.integers(1, 20))
def test_reliability_is_the_ece_of_calibrate(probability, correct, bins):
    got = reliability(probability, correct, bins, resamples=20)
    assert got.ece == pytest.approx(expected_calibration_error(probability, correct, bins), abs=1e-12)
    assert got.count.sum() == 40 and (got.count > 0).all()
    assert (got.confidence >= got.left - 1e-12).all() and (got.confidence <= got.right + 1e-12).all()
    assert np.average(got.accuracy, weights=got.count) == pytest.approx(correct.mean())
    assert ((got.low <= got.accuracy) & (got.accuracy <= got.high)).all()
