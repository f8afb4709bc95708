"""The manifold tokenizer against its definition: the same ids whatever the batch, mirror images, fitting."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from anytime_cls.tokenizers.manifold import ManifoldConfig, ManifoldTokenizer, mirrored, patches_of
from anytime_cls.training.manifold import covariance, fit_manifold

CONFIG = ManifoldConfig(image_size=16, words=64, width=8, vocab_size=24)


def pictures(n, seed=0, size=16):
    """Waves of random direction, length and colour: uint8 [n, 3, S, S]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    waves = [
        np.sin(a * x + b * y)[None] * c[:, None, None]
        for a, b, c in zip(
            rng.uniform(0, 2, n), rng.uniform(0, 2, n), rng.uniform(-1, 1, (n, 3)), strict=True
        )
    ]
    return torch.from_numpy(
        (127.5 + 60 * np.stack(waves) + rng.normal(0, 5, (n, 3, size, size))).clip(0, 255)
    ).byte()


@pytest.fixture(scope="module")
def tokenizer():
    found = ManifoldTokenizer(CONFIG)
    fit_manifold(found, pictures(60), 0, lambda *args: None)
    return found.eval()


def test_patches_are_windows_of_the_reflected_picture_at_unit_contrast():
    picture = pictures(1).float()
    found = patches_of(picture)[0]
    assert found.shape == (64, 108)
    padded = np.pad(picture[0].numpy(), ((0, 0), (2, 2), (2, 2)), mode="reflect")
    for row, col in ((0, 0), (3, 5), (7, 7)):
        window = padded[:, 2 * row : 2 * row + 6, 2 * col : 2 * col + 6].ravel().astype(np.float64)
        expected = (window - window.mean()) / np.sqrt(window.var() + 10)
        np.testing.assert_allclose(found[8 * row + col], expected, atol=1e-4)


def test_ids_are_a_function_of_the_picture_alone(tokenizer):
    batch = pictures(9, seed=1).float()
    together = tokenizer.encode(batch)
    assert together.shape == (9, 16) and together.dtype == torch.int64
    assert together.min() >= 0 and together.max() < CONFIG.vocab_size and len(together.unique()) > 8
    alone = torch.cat([tokenizer.encode(one[None]) for one in batch])
    assert torch.equal(together, alone) and torch.equal(together[2:5], tokenizer.encode(batch[2:5]))


def test_a_saved_tokenizer_gives_the_same_ids(tokenizer, tmp_path):
    save_file(tokenizer.state_dict(), tmp_path / "tokenizer.safetensors")
    again = ManifoldTokenizer(ManifoldConfig.from_dict({"kind": "manifold", **CONFIG.to_dict()}))
    again.load_state_dict(load_file(tmp_path / "tokenizer.safetensors"))
    batch = pictures(5, seed=2).float()
    assert torch.equal(tokenizer.encode(batch), again.eval().encode(batch))


def test_fitting_is_a_function_of_images_and_seed(tokenizer):
    states = []
    for seed in (0, 1):
        again = ManifoldTokenizer(CONFIG)
        fit_manifold(again, pictures(60), seed, lambda *args: None)
        states.append(again.state_dict())
    for key, value in tokenizer.state_dict().items():
        assert torch.equal(value, states[0][key]), key
    assert not torch.equal(states[0]["dictionary"], states[1]["dictionary"])


def test_words_of_a_mirror_image_are_mirrored_words(tokenizer):
    batch = pictures(6, seed=3).float()
    moved, direct = tokenizer.mirror(tokenizer.words(batch)), tokenizer.words(batch.flip(3))
    same = (moved.sort(-1).values == direct.sort(-1).values).all(-1).float().mean()
    assert same > 0.99  # a tie of the third word may fall either way


def test_words_of_the_margin_are_those_of_the_picture_moved(tokenizer):
    """Inside a margin of 4 patches lie the picture's own; whole windows moved by 2 pixels move by a patch."""
    wide = pictures(2, seed=4, size=32).float()
    at, moved = tokenizer.words(wide[:, :, 8:24, 8:24]), tokenizer.words(wide[:, :, 8:24, 10:26])
    assert torch.equal(at[:, 1:-1, 2:-1], moved[:, 1:-1, 1:-2])
    margin = tokenizer.words(wide[:, :, 8:24, 8:24], margin=4)
    assert margin.shape == (2, 12, 12, 3) and torch.equal(margin[:, 2:-2, 2:-2], at)


def test_the_dictionary_is_closed_under_mirrors(tokenizer):
    assert torch.allclose(tokenizer.dictionary.norm(dim=1), torch.ones(CONFIG.words // 2), atol=1e-5)
    patches = torch.randn(5, 108)
    assert torch.equal(mirrored(mirrored(patches)), patches) and not torch.equal(mirrored(patches), patches)


def test_covariances_are_of_counts():
    rows = torch.tensor([[0, 0, 2], [1, 2, 2], [3, 0, 1], [2, 2, 2]], dtype=torch.int16)
    counts = np.stack([np.bincount(row, minlength=5) for row in rows.numpy()])
    found, mean = covariance(rows, 5, at_once=3)
    np.testing.assert_allclose(found, np.cov(counts.T, bias=True), atol=1e-6)
    np.testing.assert_allclose(mean, counts.mean(0))


def test_noise_moves_tokens_and_none_moves_none(tokenizer):
    batch = pictures(3, seed=5).float()
    normal = torch.randn(3, *tokenizer.latent_shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(tokenizer.encode(batch, 0.0, normal), tokenizer.encode(batch))
    assert (tokenizer.encode(batch, 0.5, normal) != tokenizer.encode(batch)).float().mean() > 0.2


def test_few_and_flat_pictures_make_a_tokenizer():
    found = ManifoldTokenizer(CONFIG)
    fit_manifold(found, torch.full((2, 3, 16, 16), 200, dtype=torch.uint8), 0, lambda *args: None)
    assert all(value.isfinite().all() for value in found.state_dict().values())
    assert found.encode(pictures(2).float()).shape == (2, 16)
