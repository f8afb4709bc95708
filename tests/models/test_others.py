"""Other people's weights: DiT and SiT as their own code computes them, names, pulls, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_vq import golden_weights
from hub_server import hub  # noqa: F401 (a fixture)
from safetensors.torch import save_file
from sweep_data import make_images

from anytime_cls.models.card import ModelError
from anytime_cls.models.others.names import PUBLISHED, VAE
from anytime_cls.models.zoo import read_card
from anytime_cls.scorers.base import Piece
from anytime_cls.scorers.diffusion import Ddpm, LatentDiffusion, SiTPath, Straight
from anytime_cls.scorers.others import LatentConfig
from anytime_cls.scorers.registry import method
from anytime_cls.testing import check_scorer
from anytime_cls.traces.read import Trace
from anytime_cls_cli.main import main

diffusers = pytest.importorskip("diffusers", reason="needs pip install diffusers")

GOLDEN = Path(__file__).parents[1] / "golden"


def golden(kind: str) -> tuple[dict[str, torch.Tensor], dict[str, np.ndarray]]:
    """Weights under the original's names, and what its code makes of them."""
    known = dict(np.load(GOLDEN / f"{kind}_small.npz"))
    return golden_weights(f"{kind}_small") | {"pos_embed": torch.from_numpy(known["pos_embed"])}, known


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small autoencoder of random weights, as diffusers writes it: 2 × 2 pixels a place."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    model = diffusers.AutoencoderKL(
        block_out_channels=(16, 16),
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        latent_channels=4,
        norm_num_groups=8,
        scaling_factor=0.5,
    )
    model.save_pretrained(folder / "vae")
    return folder


def load(name: str) -> LatentDiffusion:
    card = read_card(name)
    scorer = method(card.method).load(card, "cpu", "float32")
    assert isinstance(scorer, LatentDiffusion)
    return scorer


def predicted(scorer: LatentDiffusion, known: dict[str, np.ndarray]) -> np.ndarray:
    with torch.inference_mode():
        found = scorer.network(*(torch.from_numpy(known[name]) for name in ("noisy", "told", "classes")))
    return found[:, : known["predicted"].shape[1]].numpy()


@pytest.mark.parametrize("kind, path", [("dit", Ddpm()), ("sit", SiTPath())])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_file_computes_what_the_original_code_does(kind, path, suffix, vae):
    weights, known = golden(kind)
    file = vae / f"{kind}{suffix}"
    save_file(weights, file) if suffix == ".safetensors" else torch.save({"ema": weights, "model": {}}, file)
    card = read_card(f"{kind}:{file}")
    assert card.shape == LatentConfig(64, 3, 1, 2, 8, 4, 8, 5)
    assert card.labels == list("01234") and card.image_size == 16
    scorer = load(f"{kind}:{file}")
    assert np.abs(predicted(scorer, known) - known["predicted"]).max() < 1e-5
    assert scorer.path == path and scorer.width(1) == 16
    check_scorer(scorer, image_size=16, n_classes=5)


def test_the_average_of_training_is_read(vae):
    weights, known = golden("dit")
    other = {name: value + 1 for name, value in weights.items()}
    torch.save({"model": other, "ema": weights, "opt": {}}, vae / "training.pt")
    assert np.abs(predicted(load(f"dit:{vae}/training.pt"), known) - known["predicted"]).max() < 1e-5


def test_a_sit_that_repa_trained_has_repas_clock(vae):
    weights, known = golden("sit")
    older = {name: value for name, value in weights.items() if not name.startswith("blocks.2.")}
    older |= {
        name.replace("blocks.2.", "decoder_blocks.0."): value
        for name, value in weights.items()
        if name.startswith("blocks.2.")
    }
    torch.save({"ema": older | {"projectors.0.0.weight": torch.ones(3, 64)}}, vae / "repa.pt")
    scorer = load(f"sit:{vae}/repa.pt")
    assert scorer.path == Straight()
    assert np.abs(predicted(scorer, known) - known["predicted"]).max() < 1e-5


def pipeline(folder: Path, vae: Path, n_classes: int = 5) -> torch.nn.Module:
    """A pipeline's folder as diffusers writes it; returns its transformer, with the original's clock."""
    torch.manual_seed(1)
    model = diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=32, out_channels=8, num_layers=2, sample_size=8,
        num_embeds_ada_norm=n_classes,
    )  # fmt: skip
    model.save_pretrained(folder / "transformer")
    (folder / "vae").symlink_to(vae / "vae")
    for block in model.transformer_blocks:
        block.norm1.emb.time_proj.downscale_freq_shift = 0
    return model.eval()


def test_a_folder_of_diffusers_scores_as_its_parts_do(tmp_path, vae):
    model = pipeline(tmp_path, vae)
    scorer = load(f"dit:{tmp_path}")
    assert scorer.shape == LatentConfig(64, 2, 2, 2, 8, 4, 8, 5)
    check_scorer(scorer, image_size=16, n_classes=5)

    crop = np.random.default_rng(0).integers(0, 256, (1, 16, 16, 3), np.uint8)
    encoder = diffusers.AutoencoderKL.from_pretrained(tmp_path / "vae").eval()
    with torch.inference_mode():
        pixels = torch.from_numpy(crop).permute(0, 3, 1, 2).float() / 127.5 - 1
        latent = encoder.encode(pixels).latent_dist.mean * 0.5
    (encoded,) = scorer.encode(crop)
    assert np.abs(encoded - latent[0].numpy()).max() < 1e-5

    draw = scorer.shape.draws("uniform", 1).at(0, b"x", 0)
    whole, noise = int(draw.covariate * 1000), torch.from_numpy(draw.what[1])[None]
    kept = diffusers.DDPMScheduler(beta_start=0.0001, beta_end=0.02).alphas_cumprod[whole]
    (scores,) = scorer.score([Piece(encoded, draw, np.arange(5))], [1])
    with torch.inference_mode():
        for c in range(5):
            noisy = kept.sqrt() * latent + (1 - kept).sqrt() * noise
            said = model(noisy, timestep=torch.tensor([whole]), class_labels=torch.tensor([c])).sample[:, :4]
            assert scores[c, 0] == pytest.approx(-(noise - said).square().sum().item(), rel=2e-4)


def test_a_sweep_is_replayed_under_every_rule(vae, tmp_path, capsys):
    torch.save(golden("dit")[0], vae / "swept.pt")
    make_images(tmp_path / "data", 2, ["0", "3"])
    trace = str(tmp_path / "full.h5")
    command = ["sweep", str(tmp_path / "data"), "--model", f"dit:{vae}/swept.pt", "--device", "cpu"]
    assert main([*command, "--rule", "fixed", "--max-orders", "8", "--orders", "levels", "-o", trace]) == 0
    assert main(["replay", trace, "--json"]) == 0
    runs = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert {run["rule"] for run in runs} >= {"paired", "funnel", "clark-jaini", "halving"}
    with Trace.open(trace) as recorded:
        assert recorded.attrs["unit"] == "loss" and len(recorded.images["prediction"]) == 4


@pytest.mark.parametrize(
    "broken, says",
    [
        ({"pos_embed": None}, "no tensor 'pos_embed'"),
        ({"blocks.1.mlp.fc1.bias": None}, "no tensor 'blocks.1.mlp.fc1.bias'"),
        ({"blocks.1.mlp.fc1.bias": torch.ones(3)}, "no DiT's of this shape"),
        ({"x_embedder.proj.weight": torch.ones(64)}, "impossible shapes"),
        ({"pos_embed": torch.ones(1, 15, 64)}, "impossible shapes"),
        ({"blocks.0.attn.q_norm.weight": torch.ones(64)}, "normalised"),
        ({"t_embedder.mlp.0.weight": torch.full((64, 256), torch.nan)}, "not finite"),
    ],
)
def test_weights_that_are_none_are_refused_in_one_line(vae, broken, says):
    weights, _ = golden("dit")
    weights |= broken
    torch.save({name: value for name, value in weights.items() if value is not None}, vae / "broken.pt")
    with pytest.raises(ModelError, match=says) as error:
        load(f"dit:{vae}/broken.pt")
    assert "\n" not in str(error.value)


def test_folders_that_are_none_are_refused(tmp_path, vae):
    with pytest.raises(ModelError, match=r"config\.json"):
        read_card(f"dit:{tmp_path}")
    with pytest.raises(ModelError, match="sit:FILE"):
        read_card(f"sit:{tmp_path}")
    pipeline(tmp_path, vae)
    (tmp_path / "transformer" / "config.json").write_text('{"num_layers": "many"}')
    with pytest.raises(ModelError, match="not what diffusers writes"):
        read_card(f"dit:{tmp_path}")


@pytest.mark.parametrize("name", ["edm2-img64-s.pkl", "edm:imagenet-64"])
def test_pickled_networks_of_edm_are_refused_with_the_reason(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(b"cbuiltins\nprint\n(S'ran'\ntR.")
    with pytest.raises(ModelError, match="to read one is to run its code, which is never done here"):
        read_card(name)


def test_without_its_autoencoder_a_file_says_what_to_pull(tmp_path, hub):  # noqa: F811
    torch.save(golden("dit")[0], tmp_path / "x.pt")
    with pytest.raises(ModelError, match="models pull sd-vae-ft-ema"):
        read_card(f"dit:{tmp_path}/x.pt")


@pytest.fixture
def published(hub, tmp_path, vae):  # noqa: F811
    """The stand-in holds a small DiT of 1,000 classes, a pickle, and an autoencoder under their names."""
    pipeline(tmp_path / "made", vae, 1000)
    for folder, inside in (("facebook/DiT-XL-2-256/transformer", "transformer"), (VAE.repo, "vae")):
        for file in (tmp_path / "made" / inside).iterdir():
            if inside == "transformer" and file.suffix == ".safetensors":
                from safetensors.torch import load_file

                torch.save(load_file(file), tmp_path / "x.bin")
                hub.files[f"{folder}/diffusion_pytorch_model.bin"] = (tmp_path / "x.bin").read_bytes()
            else:
                hub.files[f"{folder}/{file.name}"] = file.read_bytes()
    return hub


def lines(capsys) -> tuple[str, str]:
    out, err = capsys.readouterr()
    return out.strip(), err.strip()


def test_pull_then_classify(published, photo, capsys, monkeypatch):
    from huggingface_hub import constants

    race = ["--classes", "tabby,n01440764,3", "--rule", "fixed", "--max-orders", "2", "--json"]
    command = ["classify", str(photo), "--model", "dit-xl-2", "--device", "cpu", *race]
    assert main(command) == 2
    assert "run 'anytime-cls models pull dit-xl-2' once" in lines(capsys)[1]
    assert main(["models", "pull", "dit-xl-2"]) == 0
    out, err = lines(capsys)
    assert out == "dit-xl-2: ready, --model dit-xl-2 (CC BY-NC 4.0)" and "not for commercial use" in err

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert main(command) == 0
    row = json.loads(lines(capsys)[0])
    assert row["label"] in ("tabby", "tench", "tiger shark") and row["orders"] == 2
    assert main(["models", "ls", "--json"]) == 0
    listed = {row["name"]: row for row in map(json.loads, lines(capsys)[0].splitlines())}
    assert listed["dit-xl-2"]["licence"] == "CC BY-NC 4.0" and "sit-xl-2" not in listed
    assert main(["models", "info", "dit-xl-2", "--json"]) == 0
    known = json.loads(lines(capsys)[0])
    assert known["flops_class"] == read_card("dit-xl-2").shape.flops(1) and known["unit"] == "loss"


def test_names_say_what_they_need(hub, capsys, monkeypatch):  # noqa: F811
    assert main(["models", "info", "sit-xl-2"]) == 1
    out, err = lines(capsys)
    assert "MIT" in out and "willisma/SiT" in out and "sit:FILE" in err
    assert main(["models", "info"]) == 0
    out, _ = lines(capsys)
    assert all(name in out for name in PUBLISHED)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["classify", "x.jpg", "--model", "dit-xl-2"]) == 2
    _, err = lines(capsys)
    assert "pip install diffusers" in err and "\n" not in err


def test_flops_of_xl_are_the_papers():
    xl = LatentConfig(1152, 28, 16, 2, 32, 4, 8, 1000)
    assert xl.flops(1) == pytest.approx(2 * 118.64e9, rel=0.005)  # the paper's table counts multiply-adds
    assert xl.flops(1, 7) == pytest.approx(7 * xl.flops(1))
