"""Orders: valid, the same for ever, functions of (seed, content, k) alone, and uniform."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from anytime_cls.draws.orders import SAMPLERS, OrderSampler

IMAGE = b"an image's content key"
GOLDEN = [
    ("uniform", 0, 0, [55, 40, 47, 21, 63, 12, 59, 48]),
    ("uniform", 0, 1, [54, 35, 31, 23, 15, 48, 29, 63]),
    ("uniform", 7, 31, [19, 25, 59, 48, 8, 51, 4, 62]),
    ("uniform", -5, 0, [30, 62, 37, 38, 50, 51, 46, 54]),
    ("antithetic", 0, 2, [54, 35, 31, 23, 15, 48, 29, 63]),
    ("antithetic", 0, 3, [56, 14, 42, 8, 10, 1, 41, 19]),
    ("constant", 0, 4, [43, 37, 56, 4, 9, 21, 16, 48]),
]


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(SAMPLERS),
    n_tokens=st.sampled_from([1, 2, 7, 64, 256]),
    seed=st.integers(-(2**70), 2**70),
    content=st.binary(max_size=80),
    k=st.integers(0, 1000),
)
def test_every_order_is_a_permutation(name, n_tokens, seed, content, k):
    if name == "stratified" and n_tokens == 1:
        return
    order = OrderSampler(name, n_tokens, seed, prefix=1).order(content, k)
    assert order.dtype == np.int64
    assert sorted(order) == list(range(n_tokens))


@pytest.mark.parametrize(("name", "seed", "k", "first"), GOLDEN)
def test_orders_never_change(name, seed, k, first):
    """Recorded traces and reported numbers depend on these very orders, whatever NumPy's version."""
    assert OrderSampler(name, 64, seed).order(IMAGE, k)[:8].tolist() == first


@pytest.mark.parametrize("name", SAMPLERS)
def test_orders_do_not_depend_on_what_was_drawn_before(name):
    """Neither on call history nor on NumPy's global state nor on the sampler object."""
    sampler = OrderSampler(name, 64, prefix=8)
    forward = [sampler.order(IMAGE, k) for k in range(6)]
    np.random.seed(1)
    sampler.order(b"another", 3)
    backward = [OrderSampler(name, 64, prefix=8).order(IMAGE, k) for k in reversed(range(6))][::-1]
    np.testing.assert_array_equal(forward, backward)


def test_an_order_handed_out_may_be_changed():
    """Callers own what they get: writing to it does not change the next one."""
    for name in SAMPLERS:
        sampler = OrderSampler(name, 16, prefix=4)
        before = sampler.order(IMAGE, 1).copy()
        sampler.order(IMAGE, 1)[:] = 0
        np.testing.assert_array_equal(sampler.order(IMAGE, 1), before)


def test_content_seed_and_number_each_change_the_order():
    base = OrderSampler("uniform", 64, 0).order(IMAGE, 0)
    others = [
        OrderSampler("uniform", 64, 1).order(IMAGE, 0),
        OrderSampler("uniform", 64, -1).order(IMAGE, 0),
        OrderSampler("uniform", 64, 0).order(IMAGE + b"\0", 0),
        OrderSampler("uniform", 64, 0).order(b"", 0),
        OrderSampler("uniform", 64, 0).order(IMAGE, 1),
        OrderSampler("uniform", 64, 0).order(IMAGE, 2**40),
    ]
    distinct = {tuple(order) for order in (base, *others)}
    assert len(distinct) == 7


def test_seed_and_number_are_not_run_together():
    """(seed 1, k 11) and (seed 11, k 1) are different draws, as are k and a content of digits."""
    a = OrderSampler("uniform", 64, 1)
    b = OrderSampler("uniform", 64, 11)
    assert a.order(b"", 11).tolist() != b.order(b"", 1).tolist()
    assert a.order(b"1:", 1).tolist() != a.order(b"", 11).tolist()


def test_antithetic_orders_come_in_a_pair_with_its_reverse():
    sampler = OrderSampler("antithetic", 64)
    assert sampler.block == 2
    for k in range(0, 10, 2):
        np.testing.assert_array_equal(sampler.order(IMAGE, k + 1), sampler.order(IMAGE, k)[::-1])
    assert sampler.order(IMAGE, 2).tolist() not in (
        sampler.order(IMAGE, 0).tolist(),
        sampler.order(IMAGE, 1).tolist(),
    )


def test_the_paper_s_baselines_are_one_order():
    """Raster reads left to right, top to bottom; constant is one random order for all images and k."""
    raster, constant = OrderSampler("raster", 9), OrderSampler("constant", 64)
    assert raster.order(IMAGE, 5).tolist() == list(range(9))
    assert constant.order(IMAGE, 0).tolist() == constant.order(b"other", 7).tolist() != list(range(64))
    assert constant.order(IMAGE, 0).tolist() != OrderSampler("constant", 64, seed=1).order(IMAGE, 0).tolist()
    assert raster.distinct == constant.distinct == 1
    assert OrderSampler("uniform", 64).distinct is OrderSampler("antithetic", 64).distinct is None
    assert raster.block == constant.block == OrderSampler("uniform", 64).block == 1


@pytest.mark.parametrize("m", [1, 4, 16, 32])
def test_stratified_prefixes_partition_the_image(m):
    """The first m tokens of N/m successive orders are every token once; the next block's are other sets."""
    sampler, strata = OrderSampler("stratified", 64, prefix=m), 64 // m
    blocks = [[sampler.order(IMAGE, b * strata + j)[:m] for j in range(strata)] for b in range(3)]
    for block in blocks:
        assert sorted(np.concatenate(block)) == list(range(64))
    if m > 1:
        assert {frozenset(part) for part in blocks[0]} != {frozenset(part) for part in blocks[1]}


def test_every_stratum_is_a_uniform_subset():
    """Each token is in the j-th stratum of an image's first block as often as any: χ², false alarm 1e-4."""
    sampler, n = OrderSampler("stratified", 64, prefix=8), 2400
    counts = np.zeros((8, 64))
    for i in range(n):
        for j in range(8):
            counts[j, sampler.order(b"%d" % i, j)[:8]] += 1
    expected = n / 8
    statistic = ((counts - expected) ** 2 / expected / (1 - 1 / 8)).sum(axis=1) * 63 / 64
    assert statistic.max() < chi2.isf(1e-4 / 8, 63)


@pytest.mark.parametrize("m", [None, 64, 5, 100])
def test_strata_must_divide_the_image(m):
    with pytest.raises(ValueError, match="one of 1, 2, 4, 8, 16, 32"):
        OrderSampler("stratified", 64, prefix=m)


@pytest.mark.parametrize("over", ["images", "numbers"])
def test_uniform_orders_are_uniform(over):
    """All 4! permutations equally often, over images and over k: χ² fails by chance once in 10,000."""
    sampler, n = OrderSampler("uniform", 4, seed=3), 2400
    counts: dict[tuple, int] = {}
    for i in range(n):
        order = sampler.order(b"%d" % i, 0) if over == "images" else sampler.order(IMAGE, i)
        counts[tuple(order)] = counts.get(tuple(order), 0) + 1
    assert len(counts) == 24
    statistic = sum((count - n / 24) ** 2 / (n / 24) for count in counts.values())
    assert statistic < chi2.isf(1e-4, 23)


def test_every_token_is_equally_often_at_every_place():
    """Chi-square per place of 64-token orders, false alarm 1e-4 over all 64 places together."""
    sampler, n = OrderSampler("uniform", 64), 1600
    orders = np.stack([sampler.order(b"%d" % i, i % 32) for i in range(n)])
    counts = np.stack([np.bincount(orders[:, place], minlength=64) for place in range(64)])
    statistics = ((counts - n / 64) ** 2 / (n / 64)).sum(axis=1)
    assert statistics.max() < chi2.isf(1e-4 / 64, 63)


def test_successive_orders_of_an_image_are_unrelated():
    """Mean rank correlation of orders k and k+1 is 0: |mean| < 4 standard errors (false alarm 6e-5)."""
    sampler, n = OrderSampler("uniform", 64), 800
    rank = np.stack([sampler.order(IMAGE, k) for k in range(n)]) - 31.5
    correlation = (rank[1:] * rank[:-1]).sum(axis=1) / (rank[0] ** 2).sum()
    assert abs(correlation.mean()) < 4 / np.sqrt(63 * (n - 1))


def test_an_unknown_sampler_is_refused_with_the_choices():
    with pytest.raises(ValueError, match="uniform, antithetic, stratified, raster, constant"):
        OrderSampler("spiral", 64)
