"""Estimates before a run: arithmetic by hand, and the passes and batches that an engine then really runs."""

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from anytime_cls.classifier import AnytimeClassifier
from anytime_cls.engine.cost import CostModel
from anytime_cls.engine.estimate import Estimate, estimate
from anytime_cls.plan.budget import parse_budget
from anytime_cls.plan.presets import preset_options
from anytime_cls.race.bounds import ModeratedT, VariancePrior
from anytime_cls.race.rules import CalibratedRule, FixedRule, PairedRule
from anytime_cls_cli.show.output import estimate_line

PAIRED = PairedRule(ModeratedT(VariancePrior(scale=1.0, power=0.0, df=20.0)), 0.05)


def machine(overhead: float = 0.5, slope: float = 0.1, rows: int = 32, tile: int = 8) -> SimpleNamespace:
    """An engine of 64 tokens that takes `rows` whole passes a batch and costs what it says."""
    cost = CostModel(lambda m, c: 1e9 * m * c, 64, overhead, slope)
    return SimpleNamespace(
        cost=cost,
        n_tokens=64,
        rows=lambda length: rows * 64 // length,
        tile=lambda length: tile * 64 // length,
    )


def guess(*args: object, **more: object) -> Estimate:
    return estimate(*args, **more)  # type: ignore[arg-type]


def test_fixed_is_every_class_on_every_order() -> None:
    got = guess(machine(), FixedRule(), 10, 20, tokenizing=0.25)
    # 200 rows in 7 batches (the last of 8), nothing padded
    expected = 7 * 0.5 + 200 * 0.1
    assert got.least == pytest.approx(expected + 0.25)
    caution = 1.25  # the cost model's, before it has seen a run
    assert got.most == pytest.approx(caution * expected + 0.25)
    assert (got.least_passes, got.most_passes, got.budget) == (200, 200, False)


def test_the_last_tile_is_padded() -> None:
    got = guess(machine(), FixedRule(), 3, 1)
    assert got.least == pytest.approx(0.5 + 8 * 0.1) and got.most_passes == 3


def test_a_race_takes_between_its_first_look_and_everything() -> None:
    first = PAIRED.looks(10, 32)[0]
    got = guess(machine(), PAIRED, 10, 32)
    alone = guess(machine(), FixedRule(), 10, first)
    whole = guess(machine(), FixedRule(), 10, 32)
    assert got.least == alone.least < whole.least < got.most == whole.most
    assert (got.least_passes, got.most_passes) == (10 * first, 320)


def test_pulls_of_two_orders_and_prefixes() -> None:
    pairs = guess(machine(), PAIRED, 10, 32, block=2)
    assert pairs.least_passes == 10 * 2 * PAIRED.looks(10, 16)[0] and pairs.most_passes == 320
    short = guess(machine(), FixedRule(), 10, 32, length=16)
    assert short.most_passes == 320 / 4
    # 128 rows of a quarter of the cost in a batch, and four times as many to a tile
    assert short.least == pytest.approx(3 * 0.5 + 320 * 0.1 / 4)


def test_rungs_come_on_top_and_may_decide() -> None:
    rule = CalibratedRule(PAIRED.bound, 0.05, thresholds=((1, 0.01),), rungs=((8, 3.0), (16, 2.0)))
    got = guess(machine(overhead=0.0), rule, 16, 4)
    assert got.least_passes == 16 / 8 and got.most_passes == 16 / 8 + 16 / 4 + 64
    # 16 rows are padded to a tile of 64 at 8 tokens, and of 32 at 16
    assert got.most == pytest.approx(1.25 * 0.1 * (64 / 8 + 32 / 4 + 64))
    assert got.least == pytest.approx(0.1 * 64 / 8)


def test_views_are_tokenized_every_order() -> None:
    plain, views = (guess(machine(), PAIRED, 10, 32, tokenizing=2.0, views=v) for v in (False, True))
    assert views.most == pytest.approx(plain.most + 31 * 2.0)
    assert views.least == plain.least + 2.0 * (PAIRED.looks(10, 32)[0] - 1)


@pytest.mark.parametrize(
    ("budget", "passes"),
    [("50passes", 50), ("5orders", 50), ("3.2TFLOP", 50)],
)
def test_a_budget_caps_the_most(budget: str, passes: float) -> None:
    free = guess(machine(), FixedRule(), 10, 20)
    got = guess(machine(), FixedRule(), 10, 20, budget=parse_budget(budget))
    assert got.budget and got.most_passes == pytest.approx(passes) and got.least_passes <= got.most_passes
    assert got.least <= got.most == pytest.approx(free.most * passes / 200)
    assert (got.full, got.full_passes) == (free.most, 200)


def test_a_budget_in_seconds_is_the_most() -> None:
    tight = guess(machine(), FixedRule(), 10, 20, budget=parse_budget("2s"))
    assert tight.most == 2.0 and tight.least <= 2.0 and tight.budget
    ample = guess(machine(), FixedRule(), 10, 20, budget=parse_budget("10m"))
    assert ample == guess(machine(), FixedRule(), 10, 20)


def test_what_the_run_observed_moves_the_caution() -> None:
    engine = machine()
    before = guess(engine, FixedRule(), 10, 20)
    for _ in range(8):
        engine.cost.observe(8, 64, 3 * engine.cost.expected(8, 64))
    after = guess(engine, FixedRule(), 10, 20)
    assert after.most == pytest.approx(before.most * 3 / 1.25)


def test_an_engine_without_a_clock_is_refused() -> None:
    with pytest.raises(ValueError, match="not calibrated"):
        guess(machine(slope=0.0), FixedRule(), 10, 20)


@pytest.mark.parametrize("name", ["paper", "paper-raster"])
def test_the_engine_runs_the_passes_and_batches_foretold(tiny_model_dir: Path, name: str) -> None:
    classifier = AnytimeClassifier.load(str(tiny_model_dir), "cpu")
    plan, engine = classifier.plan(preset_options(name)), classifier.engine
    engine.cost.overhead, engine.cost.slope = 1.0, 0.0  # a machine on which only batches cost
    batches: list[int] = []
    observe = engine.cost.observe
    engine.cost.observe = lambda rows, m, s: (batches.append(rows), observe(rows, m, s))[0]  # type: ignore
    picture = np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)
    (decision,) = classifier.classify_many([picture], plan)
    # per padded row a second, too, to compare rows
    engine.cost.slope, engine.cost._ratios = 1.0, type(engine.cost._ratios)()
    foretold = estimate(engine, plan.rule, 10, plan.design.k_max)
    assert foretold.most_passes == foretold.least_passes == decision.passes == 10 * plan.design.k_max
    assert foretold.least == pytest.approx(len(batches) + sum(batches))
    assert math.isclose(foretold.most, 1.25 * foretold.least)


def test_the_line_for_people() -> None:
    line = estimate_line(Estimate(12.3, 124.0, 20, 640, 124.0, 640))
    assert line == "expected: 12.30 s to 2 min 4 s an image, 20 to 640 passes"
    assert estimate_line(Estimate(2, 2, 10, 10, 2, 10)) == "expected: 2.00 s an image, 10 passes"
    line = estimate_line(Estimate(4, 4, 10, 91.84, 2160, 5000))
    assert line.startswith("expected: 4.00 s an image, where the budget ends: about 91.8 passes of ")
    assert line.endswith(" of 5,000 that would take 36 min 0 s")


@pytest.mark.parametrize(("seconds", "most_runs"), [(3.0, 3), (0.01, 7)])
def test_a_slow_model_is_not_run_dozens_of_times_to_know_its_cost(seconds: float, most_runs: int) -> None:
    """Calibration of a model whose pass takes `seconds`, on a clock that only this test moves."""
    rows: list[int] = []
    cost = CostModel(lambda m, c: 1e9 * m * c, 64)
    cost.calibrate(lambda b: (rows.append(b), seconds * b)[1], 16)
    assert len(rows) == most_runs and (seconds < 1 or sum(rows) == 3)
    assert cost.expected(20, 64) == pytest.approx(20 * seconds)
