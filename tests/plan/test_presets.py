"""The paper's settings by name: what they are, and what wins over them."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import typer

from anytime_cls.draws.orders import OrderSampler
from anytime_cls.engine.device import DTYPES
from anytime_cls.models.zoo import read_card
from anytime_cls.plan.make import make
from anytime_cls.plan.options import RaceOptions
from anytime_cls.plan.presets import PRESETS, overridden, preset, preset_options
from anytime_cls.race.race import Race
from anytime_cls.race.races import aggregate_scores
from anytime_cls.race.rules import FixedRule
from anytime_cls_cli.errors import Refused
from anytime_cls_cli.preset import apply_preset


def test_paper_is_the_papers_classifier(tiny_model_dir: Path) -> None:
    plan = make(preset_options("paper"), read_card(str(tiny_model_dir)))
    assert (plan.rule.name, plan.design.k_max, plan.design.draws, plan.aggregate) == (
        "fixed", 20, "uniform", "mean",
    )  # fmt: skip
    assert plan.whole and plan.budget is None and plan.record == ()
    assert PRESETS["paper"]["dtype"] == "float32"
    # the same numbers as its formula, argmax_c (1/K) sum_k log p(x | pi_k, c)
    scores = np.random.default_rng(0).normal(-300, 3, (20, 5))
    race = Race(5, plan.pulls, FixedRule())
    for k in race.request().orders:
        race.record(k, np.arange(5), scores[k])
    assert race.leader == scores.mean(axis=0).argmax() and race.passes == 100
    np.testing.assert_allclose(race.means(), aggregate_scores(scores, plan.aggregate))


@pytest.mark.parametrize(("name", "orders"), [("paper-raster", "raster"), ("paper-constant", "constant")])
def test_baselines_score_every_image_on_one_order(name: str, orders: str, tiny_model_dir: Path) -> None:
    plan = make(preset_options(name), read_card(str(tiny_model_dir)))
    assert (plan.rule.name, plan.design.draws, plan.design.k_max) == ("fixed", orders, 1)
    sampler = OrderSampler(plan.design.draws, 16, seed=4)
    assert (sampler.order(b"one", 0) == sampler.order(b"two", 0)).all()


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_makes_options_and_names_what_exists(name: str) -> None:
    assert isinstance(preset_options(name), RaceOptions)
    assert set(PRESETS[name]) - {"dtype"} <= set(RaceOptions.__dataclass_fields__)
    assert PRESETS[name]["dtype"] in DTYPES
    assert PRESETS[name].keys() == PRESETS["paper"].keys()  # a preset leaves nothing to another default


def test_explicit_options_win() -> None:
    options = preset_options("paper", max_orders=5, budget="60s", seed=3, aggregate="softmax", orders=None)
    assert (options.max_orders, options.seed, options.aggregate) == (5, 3, "softmax")
    assert str(options.budget) == "60s" and (options.rule, options.orders) == ("fixed", "uniform")
    assert preset("paper", {"max_orders": 5, "rule": None})["max_orders"] == 5
    assert PRESETS["paper"]["max_orders"] == 20  # the preset itself is not changed


def test_the_command_can_say_what_won() -> None:
    line = overridden("paper", {"max_orders": 5, "rule": None, "seed": 3, "dtype": "bf16"})
    assert line == (
        "preset paper with --max-orders 5 instead of 20, --dtype bf16 instead of float32: "
        "no longer the paper's setting"
    )
    for same in ({}, {"seed": 3}, {"rule": "fixed", "max_orders": 20}, {"rule": None}):
        assert overridden("paper", same) == ""


def test_mistakes_are_one_line() -> None:
    for function in (preset, preset_options, lambda name: overridden(name, {})):
        with pytest.raises(ValueError, match="unknown preset 'papper': choose from paper, paper-raster") as e:
            function("papper")
        assert "\n" not in str(e.value)
    with pytest.raises(ValueError, match="needs rule 'fixed'"):
        preset_options("paper", rule="paired", aggregate="softmax")
    with pytest.raises(TypeError, match="colour"):
        preset_options("paper", colour="red")


def test_presets_can_be_listed_without_torch() -> None:
    code = "import sys, anytime_cls.plan.presets; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---- on the command line


@dataclass(frozen=True)
class Asked:
    """A command's request; it has no `dtype`."""

    rule: str
    max_orders: int
    orders: str
    aggregate: str
    seed: int


def command_line(*arguments: str) -> tuple[Asked, str]:
    app = typer.Typer()

    @app.command()
    def run(
        context: typer.Context, rule: str = "paired", max_orders: int = 32, orders: str = "uniform",
        aggregate: str = "mean", seed: int = 0, preset: str | None = None,
    ) -> tuple[Asked, str]:  # fmt: skip
        asked = {
            "rule": rule,
            "max_orders": max_orders,
            "orders": orders,
            "aggregate": aggregate,
            "seed": seed,
        }
        values, said, by_preset = apply_preset(context, preset, asked)
        assert by_preset <= values.keys() and "seed" not in by_preset
        return Asked(**values), said

    return app(args=list(arguments), standalone_mode=False)


def test_a_preset_sets_what_was_not_typed() -> None:
    assert command_line() == (Asked("paired", 32, "uniform", "mean", 0), "")
    assert command_line("--preset", "paper") == (Asked("fixed", 20, "uniform", "mean", 0), "")
    raster = command_line("--seed", "4", "--preset", "paper-raster")
    assert raster == (Asked("fixed", 1, "raster", "mean", 4), "")


def test_typed_options_win_even_at_their_default() -> None:
    asked, line = command_line("--preset", "paper", "--max-orders", "32", "--rule", "fixed")
    assert asked == Asked("fixed", 32, "uniform", "mean", 0)
    assert line == "preset paper with --max-orders 32 instead of 20: no longer the paper's setting"


def test_an_unknown_preset_is_refused_in_one_line() -> None:
    with pytest.raises(Refused, match="unknown preset 'x': choose from paper, paper-raster, paper-constant"):
        command_line("--preset", "x")
