"""A third party's scorer, found by its entry point, goes through every command untouched."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anytime_cls.draws.orders import OrderSampler
from anytime_cls.engine.cost import CostModel
from anytime_cls.engine.engine import Engine
from anytime_cls.engine.job import Job
from anytime_cls.models.card import ModelCard
from anytime_cls.models.load import any_order
from anytime_cls.models.zoo import read_card
from anytime_cls.plan.make import make
from anytime_cls.plan.options import RaceOptions
from anytime_cls.race.race import Race
from anytime_cls.race.races import run
from anytime_cls.race.registry import make_rule
from anytime_cls.scorers import registry
from anytime_cls.testing import FakeScorer, FakeShape, check_scorer
from anytime_cls.traces.cost import draw_cost, stage_cost

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "scorer.py"
COLOURS = {"red": (255, 0, 0), "green": (0, 128, 0), "blue": (0, 0, 255), "grey": (128, 128, 128)}


def example():
    spec = importlib.util.spec_from_file_location("scorer_example", EXAMPLE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["scorer_example"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example as pip would install it: a module, and its metadata with the entry point."""
    site = tmp_path_factory.mktemp("site")
    (site / "colours.py").write_text(EXAMPLE.read_text())
    info = site / "colours-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: colours\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[anytime_cls.methods]\ncolours = colours:Colours\n")
    return site


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty noisy pictures of a colour each."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (folder / name).mkdir()
        for i in range(40):
            noisy = rng.normal(colour, 90, (20, 24, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(folder / name / f"{i:02d}.png")
    return folder


def run_command(installed: Path, cwd: Path, *words: object, code: int = 0) -> str:
    path = os.pathsep.join(filter(None, (str(installed), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [sys.executable, "-m", "anytime_cls_cli", *map(str, words)],
        capture_output=True, text=True, cwd=cwd, env=os.environ | {"PYTHONPATH": path}, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    return done.stdout if code == 0 else done.stderr


def test_through_every_command(installed, pictures, tmp_path):
    model = ("--model", "colours:rgb")
    photo = pictures / "blue" / "00.png"
    row = json.loads(run_command(installed, tmp_path, "classify", photo, *model, "--json"))
    assert row["label"] == "blue" and {standing["label"] for standing in row["ranking"]} == set(COLOURS)

    design = ("--orders", "stratified", "--prefix", 16, "--max-orders", 8)
    sweep = ("sweep", pictures, *model, "--rule", "fixed", *design, "--record-prefixes", 4)
    found = json.loads(run_command(installed, tmp_path, *sweep, "-o", "full.h5", "--json", "-q"))
    assert found["images"] == 160 and found["accuracy"] > 0.9
    said = run_command(installed, tmp_path, *sweep, "-o", "full.h5", "--resume", "--json")
    assert json.loads(said)["images"] == 160

    out = run_command(installed, tmp_path, "replay", "full.h5", "-o", "c.h5", "--rule", "paired", "--json")
    assert all(json.loads(line)["agreement"] > 0.5 for line in out.splitlines())
    fitted = run_command(installed, tmp_path, "calibrate", "full.h5", "--risk", "0.2", "--json")
    assert json.loads(fitted)["calibrated"][0]["risk"] == 0.2
    small = ("--limit", 12, "--max-orders", 4, "--time-images", 3, "--json", "-q")
    out = run_command(installed, tmp_path, "compare", pictures, "--models", "colours:rgb", *small)
    assert [row["method"] for row in json.loads(out)["rows"]] == ["colours:rgb"]
    run_command(installed, tmp_path, "plot", "full.h5", "-o", "p.svg", "-q")
    assert (tmp_path / "p.svg").stat().st_size > 1000


def test_classes_are_the_data_set_s_or_the_caller_s(installed, tmp_path):
    """A method of open vocabulary: folders of colours that it was not written for, two workers."""
    colours = {"tomato": (255, 99, 71), "navy": (0, 0, 128), "olive": (128, 128, 0)}
    for name, colour in colours.items():
        (tmp_path / "paints" / name).mkdir(parents=True)
        for i in range(4):
            Image.new("RGB", (20, 20), colour).save(tmp_path / "paints" / name / f"{i}.png")
    model = ("--model", "colours:css")
    sweep = ("sweep", "paints", *model, "--max-orders", 4, "--workers", 2, "--json", "-q")
    found = json.loads(run_command(installed, tmp_path, *sweep))
    assert found["images"] == 12 and found["accuracy"] == 1.0
    photo = tmp_path / "paints" / "navy" / "0.png"
    some = ("--classes", "navy,white,black", "--json")
    row = json.loads(run_command(installed, tmp_path, "classify", photo, *model, *some))
    assert row["label"] == "navy" and len(row["ranking"]) == 3


def test_a_live_race_is_the_replay_of_a_full_one(installed, pictures, tmp_path):
    model = ("--model", "colours:rgb", "--orders", "stratified", "--prefix", 16, "--max-orders", 8)
    run_command(installed, tmp_path, "sweep", pictures, *model, "--rule", "fixed", "-o", "full.h5", "-q")
    live = run_command(
        installed, tmp_path, "sweep", pictures, *model, "--rule", "paired", "-o", "live.h5", "-q", "--json"
    )
    out = run_command(installed, tmp_path, "replay", "full.h5", "--rule", "paired", "--delta", 0.05, "--json")
    assert json.loads(out)["passes"] == pytest.approx(json.loads(live)["passes_mean"], rel=1e-6)


def test_mistakes_are_one_line(installed, tmp_path):
    said = run_command(installed, tmp_path, "classify", EXAMPLE, "--model", "colors:rgb", code=2)
    assert said.count("\n") == 1 and "no model 'colors:rgb'" in said


def test_the_example_keeps_its_word():
    made = example()
    method = made.Colours()
    card = method.card("rgb")
    assert isinstance(card, ModelCard) and card.method == "colours" and card.tokens == 64
    check_scorer(method.load(card, "cpu", "float32"), card.image_size, len(card.labels))


def test_our_own_scorers_keep_theirs(tiny_model_dir):
    card = read_card(str(tiny_model_dir))
    check_scorer(any_order.load(card, "cpu", "float32"), card.image_size, len(card.labels))


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ({"encode": lambda self, crops, noise=0.0, keys=(): [len(crops)] * len(crops)}, "one at a time"),
        ({"score": lambda self, pieces, at: [np.zeros((4, len(at)), np.float32) for _ in pieces]}, "float64"),
        ({"score": lambda self, pieces, at: [np.full((4, len(at)), np.nan) for _ in pieces]}, "finite"),
        ({"score": lambda self, pieces, at: [np.full((4, len(at)), np.pi) for _ in pieces]}, "of float32"),
    ],
)
def test_broken_ones_are_found_out(broken, said):
    base = type(example().Scorer())
    if "encode" in broken:
        broken = broken | {"score": lambda self, pieces, at: [
            np.full((4, len(at)), float(p.encoded)) for p in pieces
        ]}  # fmt: skip
    scorer = type("Broken", (base,), broken)()
    with pytest.raises(AssertionError, match=said):
        check_scorer(scorer, 16, 4)


def test_names_of_methods(monkeypatch):
    assert {"randar", "sigma"} <= set(registry.names()) and registry.method("sigma") is any_order
    with pytest.raises(ValueError, match=r"no method 'sigmo' \(did you mean 'sigma'\?\)"):
        registry.method("sigmo")


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("name", ["fixed", "paired", "halving"])
def test_a_scorer_made_of_a_matrix_is_raced_as_a_replay_of_it(name, steps):
    """The engine asks for what the race wants and no more; what comes is what stands in the matrix."""
    rng = np.random.default_rng(3)
    scores = rng.normal(0, 3, (5, 16, 6)).astype(np.float32).astype(float)
    scores += rng.normal(0, 4, (5, 1, 6)).astype(np.float32)
    scores = scores.astype(np.float32).astype(float)
    rule = make_rule(name, 0.3)
    scorer = FakeScorer(scores, FakeShape(steps))
    draws = scorer.shape.draws("numbered", steps)
    ids = np.arange(6)
    jobs = [Job(i, i, bytes([i]), Race(6, 16, rule), ids, draws, steps) for i in range(5)]
    done = {job.index: job.race for job in Engine(scorer).race(jobs)}
    outcome = run(rule, scores)
    assert [done[i].leader for i in range(5)] == outcome.prediction.tolist()
    assert [done[i].n for i in range(5)] == outcome.n.tolist()


def test_orders_are_whatever_the_shape_knows():
    """A method's own draws, by its own name; a name that none of ours is, of our models, is refused."""
    card = ModelCard.of("made", "up", ["a", "b", "c"], 8, FakeShape(4), ["0" * 64])
    plan = make(RaceOptions(orders="by-noise", rule="paired"), card)
    assert plan.design.draws == "by-noise" and plan.draws == FakeShape(4).draws("by-noise", 4)
    with pytest.raises(ValueError, match="unknown order sampler 'by-noise': choose from uniform"):
        make(RaceOptions(orders="by-noise"), read_card("cifar10"))


def test_a_joint_scorer_is_never_cut():
    """One call gives all classes, whatever fits into a tile."""
    asked = []

    class Joint(FakeScorer):
        def score(self, pieces, at):
            asked.extend(len(piece.classes) for piece in pieces)
            return super().score(pieces, at)

    scores = np.random.default_rng(0).normal(size=(2, 1, 3000)).astype(np.float32).astype(float)
    scorer = Joint(scores, FakeShape(joint=True))
    jobs = [
        Job(i, i, b"x", Race(3000, 1, make_rule("fixed")), np.arange(3000), OrderSampler("raster", 1), 1)
        for i in range(2)
    ]
    done = list(Engine(scorer).race(jobs))
    assert [job.race.leader for job in done] == scores[:, 0].argmax(axis=1).tolist() and asked == [3000, 3000]
    assert [job.spending.passes for job in done] == [1.0, 1.0]  # whatever the classes
    assert [job.spending.flops for job in done] == [1e6, 1e6]


def test_what_all_classes_share_is_counted_once(tmp_path):
    """a + b · classes an order, live and in a replay: four orders of all six classes, then of two."""

    class Half(FakeShape):
        def flops(self, steps, classes=1):
            return 1e6 * steps * (3 + classes) / 4

    cost = CostModel(Half().flops, 1)
    assert cost.share(1) == 0.25 and cost.passes(6, 1) == 2.25 and cost.passes(24, 1, 4) == 9
    attrs = {"tokens": 1, "flops": 1e6, "flops_steps": [1], "flops_shared": [0.75e6], "flops_class": [0.25e6]}
    assert draw_cost(attrs) == (0.75, 0.25)
    assert stage_cost(attrs, [1], np.array([[6], [0]])).tolist() == [[2.25], [0.0]]
