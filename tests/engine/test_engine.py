"""The engine: packing, budgets and memory change what a race costs, never what it says."""

import math
import time

import numpy as np
import pytest
import torch

from anytime_cls.draws.orders import OrderSampler
from anytime_cls.engine.cost import CostModel
from anytime_cls.engine.engine import Engine as EngineOf
from anytime_cls.engine.job import Job
from anytime_cls.engine.spending import Spending
from anytime_cls.engine.window import ACTIVE_RACES, AHEAD
from anytime_cls.plan.budget import Budget
from anytime_cls.race.peers import FunnelRule, HalvingRule
from anytime_cls.race.race import Race
from anytime_cls.race.races import run
from anytime_cls.race.rules import FixedRule, Stage
from anytime_cls.scorers.any_order import AnyOrder
from anytime_cls.scorers.randar import RandAR
from anytime_cls.scorers.shapes import RandARConfig

N, C = 16, 6


@pytest.fixture(scope="module")
def model():
    """Not narrower than 64: with fewer columns, MKL's AVX2 kernels round by a row's place in the batch."""
    torch.manual_seed(0)
    net = RandAR(RandARConfig(dim=64, n_layer=2, n_head=2, vocab_size=64, n_tokens=N, n_classes=C))
    torch.nn.init.normal_(net.output.weight, std=0.3)
    torch.nn.init.normal_(net.cls_embedding.weight, std=0.5)
    return net.eval()


def Engine(net, batch_size=None, identity=None):
    """An engine on a transformer, which nothing is encoded for."""
    return EngineOf(AnyOrder(net, None), batch_size, identity, probe=lambda: np.zeros(N, int))


def job(index, rule=None, k_max=8, budget=None, classes=None, sampler="uniform", prefixes=(), length=0):
    rng = np.random.default_rng(index)
    ids = np.arange(C) if classes is None else np.array(classes)
    orders = OrderSampler(sampler, N, seed=5, prefix=length or None)
    race = Race(len(ids), k_max // orders.block, rule or FunnelRule(), orders.block)
    content = index.to_bytes(2, "big")
    tokens = rng.integers(0, 24, N)
    return Job(index, tokens, content, race, ids, orders, length or N, 5, budget, prefixes=prefixes)


def by_index(jobs):
    return {j.index: j for j in jobs}


def test_scores_are_the_models_sums(model):
    done = next(Engine(model).race([job(0, FixedRule(), k_max=3)]))
    for k in range(3):
        order = torch.from_numpy(done.draws.order(done.content, k)).expand(C, N)
        with torch.inference_mode():
            log_p = model(torch.from_numpy(done.encoded).expand(C, N), torch.arange(C), order)
        assert np.allclose(done.race.by_order[k], log_p.double().sum(1).numpy(), atol=1e-4)
    assert done.stop == "max-orders" and done.race.passes == 3 * C


@pytest.mark.parametrize("batch_size", [1, 5, 64])
@pytest.mark.parametrize("rule", [FixedRule(), FunnelRule(), HalvingRule(saving=2)])
def test_results_depend_on_neither_batch_size_nor_company(model, batch_size, rule):
    """design: a race's decision does not depend on the batch, the other images, or their order."""
    alone = {i: next(Engine(model).race([job(i, rule)])) for i in range(5)}
    together = by_index(Engine(model, batch_size).race(job(i, rule) for i in (3, 1, 4, 0, 2)))
    for i in range(5):
        a, b = alone[i].race, together[i].race
        assert (a.leader, a.orders, a.passes) == (b.leader, b.orders, b.passes)
        assert np.allclose(a.by_order, b.by_order, atol=1e-4, equal_nan=True)


class Rounding(torch.nn.Module):
    """A model whose kernels round otherwise for another number of rows, as a device's may."""

    def __init__(self, net):
        super().__init__()
        self.net, self.config, self.output = net, net.config, net.output

    def forward(self, tokens, classes, orders, prefix=None):
        return self.net(tokens, classes, orders, prefix) + 1e-3 * len(tokens)


def written(done):
    """A job's records as plain data, in their order."""
    return [(r.order, r.prefix, r.round, r.classes.tolist(), r.values.tolist()) for r in done.records]


@pytest.mark.parametrize("rule", [FixedRule(), FunnelRule()])
def test_packing_leaves_no_trace(model, rule):
    """Other batch sizes, other company, another order of images: the same records to the last bit."""
    kinds = [Rounding(model), model]
    for net in kinds:
        alone = {i: written(next(Engine(net).race([job(i, rule, prefixes=(3, 9))]))) for i in range(7)}
        tile = Engine(net).tile(N)
        for batch_size in (tile, tile + 3, 2 * tile, 5 * tile):
            for company in ((0, 1, 2, 3, 4, 5, 6), (5, 2, 6), (3, 1, 4)):
                race = Engine(net, batch_size).race(job(i, rule, prefixes=(3, 9)) for i in company)
                assert all(written(done) == alone[done.index] for done in race)


def test_a_padded_tile_costs_no_passes(model):
    engine = Engine(model)
    done = next(engine.race([job(0)]))
    assert engine.tile(N) > C and engine.passes == done.race.passes == done.spending.passes


def test_rounds_count_the_requests_of_the_race(model):
    """Looks after orders 1 and 2 of 8: round 0 is order 0, round 1 order 1, round 2 the rest."""
    for batch_size in (1, 5, 64):
        done = next(Engine(model, batch_size).race([job(0)]))
        assert {r.order: r.round for r in done.records} == {0: 0, 1: 1, **dict.fromkeys(range(2, 8), 2)}
        assert len(done.records) == 8  # an order is one record, in however many batches it was scored


def test_prefixes_are_recorded_on_the_way(model):
    """Before each whole order: what a pass over its first tokens gives; the race does not notice."""
    prefixes = (1, 4, 15)
    done = next(Engine(model, batch_size=4).race([job(0, prefixes=prefixes)]))
    plain = next(Engine(model, batch_size=4).race([job(0)]))
    whole = [r for r in done.records if r.prefix == N]
    assert [r.values.tolist() for r in whole] == [r.values.tolist() for r in plain.records]
    assert [r.prefix for r in done.records] == [*prefixes, N] * len(whole)
    for record in done.records:
        rows = len(record.classes)
        order = torch.from_numpy(done.draws.order(done.content, record.order)).expand(rows, N)
        tokens, classes = torch.from_numpy(done.encoded).expand(rows, N), torch.from_numpy(record.classes)
        with torch.inference_mode():
            expected = model(tokens, classes, order, record.prefix).double().sum(1).numpy()
        assert np.allclose(record.values, expected, atol=1e-4)
        assert np.array_equal(record.values, record.values.astype(np.float32))
    assert done.race.passes == plain.race.passes == done.spending.passes


@pytest.mark.parametrize("sampler", ["uniform", "stratified"])
@pytest.mark.parametrize("length", [1, 4, 8])
def test_a_pass_may_score_the_first_tokens_only(model, sampler, length):
    done = next(Engine(model).race([job(0, FixedRule(), k_max=5, sampler=sampler, length=length)]))
    for k in range(5):
        order = torch.from_numpy(done.draws.order(done.content, k)).expand(C, N)
        with torch.inference_mode():
            log_p = model(torch.from_numpy(done.encoded).expand(C, N), torch.arange(C), order)[:, :length]
        assert np.allclose(done.race.by_order[k], log_p.double().sum(1).numpy(), atol=1e-4)
    assert {r.prefix for r in done.records} == {length} and done.stop == "max-orders"
    share = model.config.flops(length) / model.config.flops()
    assert done.spending.passes == pytest.approx(5 * C * share) and done.race.passes == 5 * C


class Rungs(FunnelRule):
    """The funnel behind two rungs; a gap that drops some and keeps some."""

    rungs = ((2, 0.5), (4, 1.0))

    @property
    def first_stages(self):
        return tuple(Stage(*rung) for rung in self.rungs)


def test_a_race_with_rungs_is_the_race_of_its_scores(model):
    """Who leaves, what is answered and what it costs: as `run` has it from the same log-likelihoods."""
    for index in range(8):
        full = next(Engine(model).race([job(index, FixedRule(), prefixes=(2, 4), length=8)]))
        at = {(r.order, r.prefix): r.values for r in full.records}
        outcome = run(Rungs(), full.race.by_order[None], {m: at[0, m][None] for m in (2, 4)})
        done = next(Engine(model).race([job(index, Rungs(), length=8)]))
        race = done.race
        assert (race.leader, race.n) == (outcome.prediction[0], outcome.n[0])
        assert race.passes == outcome.passes[0] + outcome.stage_rows[0].sum()
        cost = [model.config.flops(m) / model.config.flops() for m in (2, 4, 8)]
        spent = np.dot(cost, [*outcome.stage_rows[0], outcome.passes[0]])
        assert done.spending.passes == pytest.approx(spent)
        np.testing.assert_allclose(race.races.behind[race.row], outcome.behind[0], atol=1e-4)
        means, answer = race.means(), race.leader
        assert np.isfinite(means).all() and means.argmax() == answer
        assert (means[~np.isnan(race.races.behind[race.row])] < means[answer]).all()
        assert {r.prefix for r in done.records} <= {2, 4, 8} and done.records[0].prefix == 2


def test_rungs_and_whole_passes_of_many_races_are_packed_without_a_trace(model):
    """Batches hold one length at a time; whose, changes nothing."""
    alone = {i: written(next(Engine(model).race([job(i, Rungs(), length=8)]))) for i in range(7)}
    for batch_size in (8, 24):
        for done in Engine(model, batch_size).race(job(i, Rungs(), length=8) for i in (5, 2, 6, 0, 1)):
            assert written(done) == alone[done.index]


def test_a_budget_that_ends_at_a_rung_answers_from_it(model):
    share = model.config.flops(2) / model.config.flops()
    for unit in ("passes", "flops"):
        amount = math.ceil(C * share) if unit == "passes" else 1.01 * C * share * model.config.flops()
        rule = Rungs()
        object.__setattr__(rule, "rungs", ((2, 50.0), (4, 1.0)))
        done = next(Engine(model).race([job(0, rule, budget=Budget(amount, unit), length=8)]))
        assert done.stop == "budget" and {r.prefix for r in done.records} == {2}
        assert done.race.leader == done.records[0].values.argmax()


def test_a_race_alone_looks_ahead_where_batches_are_dear(model):
    """Fewer batches, the same answer after the same orders; a budget in passes is not spent in vain."""
    rule = FunnelRule(((0.25, 3), (0.5, 2), (0.75, 1)))
    for budget in (None, Budget(60.0, "seconds"), Budget(100, "passes")):
        batches, done = {}, {}
        for overhead in (0.0, 5e-3):
            engine = Engine(model)
            engine.cost.overhead, engine.cost.slope = overhead, 1e-4
            counted = []
            handle = model.register_forward_pre_hook(lambda *_, seen=counted: seen.append(1))
            done[overhead] = next(engine.race([job(0, rule, k_max=16, budget=budget)], pad=False))
            handle.remove()
            batches[overhead] = len(counted)
        plain, ahead = (done[overhead].race for overhead in (0.0, 5e-3))
        assert (plain.leader, plain.orders) == (ahead.leader, ahead.orders)
        np.testing.assert_array_equal(plain.left_at, ahead.left_at)
        if budget and budget.unit == "passes":
            assert ahead.passes == plain.passes
        else:
            assert ahead.passes >= plain.passes and batches[5e-3] < batches[0.0]


class Patient(FixedRule):
    """Looks after every order, and drops nobody."""

    def looks(self, n_classes, k_max):
        return tuple(range(1, k_max + 1))


def test_few_races_are_held_however_slow_the_first():
    """Results come in order: none may begin too long before the oldest race ends."""
    begun, held = [], []

    def jobs():
        for index in range(600):
            begun.append(index)
            yield job(index, Patient(), k_max=400 if index == 0 else 1)

    waiting = set()
    for done in Engine(Stub(), batch_size=32).race(jobs()):
        waiting.add(done.index)
        held.append(len(begun) - min(set(range(601)) - waiting))
    assert len(waiting) == 600 and ACTIVE_RACES < max(held) <= AHEAD * ACTIVE_RACES + 1


def test_rows_of_different_images_share_batches(model, monkeypatch):
    engine, sizes = Engine(model, batch_size=40), []  # room for one tile of 32
    run = engine.run

    def spy(pieces, at, pad):
        sizes.append(sum(len(piece.classes) for piece in pieces))
        return run(pieces, at, pad)

    monkeypatch.setattr(engine, "run", spy)
    list(engine.race(job(i) for i in range(12)))
    assert max(sizes) == 32
    assert np.mean(sizes) > 25  # races of six classes and fewer fill batches of 32 between them


def test_only_the_classes_asked_for_are_scored(model):
    done = next(Engine(model).race([job(1, FixedRule(), k_max=2, classes=[4, 2])]))
    full = next(Engine(model).race([job(1, FixedRule(), k_max=2)]))
    assert np.allclose(done.race.by_order, full.race.by_order[:, [4, 2]], atol=1e-4)


def test_records_hold_every_score_exactly(model):
    done = next(Engine(model, batch_size=4).race([job(2)]))
    rebuilt = np.full_like(done.race.by_order, np.nan)
    for record in done.records:
        assert record.prefix == N
        assert np.array_equal(record.values, record.values.astype(np.float32))  # a trace stores float32
        rebuilt[record.order, record.classes] = record.values
    assert np.array_equal(rebuilt, done.race.by_order, equal_nan=True)
    assert sum(len(r.values) for r in done.records) == done.race.passes
    assert [r.round for r in done.records] == sorted(r.round for r in done.records)


@pytest.mark.parametrize("amount", [1, 3, 6, 7, 12, 20, 1000])
def test_a_budget_of_passes_is_kept_and_used(model, amount):
    done = next(Engine(model).race([job(0, FixedRule(), budget=Budget(amount, "passes"))]))
    spent = done.spending.passes
    assert spent <= amount
    if amount < C:  # not one whole order: every class is seen on a prefix
        assert done.race.orders == 0 and np.isfinite(done.race.means()).all() and spent > 0.5 * amount
        assert done.records[0].prefix < N
    else:
        assert done.race.orders == min(8, amount // C)
    assert done.stop == ("max-orders" if amount >= 8 * C else "budget")


def test_budgets_of_passes_do_not_depend_on_the_batch(model):
    for amount in (7, 13, 29):
        runs = [
            by_index(Engine(model, size).race(job(i, budget=Budget(amount, "passes")) for i in range(4)))
            for size in (2, 64)
        ]
        for i in range(4):
            assert runs[0][i].race.leader == runs[1][i].race.leader
            assert runs[0][i].race.passes == runs[1][i].race.passes


def test_half_a_pair_within_the_budget_answers(model):
    """Antithetic orders count in pairs; when only the first fits, it is the answer, at no more cost."""
    done = next(Engine(model).race([job(0, budget=Budget(C, "passes"), sampler="antithetic")]))
    assert done.race.n == 0 and done.spending.passes == C and done.records[-1].prefix == N
    assert np.array_equal(done.race.means(), done.records[-1].values)


def test_a_budget_of_orders_and_of_flops(model):
    done = next(Engine(model).race([job(0, FixedRule(), budget=Budget(3, "orders"))]))
    assert done.race.orders == 3 and done.stop == "budget"
    short = next(Engine(model).race([job(0, FixedRule(), budget=Budget(3, "orders"), length=4)]))
    assert short.race.orders == 3 and short.stop == "budget"  # of its own length: those that are printed
    flops = model.config.flops() * C
    done = next(Engine(model).race([job(0, FixedRule(), budget=Budget(2.5 * flops, "flops"))]))
    assert done.race.orders == 2


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


class SlowModel(torch.nn.Module):
    """A model whose passes take a given time on the clock; `noise` multiplies it, batch by batch."""

    def __init__(self, net, clock=None, seconds_per_pass=0.0, noise=lambda: 1.0):
        super().__init__()
        self.net, self.config, self.output = net, net.config, net.output
        self.clock, self.seconds_per_pass, self.noise = clock, seconds_per_pass, noise

    def forward(self, tokens, classes, orders, prefix=None):
        if self.clock:
            share = self.config.flops(prefix or N) / self.config.flops()
            self.clock.now += self.seconds_per_pass * len(tokens) * share * self.noise()
        return self.net(tokens, classes, orders, prefix)


class Stub(torch.nn.Module):
    """Answers at once: every token has the same probability, whatever the class."""

    def __init__(self):
        super().__init__()
        self.config, self.output = RandARConfig(8, 1, 1, 24, N, C), torch.nn.Linear(1, 1)

    def forward(self, tokens, classes, orders, prefix=None):
        return torch.full((len(tokens), prefix or N), -3.0)


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


def test_out_of_memory_halves_the_batch_and_goes_on(model):
    class Small(SlowModel):
        def forward(self, tokens, classes, orders, prefix=None):
            if len(tokens) > 5:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate ...")
            return self.net(tokens, classes, orders, prefix)

    engine = Engine(Small(model), batch_size=64)
    done = next(engine.race([job(0)]))
    assert engine.tile(N) <= 5
    assert done.race.leader == next(Engine(model).race([job(0)])).race.leader


def test_other_errors_are_not_swallowed(model):
    class Broken(SlowModel):
        def forward(self, *args):
            raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        next(Engine(Broken(model)).race([job(0)]))


def test_antithetic_pairs_are_one_pull(model):
    done = next(Engine(model).race([job(0, FunnelRule(), k_max=8, sampler="antithetic")]))
    race = done.race
    assert race.k_max == 4 and race.block == 2 and race.orders == 8
    first, second = done.draws.order(done.content, 0), done.draws.order(done.content, 1)
    assert np.array_equal(first, second[::-1])
    assert np.allclose(race.pulls[0], race.by_order[:2].mean(0))


def test_updates_are_heard_as_the_race_goes(model):
    seen = []
    engine = Engine(model, batch_size=6)
    list(engine.race([job(0, FixedRule(), k_max=4)], lambda j: seen.append(j.race.n)))
    assert seen == [1, 2, 3, 4]


def test_the_calibration_is_cached_per_identity(model, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first, again, other = (Engine(model, identity=name) for name in ("a", "a", "b"))
    assert first.calibrate() > 0 and again.calibrate() == 0 and other.calibrate() > 0
    assert (first.cost.overhead, first.cost.slope) == (again.cost.overhead, again.cost.slope)


def test_numbers_that_overflow_end_that_image_with_an_error(model):
    class Overflowing(SlowModel):
        def forward(self, tokens, classes, orders, prefix=None):
            out = self.net(tokens, classes, orders, prefix)
            out[(tokens[:, 0] == bad) & (classes == 2)] = float("nan")
            return out

    bad = int(job(1).encoded[0])
    done = by_index(Engine(Overflowing(model)).race(job(i) for i in range(4)))
    assert {i for i, j in done.items() if j.error} == {i for i in done if done[i].encoded[0] == bad} >= {1}
    assert "float32" in done[1].error
    assert any(j.stop in ("decided", "max-orders") for j in done.values())
