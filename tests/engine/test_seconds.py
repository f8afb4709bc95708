"""Budgets of seconds: kept on a clock that moves only when a model runs, and used."""

import math
import time

import numpy as np
import pytest
from engine_jobs import C, Engine, N, SlowModel, Stub, by_index, job

from anytime_cls.engine.cost import CostModel
from anytime_cls.engine.spending import Spending
from anytime_cls.plan.budget import Budget
from anytime_cls.race.rules import FixedRule


class Clock:
    """Stands in for the `time` module: moves only when a model runs, so that no test waits or flakes."""

    def __init__(self):
        self.now = 100.0

    def perf_counter(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    fake = Clock()
    for module in ("engine", "passes", "spending", "timed", "window"):
        monkeypatch.setattr(f"anytime_cls.engine.{module}.time", fake)
    return fake


SHAPES = ((6, 6), (5, 2), (6, 1), (4, 2))  # classes and orders of images that share one batch: 60 rows


def test_shared_batches_are_charged_by_rows(model, clock):
    """10 ms a row, padding included: what the images are charged is what the clock showed."""
    engine, began = Engine(SlowModel(model, clock, 0.010), batch_size=64), clock.now
    jobs = [job(i, FixedRule(), k_max=orders, classes=range(n)) for i, (n, orders) in enumerate(SHAPES)]
    for waiting in jobs:
        waiting.seconds = 1.0  # decoding and tokenising
    done = by_index(engine.race(jobs))
    charged = [done[i].seconds - 1 for i in range(4)]
    assert clock.now - began == pytest.approx(0.640)
    assert charged == pytest.approx([n * orders / 60 * 0.640 for n, orders in SHAPES])


def timed_job(clock, seconds, rule=None, k_max=32, prefixes=()):
    timed = job(0, rule or FixedRule(), k_max, Budget(seconds, "seconds"), prefixes=prefixes)
    timed.started = clock.now
    return timed


@pytest.mark.parametrize("seconds", [0.07, 0.15, 0.4, 1.0])
def test_a_budget_of_seconds_is_used_and_not_overrun(model, clock, seconds):
    """6 classes × 10 ms: an order takes 60 ms. None is begun that cannot end in time."""
    engine = Engine(SlowModel(model, clock, 0.010))
    engine.calibrate()
    done = next(engine.race([timed_job(clock, seconds)]))
    assert done.stop == "budget" and done.seconds <= seconds
    assert done.race.orders >= 0.8 * seconds / 0.060 - 1


def test_a_noisy_machine_is_overrun_by_less_than_a_slice(clock):
    """Batches take 0.7 to 2 times what they should: the overshoot stays within what one batch may take."""
    rng = np.random.default_rng(0)
    engine = Engine(SlowModel(Stub(), clock, 0.010, lambda: rng.uniform(0.7, 2.0)))
    engine.calibrate()
    overshoot = [next(engine.race([timed_job(clock, 0.5)])).seconds / 0.5 - 1 for _ in range(100)]
    assert np.quantile(overshoot, 0.95) < 0.05
    assert np.mean(overshoot) > -0.3  # and the budget is not hoarded either


def test_when_no_order_fits_every_class_is_seen_on_a_prefix(model, clock):
    engine = Engine(SlowModel(model, clock, 0.050))
    engine.calibrate()
    done = next(engine.race([timed_job(clock, 0.1)]))  # an order takes 0.3 s
    assert done.stop == "budget" and done.race.orders == 0 and done.seconds <= 0.1
    assert np.isfinite(done.race.means()).all() and 0 <= done.race.leader < C
    assert 2 <= done.records[0].prefix < N


def test_a_machine_that_slows_down_in_the_first_order_still_answers_for_every_class(model, clock):
    engine = Engine(SlowModel(model, clock, 0.010))
    engine.calibrate()
    engine.scorer.model.seconds_per_pass = 0.080  # an order, expected to take 60 ms, now takes 480
    for prefixes in ((), (1, 2, 3, 4, 5, 6, 7, 8)):
        engine.cost._ratios.clear()
        done = next(engine.race([timed_job(clock, 0.2, prefixes=prefixes)]))
        assert done.stop == "budget" and done.race.orders == 0 and 0 < done.race.passes < C
        assert np.isfinite(done.race.means()).all()  # a prefix of the first order, for all of them
        whole = [r for r in done.records if r.prefix == N]
        assert sum(len(r.classes) for r in whole) == done.race.passes  # what was scored is kept
        cells = [(r.order, c, r.prefix) for r in done.records for c in r.classes.tolist()]
        assert len(set(cells)) == len(cells) and done.records[-1].prefix < N


@pytest.mark.parametrize("seconds", [0.08, 0.15, 0.21, 0.4, 0.65])
def test_where_an_order_of_all_does_not_fit_one_of_the_best_does(model, clock, seconds):
    """An order of 6 classes takes 60 ms: what is left below that goes to the likeliest of them."""
    engine = Engine(SlowModel(model, clock, 0.010))
    engine.calibrate()
    done = next(engine.race([timed_job(clock, seconds)]))
    race, whole = done.race, math.floor(0.94 * seconds / 0.063)  # 5 % of caution, 5 % kept back
    left = seconds - done.seconds
    assert done.stop == "budget" and 0 <= left < 0.05 * seconds + 0.03
    assert race.orders >= whole >= 1
    if left + 0.060 * race.orders < seconds - 0.02:
        assert done.short is not None and 2 <= done.short == race.alive.sum() < C
    assert race.alive[race.leader] and "may take" in done.unused
    seen = race.races.seen[race.row]
    assert (seen[race.alive] == race.n).all() and (seen >= whole).all()
    for k in range(race.n):  # who is in was scored on every order
        assert np.isfinite(race.by_order[k, race.alive]).all()
    for c in np.flatnonzero(~race.alive):  # than who had to go
        means = race.by_order[: seen[c]].mean(axis=0)
        assert means[seen > seen[c]].min() >= means[c]
    assert sum(len(r.classes) for r in done.records) == race.passes


def test_a_first_order_that_cannot_be_ended_is_worth_its_best_classes(model, clock):
    """With a free estimate of all: who is likeliest is scored first, and stays."""
    engine = Engine(SlowModel(model, clock, 0.010))
    engine.calibrate()
    engine.scorer.model.seconds_per_pass = 0.020
    estimate = np.array([-5.0, -1.0, -4.0, -2.0, -3.0, -6.0])
    timed = timed_job(clock, 0.1)
    timed.race.races.estimate[timed.race.row] = estimate
    done = next(engine.race([timed]))
    n = int(done.race.alive.sum())
    assert (done.stop, done.race.orders, done.short) == ("budget", 1, n) and 2 <= n < C
    assert set(np.flatnonzero(done.race.alive)) == set(np.argsort(-estimate)[:n].tolist())
    assert done.seconds <= 0.1


def test_what_may_be_the_last_step_is_priced_with_what_was_late_before():
    cost = CostModel(lambda m, c: 1e9 * m * c / 64, 64, overhead=0.0, slope=0.010)
    for i in range(32):
        cost.observe(1, 64, 0.050 if i in (3, 9) else 0.010)
    assert cost.seconds(10, 64) == pytest.approx(1.05 * 0.1)
    assert cost.latest(1, 64) > 0.045  # two of 32 were 40 ms late: a third may be
    assert cost.latest(10, 64) == pytest.approx(10 * cost.latest(1, 64))
    for _ in range(32):
        cost.observe(1, 64, 0.010)
    assert cost.latest(10, 64) == pytest.approx(0.105)
    spending = Spending(Budget(1.0, "seconds"), cost, 64, time.perf_counter() - 0.85)
    assert not spending.fits(12, 64) and spending.fits(11, 64)  # 25 ms of the budget are kept back at the end
    spending = Spending(Budget(1.0, "seconds"), cost, 64, time.perf_counter() - 0.5)
    assert spending.fits(15, 64) and not spending.fits(48, 64)


def test_even_an_absurd_budget_gets_an_answer(model):
    engine = Engine(model)
    done = next(engine.race([job(0, budget=Budget(1e-9, "seconds"))]))
    assert done.stop == "budget" and done.records[0].prefix == 1
    assert np.isfinite(done.race.means()).all()
