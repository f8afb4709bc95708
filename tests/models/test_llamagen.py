"""LlamaGen's GPT: the reference's numbers, its files, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_vq import golden_weights
from weights_data import write_tokenizer

from anytime_cls.models.card import ModelError
from anytime_cls.models.others.names import PUBLISHED
from anytime_cls.models.zoo import read_card
from anytime_cls.scorers.any_order import AnyOrder
from anytime_cls.scorers.peers import RasterConfig
from anytime_cls.scorers.raster import RasterGPT
from anytime_cls.scorers.registry import method
from anytime_cls.scorers.shapes import expected_shapes
from anytime_cls.testing import check_scorer
from anytime_cls_cli.main import main

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "llamagen_gpt_small.npz")
SHAPE = RasterConfig(128, 3, 2, 96, 16, 7)
ORDER = torch.arange(16).expand(3, -1)


def golden() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(GOLDEN["tokens"]), torch.from_numpy(GOLDEN["classes"])


def model() -> RasterGPT:
    made = RasterGPT(SHAPE)
    made.load_reference(golden_weights("llamagen_gpt_small"))
    return made.eval()


@pytest.mark.parametrize("grad", [False, True])
def test_log_p_of_tokens_is_the_references(grad):
    tokens, classes = golden()
    with torch.set_grad_enabled(grad):
        found = model()(tokens, classes, ORDER)
    assert np.abs(found.detach().numpy() - GOLDEN["log_p"]).max() < 1e-5


@pytest.mark.parametrize("m", [1, 5, 16])
def test_a_prefix_is_the_beginning_of_the_whole(m):
    tokens, classes = golden()
    with torch.inference_mode():
        found = model()(tokens, classes, ORDER, m)
    assert found.shape == (3, m) and np.abs(found.numpy() - GOLDEN["log_p"][:, :m]).max() < 1e-5


def test_weights_go_out_as_they_came_in():
    weights = golden_weights("llamagen_gpt_small")
    made = model().reference_state()
    assert made.keys() == weights.keys() and all(torch.equal(made[key], weights[key]) for key in weights)


def test_flops_are_what_torch_counts():
    from torch.utils.flop_counter import FlopCounterMode

    tokens, classes = golden()
    with FlopCounterMode(display=False) as counted:  # with gradients attention is written out, and counted
        model()(tokens, classes, ORDER)
    unseen = 3 * 4 * 128 * 16 * (16 - 17 / 2)  # of 16 keys, a query needs 8.5 on average
    assert SHAPE.flops() == counted.get_total_flops() / 3 - unseen


def write(path: Path, **broken: torch.Tensor | None) -> Path:
    weights = golden_weights("llamagen_gpt_small") | broken
    torch.save({"model": {key: value for key, value in weights.items() if value is not None}}, path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_tokenizer(tmp_path / "tokenizer.pt", 96)
    write(tmp_path / "c2i.pt")
    return tmp_path


def test_a_file_is_raced_in_its_only_order(folder):
    card = read_card(f"llamagen:{folder}/c2i.pt,tokens=16")
    assert card.shape == SHAPE and card.labels == list("0123456") and card.image_size == 64
    scorer = method(card.method).load(card, "cpu", "float32")
    assert isinstance(scorer, AnyOrder) and not scorer.screens
    check_scorer(scorer, image_size=64, n_classes=7)
    draws = card.shape.draws("uniform", 16)
    assert draws.distinct == 1 and draws.at(0, b"x", 0).what[0].tolist() == list(range(16))
    with pytest.raises(ValueError, match="raster order only"):
        card.shape.draws("stratified", 4)


def test_latent_noise_makes_more_draws(folder, photo, capsys):
    command = ["classify", str(photo), "--model", f"llamagen:{folder}/c2i.pt,tokens=16", "--device", "cpu"]
    assert main([*command, "--rule", "fixed", "--max-orders", "4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["orders"] == 1
    more = ["--rule", "fixed", "--max-orders", "4", "--latent-noise", "0.3", "--json"]
    assert main([*command, *more]) == 0
    assert json.loads(capsys.readouterr().out)["orders"] == 4


def test_what_is_no_gpt_of_llamagens_is_refused(folder):
    for name, says in (
        ("c2i.pt", f"name it llamagen:{folder}/c2i.pt"),
        ("llamagen:c2i.pt,tokens=15", "no square grid"),
        ("llamagen:c2i.pt,tokens=many", "must be a number"),
        ("llamagen:c2i.pt,token=16", "no option 'token'"),
        ("llamagen:none.pt", "no such file"),
        ("llamagen:tokenizer.pt", "not a LlamaGen transformer"),
    ):
        kind, _, source = name.rpartition(":")
        with pytest.raises(ModelError, match=says) as error:
            read_card(f"{kind}:{folder}/{source}" if kind else folder / source)
        assert "\n" not in str(error.value)
    write(folder / "less.pt", **{"layers.1.ffn_norm.weight": None})
    with pytest.raises(ModelError, match=r"lacks the tensor 'layers\.1\.ffn_norm"):
        read_card(f"llamagen:{folder}/less.pt")


def test_published_sizes_are_those_of_their_shapes():
    for name, dim, layers in (("llamagen-b", 768, 12), ("llamagen-l", 1024, 24)):
        shape = {"dim": dim, "n_layer": layers, "vocab_size": 16384, "n_classes": 1000, "multiple_of": 256}
        tensors = expected_shapes(shape, "llamagen").values()
        assert PUBLISHED[name].parameters == sum(int(np.prod(tensor)) for tensor in tensors)
