"""Budgets: what is read, what is refused, and that spending never exceeds them."""

import json
import math
import time
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anytime_cls.engine.cost import CostModel, cache_file, read_cached, write_cached
from anytime_cls.engine.spending import Spending
from anytime_cls.plan.budget import Budget, parse_budget
from anytime_cls.plan.options import RaceOptions


@pytest.mark.parametrize(
    ("text", "amount", "unit"),
    [
        ("0.5s", 0.5, "seconds"), ("800ms", 0.8, "seconds"), ("2m", 120, "seconds"), ("2min", 120, "seconds"),
        (" 1.5 S ", 1.5, "seconds"), (".25s", 0.25, "seconds"), ("200passes", 200, "passes"),
        ("1pass", 1, "passes"), ("8orders", 8, "orders"), ("3TFLOP", 3e12, "flops"),
        ("3tflops", 3e12, "flops"), ("250GFLOP", 250e9, "flops"),
    ],
)  # fmt: skip
def test_forms_that_are_read(text, amount, unit):
    budget = parse_budget(text)
    assert (budget.amount, budget.unit) == (pytest.approx(amount), unit)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0.5",
        "s",
        "-1s",
        "0s",
        "0.5 parsecs",
        "1e3s",
        "5 s s",
        "2.5passes",
        "nan s",
        "infs",
        "1_000ms",
        "0.5s;",
    ],
)
def test_anything_else_is_refused_in_one_line_that_shows_the_forms(text):
    with pytest.raises(ValueError) as error:
        parse_budget(text)
    assert "800ms" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("number", [0.5, 2, np.float64(0.5), np.float32(0.5), np.int64(2), Fraction(1, 2)])
def test_a_number_is_seconds(number):
    budget = RaceOptions(budget=number).limit
    assert budget == Budget(float(number), "seconds") and type(budget.amount) is float


@pytest.mark.parametrize(
    "bad", [True, np.True_, 0, -1, -0.5, math.nan, math.inf, 10**400, [0.5], b"0.5s", Decimal("0.5"), 1j]
)
def test_what_is_no_amount_is_refused_with_the_forms(bad):
    with pytest.raises(ValueError, match="800ms") as error:
        RaceOptions(budget=bad)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("amount", "unit"), [(-1, "seconds"), (math.nan, "flops"), (2.5, "passes"), (1, "parsecs"), (0, "orders")]
)
def test_a_budget_that_makes_no_sense_cannot_be_made(amount, unit):
    with pytest.raises(ValueError, match="800ms"):
        Budget(amount, unit)


@given(st.text(max_size=12))
def test_no_text_crashes_the_parser(text):
    try:
        assert parse_budget(text).amount > 0
    except ValueError as error:
        assert "write it as" in str(error)


def cost(n_tokens=64):
    return CostModel(flops=lambda m, c: 1e9 * m * c / n_tokens, n_tokens=n_tokens)


@pytest.mark.parametrize(
    ("text", "rows", "prefix"),
    [("5passes", 10, 32), ("10passes", 10, 64), ("2GFLOP", 10, 12), ("1passes", 1000, 1)],
)
def test_the_longest_affordable_prefix(text, rows, prefix):
    spending = Spending(parse_budget(text), cost(), 64, time.perf_counter())
    assert spending.longest_prefix(rows) == prefix


def test_a_budget_is_spent_to_its_end_and_no_further():
    spending = Spending(Budget(25, "passes"), cost(), 64, time.perf_counter())
    taken = 0
    while spending.fits(4, 64):
        spending.charge(4, 64, 1)
        taken += 4
    assert taken == 24 and spending.left == 1


def test_seconds_are_the_wall_clock_from_the_start():
    spending = Spending(Budget(10, "seconds"), cost(), 64, time.perf_counter() - 9.5)
    assert 0 < spending.left < 0.51
    spending.cost.slope = 0.1
    assert spending.fits(3, 64) and not spending.fits(10, 64)
    assert spending.fits(10, 10)


def test_the_cost_model_learns_a_slow_machine():
    model = cost()
    model.overhead, model.slope = 0.001, 0.01
    first = model.seconds(10, 64)
    for _ in range(8):
        model.observe(10, 64, 3 * model.expected(10, 64))
    assert model.seconds(10, 64) == pytest.approx(3 * model.expected(10, 64))
    assert model.seconds(10, 64) > 2 * first
    assert model.seconds(model.rows_within(0.5, 64), 64) <= 0.5


def test_calibration_recovers_an_affine_cost():
    model = cost()
    model.calibrate(lambda b: 0.002 + 0.003 * b, rows=16)
    assert model.overhead == pytest.approx(0.002) and model.slope == pytest.approx(0.003)


def test_the_cache_survives_damage(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert read_cached("a") is None
    write_cached("a", 0.1, 0.2)
    write_cached("b", 0.3, 0.4)
    assert read_cached("a") == (0.1, 0.2) and read_cached("b") == (0.3, 0.4)
    for damage in ("", "[]", "{", json.dumps({"a": {"overhead": -1, "slope": 0}}), json.dumps({"a": 3})):
        cache_file().write_text(damage)
        assert read_cached("a") is None
        write_cached("a", 0.1, 0.2)
        assert read_cached("a") == (0.1, 0.2)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache_file()))  # a file where a folder should be
    write_cached("a", 1, 1)
    assert read_cached("a") is None
