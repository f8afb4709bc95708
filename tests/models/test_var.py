"""VAR and its multi-scale tokenizer: the reference's numbers, files, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_vq import golden_weights

from anytime_cls.models.card import ModelError
from anytime_cls.models.others.names import PUBLISHED
from anytime_cls.models.others.var import load_tokenizer
from anytime_cls.models.zoo import read_card
from anytime_cls.scorers.next_scale import VAR, NextScale
from anytime_cls.scorers.others import ScaleConfig
from anytime_cls.scorers.registry import method
from anytime_cls.testing import check_scorer
from anytime_cls_cli.main import main

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "var_small.npz")
SHAPE = ScaleConfig(128, 3, 2, 64, 8, (1, 2, 3, 4), 5)
CODES, SEEN, LABELS = (torch.from_numpy(GOLDEN[name]) for name in ("codes", "seen", "labels"))


def model() -> VAR:
    made = VAR(SHAPE)
    made.load_state_dict(golden_weights("var_small"))
    return made.eval()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files as they are published: buffers among the weights, a decoder in the tokenizer's."""
    buffers = {
        "lvl_1L": torch.zeros(1, 30, dtype=torch.int64),
        "attn_bias_for_masking": torch.zeros(1, 1, 30, 30),
    }
    buffers |= {f"blocks.{i}.attn.zero_k_bias": torch.zeros(128) for i in range(3)}
    torch.save(golden_weights("var_small") | buffers, tmp_path / "var.pth")
    more = {"decoder.conv_in.weight": torch.ones(2), "quantize.ema_vocab_hit_SV": torch.zeros(4, 64)}
    torch.save(golden_weights("var_vq_small") | more, tmp_path / "vae_ch160v4096z32.pth")
    return tmp_path


def test_codes_and_what_they_describe_are_the_references(folder):
    tokenizer = load_tokenizer(folder / "vae_ch160v4096z32.pth", SHAPE)
    pixels = np.random.RandomState(6).uniform(-1, 1, (2, 3, 64, 64)).astype(np.float32)
    codes, seen = tokenizer.encode(torch.from_numpy(pixels))
    assert torch.equal(codes, CODES)
    assert (seen - SEEN).abs().max() < 1e-5


@pytest.mark.parametrize("scales", [1, 2, 4])
def test_log_p_of_codes_is_the_references(scales):
    with torch.inference_mode():
        found = model()(CODES, SEEN, LABELS, scales)
    n = (1, 5, 14, 30)[scales - 1]
    assert found.shape == (2, n) and np.abs(found.numpy() - GOLDEN["log_p"][:, :n]).max() < 1e-5


def test_flops_are_what_torch_counts():
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counted, torch.device("meta"):
        VAR(SHAPE)(
            torch.empty(1, 30, dtype=torch.int64), torch.empty(1, 29, 8), torch.empty(1, dtype=torch.int64)
        )
    looks = 1 * 1 + 4 * 5 + 9 * 14 + 16 * 30
    unseen = 3 * 4 * 128 * (30 * 30 - looks)  # of attention, which the counter takes in full
    first = 2 * 128 * 8  # the first position has no code before it
    assert SHAPE.flops() == counted.get_total_flops() - unseen + first
    assert SHAPE.flops(2, 3) < SHAPE.flops(4, 3) == 3 * SHAPE.flops(4)


def test_a_file_is_raced_scale_by_scale(folder, photo, capsys):
    name = f"var:{folder}/var.pth,sides=1-2-3-4"
    card = read_card(name)
    assert card.shape == SHAPE and card.tokens == 4 and card.image_size == 64 and card.labels == list("01234")
    scorer = method(card.method).load(card, "cpu", "float32")
    assert isinstance(scorer, NextScale)
    check_scorer(scorer, image_size=64, n_classes=5)
    command = ["classify", str(photo), "--model", name, "--device", "cpu", "--rule", "fixed", "--json"]
    assert main([*command, "--max-orders", "3"]) == 0
    assert json.loads(capsys.readouterr().out)["orders"] == 1
    assert main([*command, "--max-orders", "3", "--latent-noise", "0.2"]) == 0
    assert json.loads(capsys.readouterr().out)["orders"] == 3
    assert main([*command, "--prefix", "2"]) == 0


def test_funnel_races_it(folder, photo, capsys):
    command = ["classify", str(photo), "--model", f"var:{folder}/var.pth,sides=1-2-3-4", "--device", "cpu"]
    more = ["--rule", "funnel", "--max-orders", "8", "--latent-noise", "0.2", "--json"]
    assert main([*command, *more]) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["orders"] <= 8 and row["label"] in "01234"


def test_what_is_no_var_is_refused(folder):
    weights = golden_weights("var_small")
    torch.save({**weights, "shared_ada_lin.1.weight": torch.ones(3)}, folder / "shared.pth")
    torch.save({name: value for name, value in weights.items() if name != "head.weight"}, folder / "less.pth")
    torch.save({**weights, "head.bias": torch.ones(3)}, folder / "other.pth")
    for source, says in (
        ("var.pth", r"sides=1-2-3-\.\.\."),
        ("var.pth,sides=1-2-3-5", "not those of"),
        ("var.pth,sides=a", "expected sides="),
        ("var.pth,scales=1", "no option 'scales'"),
        ("none.pth", "no such file"),
        ("shared.pth,sides=1-2-3-4", "not supported"),
        ("less.pth,sides=1-2-3-4", "no tensor 'head.weight'"),
        ("vae_ch160v4096z32.pth", "no VAR's weights"),
    ):
        with pytest.raises(ModelError, match=says) as error:
            read_card(f"var:{folder}/{source}")
        assert "\n" not in str(error.value)
    card = read_card(f"var:{folder}/other.pth,sides=1-2-3-4")
    with pytest.raises(ModelError, match="no VAR of this shape"):
        method("var").load(card, "cpu", "float32")
    (folder / "vae_ch160v4096z32.pth").unlink()
    with pytest.raises(ModelError, match="models pull var-vae"):
        read_card(f"var:{folder}/var.pth,sides=1-2-3-4")


def test_published_sizes_are_those_of_their_shapes():
    for depth in (16, 20, 24, 30):
        sides = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
        with torch.device("meta"):
            made = VAR(ScaleConfig(64 * depth, depth, depth, 4096, 32, sides, 1000))
        assert PUBLISHED[f"var-d{depth}"].parameters == sum(p.numel() for p in made.parameters())
