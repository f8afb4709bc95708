"""Who takes part in a comparison, on which images, and what is recorded of them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from peer_models import write
from sweep_data import CLASSES, contents, make_images

from anytime_cls.classifier import AnytimeClassifier
from anytime_cls.engine.engine import Stopped
from anytime_cls.models.card import ModelCard
from anytime_cls.plan.plan import Runtime
from anytime_cls.sweeps.clock import clock
from anytime_cls.sweeps.contest import Contest, Entrant, ImageSet, entrants, file_name, image_sets
from anytime_cls.testing import FakeShape


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    return make_images(tmp_path_factory.mktemp("data") / "images", 3)


def named(path: Path, name: str, source: Path) -> Path:
    """A copy of a model under another name."""
    shutil.copytree(source, path / name)
    fields = json.loads((path / name / "model.json").read_text())
    (path / name / "model.json").write_text(json.dumps(fields | {"name": name}))
    return path / name


def test_sets_of_images_by_name(tmp_path):
    assert image_sets("cifar10", []) == [ImageSet("clean", "cifar10", None, True)]
    found = image_sets("cifar10", ["clean", "Fog_X".replace("_X", ":4"), "imagenet-r", "clean"])
    assert found == [
        ImageSet("clean", "cifar10", None, True), ImageSet("fog:4", "cifar10", "fog:4", True),
        ImageSet("imagenet-r", "imagenet-r", None, False),
    ]  # fmt: skip
    each = image_sets("cifar10", ["snow:each"])
    assert [s.shift for s in each] == [f"snow:{severity}" for severity in range(1, 6)]
    assert len(image_sets("cifar10", ["corruptions:each"])) == 75
    with pytest.raises(ValueError, match="no severity"):
        image_sets("cifar10", ["sketch:each"])


def test_entrants_have_names_of_their_own(tiny_model_dir, tmp_path):
    other = named(tmp_path, "other", tiny_model_dir)
    specs = [str(tiny_model_dir), f"{tiny_model_dir}:raster", str(other)]
    found = entrants(specs, "cifar10", None, None)
    assert [e.name for e in found] == ["tiny", "tiny:raster", "other"]
    assert [e.kind for e in found] == ["autoregressive", "one order", "autoregressive"]
    again = tmp_path / "again"
    shutil.copytree(tiny_model_dir, again)
    with pytest.raises(ValueError, match="is the same model as another"):
        entrants([str(tiny_model_dir), str(again), f"{again}/"], "d", None, None)
    with pytest.raises(ValueError, match="name the models to compare"):
        entrants([], "cifar10", None, None)
    with pytest.raises(ValueError, match="no model 'nowhere'"):
        entrants(["nowhere"], "cifar10", None, None)


def of_shape(**shape) -> Entrant:
    return Entrant("x", "x", ModelCard.of("fake", "x", CLASSES, 32, FakeShape(**shape), ["ab"]))


def test_kinds_are_of_the_shape():
    assert of_shape(steps=4).kind == "autoregressive"
    assert of_shape(steps=1, joint=True).kind == "discriminative"
    found = of_shape(steps=1, unit="loss")
    assert found.kind == "diffusion"
    assert found.designs(20, 100)[""].max_orders == 100
    assert of_shape(steps=4).designs(20, 100)[""].max_orders == 20


def test_a_diffusion_models_draws_are_independent_or_well_spread(tmp_path):
    made = entrants([str(write("diffusion", tmp_path / "dit"))], "d", None, None)[0]
    found = made.designs(20, 98)
    assert {name: (o.orders, o.max_orders) for name, o in found.items()} == {
        "": ("uniform", 98), "levels": ("levels", 100)  # whole pulls of four
    }  # fmt: skip
    assert list(of_shape(steps=1, unit="loss").designs(20, 98)) == ["", "levels"]


def test_the_recommended_race_is_recorded_too(tiny_model_dir):
    plain, raster = entrants([str(tiny_model_dir), f"{tiny_model_dir}:raster"], "d", None, None)
    assert list(plain.designs(20, 100)) == [""] == list(raster.designs(20, 100))
    assert raster.designs(20, 100)[""].orders == "raster" and raster.designs(20, 100)[""].max_orders == 1
    own = {"rule": "paired", "delta": 0.05, "orders": "stratified", "max_orders": 32, "prefix": 4}
    fields = {**plain.card.fields, "race": own}
    plain, raster = (replace(e, card=replace(e.card, fields=fields)) for e in (plain, raster))
    assert {k: (o.orders, o.prefix, o.max_orders, o.rule) for k, o in plain.designs(20, 100).items()} == {
        "": ("uniform", None, 20, "fixed"), "stratified-4": ("stratified", 4, 32, "fixed"),
    }  # fmt: skip
    assert list(raster.designs(20, 100)) == [""]


def contest(folder: Path, images: Path, specs, shifts=(), **more) -> Contest:
    found = entrants(list(map(str, specs)), str(images), None, None)
    sets = image_sets(str(images), list(shifts))
    return Contest(folder, found, sets, max_orders=3, runtime=Runtime("cpu"), **more)


def test_a_job_goes_on_where_it_was_left(tiny_model_dir, images, tmp_path):
    made = contest(tmp_path / "out", images, [tiny_model_dir], ["clean", "impulse-noise:2"])
    jobs = made.jobs()
    assert [(job.name, job.images.name) for job in jobs] == [("tiny", "clean"), ("tiny", "impulse-noise:2")]
    assert jobs[0].path("traces") == tmp_path / "out" / "traces" / "clean" / "tiny.h5"
    assert jobs[1].path("curves").parent.name == "impulse-noise-2"
    assert [job.left() for job in jobs] == [12, 12] and not (tmp_path / "out").exists()
    classifier = AnytimeClassifier.load(tiny_model_dir, "cpu")
    asked = iter([False] * 3 + [True] * 99)
    with pytest.raises(Stopped):
        jobs[0].run(classifier, stop=lambda: next(asked))
    part = jobs[0].left()
    assert 0 < part <= 12
    jobs[0].run(classifier)
    assert jobs[0].left() == 0 and jobs[0].path("traces").is_file()
    whole = contest(tmp_path / "whole", images, [tiny_model_dir]).jobs()[0]
    whole.run(classifier)
    assert contents(whole.path("traces")) == contents(jobs[0].path("traces"))
    with pytest.raises(ValueError, match="seed"):
        contest(tmp_path / "out", images, [tiny_model_dir], seed=1).jobs()[0].left()


def test_curves_are_kept_and_made_anew_where_they_are_of_something_else(tiny_model_dir, images, tmp_path):
    job = contest(tmp_path / "out", images, [tiny_model_dir]).jobs()[0]
    job.run(AnytimeClassifier.load(tiny_model_dir, "cpu"))
    found = job.replay(["paired"])
    assert set(found.names) == {"paired", "fixed", "table", "gradient"}
    before = job.path("curves").stat().st_mtime_ns
    again = job.replay(["paired"])
    assert job.path("curves").stat().st_mtime_ns == before
    assert np.array_equal(again.runs[0].prediction, found.runs[0].prediction)
    every = job.replay()
    assert "clark-jaini" in every.names and job.path("curves").stat().st_mtime_ns > before


def test_methods_of_other_classes_are_refused(tiny_model_dir, images, tmp_path):
    fewer = named(tmp_path, "fewer", tiny_model_dir)
    fields = json.loads((fewer / "model.json").read_text())
    labels = [*fields["labels"][:4], *fields["labels"][:3:-1]]  # the last six the other way round
    (fewer / "model.json").write_text(json.dumps(fields | {"labels": labels}))
    with pytest.raises(ValueError, match="race different classes"):
        contest(tmp_path / "out", images, [tiny_model_dir, fewer]).jobs()


def test_a_live_race_is_clocked_in_a_process_of_its_own(tiny_model_dir, images, tmp_path):
    job = contest(tmp_path / "out", images, [tiny_model_dir]).jobs()[0]
    found = clock(job.entrant.card, job.plan, job.data.samples[:5], Runtime("cpu", threads=1))
    assert found.images == 5 and 3 <= found.images_alone <= 5
    assert found.seconds_batched > 0 and found.seconds_alone > 0
    assert found.bytes_batched >= 0 or np.isnan(found.bytes_batched)


def test_file_names():
    assert file_name("cifar10:raster") == "cifar10-raster" and file_name("a/b c") == "a-b-c"
    assert file_name("../..") == "-" and file_name("fog:5") == "fog-5"
