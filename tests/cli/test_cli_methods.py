"""Every method goes through every command: classify, sweep, replay, calibrate, plot; and train makes them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import h5py
import numpy as np
import peer_models
import pytest
from basics import cli
from sweep_data import make_images, sweep

from anytime_cls.curves.file import read_curves
from anytime_cls.models.zoo import read_card
from anytime_cls.race.races import run
from anytime_cls.race.registry import make_rule
from anytime_cls.replay.source import Source
from anytime_cls.scorers.diffusion import weight_at
from anytime_cls.traces.read import Trace
from anytime_cls_cli.main import main

RULES = ("paired", "marginal", "fixed", "funnel", "clark-jaini", "halving")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    return make_images(tmp_path_factory.mktemp("pictures"), 6, peer_models.LABELS)


@pytest.fixture(scope="module")
def models(tmp_path_factory, tiny_model_dir) -> dict[str, str]:
    root = tmp_path_factory.mktemp("models")
    found = {kind: str(peer_models.write(kind, root / kind)) for kind in peer_models.KINDS}
    return found | {"masked": f"masked:{tiny_model_dir}"}


@pytest.fixture(scope="module")
def tens(tmp_path_factory) -> Path:
    """Pictures of classes that the any-order model knows."""
    return make_images(tmp_path_factory.mktemp("tens"), 6)


DRAWS = {"diffusion": ("--orders", "levels", "--max-orders", 16),
         "masked": ("--orders", "levels", "--max-orders", 8)}  # fmt: skip


@pytest.mark.parametrize("kind", [*peer_models.KINDS, "masked"])
def test_through_every_command(kind, models, pictures, tens, tmp_path, capsys):
    folder, model, draws = tens if kind == "masked" else pictures, models[kind], DRAWS.get(kind, ())
    photo = next(folder.rglob("*.png"))
    row = json.loads(cli(capsys, "classify", photo, "--model", model, *draws, "--json", "--device", "cpu"))
    assert row["label"] in read_card(model).labels

    full = tmp_path / "full.h5"
    code, found, err = sweep(capsys, folder, "--model", model, "--rule", "fixed", *draws, "-o", full, "-q")
    assert code == 0 and found is not None and found["images"] == 24, err
    code, again, _ = sweep(
        capsys, folder, "--model", model, "--rule", "fixed", *draws, "-o", full, "-q", "--resume"
    )
    assert code == 0 and again is not None and again["accuracy"] == found["accuracy"]

    curves = tmp_path / "curves.h5"
    rules = [word for rule in RULES for word in ("--rule", rule)]
    out = cli(capsys, "replay", full, "-o", curves, *rules, "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert rows and all(row["images"] == 24 for row in rows)
    runs = {run.settings["rule"] for run in read_curves(curves).runs}
    assert runs == set(RULES) if kind in DRAWS else "fixed" in runs
    pytest.importorskip("matplotlib")
    cli(capsys, "plot", full, "-o", tmp_path / "p.svg", "-q")
    assert (tmp_path / "p.svg").stat().st_size > 1000


@pytest.mark.parametrize("rule", ["paired", "funnel", "clark-jaini", "halving"])
@pytest.mark.parametrize("kind", list(DRAWS))
def test_a_live_race_is_the_replay_of_a_full_one(kind, rule, models, pictures, tens, tmp_path, capsys):
    """Draws come in pulls of four, live and in a replay: the same answers after the same passes."""
    folder, model = tens if kind == "masked" else pictures, ("--model", models[kind], *DRAWS[kind])
    sweep(capsys, folder, *model, "--rule", "fixed", "-o", tmp_path / "full.h5", "-q")
    sweep(capsys, folder, *model, "--rule", rule, "-o", tmp_path / "live.h5", "-q")
    with Trace.open(tmp_path / "full.h5") as full, Trace.open(tmp_path / "live.h5") as live:
        source = Source(full)
        assert source.block == 4
        ((_, pulls),) = source.stacks()
        races = run(make_rule(rule, 0.05), pulls)
        assert races.prediction.tolist() == live.images["prediction"].tolist()
        assert (races.n * 4).tolist() == live.images["orders"].tolist()
        assert (live.images["orders"] % 4 == 0).all()


@pytest.mark.parametrize("kind", list(DRAWS))
def test_covariates_are_in_the_trace(kind, models, pictures, tens, tmp_path, capsys):
    """A draw's own, beside its scores: in the file, as a table, after a merge of parts; nothing elsewhere."""
    folder = tens if kind == "masked" else pictures
    path, card = tmp_path / "full.h5", read_card(models[kind])
    sweep(capsys, folder, "--model", models[kind], "--rule", "fixed", *DRAWS[kind], "-o", path, "-q")
    draws = card.shape.draws("levels", 1)
    with Trace.open(path) as trace:
        assert trace.attrs["covariate"] is True
        for image, scores in trace:
            wanted = [
                draws.at(0, bytes.fromhex(image.content), int(k)).covariate
                for k in range(scores.order.max() + 1)
            ]
            assert np.allclose(scores.covariate, np.array(wanted)[scores.order], atol=1e-6)
    with h5py.File(path) as file:
        assert file["scores/covariate"].dtype == np.float32
    cli(capsys, "trace", "export", path, "--scores", "-o", tmp_path / "scores.csv")
    with open(tmp_path / "scores.csv") as table:
        rows = list(csv.DictReader(table))
    last = [float(row["covariate"]) for row in rows if row["id"] == image.id]
    assert np.allclose(last, scores.covariate, atol=1e-6) and len(last) == len(scores)


def test_draws_without_a_covariate_have_no_column(models, pictures, tmp_path, capsys):
    path = tmp_path / "t.h5"
    sweep(capsys, pictures, "--model", models["head"], "-o", path, "-q")
    with Trace.open(path) as trace:
        assert "covariate" not in trace.attrs and trace.scores(0).covariate is None
    with h5py.File(path) as file:
        assert "covariate" not in file["scores"]


def test_weights_can_be_fitted_anew_from_a_trace(models, pictures, tmp_path, capsys):
    """What was recorded, over w at its covariate, is the error: another w needs no model."""
    path, card = tmp_path / "full.h5", read_card(models["diffusion"])
    sweep(
        capsys,
        pictures,
        "--model",
        models["diffusion"],
        "--rule",
        "fixed",
        *DRAWS["diffusion"],
        "-o",
        path,
        "-q",
    )
    from anytime_cls.classifier import AnytimeClassifier
    from anytime_cls.scorers.base import Piece

    classifier = AnytimeClassifier.load(models["diffusion"], "cpu")
    classifier.scorer.weighting = ((0.0, 1.0), (1.0, 1.0))
    with Trace.open(path) as trace:
        image, scores = next(iter(trace))
        encoded, content = classifier.encode(image.path)
        draw = card.shape.draws("levels", 1).at(0, content, 5)
        (raw,) = classifier.scorer.score([Piece(encoded, draw, np.arange(4))], [1])
        mine = scores.order == 5
        again = scores.value[mine] / weight_at(card.fields["weighting"], scores.covariate[mine])
        assert np.allclose(again, raw[scores.cls[mine], 0], rtol=1e-4)


def test_a_budget_is_kept_by_every_method(models, pictures, tens, capsys):
    for kind, model in models.items():
        photo = next((tens if kind == "masked" else pictures).rglob("*.png"))
        words = ("classify", photo, "--model", model, "--budget", "3s", "--json", "--device", "cpu")
        row = json.loads(cli(capsys, *words))
        assert row["seconds"] < 30 and row["label"]


# ---- train


@pytest.fixture(scope="module")
def shades(tmp_path_factory) -> Path:
    """Two classes that any tokenizer tells apart: dark and light noise."""
    from PIL import Image

    root, rng = tmp_path_factory.mktemp("shades"), np.random.default_rng(0)
    for split, n in (("train", 30), ("test", 8)):
        for low, name in ((0, "dark"), (190, "light")):
            (root / split / name).mkdir(parents=True)
            for i in range(n):
                pixels = rng.integers(low, low + 60, (32, 32, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i:02}.png")
    return root


@pytest.mark.parametrize("method", ["raster", "dit", "discriminative", "head"])
def test_train_makes_them(method, shades, tmp_path, capsys):
    out, base = tmp_path / "out", peer_models.write(peer_models.BASE, tmp_path / "base")
    words = ("train", shades, "-o", out, "--method", method, "--from", base, "--epochs", 40,
             "--views", 2, "--batch-size", 16, "--calibration-images", 4, "--max-orders", 8,
             "--device", "cpu")  # fmt: skip
    cli(capsys, *words)
    card = read_card(str(out))
    assert card.labels == ["dark", "light"] and card.method == ("diffusion" if method == "dit" else method)
    metrics = card.fields["metrics"]
    assert metrics["images"] == 16 and metrics["measured_on"] == "test images"
    assert max(row["value"] for row in metrics["accuracy_at_k"].values()) >= 0.9
    assert set(metrics["accuracy_at_k"]) == ({"4", "8"} if method == "dit" else {"1"})
    assert card.fields["like"]["model"] == "tiny-sigma" and card.temperature != 1
    if method == "dit":
        assert card.fitted.race.orders == "levels" and len(card.fields["weighting"]) == 9
    ids = (out / "holdout.txt").read_text().splitlines()
    assert len(ids) == 2  # one in 25 of every class, as of the any-order model
    code = main([*map(str, words)])
    assert code == 2 and "add --resume" in capsys.readouterr().err
    before = (out / "model.json").read_bytes()
    cli(capsys, *words, "--resume")
    assert (out / "model.json").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--method", "rester"), "unknown --method 'rester': choose from any-order, raster"),
        (("--method", "raster", "--dim", "64"), "has the sizes of --from MODEL: leave dim out"),
        (("--method", "raster", "--from", "nowhere"), "no model 'nowhere'"),
    ],
)
def test_train_refuses(words, said, shades, tmp_path, capsys):
    assert main(["train", str(shades), "-o", str(tmp_path / "out"), *words]) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1 and not (tmp_path / "out").exists()
