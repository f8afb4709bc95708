"""Model directories: what loads, and what is refused in one line before any work."""

import hashlib
import json
import shutil

import pytest
import torch
from safetensors.torch import save_file
from weights_data import state, transformer, write_tokenizer

from anytime_cls.models import hub
from anytime_cls.models.card import ModelError
from anytime_cls.models.load import load_model
from anytime_cls.models.zoo import embedded_names, read_card
from anytime_cls.scorers.shapes import LAYOUTS, SigmaConfig, transformer_config

CPU = torch.device("cpu")


@pytest.fixture
def copy(tiny_model_dir, tmp_path):
    return shutil.copytree(tiny_model_dir, tmp_path / "model")


def edit(folder, **changes):
    fields = json.loads((folder / "model.json").read_text())
    fields.update(changes)
    (folder / "model.json").write_text(json.dumps(fields))


def test_a_saved_model_loads_as_it_was(tiny_model_dir):
    card = read_card(tiny_model_dir)
    model, tokenizer = load_model(card, CPU, torch.float32)
    assert tokenizer.n_tokens == model.config.n_tokens and len(card.labels) == model.config.n_classes
    assert not model.training and not tokenizer.training
    again, _ = load_model(card, CPU, torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def refuse(folder, match):
    with pytest.raises(ModelError, match=match) as error:
        load_model(read_card(folder), CPU, torch.float32)
    assert "\n" not in str(error.value)


def test_an_unknown_name_lists_the_known(tmp_path):
    with pytest.raises(ModelError, match=r"no model 'nope'"):
        read_card("nope")
    with pytest.raises(ModelError, match=r"no model\.json"):
        read_card(tmp_path)


def test_damaged_weights_are_refused(copy):
    weights = copy / "transformer.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    refuse(copy, "SHA-256")


def test_missing_weights_are_refused(copy):
    (copy / "tokenizer.safetensors").unlink()
    refuse(copy, r"tokenizer\.safetensors")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"name": "x"}', '{"schema": 1}'])
def test_broken_json_is_refused(copy, text):
    (copy / "model.json").write_text(text)
    refuse(copy, r"model\.json")


def test_a_later_schema_is_refused(copy):
    edit(copy, schema=99)
    refuse(copy, "schema 99")


def test_labels_that_do_not_fit_are_refused(copy):
    edit(copy, labels=["one"])
    refuse(copy, "labels")


def test_a_configuration_that_does_not_fit_the_weights_is_refused(copy):
    fields = json.loads((copy / "model.json").read_text())
    edit(copy, model={**fields["model"], "n_layer": fields["model"]["n_layer"] + 1})
    refuse(copy, "do not fit")


def test_a_tokenizer_of_another_vocabulary_is_refused(copy):
    fields = json.loads((copy / "model.json").read_text())
    edit(copy, tokenizer={**fields["tokenizer"], "levels": [16, 16, 16]})
    refuse(copy, "tokens of 4096")


@pytest.mark.parametrize("name", [name for name in embedded_names() if read_card(name).method in LAYOUTS])
def test_embedded_models_are_whole(name):
    card = read_card(name)
    model, _ = load_model(card, CPU, torch.float32)
    assert model.config.n_classes == len(card.labels)
    fit = card.fitted.of("uniform", card.tokens)
    assert set(fit.priors) == {"paired", "marginal"} and fit.temperature == card.temperature > 0
    by_orders = card.fields["metrics"]["accuracy_at_k"]
    assert card.fields["license"] and by_orders["1"]["n"] == by_orders["4"]["n"] >= 400


# --- bare files ------------------------------------------------------------------------------------------


@pytest.fixture
def bare(tmp_path):
    """A RandAR transformer of 1,000 classes as a bare file, its tokenizer beside it."""
    save_file(state(), tmp_path / "mine.safetensors")
    write_tokenizer(tmp_path / "tokenizer.pt")
    return tmp_path / "mine.safetensors"


def test_a_bare_file_is_a_model(bare):
    card = read_card(bare)
    assert (card.name, card.image_size, len(card.labels), card.temperature) == ("mine", 256, 1000, 1.0)
    assert card.synsets[:2] == ["n01440764", "n01443537"] and card.fitted.fits == {}
    assert card.sha256["transformer.safetensors"] == hashlib.sha256(bare.read_bytes()).hexdigest()
    tokens = (bare.parent / "tokenizer.pt").read_bytes()
    assert card.sha256["tokenizer.safetensors"] == hashlib.sha256(tokens).hexdigest()
    assert len(card.identity) == 64

    model, tokenizer = load_model(card, CPU, torch.float32)
    assert (tokenizer.vocab_size, tokenizer.n_tokens) == (64, 256) and not model.training
    own = transformer().reference_state()
    assert all(torch.equal(own[name], tensor) for name, tensor in model.reference_state().items())
    given = torch.arange(256)[None] % 64, torch.tensor([3]), torch.randperm(256)[None]
    with torch.inference_mode():
        assert torch.equal(model(*given), transformer()(*given))


def test_classes_of_a_bare_file_have_imagenets_names(bare):
    ids = read_card(bare).class_ids(["tabby", "golden retriever", "n01440764", "3"])
    assert ids.tolist() == [281, 207, 0, 3]


def test_other_classes_are_numbered(tmp_path):
    torch.save(state(n_classes=3), tmp_path / "three.pt")
    write_tokenizer(tmp_path / "tokenizer.safetensors", kind="maskgit")
    card = read_card(tmp_path / "three.pt")
    assert card.labels == ["0", "1", "2"] and card.synsets is None
    assert card.fields["tokenizer"] == {"kind": "maskgit"}
    model, tokenizer = load_model(card, CPU, torch.bfloat16)
    assert model.output.weight.dtype == torch.bfloat16 and tokenizer.pixel_range == (0.0, 1.0)


def test_labels_in_a_file_must_fit(tmp_path):
    write_tokenizer(tmp_path / "tokenizer.pt")
    for labels in (["a", "b"], ["a", "a", "b"], 3):
        save_file(
            state(n_classes=3), tmp_path / "x.safetensors", {"anytime_cls": json.dumps({"labels": labels})}
        )
        with pytest.raises(ModelError, match="labels in it do not match its 3 classes"):
            read_card(tmp_path / "x.safetensors")


def test_a_missing_tokenizer_and_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "cached", lambda file: None)
    for vocab_size, match in (
        (16384, r"its tokenizer vq_ds16_c2i\.pt is neither.*models pull llamagen-vq16'"),
        (1024, r"its tokenizer maskgit-vqgan\S+\.bin is neither.*models pull maskgit-vqgan'"),
        (64, r"tokens of 64 codes, and no tokenizer beside it gives those: put one there as tokenizer\.pt"),
    ):
        save_file(state(vocab_size=vocab_size, n_classes=3, n_layer=1), tmp_path / "x.safetensors")
        with pytest.raises(ModelError, match=match):
            read_card(tmp_path / "x.safetensors")


def test_the_tokenizer_is_found_in_the_hubs_cache(tmp_path, monkeypatch):
    save_file(state(vocab_size=1024, n_classes=3, n_layer=1), tmp_path / "x.safetensors")
    (tmp_path / "cache").mkdir()
    there = write_tokenizer(tmp_path / "cache" / "any.bin", 1024, "maskgit")
    monkeypatch.setattr(hub, "cached", {hub.TOKENIZERS["maskgit-vqgan"]: there}.get)
    assert read_card(tmp_path / "x.safetensors").weights("tokenizer.safetensors") == there
    write_tokenizer(there, 512, "maskgit")
    with pytest.raises(ModelError, match=r"tokens of 1024 codes, .*any\.bin gives 512"):
        read_card(tmp_path / "x.safetensors")


def test_a_tokenizer_of_the_wrong_vocabulary_is_refused_before_any_work(bare):
    write_tokenizer(bare.parent / "tokenizer.pt", 96)
    with pytest.raises(ModelError, match=r"tokens of 64 codes.*tokenizer\.pt there has 96 codes"):
        read_card(bare)
    write_tokenizer(bare.parent / "vq_ds16_c2i.pt")
    assert read_card(bare).weights("tokenizer.safetensors").name == "vq_ds16_c2i.pt"


def test_a_damaged_tokenizer_is_refused(bare):
    tokenizer = bare.parent / "tokenizer.pt"
    tokenizer.write_bytes(tokenizer.read_bytes()[:1000])
    with pytest.raises(ModelError, match=r"tokenizer\.pt: truncated"):
        read_card(bare)


def test_a_damaged_file_of_the_hubs_cache_is_refused(tmp_path):
    (tmp_path / "blobs").mkdir()
    save_file(state(), tmp_path / "blobs" / ("0" * 64))
    (tmp_path / "x.safetensors").symlink_to(tmp_path / "blobs" / ("0" * 64))
    write_tokenizer(tmp_path / "tokenizer.pt")
    with pytest.raises(ModelError, match="SHA-256 is not the hub's; run 'anytime-cls models pull' again"):
        read_card(tmp_path / "x.safetensors")


def test_what_is_no_model_is_refused(tiny_model_dir, photo):
    with pytest.raises(ModelError, match=r"part of the model .*: give that folder"):
        read_card(tiny_model_dir / "transformer.safetensors")
    with pytest.raises(ModelError, match=r"photo\.jpg: not a \.safetensors"):
        read_card(photo)
    with pytest.raises(ModelError, match="no such file"):
        read_card("none.pt")


def test_a_file_that_changed_after_it_was_inspected_is_refused(bare):
    card = read_card(bare)
    bare.write_bytes(bare.read_bytes()[:-1])
    with pytest.raises(ModelError, match="truncated"):
        load_model(card, CPU, torch.float32)


def test_a_configuration_without_weights():
    config = transformer().config
    assert transformer_config("randar", config.to_dict()) == config
    assert isinstance(transformer_config("sigma", config.to_dict()), SigmaConfig)
    with pytest.raises(ValueError, match="unknown layout 'gpt': choose from randar, sigma"):
        transformer_config("gpt", config.to_dict())
