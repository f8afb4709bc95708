"""Models that answer all classes in one pass: no command claims that a race of theirs saved anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import peer_models
import pytest
from basics import cli
from sweep_data import make_images, sweep

from anytime_cls.classifier import AnytimeClassifier, estimate_image
from anytime_cls.curves.file import read_curves
from anytime_cls.curves.files import open_files
from anytime_cls.curves.study import join
from anytime_cls.plan.options import RaceOptions
from anytime_cls.testing import FakeShape
from anytime_cls.traces.merge import merge_traces
from anytime_cls.traces.read import Trace

CLASSES = len(peer_models.LABELS)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    return make_images(tmp_path_factory.mktemp("pictures"), 3, peer_models.LABELS)


@pytest.fixture(scope="module", params=["discriminative", "head"])
def model(request, tmp_path_factory) -> str:
    return str(peer_models.write(request.param, tmp_path_factory.mktemp("model") / request.param))


def older(path: Path, *groups: str) -> Path:
    """The file as it was before it said what an image's whole computation is: classes · K_max passes."""
    with h5py.File(path, "r+") as file:
        assert file.attrs["full_passes"] == 1
        del file.attrs["full_passes"]
        for group in groups:
            file[group]["token_fraction"][:] /= CLASSES
    return path


@pytest.mark.parametrize("rule", ["fixed", "paired"])
def test_a_sweep_and_its_trace_claim_no_saving(rule, model, pictures, tmp_path, capsys):
    path = tmp_path / "t.h5"
    code, found, err = sweep(capsys, pictures, "--model", model, "--rule", rule, "-o", path, "-q")
    assert code == 0 and found is not None, err
    for name in ("token_fraction_mean", "saving", "passes_mean", "full_passes"):
        assert found[name] == pytest.approx(1), name
    assert "less compute" not in cli(capsys, "sweep", pictures, "--model", model, "--rule", rule, "-o", path,
                                     "--overwrite")  # fmt: skip
    out = cli(capsys, "trace", "info", path)
    assert "less compute" not in out and "none: one pass answers all classes" in " ".join(out.split())
    drawn = cli(capsys, "plot", path, "-o", tmp_path / "p.png", "--bootstrap", 0)
    assert "orders of every class" not in drawn
    older(path, "images")
    assert "none: one pass answers all classes" in " ".join(cli(capsys, "trace", "info", path).split())


def test_a_replay_claims_no_saving_and_older_files_say_the_same(model, pictures, tmp_path, capsys):
    path, curves = tmp_path / "t.h5", tmp_path / "c.h5"
    sweep(capsys, pictures, "--model", model, "--rule", "fixed", "-o", path, "-q")

    def replayed() -> list[dict[str, Any]]:
        words = ("replay", path, "--rule", "fixed,paired", "--json", "-o", curves, "--overwrite")
        return [json.loads(line) for line in cli(capsys, *words).splitlines()]

    rows = replayed()
    for row in rows:
        assert (row["passes"], row["token_fraction"], row["saving"]) == pytest.approx((1, 1, 1))
    with h5py.File(curves) as file:
        runs = [f"runs/{name}" for name in file["runs"]]
    older(curves, *runs)
    read = read_curves(curves)
    assert read.attrs["full_passes"] == 1 and np.allclose([run.token_fraction for run in read.runs], 1)
    with Trace.open(path) as trace:
        flops = trace.attrs["flops"]
    material = open_files([str(curves)])
    for run in join(material.files).runs:
        assert np.allclose(run.passes, 1) and run.flops is not None and np.allclose(run.flops, flops)
    older(path, "images")
    assert [{k: v for k, v in row.items() if k != "seconds"} for row in replayed()] == [
        {k: v for k, v in row.items() if k != "seconds"} for row in rows
    ]  # fmt: skip


def test_shards_of_an_older_and_this_version_are_merged_alike(model, pictures, tmp_path, capsys):
    paths = [tmp_path / f"{i}.h5" for i in (1, 2)]
    for i, path in enumerate(paths, 1):
        sweep(capsys, pictures, "--model", model, "--shard", f"{i}/2", "-o", path, "-q")
    older(paths[0], "images")
    for given in (paths, paths[::-1]):
        merge_traces(given, tmp_path / "both.h5", overwrite=True)
        with Trace.open(tmp_path / "both.h5") as trace:
            assert trace.attrs["full_passes"] == 1 and len(trace) == 12
            assert np.allclose(trace.images["token_fraction"], 1)


def test_an_estimate_counts_its_pass(model):
    classifier = AnytimeClassifier.load(model, "cpu", threads=1)
    classifier.warm_up()
    found = estimate_image(classifier, classifier.plan(RaceOptions()))
    assert found.least_passes == found.most_passes == found.full_passes == 1


def test_the_whole_computation_is_what_classes_do_not_share(tiny_model_dir, model):
    plan = AnytimeClassifier.load(tiny_model_dir, "cpu").plan(RaceOptions(max_orders=6))
    assert plan.full_passes == 60
    assert AnytimeClassifier.load(model, "cpu").plan(RaceOptions()).full_passes == 1

    class Half(FakeShape):
        """Three quarters of a pass serve all classes."""

        def flops(self, steps: int, classes: int = 1) -> float:
            return 1e6 * steps * (3 + classes) / 4

    from dataclasses import replace

    assert replace(plan, shape=Half(64)).full_passes == pytest.approx(6 * (3 + 10) / 4)
