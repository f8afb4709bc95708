"""One form of percentages and intervals."""

from __future__ import annotations

import pytest

from anytime_cls.stats.wording import percent, percent_interval


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.852, "85.2 %"),
        (1.0, "100.0 %"),
        (0.0, "0.0 %"),
        (0.99951, ">99.9 %"),
        (0.0004, "<0.1 %"),
        (0.9994, "99.9 %"),
    ],
)
def test_a_share_is_all_or_none_only_where_it_is(share, text):
    assert percent(share) == text


def test_two_digits_keep_their_own_ends():
    assert percent(0.00804, 2) == "0.80 %" and percent(0.00004, 2) == "<0.01 %"
    assert percent(0.99996, 2) == ">99.99 %" and percent(0.9999, 2) == "99.99 %"


def test_an_interval_has_the_unit_once():
    assert percent_interval(0.852, 0.8349, 0.8661) == "85.2 % [83.5, 86.6]"
    assert percent_interval(0.008, 0.0046, 0.013, 2) == "0.80 % [0.46, 1.30]"
