"""The VQ tokenizers against numbers of the public reference code, and what `load_vq` does with bad files.

tests/golden/{llamagen,maskgit}_vq_small: made-up weights (rule and seed in the JSON), pixels, and the encoder
output and token ids that FoundationVision/LlamaGen's and ziqipang/RandAR's code gave for them.
"""

import copy
import json
import pickle
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_vq import GOLDEN, golden_weights, waves
from safetensors.torch import save_file

from anytime_cls.models.load import load_vq
from anytime_cls.tokenizers.fsq import FSQConfig, FSQTokenizer
from anytime_cls.tokenizers.vq import MASKGIT, LlamaGenTokenizer, MaskGITTokenizer, VQConfig, nearest_code

KINDS = {"llamagen_vq_small": LlamaGenTokenizer, "maskgit_vq_small": MaskGITTokenizer}

# ids the reference code gives for `waves(...)` at sizes the golden files do not have; every id leads the
# second-best code by > 3e-3, a thousand times the rounding
REFERENCE_IDS = {
    ("llamagen_vq_small", 80, 80): [
        *(97, 171, 42, 207, 191, 146, 145, 88, 35, 77, 166, 6, 110),
        *(231, 141, 233, 145, 229, 114, 190, 96, 122, 134, 5, 224),
    ],
    ("llamagen_vq_small", 96, 64): [
        *(97, 171, 131, 207, 76, 76, 156, 35, 59, 6, 145, 14),
        *(52, 156, 195, 9, 211, 59, 171, 151, 96, 72, 39, 91),
    ],
    ("maskgit_vq_small", 80, 80): [
        *(20, 114, 62, 97, 62, 9, 51, 104, 68, 51, 9, 20, 51),
        *(104, 20, 20, 97, 62, 20, 114, 62, 62, 20, 68, 114),
    ],
    ("maskgit_vq_small", 96, 64): [
        *(114, 114, 97, 97, 9, 51, 127, 51, 9, 68, 51, 50),
        *(9, 119, 52, 62, 62, 50, 20, 62, 20, 114, 97, 62),
    ],
}


@pytest.fixture(scope="module", params=list(KINDS))
def small(request, tmp_path_factory):
    """(name, weights, tokenizer loaded from a safetensors file of them)."""
    weights = golden_weights(request.param)
    path = tmp_path_factory.mktemp("vq") / "small.safetensors"
    save_file(weights, path)
    return request.param, weights, load_vq(path, image_size=64)


def test_golden(small):
    name, _, tokenizer = small
    golden = np.load(GOLDEN / f"{name}.npz")
    pixels = torch.from_numpy(golden["pixels"])
    ids = tokenizer.encode(pixels)
    assert ids.dtype == torch.int64
    np.testing.assert_array_equal(ids.numpy(), golden["token_ids"])
    np.testing.assert_allclose(tokenizer.features(pixels).numpy(), golden["pre_quant"], rtol=0, atol=1e-4)


def test_interface(small):
    name, weights, tokenizer = small
    assert type(tokenizer) is KINDS[name]
    spec = json.loads((GOLDEN / f"{name}.json").read_text())
    assert list(tokenizer.pixel_range) == spec["input_range"]
    assert (tokenizer.image_size, tokenizer.n_tokens) == (64, 16)
    assert tokenizer.vocab_size == len(weights["quantize.embedding.weight"])
    assert not tokenizer.training
    assert not any(p.requires_grad for p in tokenizer.parameters())


def test_published_sizes():
    """Parameter counts of the published encoders, which no test has room to load."""
    with torch.device("meta"):
        llamagen, maskgit = LlamaGenTokenizer(VQConfig()), MaskGITTokenizer(MASKGIT)
    assert (llamagen.image_size, llamagen.vocab_size, llamagen.n_tokens) == (256, 16384, 256)
    assert (maskgit.image_size, maskgit.vocab_size, maskgit.n_tokens) == (256, 1024, 256)
    shapes = {key: tuple(value.shape) for key, value in llamagen.state_dict().items()}
    assert shapes["quantize.embedding.weight"] == (16384, 8)
    assert shapes["quant_conv.weight"] == (8, 256, 1, 1)
    assert shapes["encoder.conv_blocks.4.attn.1.q.weight"] == (512, 512, 1, 1)
    shapes = {key: tuple(value.shape) for key, value in maskgit.state_dict().items()}
    assert shapes["quantize.embedding.weight"] == (1024, 256)
    assert shapes["encoder.down.4.block.0.nin_shortcut.weight"] == (512, 512, 1, 1)


@pytest.mark.parametrize("size", [(80, 80), (96, 64)])
def test_other_sizes(small, size):
    name, _, tokenizer = small
    ids = tokenizer.encode(waves(*tokenizer.pixel_range, *size))
    assert ids.tolist() == [REFERENCE_IDS[name, *size]]


def test_batch_equals_single(small):
    _, _, tokenizer = small
    low, high = tokenizer.pixel_range
    pixels = torch.rand(5, 3, 48, 48, generator=torch.Generator().manual_seed(0)) * (high - low) + low
    ids = tokenizer.encode(pixels)
    assert ids.shape == (5, 9)
    assert len(ids.unique()) > 5
    assert torch.equal(ids, torch.cat([tokenizer.encode(image[None]) for image in pixels]))
    assert torch.equal(ids, tokenizer.encode(pixels.double()))
    assert tokenizer.encode(pixels[:0]).shape == (0, 9)


@pytest.mark.parametrize("l2_norm", [True, False])
def test_codes_are_nearest(small, l2_norm):
    """Ids are the argmin over the features' float64 distances, with and without scaling to unit length."""
    name, weights, tokenizer = small
    kind = KINDS[name](replace(tokenizer.config, l2_norm=l2_norm)).eval()
    kind.load_state_dict(weights)
    pixels = waves(*tokenizer.pixel_range, 96, 96)
    with torch.no_grad():
        z = kind.features(pixels).permute(0, 2, 3, 1).flatten(0, 2).double().numpy()
    codes = weights["quantize.embedding.weight"].double().numpy()
    if l2_norm:
        z, codes = (a / np.linalg.norm(a, axis=1, keepdims=True) for a in (z, codes))
    nearest = ((z[:, None] - codes[None]) ** 2).sum(2).argmin(1)
    np.testing.assert_array_equal(kind.encode(pixels)[0].numpy(), nearest)


def test_nearest_code_in_parts():
    rng = np.random.default_rng(0)
    z, codes = rng.normal(size=(23, 8)).astype(np.float32), rng.normal(size=(50, 8)).astype(np.float32)
    nearest = ((z[:, None].astype(float) - codes[None]) ** 2).sum(2).argmin(1)
    for rows in (1, 7, 23, 1024):
        np.testing.assert_array_equal(
            nearest_code(torch.from_numpy(z), torch.from_numpy(codes), rows), nearest
        )


@pytest.mark.parametrize(
    "pixels",
    [
        torch.zeros(3, 64, 64),
        torch.zeros(1, 1, 64, 64),
        torch.zeros(1, 3, 64, 60),
        torch.zeros(1, 3, 0, 64),
        torch.zeros(1, 3, 64, 64, dtype=torch.uint8),
    ],
    ids=["no batch", "grey", "not of 16", "empty", "integers"],
)
def test_bad_pixels(small, pixels):
    with pytest.raises(ValueError, match=r"pixels are .* not \[B, 3, H, W\] floating point"):
        small[2].encode(pixels)


# ---- files


@pytest.mark.parametrize("wrapper", [None, "model", "state_dict", "ema"])
@pytest.mark.parametrize("suffix", [".pt", ".bin"])
def test_torch_files(small, tmp_path, wrapper, suffix):
    """Bare or wrapped, with a decoder and counters that are not ours; half precision is widened."""
    name, weights, tokenizer = small
    extras = {
        "decoder.conv_in.weight": torch.ones(2, 2),
        "post_quant_conv.bias": torch.ones(2),
        "quantize.codebook_used": torch.zeros(9),
        "loss.discriminator.weight": torch.full((2,), torch.nan),
    }
    half = {key: value.half() for key, value in weights.items()} | extras
    path = tmp_path / f"vq{suffix}"
    torch.save({wrapper: half, "steps": 7, "optimizer": {"lr": 0.1}} if wrapper else half, path)
    loaded = load_vq(str(path))
    assert type(loaded) is KINDS[name]
    assert (loaded.image_size, loaded.n_tokens) == (256, 256)
    assert loaded.config == replace(tokenizer.config, image_size=256)
    assert loaded.state_dict().keys() == weights.keys()
    for key, value in loaded.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, weights[key].half().float()), key


def test_averaged_weights_win(small, tmp_path):
    """LlamaGen's training checkpoints hold both; its own evaluation takes "ema"."""
    _, weights, _ = small
    path = tmp_path / "both.pt"
    torch.save({"model": {key: value + 1 for key, value in weights.items()}, "ema": weights}, path)
    loaded = load_vq(path).state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in weights.items())


def test_bad_image_size(small, tmp_path):
    path = tmp_path / "vq.safetensors"
    save_file(small[1], path)
    for image_size in (100, 0, -16):
        with pytest.raises(ValueError, match=rf"image_size {image_size}: .* multiple of 16"):
            load_vq(path, image_size)


class Bomb:
    """A pickle that creates a file when loaded without care."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


def refuse(path: Path, *words: str) -> None:
    """load_vq raises exactly ValueError, in one line, naming the file, the cause and what to do."""
    with pytest.raises(ValueError, match="download it again") as caught:
        load_vq(path)
    message = str(caught.value)
    assert type(caught.value) is ValueError
    assert "\n" not in message
    assert len(message) < 500 + len(str(path))
    for word in (str(path), *words):
        assert word in message


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_broken_files(small, tmp_path, suffix):
    _, weights, _ = small
    path = tmp_path / f"vq{suffix}"
    refuse(path, "no such file")
    path.mkdir()
    refuse(path, "no such file")
    path.rmdir()
    (save_file if suffix == ".safetensors" else torch.save)(weights, path)
    whole = path.read_bytes()
    assert load_vq(path).vocab_size == len(weights["quantize.embedding.weight"])
    for junk in (
        b"",
        b"\x00" * 99,
        b"<html>Not found</html>",
        b"\x80\x02.",
        whole[:1],
        whole[:5000],
        whole[:-99],
    ):
        path.write_bytes(junk)
        refuse(path, "truncated")


def test_not_a_weights_file(tmp_path):
    path = tmp_path / "vq.onnx"
    path.write_bytes(b"x")
    refuse(path, "not a .safetensors, .pt")
    path = tmp_path / "vq.pt"
    for thing in ([torch.zeros(2)], torch.zeros(2), {"encoder.conv_in.weight": "x"}, None, 3):
        torch.save(thing, path)
        refuse(path, "not weights")
    for thing in ({}, {3: torch.zeros(2)}, {"model": {}}, {"model": 3}, {"fc.weight": torch.zeros(2, 2)}):
        torch.save(thing, path)
        refuse(path, "neither LlamaGen's VQ-16 nor MaskGIT's VQGAN")


def test_absent_tensors(small, tmp_path):
    """One missing tensor is named, and so is one of a whole missing level."""
    name, weights, _ = small
    path = tmp_path / "vq.safetensors"
    for key in [*sorted(weights)[::9], "encoder.conv_out.weight", "quantize.embedding.weight"]:
        save_file({k: v for k, v in weights.items() if k != key}, path)
        refuse(path, f"{key} is absent")
    level = "encoder.conv_blocks.2." if name == "llamagen_vq_small" else "encoder.down.2."
    save_file({k: v for k, v in weights.items() if not k.startswith(level)}, path)
    refuse(path, level, "is absent")


def test_other_networks(small, tmp_path):
    _, weights, _ = small
    path = tmp_path / "vq.safetensors"
    extra = {"encoder.mid.block_1.conv1.weight": torch.zeros(2)}  # taming-transformers' VQGAN has it
    save_file(weights | extra, path)
    refuse(path, "encoder.mid.block_1.conv1.weight is [2]", "has absent")
    for key, value in {
        "encoder.conv_out.bias": torch.zeros(3),
        "encoder.norm_out.weight": torch.zeros(128, 1),
        "encoder.conv_in.weight": torch.zeros(32, 1, 3, 3),
        "quantize.embedding.weight": torch.zeros(5, 9),
    }.items():
        save_file(weights | {key: value}, path)
        refuse(path, " where a ", "Tokenizer has [")
    for key, value in {
        "quantize.embedding.weight": torch.zeros(8),
        "encoder.conv_out.weight": torch.tensor(1.0),
    }.items():
        save_file(weights | {key: value}, path)
        refuse(path, "impossible shapes")


def test_not_finite(small, tmp_path):
    _, weights, _ = small
    path = tmp_path / "vq.safetensors"
    save_file(weights | {"encoder.conv_in.weight": torch.full((32, 3, 3, 3), torch.nan)}, path)
    refuse(path, "not all finite")


def test_hostile_files(small, tmp_path):
    _, weights, _ = small
    path, target = tmp_path / "vq.pt", tmp_path / "written"
    bombed = {"model": weights, "args": Bomb(target)}
    pickle.loads(pickle.dumps(bombed))
    assert target.exists()  # it does go off where nobody takes care
    target.unlink()
    for write in (torch.save, lambda thing, path: path.write_bytes(pickle.dumps(thing, protocol=2))):
        write(bombed, path)
        refuse(path, "code in it (never run)")
    assert not target.exists()

    # a codebook of 2⁴⁰ codes that stores one number
    torch.save(weights | {"quantize.embedding.weight": torch.zeros(1).expand(2**40, 8)}, path)
    refuse(path, "not weights")

    torch.save(weights, path)
    with zipfile.ZipFile(path) as plain:
        members = {name: plain.read(name) for name in plain.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as deflated:
        for name, data in members.items():
            deflated.writestr(name, data)
    refuse(path, "not weights")


def test_folded_norms_change_speed_and_not_tokens() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        plain = FSQTokenizer(FSQConfig(widths=(8, 8, 8)))
        for module in plain.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2.0)
                torch.nn.init.uniform_(module.weight, 0.5, 2.0)
                torch.nn.init.normal_(module.bias)
        pixels = torch.rand(8, 3, 32, 32) * 2 - 1
    folded = copy.deepcopy(plain).folded()
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    with torch.inference_mode():
        expected = plain.eval().bounded(pixels)
        assert expected.std() > 0.5
        torch.testing.assert_close(folded.bounded(pixels), expected, rtol=1e-5, atol=1e-4)
