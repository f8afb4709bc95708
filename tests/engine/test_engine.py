"""The engine: packing, budgets and memory change what a race costs, never what it says."""

import math

import numpy as np
import pytest
import torch
from engine_jobs import C, Engine, N, SlowModel, Stub, by_index, job

from anytime_cls.engine.window import ACTIVE_RACES, AHEAD
from anytime_cls.plan.budget import Budget
from anytime_cls.race.peers import FunnelRule, HalvingRule
from anytime_cls.race.races import run
from anytime_cls.race.rules import FixedRule, Stage


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
