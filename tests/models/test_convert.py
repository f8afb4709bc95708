"""Converting bare checkpoints: the numbers stay, the shape goes along, and folders are whole models."""

import json
import stat

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from weights_data import state, write_tokenizer

from anytime_cls.models.card import ModelError
from anytime_cls.models.checkpoints import inspect
from anytime_cls.models.convert import convert
from anytime_cls.models.load import load_model
from anytime_cls.models.zoo import read_card

CPU = torch.device("cpu")


@pytest.fixture
def source(tmp_path):
    """A training checkpoint of three classes."""
    weights = {f"module.{name}": tensor for name, tensor in state(n_classes=3).items()}
    torch.save({"model": weights, "steps": 3}, tmp_path / "checkpoint.pt")
    return tmp_path / "checkpoint.pt"


def test_into_one_file(source, tmp_path):
    out = tmp_path / "mine.safetensors"
    assert convert(source, out, n_head=4, labels=["cat", "dog", "eel"]).path == out
    weights = load_file(out)  # under the reference's names, for its own load_state_dict(strict=True)
    assert weights.keys() == state(n_classes=3).keys()
    assert all(torch.equal(weights[name], tensor) for name, tensor in state(n_classes=3).items())
    with safe_open(out, framework="np") as file:
        assert json.loads(file.metadata()["anytime_cls"])["model"] == dict(inspect(out).shape)
        assert file.metadata()["format"] == "pt"
    assert inspect(out).shape["n_head"] == 4
    plain = tmp_path / "plain"
    plain.touch()
    assert stat.S_IMODE(out.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)

    write_tokenizer(tmp_path / "tokenizer.pt")
    card = read_card(out)
    assert card.name == "mine" and card.labels == ["cat", "dog", "eel"]
    assert load_model(card, CPU, torch.float32)[0].config.n_head == 4

    again = tmp_path / "again.safetensors"  # what was said once stays said
    convert(out, again, name="other")
    assert read_card(again).labels == card.labels and inspect(again).shape["n_head"] == 4
    assert read_card(again).name == "other"


def test_the_stored_precision_stays(tmp_path):
    save_file({name: tensor.half() for name, tensor in state().items()}, tmp_path / "half.safetensors")
    convert(tmp_path / "half.safetensors", tmp_path / "out.safetensors")
    assert {tensor.dtype for tensor in load_file(tmp_path / "out.safetensors").values()} == {torch.float16}


@pytest.mark.parametrize("kind", ["llamagen", "maskgit"])
def test_into_a_folder_that_can_be_calibrated(source, tmp_path, kind):
    write_tokenizer(tmp_path / "tokenizer.pt", kind=kind)
    card = convert(source, tmp_path / "model", name="three")
    assert card.name == "three" and (tmp_path / "model" / "model.json").is_file()
    card = read_card(tmp_path / "model")
    bare_model, bare_tokenizer = load_model(read_card(source), CPU, torch.float32)
    model, tokenizer = load_model(card, CPU, torch.float32)
    given = torch.arange(256)[None] % 64, torch.tensor([1]), torch.randperm(256)[None]
    pixels = torch.rand(1, 3, 256, 256)
    with torch.inference_mode():
        assert torch.equal(model(*given), bare_model(*given))
        assert torch.equal(tokenizer.encode(pixels), bare_tokenizer.encode(pixels))
    weights = tmp_path / "model" / "tokenizer.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(ModelError, match="SHA-256 differs"):
        load_model(card, CPU, torch.float32)


def test_a_folder_says_which_tokenizer_it_holds(source, tmp_path):
    write_tokenizer(tmp_path / "tokenizer.pt")
    convert(source, tmp_path / "model")
    path = tmp_path / "model" / "model.json"
    fields = json.loads(path.read_text())
    path.write_text(json.dumps(fields | {"tokenizer": {"kind": "maskgit"}}))
    with pytest.raises(ModelError, match="holds the other VQ tokenizer"):
        load_model(read_card(tmp_path / "model"), CPU, torch.float32)
    path.write_text(json.dumps(fields | {"tokenizer": {"kind": "jpeg"}}))
    with pytest.raises(ModelError, match=r"Invalid value 'jpeg' - at `\$.tokenizer.kind`"):
        load_model(read_card(tmp_path / "model"), CPU, torch.float32)


def test_what_cannot_be_converted_leaves_nothing(source, tmp_path, tiny_model_dir):
    before = sorted(tmp_path.iterdir())
    for given, out, match, more in (
        (source, source, "exists already", {}),
        (source, tmp_path / "no" / "x.safetensors", "is not a folder", {}),
        (source, tmp_path / "x.safetensors", "has 3 classes, 2 different labels", {"labels": ["a", "b"]}),
        (source, tmp_path / "x.safetensors", "not made of 5 heads", {"n_head": 5}),
        (source, tmp_path / "model", "no tokenizer beside it", {}),
        (tiny_model_dir, tmp_path / "x.safetensors", "a model folder already", {}),
        ("cifar10", tmp_path / "x.safetensors", "a model folder already", {}),
        ("none.pt", tmp_path / "x.safetensors", "no such file", {}),
    ):
        with pytest.raises(ModelError, match=match):
            convert(given, out, **more)
    weights = state(n_classes=3)
    weights["norm.weight"][0] = float("inf")
    torch.save(weights, source)
    with pytest.raises(ModelError, match="not finite"):
        convert(source, tmp_path / "x.safetensors")
    assert sorted(tmp_path.iterdir()) == before
