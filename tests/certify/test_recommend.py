"""Which design is recommended, and how many images certify it."""

from __future__ import annotations

import numpy as np
import pytest

from anytime_cls.certify.designs import Target, split_images
from anytime_cls.certify.recommend import SHARE, Tried, cheapest, images_to_certify
from anytime_cls.race.fitted import DISAGREEMENT


def tried(loss: np.ndarray, cost: float) -> Tried:
    return Tried({}, loss, cost, {}, {})


def test_the_cheapest_of_the_designs_that_are_about_as_good():
    rng = np.random.default_rng(0)
    loss = rng.exponential(size=400)
    about = loss + rng.normal(0, 0.2, 400)
    about += loss.mean() - about.mean() + 0.005  # half a standard error of the difference
    worse = loss + rng.normal(0, 0.2, 400) + 0.1
    assert cheapest([tried(loss, 10), tried(about, 2), tried(worse, 1)]) == 1
    assert cheapest([tried(loss, 1), tried(about, 2), tried(worse, 3)]) == 0


def test_equal_designs_differ_by_cost_alone():
    loss = np.ones(5)
    assert cheapest([tried(loss, 3), tried(loss, 1), tried(loss, 2)]) == 1


@pytest.mark.parametrize(("designs", "risk"), [(1, 0.1), (4, 0.1), (4, 0.05)])
def test_images_to_certify_are_the_fewest(designs, risk):
    """(1 − risk)^m ≤ 0.05 / designs for the m that thresholds are fitted on, and for no fewer."""
    n = images_to_certify(designs, risk)
    for images, enough in ((n, True), (n - 1, False)):
        m = len(split_images(np.arange(images), SHARE, 0).thresholds)
        assert ((1 - risk) ** m <= 0.05 / designs) is enough
    assert Target(DISAGREEMENT, risk, 0.95).images_needed < n
