"""The model that ships: right on the photographs that ship, and described truthfully."""

import subprocess
import sys
from pathlib import Path

import pytest

from anytime_cls import AnytimeClassifier, RaceOptions
from anytime_cls.models.zoo import EMBEDDED, embedded_names, read_card
from anytime_cls.plan.make import make
from anytime_cls.scorers.shapes import LAYOUTS

ROOT = Path(__file__).parent.parent
PHOTOS = sorted((ROOT / "examples").glob("*.jpg"))
TAKEN_FOR_FROGS = {"cat", "deer"}  # MODEL_CARD says so
ANY_ORDER = [name for name in embedded_names() if read_card(name).method in LAYOUTS]


@pytest.fixture(scope="module")
def classifier():
    return AnytimeClassifier.load("cifar10", device="cpu")


def test_there_are_photographs_and_models():
    assert len(PHOTOS) >= 3 and set(ANY_ORDER) >= {"cifar10", "cifar10-manifold", "tiny-imagenet"}
    others = {"raster", "diffusion", "transformer", "head"}
    assert set(embedded_names()) - set(ANY_ORDER) == {f"cifar10-{kind}" for kind in others}


@pytest.mark.parametrize("name", embedded_names())
def test_no_tokenizer_that_ships_has_seen_labels(name):
    assert read_card(name).fields["tokenizer"]["saw_labels"] is False


@pytest.mark.parametrize("name", ANY_ORDER)
def test_every_model_has_a_race_of_its_own_within_its_risk(name):
    """What `classify` does when nobody says how: a calibrated race on prefixes."""
    card = read_card(name)
    plan = make(RaceOptions(), card)
    assert plan.rule.name == "calibrated" and not plan.whole
    (entry,) = [
        e for e in card.fields["calibrated"]
        if (e["risk"], e.get("prefix"), e["loss"]) == (plan.delta, plan.design.steps, "disagreement")
        and (e["k_max"], e.get("crops", "center")) == (plan.design.k_max, plan.design.crops)
    ]  # fmt: skip
    assert entry["upper"] <= plan.delta and entry["model_sha256"] == card.sha256["transformer.safetensors"]
    decision = AnytimeClassifier.load(name, device="cpu").classify(PHOTOS[0])
    assert decision.stop in ("decided", "max-orders") and decision.passes < decision.full_passes
    assert decision.label in card.labels and 0 < decision.probability <= 1


@pytest.mark.parametrize("photo", PHOTOS, ids=lambda p: p.stem)
def test_the_photographs_are_classified_as_the_model_card_says(classifier, photo):
    decision = classifier.classify(photo)
    assert decision.label == ("frog" if photo.stem in TAKEN_FOR_FROGS else photo.stem)
    assert decision.passes < decision.full_passes < 320  # prefixes


def test_whole_orders_say_the_same_of_the_photographs(classifier):
    for photo in PHOTOS:
        full = classifier.classify(photo, RaceOptions(rule="fixed", max_orders=8))
        assert full.label == ("frog" if photo.stem in TAKEN_FOR_FROGS else photo.stem)
        assert full.orders == 8 and full.separation == 0


def test_the_example_script_runs():
    photos = [str(p) for p in PHOTOS[:2]]
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "classify.py", *photos],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == photos


def test_the_package_stays_small():
    assert sum(f.stat().st_size for f in EMBEDDED.rglob("*") if f.is_file()) < 40e6


@pytest.mark.parametrize("name", ANY_ORDER)
def test_the_model_card_gives_the_figures_of_the_models(name):
    """Every accuracy at K that model.json holds stands in the model card as it was measured."""
    text = (ROOT / "MODEL_CARD.md").read_text(encoding="utf-8")
    metrics = read_card(name).fields["metrics"]
    assert metrics["images"] >= 200 and f"`{name}`" in text
    for k, value in metrics["accuracy_at_k"].items():
        assert f"{100 * value['value']:.1f} %" in text, (name, k)


def test_the_model_card_gives_the_figures_of_the_default_model():
    """Of the default model, the calibration error too, as model.json holds it."""
    text = (ROOT / "MODEL_CARD.md").read_text(encoding="utf-8")
    metrics = read_card("cifar10").fields["metrics"]
    assert f"{metrics['ece_at_decision']:.3f}" in text
    assert "@@" not in text
