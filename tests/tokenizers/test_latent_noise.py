"""Latent noise in the tokenizers: the reference's arithmetic, and nothing at all at t = 0."""

import numpy as np
import pytest
import torch
from golden_vq import golden_weights, waves
from safetensors.torch import save_file

from anytime_cls.models.load import load_vq
from anytime_cls.tokenizers.base import with_noise
from anytime_cls.tokenizers.fsq import FSQConfig, FSQTokenizer
from anytime_cls.tokenizers.vq import LlamaGenTokenizer, MaskGITTokenizer, VQConfig

# Ids that the tokenizer of ziqipang/RandAR (encoder, quant_conv, then its quantiser) gave for
# (1 - t) h + t eps with the golden weights, waves(-1, 1, 64, 64) and eps = RandomState(7)'s normals. Every id
# leads the second-best code by > 2e-3 in squared distance, a thousand times the rounding.
REFERENCE_IDS = {
    0.0: [233, 191, 131, 93, 224, 76, 40, 35, 130, 112, 231, 244, 139, 196, 86, 241],
    0.1: [156, 189, 42, 207, 146, 76, 40, 35, 130, 112, 220, 14, 241, 196, 86, 110],
    0.7: [125, 190, 189, 219, 242, 67, 201, 143, 72, 36, 221, 174, 159, 33, 108, 67],
    1.0: [125, 26, 189, 219, 242, 67, 201, 143, 116, 157, 221, 174, 159, 33, 204, 67],
}


def normals(*shape: int, seed: int = 7) -> torch.Tensor:
    return torch.from_numpy(np.random.RandomState(seed).standard_normal(shape).astype(np.float32))


@pytest.fixture(scope="module")
def llamagen(tmp_path_factory: pytest.TempPathFactory) -> LlamaGenTokenizer:
    path = tmp_path_factory.mktemp("vq") / "small.safetensors"
    save_file(golden_weights("llamagen_vq_small"), path)
    tokenizer = load_vq(path, image_size=64)
    assert isinstance(tokenizer, LlamaGenTokenizer)
    return tokenizer


@pytest.fixture(scope="module")
def fsq() -> FSQTokenizer:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return FSQTokenizer(FSQConfig(widths=(8, 8, 8))).eval().requires_grad_(False)


@pytest.mark.parametrize("t", REFERENCE_IDS)
def test_ids_are_the_reference_codes(llamagen: LlamaGenTokenizer, t: float) -> None:
    assert llamagen.latent_shape == (8, 4, 4)
    ids = llamagen.encode(waves(-1, 1, 64, 64), t, normals(1, 8, 4, 4))
    assert ids[0].tolist() == REFERENCE_IDS[t]


def test_maskgit_takes_noise_on_its_encoders_output() -> None:
    config = VQConfig(image_size=16, widths=(32, 32), blocks=1, z_channels=8, vocab_size=64, code_dim=8,
                      l2_norm=False)  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokenizer = MaskGITTokenizer(config).eval()
    pixels, eps = torch.rand(2, 3, 16, 16), normals(2, *tokenizer.latent_shape)
    mixed = 0.6 * tokenizer.features(pixels) + 0.4 * eps
    codes = tokenizer.get_parameter("quantize.embedding.weight")
    want = torch.cdist(mixed.permute(0, 2, 3, 1).flatten(0, 2), codes).argmin(1).view(2, 64)
    assert torch.equal(tokenizer.encode(pixels, 0.4, eps), want)
    assert not torch.equal(tokenizer.encode(pixels), want)


def test_fsq_takes_noise_before_it_squashes(fsq: FSQTokenizer) -> None:
    assert fsq.latent_shape == (3, 8, 8)
    pixels, eps = waves(-1, 1, 32, 32), normals(1, 3, 8, 8)
    latents = fsq.to_code(fsq.encoder(pixels))
    digits = ((torch.tanh(0.7 * latents + 0.3 * eps) + 1) / 2 * 7).round().long()
    want = (digits * torch.tensor([1, 8, 64]).view(1, 3, 1, 1)).sum(1).flatten(1)
    assert torch.equal(fsq.encode(pixels, 0.3, eps), want)
    # all noise: the picture no longer matters
    other = fsq.encode(waves(-1, 1, 32, 32).flip(2), 1.0, eps)
    assert torch.equal(fsq.encode(pixels, 1.0, eps), other)


def test_no_noise_is_bit_for_bit_none(llamagen: LlamaGenTokenizer, fsq: FSQTokenizer) -> None:
    latents = normals(1, 2, 3, 3)
    assert with_noise(latents, 0.0, None) is latents
    wild = torch.full((1, 8, 4, 4), float("nan"))  # it must not even be looked at
    pixels = waves(-1, 1, 64, 64)
    assert torch.equal(llamagen.encode(pixels, 0.0, wild), llamagen.encode(pixels))
    assert torch.equal(fsq.bounded(waves(-1, 1, 32, 32), 0.0), fsq.bounded(waves(-1, 1, 32, 32)))


def test_noise_changes_more_the_more_there_is(fsq: FSQTokenizer) -> None:
    pixels, eps = waves(-1, 1, 32, 32), normals(1, 3, 8, 8)
    clean = fsq.encode(pixels)
    changed = [int((fsq.encode(pixels, t, eps) != clean).sum()) for t in (0.02, 0.2, 1.0)]
    assert 0 < changed[0] < changed[1] <= changed[2]


@pytest.mark.parametrize(
    ("noise", "normal", "message"),
    [
        (-0.1, None, "between 0 and 1"),
        (1.5, None, "between 0 and 1"),
        (float("nan"), None, "between 0 and 1"),
        (0.1, None, r"normals of shape \[1, 3, 8, 8\], not none"),
        (0.1, torch.zeros(1, 3, 8, 4), r"not of shape \[1, 3, 8, 4\]"),
        (0.1, torch.zeros(3, 8, 8), "not of shape"),
    ],
)
def test_what_makes_no_sense_is_refused(
    fsq: FSQTokenizer, noise: float, normal: torch.Tensor | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        fsq.encode(waves(-1, 1, 32, 32), noise, normal)
