"""The area under the ROC curve: by hand, against pairs counted, and its interval against simulation."""

from __future__ import annotations

import numpy as np
import pytest

from anytime_cls.stats.auroc import auroc


def test_by_hand():
    """Of the six pairs 3 > 1, 3 > 2, 3 > 2.5, 2 > 1, and 2 ties with 2: 4.5 of 6."""
    assert auroc([3.0, 2.0], [1.0, 2.0, 2.5])["value"] == pytest.approx(4.5 / 6)
    assert auroc([2.0, 3.0], [0.0, 1.0]) == {"value": 1.0, "low": 1.0, "high": 1.0}


def test_it_is_the_share_of_pairs():
    rng = np.random.default_rng(0)
    high, low = rng.integers(0, 9, 40), rng.integers(0, 7, 31)
    pairs = (high[:, None] > low) + 0.5 * (high[:, None] == low)
    assert auroc(high, low)["value"] == pytest.approx(pairs.mean())
    assert auroc(low, high)["value"] == pytest.approx(1 - pairs.mean())


def test_the_interval_covers_the_truth():
    """Normals one standard deviation apart: Φ(1/√2) = 0.7602. 400 tries at 95 %: between 360 and 395 cover
    (binomial, false alarm below 1e-3)."""
    rng, covered = np.random.default_rng(1), 0
    for _ in range(400):
        found = auroc(rng.normal(1, 1, 60), rng.normal(0, 1, 80))
        covered += found["low"] <= 0.76025 <= found["high"]
    assert 360 <= covered <= 395


@pytest.mark.parametrize(("high", "low"), [([1.0], [0.0, 1.0]), ([1.0, np.nan], [0.0, 1.0])])
def test_too_little_is_refused(high, low):
    with pytest.raises(ValueError, match="two finite numbers"):
        auroc(high, low)
