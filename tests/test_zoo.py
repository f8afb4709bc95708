"""Model directories: what loads, and what is refused in one line before any work."""

import json
import shutil

import pytest
import torch

from anytime_cls.zoo import ModelError, embedded_names, load_model, read_card

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


@pytest.mark.parametrize("name", embedded_names())
def test_embedded_models_are_whole(name):
    card = read_card(name)
    model, _ = load_model(card, CPU, torch.float32)
    assert model.config.n_classes == len(card.labels)
    assert set(card.priors) == {"paired", "marginal"} and card.temperature > 0
    assert card.fields["license"] and card.fields["metrics"]["accuracy_at_k"]["32"]["n"] >= 500
