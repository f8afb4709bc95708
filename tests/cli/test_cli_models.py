"""`models ls`, `pull` and `convert`, and `--model` with what they leave; one line and exit 2 for mistakes."""

import json

import pytest
import torch
from hub_server import hub  # noqa: F401 (a fixture)
from safetensors.torch import save
from sweep_data import make_images
from weights_data import state, write_tokenizer

from anytime_cls.models.hub import MODELS, TOKENIZERS
from anytime_cls_cli.main import main

pytest.importorskip("huggingface_hub", reason="needs pip install huggingface_hub")


def key(file) -> str:
    return f"{file.repo}/{file.path}"


@pytest.fixture
def published(hub, tmp_path):  # noqa: F811
    """The stand-in holds a small RandAR "L" of 1,000 classes and LlamaGen's tokenizer, under their names."""
    hub.files[key(MODELS["randar-l"])] = save(state(vocab_size=16384, n_layer=1))
    tokenizer = write_tokenizer(tmp_path / "vq.pt", 16384)
    hub.files[key(TOKENIZERS["llamagen-vq16"])] = tokenizer.read_bytes()
    tokenizer.unlink()
    return hub


def lines(capsys) -> tuple[str, str]:
    out, err = capsys.readouterr()
    return out.strip(), err.strip()


def test_pull_then_classify_offline(published, photo, capsys, monkeypatch):
    from huggingface_hub import constants

    race = [
        "--classes",
        "tabby,golden retriever,n01440764,3",
        "--rule",
        "fixed",
        "--max-orders",
        "2",
        "--json",
    ]
    command = ["classify", str(photo), "--model", "randar-l", "--device", "cpu", *race]
    assert main(command) == 2
    assert "run 'anytime-cls models pull randar-l' once" in lines(capsys)[1]

    assert main(["models", "pull", "randar-l"]) == 0
    out, err = lines(capsys)
    assert out.startswith(
        "randar-l: ready, --model randar-l (1 layers × 64, 1000 classes, 256 tokens of 16384"
    )
    assert "hf:FoundationVision/LlamaGen/vq_ds16_c2i.pt" in err

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert main(command) == 0
    row = json.loads(lines(capsys)[0])
    assert row["label"] in ("tabby", "golden retriever", "tench", "tiger shark") and row["orders"] == 2

    assert main(["models", "ls", "--json"]) == 0
    rows = [json.loads(line) for line in lines(capsys)[0].splitlines()]
    (row,) = [row for row in rows if row["name"] == "randar-l"]
    assert row["classes"] == 1000


def test_a_file_on_the_hub_is_fetched_when_it_is_named(published, capsys):
    name = f"hf:{key(MODELS['randar-l'])}"
    assert main(["models", "ls", name, "--json"]) == 0
    row = json.loads(lines(capsys)[0].splitlines()[-1])
    assert row["name"] == name and row["classes"] == 1000
    assert len(published.ranges()) == 2  # and its tokenizer


def test_pull_says_what_went_wrong(published, capsys):
    assert main(["models", "pull", "randar-x"]) == 2
    out, err = lines(capsys)
    assert "expected hf:owner/repo/file" in err and "randar-xl" in err and "\n" not in err
    assert main(["models", "pull", "randar-xl", "llamagen-vq16"]) == 1
    out, err = lines(capsys)
    assert "randar_0.7b" in err and "no such file" in err
    assert out.startswith("llamagen-vq16: ")  # the others are fetched all the same
    published.files["owner/repo/x.safetensors"] = b"no weights"
    assert main(["models", "pull", "hf:owner/repo/x.safetensors"]) == 1
    assert "not a safetensors file" in lines(capsys)[1].splitlines()[-1]


def test_pull_without_the_package(monkeypatch, capsys):
    from anytime_cls.models import hub as ours

    monkeypatch.setattr(ours, "available", lambda: False)
    assert main(["models", "pull", "randar-l"]) == 2
    assert "pip install huggingface_hub" in lines(capsys)[1]


def test_convert(tmp_path, capsys, photo):
    torch.save(state(n_classes=3), tmp_path / "x.pt")
    (tmp_path / "labels.txt").write_text("cat\ndog\neel\n")
    out = tmp_path / "x.safetensors"
    assert (
        main(
            ["models", "convert", str(tmp_path / "x.pt"), str(out), "--labels", str(tmp_path / "labels.txt")]
        )
        == 0
    )
    assert lines(capsys)[0] == f"{out}: 2 layers × 64, 3 classes, 256 tokens of 64 codes, 0.1 M numbers"
    command = [
        "classify",
        str(photo),
        "--model",
        str(out),
        "--device",
        "cpu",
        "--max-orders",
        "1",
        "--rule",
        "fixed",
    ]
    assert main(command) == 2
    assert "no tokenizer beside it" in lines(capsys)[1]
    write_tokenizer(tmp_path / "tokenizer.pt")
    assert main([*command, "--json"]) == 0
    assert json.loads(lines(capsys)[0])["label"] in ("cat", "dog", "eel")

    folder = tmp_path / "model"
    assert main(["models", "convert", str(out), str(folder)]) == 0
    assert "3 classes, 256 tokens of 64 codes, tokenizer llamagen" in lines(capsys)[0]
    assert main(["models", "ls", str(folder)]) == 0
    assert main(["models", "convert", str(out), str(folder)]) == 2
    assert "exists already" in lines(capsys)[1]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not really", b"<html>"])
def test_a_broken_model_file_is_one_line_and_exit_2(tmp_path, photo, capsys, content):
    (tmp_path / "x.pt").write_bytes(content)
    assert main(["classify", str(photo), "--model", str(tmp_path / "x.pt")]) == 2
    out, err = lines(capsys)
    assert out == "" and "x.pt: truncated" in err and "\n" not in err


def test_measuring_never_writes_into_the_package(tiny_model_dir, tmp_path, capsys, monkeypatch):
    """An embedded model is measured; its metrics go into a copy where one is asked for, and it says where."""
    from anytime_cls.models import zoo

    images, full = make_images(tmp_path / "pictures", 3), tmp_path / "full.h5"
    sweep = ["sweep", str(images), "--model", str(tiny_model_dir), "--rule", "fixed", "--max-orders", "4"]
    assert main([*sweep, "-o", str(full), "-q"]) == 0
    monkeypatch.setattr(zoo, "EMBEDDED", tiny_model_dir.parent)
    before = {path.name: path.read_bytes() for path in tiny_model_dir.iterdir()}
    capsys.readouterr()
    assert main(["models", "measure", "tiny", str(full)]) == 0
    out, err = lines(capsys)
    assert out.startswith("K =  1: ") and " %" in out and "nothing written: tiny is part of the" in err
    copy = tmp_path / "copy"
    for _ in range(2):  # a copy of the same weights may be written again
        assert main(["models", "measure", "tiny", str(full), "--out", str(copy)]) == 0
        assert f"{copy / 'model.json'}: metrics written" in lines(capsys)[1]
    assert json.loads((copy / "model.json").read_text())["metrics"]["images"] == 12
    assert {path.name: path.read_bytes() for path in tiny_model_dir.iterdir()} == before
    assert main(["models", "measure", "tiny", str(full), "--out", str(images)]) == 1
    assert "is there and no model folder" in lines(capsys)[1]
    assert main(["models", "measure", str(copy), str(full)]) == 0  # a folder that is named is written
    assert "metrics written" in lines(capsys)[1]
