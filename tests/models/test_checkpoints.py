"""Bare files of weights: what is told from shapes, and what is refused in one line before any work."""

import argparse
import json
import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from weights_data import state, transformer, write_tokenizer

from anytime_cls.models import checkpoints, hashes
from anytime_cls.models.card import ModelError
from anytime_cls.models.checkpoints import VQ, inspect, inspect_tokenizer, read_state
from anytime_cls.models.hashes import cached_sha256, file_sha256
from anytime_cls.scorers.shapes import expected_shapes

L = {"dim": 1024, "n_layer": 24, "n_head": 16, "vocab_size": 16384, "n_classes": 1000, "n_tokens": 256}
XL = {"dim": 1280, "n_layer": 36, "n_head": 20, "vocab_size": 16384, "n_classes": 1000, "n_tokens": 256}


def refuse(path: Path, match: str, **known) -> None:
    with pytest.raises(ModelError, match=match) as error:
        inspect(path, **known)
    assert "\n" not in str(error.value) and str(path) in str(error.value)


def test_the_tensors_that_are_expected_are_the_models_own():
    model = transformer()
    own = {name: tuple(tensor.shape) for name, tensor in model.reference_state().items()}
    assert expected_shapes(model.config.to_dict()) == own


@pytest.mark.parametrize("shape, millions", [(L, 342.912), (XL, 774.6)])
def test_the_papers_sizes_are_told_from_shapes(shape, millions):
    """The parameter counts that RandAR's paper and README give: 343 M and 775 M."""
    expected = expected_shapes(shape | {"multiple_of": 256})
    entries = {name: checkpoints.Entry(size, "F32") for name, size in expected.items()}
    assert checkpoints._shape(Path("x"), entries, None, None) == shape | {"multiple_of": 256}
    found = checkpoints.Checkpoint(Path("x"), {}, shape | {"multiple_of": 256}, {})
    assert found.parameters / 1e6 == pytest.approx(millions, rel=1e-3)


@pytest.mark.parametrize(
    "write",
    [
        pytest.param(lambda s, p: torch.save(s, p), id="bare"),
        pytest.param(lambda s, p: torch.save({"model": s, "optimizer": {}, "steps": 3}, p), id="model"),
        pytest.param(lambda s, p: torch.save({"state_dict": s}, p), id="state_dict"),
        pytest.param(lambda s, p: torch.save({"model": s, "args": argparse.Namespace(lr=1)}, p), id="args"),
        pytest.param(lambda s, p: torch.save(s, p, _use_new_zipfile_serialization=False), id="old format"),
        pytest.param(lambda s, p: torch.save({f"module.{k}": v for k, v in s.items()}, p), id="parallel"),
        pytest.param(
            lambda s, p: torch.save({"model": {f"module._orig_mod.{k}": v for k, v in s.items()}}, p),
            id="both",
        ),
        pytest.param(lambda s, p: torch.save({"freqs_cis": torch.ones(3), **s}, p), id="buffers"),
    ],
)
def test_a_pickled_state_dict_is_read_however_it_is_wrapped(tmp_path, write):
    path = tmp_path / "checkpoint.pt"
    write(state(), path)
    found = inspect(path)
    shape = transformer().config.to_dict()
    assert found.shape == {name: shape[name] for name in found.shape} and found.metadata == {"model": {}}
    weights = read_state(found)
    assert weights.keys() == state().keys()
    assert all(torch.equal(weights[name], tensor) for name, tensor in state().items())


def test_half_precision_and_other_suffixes_are_read(tmp_path):
    half = {name: tensor.bfloat16() for name, tensor in state().items()}
    save_file(half, tmp_path / "half.safetensors")
    torch.save(half, tmp_path / "half.bin")
    for path in tmp_path.iterdir():
        assert read_state(inspect(path))["norm.weight"].dtype == torch.bfloat16


def test_heads_and_tokens_can_be_said(tmp_path):
    save_file(state(), tmp_path / "x.safetensors")
    assert inspect(tmp_path / "x.safetensors").shape["n_head"] == 1
    found = inspect(tmp_path / "x.safetensors", n_head=4, n_tokens=1024)
    assert (found.shape["n_head"], found.shape["n_tokens"]) == (4, 1024)
    refuse(tmp_path / "x.safetensors", "not made of 3 heads", n_head=3)
    refuse(tmp_path / "x.safetensors", "250 tokens an image are no square", n_tokens=250)


class Evil:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("how", ["zip", "pickle"])
def test_a_pickle_with_code_is_refused_and_never_run(tmp_path, how):
    marker, path = tmp_path / "ran", tmp_path / "evil.pt"
    content = {"model": state(), "extra": Evil(marker)}
    if how == "zip":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content, protocol=2))
    refuse(path, r"asks to run '\w+\.system'" if how == "zip" else "evil.pt: (asks to run|truncated)")
    assert not marker.exists()


def test_truncated_files_are_refused(tmp_path):
    save_file(state(), tmp_path / "x.safetensors")
    torch.save(state(), tmp_path / "x.pt")
    torch.save(state(), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    for path in tuple(tmp_path.iterdir()):
        data = path.read_bytes()
        for size in (0, 7, 1000, len(data) // 2, len(data) - 1):
            path.write_bytes(data[:size])
            refuse(path, "truncated")


def test_what_is_no_weights_file_is_refused(tmp_path):
    refuse(tmp_path / "none.pt", "no such file")
    (tmp_path / "photo.jpg").write_bytes(b"x")
    refuse(tmp_path / "photo.jpg", "not a .safetensors, ")
    (tmp_path / "page.pt").write_text("<!DOCTYPE html><html>Not Found</html>")
    refuse(tmp_path / "page.pt", "truncated, or not a file of torch.save's")
    (tmp_path / "page.safetensors").write_text("<!DOCTYPE html><html>Not Found</html>")
    refuse(tmp_path / "page.safetensors", "truncated, or not a safetensors file")
    for content in (torch.ones(3), [1, 2], {}, {"model": {}}, {"a": 1}):
        torch.save(content, tmp_path / "x.pt")
        refuse(tmp_path / "x.pt", "holds no state dict")


def test_a_zip_bomb_is_refused(tmp_path):
    torch.save(state(), tmp_path / "x.pt")
    with zipfile.ZipFile(tmp_path / "x.pt") as source, zipfile.ZipFile(tmp_path / "bomb.pt", "w") as bomb:
        for member in source.infolist():
            bomb.writestr(member.filename, source.read(member), zipfile.ZIP_DEFLATED)
    refuse(tmp_path / "bomb.pt", "compressed")


def test_tensors_that_claim_more_than_the_file_holds_are_refused(tmp_path):
    weights = state() | {"output.weight": torch.zeros(1).expand(1 << 20, 64)}
    torch.save(weights | {"tok_embeddings.weight": weights["output.weight"]}, tmp_path / "x.pt")
    refuse(tmp_path / "x.pt", "larger than the file")


def changed(**changes):
    weights = {**state(), **{name.replace("__", "."): value for name, value in changes.items()}}
    return {name: value for name, value in weights.items() if value is not None}


@pytest.mark.parametrize(
    "weights, match",
    [
        (lambda: changed(pos_instruct_embeddings=None), "lacks the tensor 'pos_instruct_embeddings'"),
        (lambda: changed(tok_embeddings__weight=None), "lacks the tensor 'tok_embeddings.weight'"),
        (lambda: changed(layers__1__ffn_norm__weight=None), "lacks the tensor 'layers.1.ffn_norm.weight'"),
        (lambda: changed(layers__7__ffn_norm__weight=torch.ones(64)), "lacks the tensor 'layers.2."),
        (lambda: changed(layers__0__attention__wqkv__bias=torch.ones(192)), "wqkv.bias' is no part"),
        (lambda: changed(layers__0__attention__wqkv__weight=torch.ones(128, 64)), r"wqkv.*\[128, 64\]"),
        (lambda: changed(norm__weight=torch.ones(64, dtype=torch.int8)), "stored as (I8|int8)"),
        (lambda: changed(cls_embedding__embedding_table__weight=torch.ones(1000, 64)), "null class"),
        (lambda: changed(tok_embeddings__weight=torch.ones(64)), r"\[64\], expected a matrix"),
        (lambda: changed(layers__0__feed_forward__w1__weight=torch.ones(999, 64)), "SwiGLU of 999"),
        (lambda: {"encoder.conv_in.weight": torch.ones(3)}, "not a RandAR transformer; it holds 'encoder"),
    ],
)
def test_another_models_tensors_are_refused(tmp_path, weights, match):
    save_file(weights(), tmp_path / "x.safetensors")
    refuse(tmp_path / "x.safetensors", match)
    torch.save(weights(), tmp_path / "x.pt")
    refuse(tmp_path / "x.pt", match)


def test_numbers_that_are_not_finite_are_refused(tmp_path):
    weights = state()
    weights["layers.1.attention.wo.weight"][3, 4] = float("nan")
    save_file(weights, tmp_path / "x.safetensors")
    with pytest.raises(ModelError, match=r"layers\.1\.attention\.wo\.weight holds .* not finite"):
        read_state(inspect(tmp_path / "x.safetensors"))


@pytest.mark.parametrize(
    "text", ["no json", "[" * 100_000, "[]", '{"model": 3}', '{"model": {"n_head": null}}', "{}"]
)
def test_metadata_of_others_does_no_harm(tmp_path, text):
    save_file(state(), tmp_path / "x.safetensors", {"anytime_cls": text})
    assert inspect(tmp_path / "x.safetensors").shape["n_head"] == 1


@pytest.mark.parametrize(
    "field, value", [("n_head", "1"), ("n_head", -1), ("n_tokens", 10**12), ("n_tokens", [1])]
)
def test_metadata_that_makes_no_sense_is_refused(tmp_path, field, value):
    text = json.dumps({"model": {field: value}})
    save_file(state(), tmp_path / "x.safetensors", {"anytime_cls": text})
    refuse(tmp_path / "x.safetensors", "heads|square")


def test_tokenizers_are_told_from_shapes(tmp_path):
    assert inspect_tokenizer(write_tokenizer(tmp_path / "a.pt", 64)) == VQ("llamagen", 64, 16)
    maskgit = write_tokenizer(tmp_path / "b.safetensors", 96, "maskgit")
    assert inspect_tokenizer(maskgit) == VQ("maskgit", 96, 16)
    save_file(state(), tmp_path / "c.safetensors")
    with pytest.raises(ModelError, match="neither LlamaGen's VQ-16 nor MaskGIT's"):
        inspect_tokenizer(tmp_path / "c.safetensors")


def test_a_hash_is_computed_once_and_again_when_the_file_changes(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "x.bin"
    path.write_bytes(b"one")
    first = cached_sha256(path)
    assert first == file_sha256(path)
    with monkeypatch.context() as patch:
        patch.setattr(hashes, "file_sha256", lambda path: pytest.fail("read again"))
        assert cached_sha256(path) == first
    path.write_bytes(b"two")
    os.utime(path, ns=(1, 1))
    assert cached_sha256(path) == file_sha256(path) != first
    for text in ("{", "[]", json.dumps({str(path): 3})):
        (tmp_path / "cache" / "anytime-cls" / "sha256.json").write_text(text)
        assert cached_sha256(path) == file_sha256(path)
    with pytest.raises(ModelError, match="No such file"):
        cached_sha256(tmp_path / "none")
