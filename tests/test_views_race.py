"""Races whose orders see different views: the numbers behind them, what cannot change them, the commands."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from image_data import noise
from PIL import Image

from anytime_cls.classifier import AnytimeClassifier
from anytime_cls.draws.orders import OrderSampler
from anytime_cls.draws.views import ViewSampler
from anytime_cls.engine.encoded import Views
from anytime_cls.pixels.decode import decode
from anytime_cls.plan.attributes import provenance
from anytime_cls.plan.make import make
from anytime_cls.plan.options import RaceOptions
from anytime_cls.race.decision import Decision
from anytime_cls.tokenizers.fsq import FSQTokenizer
from anytime_cls.traces.read import Trace

PICTURES = [noise(50, 70, seed) for seed in range(3)]
VARIED = RaceOptions(rule="fixed", orders="uniform", max_orders=4, crops="random", latent_noise=0.3, seed=5)


def load(folder: Path, batch_size: int | None = None) -> AnytimeClassifier:
    """The tiny model with a tokenizer that tells pictures apart: its random weights give all one token."""
    classifier = AnytimeClassifier.load(str(folder), "cpu", batch_size=batch_size)
    assert isinstance(classifier.scorer.tokenizer, FSQTokenizer)
    with torch.no_grad():
        classifier.scorer.tokenizer.to_code.weight.mul_(1000)
    return classifier


@pytest.fixture(scope="module")
def classifier(tiny_model_dir: Path) -> AnytimeClassifier:
    return load(tiny_model_dir)


def scores(decision: object) -> np.ndarray:
    """[K, C]"""
    assert isinstance(decision, Decision)
    return np.stack([record.values[np.argsort(record.classes)] for record in decision.records])


def many(classifier: AnytimeClassifier, pictures: list[np.ndarray], options: RaceOptions) -> list[np.ndarray]:
    return [scores(decision) for decision in classifier.classify_many(pictures, options)]


def test_every_order_is_scored_on_its_own_view_for_all_classes(classifier: AnytimeClassifier) -> None:
    views = Views(decode(PICTURES[0]), 32, classifier.scorer, ViewSampler("random", 0.3, 5))
    sampler = OrderSampler("uniform", 64, 5)
    want = np.empty((4, 10))
    for k in range(4):
        tokens = torch.from_numpy(np.tile(views.encoded(k), (10, 1)))
        orders = torch.from_numpy(np.tile(sampler.order(views.content, k), (10, 1)))
        with torch.inference_mode():
            want[k] = classifier.scorer.model(tokens, torch.arange(10), orders).double().sum(dim=1)
    (got,) = many(classifier, PICTURES[:1], VARIED)
    np.testing.assert_allclose(got, want, atol=2e-3)
    (plain,) = many(classifier, PICTURES[:1], replace(VARIED, crops="center", latent_noise=0.0))
    assert np.abs(got - plain).max() > 1


def test_only_seed_and_content_change_a_bit(classifier: AnytimeClassifier, tiny_model_dir: Path) -> None:
    together = many(classifier, PICTURES, VARIED)
    (alone,) = many(classifier, PICTURES[1:2], VARIED)
    np.testing.assert_array_equal(alone, together[1])
    backwards = many(classifier, PICTURES[::-1], VARIED)
    np.testing.assert_array_equal(backwards[2], together[0])
    small = load(tiny_model_dir, batch_size=8)
    for a, b in zip(many(small, PICTURES, VARIED), together, strict=True):
        np.testing.assert_array_equal(a, b)
    (fewer,) = many(classifier, PICTURES[:1], replace(VARIED, max_orders=2))
    np.testing.assert_array_equal(fewer, together[0][:2])
    (other,) = many(classifier, PICTURES[:1], replace(VARIED, seed=6))
    assert (other != together[0]).all()


def test_centre_crops_without_noise_are_as_ever(classifier: AnytimeClassifier) -> None:
    plain = RaceOptions(rule="fixed", orders="uniform", max_orders=3)
    (a,), (b,) = (many(classifier, PICTURES[:1], options) for options in
                  (plain, replace(plain, crops="center", latent_noise=0.0)))  # fmt: skip
    np.testing.assert_array_equal(a, b)
    tokens, content = classifier.encode(PICTURES[0])
    views = Views(decode(PICTURES[0]), 32, classifier.scorer)
    assert content == views.content and (tokens == views.encoded(9)).all()


def test_one_order_seen_in_many_views_is_many(classifier: AnytimeClassifier) -> None:
    card = classifier.card
    raster = RaceOptions(rule="fixed", orders="raster", max_orders=4)
    assert make(raster, card).design.k_max == 1
    crops = replace(raster, crops="random")
    assert make(crops, card).design.k_max == 4
    (got,) = many(classifier, PICTURES[:1], crops)
    assert got.shape == (4, 10) and len(np.unique(got[:, 0])) == 4
    with pytest.raises(ValueError, match="one order only"):
        RaceOptions(rule="paired", orders="raster", max_orders=4)
    RaceOptions(rule="paired", orders="raster", max_orders=4, crops="random")


def test_priors_of_the_centre_crop_are_not_used(classifier: AnytimeClassifier) -> None:
    """They know nothing of how scores vary from crop to crop, so a bound on them would be too tight."""
    card = classifier.card
    plain, varied = (make(RaceOptions(rule="paired", crops=crops), card) for crops in ("center", "random"))
    assert "Moderated" in type(plain.rule.bound).__name__  # type: ignore[attr-defined]
    assert "Plain" in type(varied.rule.bound).__name__  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="fitted without latent noise"):
        make(RaceOptions(rule="calibrated", latent_noise=0.1), card)
    about = provenance(varied, card, "files")
    assert (about["crops"], about["latent_noise"], about["priors"]) == ("random", None, "{}")
    about = provenance(plain, card, "files")
    assert (about["crops"], about["latent_noise"]) == (None, None) and about["priors"] != "{}"


def test_a_budget_in_seconds_counts_the_views(classifier: AnytimeClassifier) -> None:
    """A view that takes 100 times the budget is not made once that is known; the first has to be."""
    made = []

    class Slow(Views):
        def _encode(self, view: int) -> np.ndarray:
            made.append(view)
            self.slowest = 100.0
            return super()._encode(view)

    plan = classifier.plan(replace(VARIED, max_orders=50, budget="1s"))
    job = classifier._job(0, PICTURES[0], plan)
    job.views = Slow(decode(PICTURES[0]), 32, classifier.scorer, plan.views)
    job.views.encoded(0)
    classifier.warm_up()
    (done,) = classifier.engine.race([job])
    assert done.stop == "budget" and made == [0] and done.race.n <= 1


# ---- the commands


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "anytime_cls_cli", *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for at, name in enumerate(("plane", "car")):
        (tmp_path / "set" / name).mkdir(parents=True)
        Image.fromarray(noise(40, 60, at)).save(tmp_path / "set" / name / "one.png")
    return tmp_path / "set"


def test_sweep_by_preset_with_crops(folder: Path, tiny_model_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "run.h5"
    words = ("sweep", folder, "--model", tiny_model_dir, "--preset", "paper", "--crops", "random",
             "--latent-noise", 0.25, "--max-orders", 3, "-o", out)  # fmt: skip
    done = command(*words)
    assert done.returncode == 0, done.stderr
    assert "preset paper with --max-orders 3 instead of 20: no longer the paper's setting" in done.stderr
    with Trace.open(out) as trace:
        about = trace.attrs
        assert (about["rule"], about["order_sampler"], about["k_max"]) == ("fixed", "uniform", 3)
        assert (about["crops"], about["latent_noise"]) == ("random", 0.25)
        assert np.isfinite(trace.matrix(0)).all()
    again = command(*(word for word in words if word not in ("--latent-noise", 0.25)), "--resume")
    assert again.returncode == 2 and "latent_noise" in again.stderr and "Traceback" not in again.stderr


def test_classify_by_preset(folder: Path, tiny_model_dir: Path) -> None:
    done = command(
        "classify", folder / "car" / "one.png", "--model", tiny_model_dir, "--preset", "paper", "--json"
    )
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout)
    assert (row["orders"], row["passes"], row["stop"]) == (20, 200, "max-orders")
    assert "preset" not in done.stderr  # nothing was changed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--crops", "corner"), "unknown crops 'corner': choose from center, random, resized"),
        (("--latent-noise", "2"), "latent noise must lie between 0 and 1, not 2"),
        (("--preset", "papers"), "unknown preset 'papers': choose from paper, paper-raster, paper-constant"),
    ],
)
@pytest.mark.parametrize("name", ["classify", "sweep"])
def test_mistakes_are_refused(
    name: str, options: tuple[str, ...], message: str, folder: Path, tiny_model_dir: Path
) -> None:
    done = command(name, folder, "--model", tiny_model_dir, *options)
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1
