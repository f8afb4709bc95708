"""Times, noises and contexts: functions of (seed, content, k), well spread where they should be."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kstest

from anytime_cls.draws.levels import STRATA, ContextSampler, LevelSampler, Once, van_der_corput

SHAPE = (2, 3, 3)


def times(name, content, n):
    return np.array([LevelSampler(name, SHAPE).at(7, content, k).covariate for k in range(n)])


def test_van_der_corput():
    assert [van_der_corput(k) for k in range(8)] == [0, 0.5, 0.25, 0.75, 0.125, 0.625, 0.375, 0.875]


def test_the_first_n_levels_are_well_spread_whatever_n():
    """No gap between neighbouring times (around the circle) is more than twice the even one, rounded up to a
    power of two; independent times leave far larger ones."""
    for i in range(20):
        for n in (1, 2, 3, 4, 6, 8, 13, 16, 32):
            found = np.sort(times("levels", bytes([i]), n))
            gaps = np.diff(np.append(found, found[0] + 1))
            assert gaps.max() <= 2 / n + 1e-9
    worst = [np.diff(np.sort(times("uniform", bytes([i]), 16))).max() for i in range(20)]
    assert np.mean(worst) > 2 / 16


def test_every_pull_has_a_level_in_each_quarter():
    sampler = LevelSampler("levels", SHAPE)
    assert sampler.block == STRATA == 4
    for pull in times("levels", b"x", 32).reshape(-1, 4):
        assert sorted((pull * 4).astype(int)) == [0, 1, 2, 3]


@pytest.mark.parametrize("name", ["uniform", "levels"])
def test_each_time_is_uniform(name):
    """Over images, at whatever k: the mean over draws is the mean over times."""
    for k in (0, 3):
        drawn = [LevelSampler(name, SHAPE).at(0, f"{i}".encode(), k).covariate for i in range(400)]
        assert kstest(drawn, "uniform").pvalue > 1e-3


def test_noises():
    sampler = LevelSampler("levels", SHAPE)
    t, noise = sampler.at(0, b"a", 1).what
    assert noise.shape == SHAPE and noise.dtype == np.float32 and float(t) == sampler.at(0, b"a", 1).covariate
    others = [sampler.at(0, b"a", 2), sampler.at(1, b"a", 1), sampler.at(0, b"b", 1)]
    assert not any(np.array_equal(noise, other.what[1]) for other in others)
    many = np.concatenate([sampler.at(0, b"a", k).what[1].ravel() for k in range(300)])
    assert kstest(many, "norm").pvalue > 1e-3


def test_antithetic_noises_come_in_pairs_at_one_time():
    sampler, plain = LevelSampler("antithetic", SHAPE), LevelSampler("levels", SHAPE)
    assert sampler.block == 8
    for k in range(8):
        (t, noise), (s, other) = sampler.at(0, b"a", 2 * k).what, sampler.at(0, b"a", 2 * k + 1).what
        assert t == s == plain.at(0, b"a", k).what[0] and np.array_equal(noise, -other)


@pytest.mark.parametrize("name", ["uniform", "levels"])
def test_contexts(name):
    sampler = ContextSampler(name, 10)
    draws = [sampler.at(0, b"a", k) for k in range(40)]
    for draw in draws:
        order, revealed = draw.what
        assert sorted(order) == list(range(10)) and revealed == draw.covariate and 0 <= revealed <= 9
    assert len({int(draw.what[1]) for draw in draws}) == 10
    if name == "levels":
        counts = np.bincount([int(draw.what[1]) for draw in draws], minlength=10)
        assert counts.min() >= 3 and counts.max() <= 5
    assert not np.array_equal(draws[0].what[0], draws[1].what[0])


def test_names():
    for sampler in (LevelSampler, ContextSampler):
        with pytest.raises(ValueError, match="unknown sampler 'raster'"):
            sampler("raster", 4)
    with pytest.raises(ValueError, match="of contexts"):
        ContextSampler("antithetic", 4)
    assert Once("any").distinct == 1 and Once().at(0, b"", 3).k == 3
