"""What a sweep refuses, and that it leaves everything as it was."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from sweep_data import contents, make_images, sweep

from anytime_cls.classifier import AnytimeClassifier


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve pictures of four classes."""
    return make_images(tmp_path_factory.mktemp("data") / "pictures", 3)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--delta", "1"], "delta must lie between 0 and 1"),
        (["--rule", "best"], "unknown rule 'best'"),
        (["--orders", "spiral"], "unknown order sampler 'spiral'"),
        (["--budget", "fast"], "cannot read the budget 'fast'"),
        (["--batch-size", "0"], "--batch-size is a number of passes from 1"),
        (["--record-prefixes", "8,x"], "--record-prefixes is a list of token counts"),
        (["--record-prefixes", "64"], "prefixes must be shorter than the 64 tokens"),
        (["--classes", "cat,unicorn"], "unicorn"),
        (["--shard", "0/2"], "a shard is i/n with i from 1 to n"),
        (["--shard", "2"], "a shard is written i/n"),
        (["--shard", "13/13"], "no image is left for shard 13/13"),
        (["--engine", "slurm"], "unknown engine 'slurm'"),
        (["--address", "auto"], "--address is a Ray cluster's"),
        (["--resume", "--overwrite"], "leave one out"),
        (["--dtype", "int8"], "unknown dtype 'int8'"),
        (["--device", "tpu"], "device 'tpu' is not available"),
        (["--model", "none-such"], "no model 'none-such'"),
        (["-o", "no/such/folder/x.h5"], "is not a folder: -o writes into an existing one"),
        (["-o", "."], "is a folder: name a file"),
    ],
)
def test_refused_before_the_model_is_loaded(
    tiny_model_dir, images, tmp_path, capsys, monkeypatch, options, line
):
    monkeypatch.setattr(AnytimeClassifier, "load", None)
    monkeypatch.chdir(tmp_path)
    code, found, err = sweep(capsys, images, "--model", tiny_model_dir, *options)
    assert code == 2 and found is None
    assert line in err and err.startswith("anytime-cls: ") and err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_data_sets_that_are_not_there_or_not_known(tiny_model_dir, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(AnytimeClassifier, "load", None)
    monkeypatch.chdir(tmp_path)
    strange = make_images(tmp_path / "strange", 1, ["cat", "unicorn"])
    for name, line in ((tmp_path / "gone", "no such folder"), (strange, "unicorn")):
        code, _, err = sweep(capsys, name, "--model", tiny_model_dir)
        assert code == 2 and line in err and err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["strange"]


def test_an_existing_trace_is_kept_unless_told(tiny_model_dir, images, tmp_path, capsys, monkeypatch):
    options = (images, "--model", tiny_model_dir, "--max-orders", 2, "--limit", 4, "-o", tmp_path / "x.h5")
    assert sweep(capsys, *options)[0] == 0
    before = contents(tmp_path / "x.h5")
    with monkeypatch.context() as patch:
        patch.setattr(AnytimeClassifier, "load", None)
        code, _, err = sweep(capsys, *options)
        assert code == 2 and "exists already: go on with --resume, or replace it with --overwrite" in err
        for other, key in (
            (["--seed", 9], "seed is 0 there and 9 here"),
            (["--rule", "fixed"], "rule is paired there and fixed here"),
            (["--delta", 0.1], "delta is 0.05 there and 0.1 here"),
            (["--limit", 8], r"dataset_fingerprint is .* \(the images chosen, or their labels, differ\)"),
            (["--record-prefixes", 8], r"prefixes is absent there and \[8\] here"),
            (["--model", "cifar10"], "model_sha256 is .* there and .* here|does not know .* classes"),
        ):
            code, _, err = sweep(capsys, *options, *other, "--resume")
            assert code == 2 and re.search(key, err) and err.count("\n") == 1, err
        other_images = make_images(tmp_path / "others", 1)
        code, _, err = sweep(capsys, other_images, *options[1:], "--resume")
        assert code == 2 and "dataset is pictures there and others here" in err
        code, found, err = sweep(capsys, *options, "--resume")
        assert code == 0 and found is not None and found["images"] == 4 and "is finished" in err
    assert contents(tmp_path / "x.h5") == before
    assert sweep(capsys, *options, "--overwrite", "--seed", 9)[0] == 0
    assert contents(tmp_path / "x.h5") != before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["others", "x.h5"]


def test_a_model_that_cannot_be_loaded_leaves_nothing(tiny_model_dir, images, tmp_path, capsys):
    import shutil

    model = tmp_path / "model"
    shutil.copytree(tiny_model_dir, model)
    (model / "transformer.safetensors").write_bytes(b"damaged")
    for workers in (1, 2):
        options = ("--model", model, "--limit", 1, "-q", "-o", tmp_path / "x.h5")
        code, _, err = sweep(capsys, images, *options, "--workers", workers)
        assert code == (2 if workers == 1 else 1) and "SHA-256 differs" in err and err.count("\n") == 1
        assert [path.name for path in tmp_path.iterdir()] == ["model"]
