"""Views: what an order sees is decided by (seed, content, order) alone, random, and costs nothing twice."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from image_data import noise
from PIL import Image
from scipy.stats import chisquare, kstest

from anytime_cls.draws.keyed import normal as keyed_normal
from anytime_cls.draws.orders import OrderSampler
from anytime_cls.draws.views import CROPS, ViewSampler
from anytime_cls.engine.encoded import Views, crop_of
from anytime_cls.pixels.crops import center_crop, content_key, crop_sides, random_crop, to_pixels
from anytime_cls.scorers.any_order import AnyOrder
from anytime_cls.scorers.randar import RandAR
from anytime_cls.scorers.shapes import RandARConfig
from anytime_cls.tokenizers.fsq import FSQConfig, FSQTokenizer

KEY = hashlib.sha256(b"a picture").digest()
PICTURE = Image.fromarray(noise(50, 70, 1))


@pytest.fixture(scope="module")
def tokenizer() -> FSQTokenizer:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return FSQTokenizer(FSQConfig(widths=(8, 8, 8))).eval().requires_grad_(False)


SHAPE = RandARConfig(16, 1, 1, 4096, 64, 2)  # the transformer that the views would be scored by


def normals_of(sampler: ViewSampler, shape: tuple[int, ...], content: bytes, k: int) -> np.ndarray:
    return keyed_normal(sampler.noise_key(content, k), shape)


def views(tokenizer: FSQTokenizer, picture: Image.Image = PICTURE, **fields: object) -> Views:
    return Views(picture, 32, AnyOrder(RandAR(SHAPE), tokenizer), ViewSampler(**fields))  # type: ignore[arg-type]


# ---- the sampler


def test_random_crops_are_the_named_transform_of_words_fixed_for_ever() -> None:
    sampler = ViewSampler("random", seed=3)
    digest = hashlib.sha256(b"crop:3:5:" + KEY).digest()
    words = np.random.Philox(key=int.from_bytes(digest[:16], "little")).random_raw(3)
    want = random_crop(PICTURE, 32, [int(word) for word in words])
    assert crop_of(sampler, PICTURE, 32, KEY, 5).tobytes() == want.tobytes()
    # A change here changes every number measured with random crops.
    got = b"".join(crop_of(sampler, PICTURE, 32, KEY, k).tobytes() for k in range(4))
    want_all = "649c7822aaf128864dba51c68927f08dd6b1d67cc852b287e25180c69393f92f"
    assert hashlib.sha256(got).hexdigest() == want_all


def test_normals_are_fixed_for_ever() -> None:
    got = normals_of(ViewSampler(noise=0.5, seed=3), (2, 3), KEY, 1)
    assert got.dtype == np.float32
    want = [[1.908742, -0.1500294, -0.194291], [0.5379452, -0.7645533, -0.8626248]]
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_views_depend_on_seed_content_and_order_only() -> None:
    other = hashlib.sha256(b"another").digest()
    sampler = ViewSampler("random", 0.5)
    first = normals_of(sampler, (64,), KEY, 0)
    for again in (normals_of(ViewSampler("center", 0.1), (64,), KEY, 0), normals_of(sampler, (64,), KEY, 0)):
        np.testing.assert_array_equal(first, again)
    for differs in (
        normals_of(sampler, (64,), KEY, 1),
        normals_of(sampler, (64,), other, 0),
        normals_of(ViewSampler("random", 0.5, seed=1), (64,), KEY, 0),
    ):
        assert abs(np.corrcoef(first, differs)[0, 1]) < 0.5


def test_crops_noise_and_orders_are_drawn_apart() -> None:
    """One seed steers all three; none is a function of another."""
    sampler = ViewSampler("random", 0.5)
    orders, normals = [], []
    for k in range(400):
        orders.append(OrderSampler("uniform", 256).order(KEY, k)[0])
        normals.append(normals_of(sampler, (1,), KEY, k)[0])
    crops = [crop_of(sampler, PICTURE, 1, KEY, k).getpixel((0, 0))[0] for k in range(400)]
    for a, b in ((orders, normals), (orders, crops), (normals, crops)):
        assert abs(np.corrcoef(a, b)[0, 1]) < 0.2


def test_statistics_of_the_draws() -> None:
    """Fixed seeds, so this passes or fails for ever: uniform sides and offsets, normal noise."""
    sampler = ViewSampler("random", 1.0)
    low, high = crop_sides(256)
    words = np.array([sampler.crop_words(KEY, k) for k in range(6500)])
    for column, choices in enumerate((high - low + 1, 65, 97)):
        counts = np.bincount((words[:, column] % np.uint64(choices)).astype(int), minlength=choices)
        assert len(counts) == choices and chisquare(counts).pvalue > 1e-3
    normal = normals_of(sampler, (8, 64, 64), KEY, 0).ravel()
    assert kstest(normal, "norm").pvalue > 1e-3
    assert np.isfinite(normal).all() and 3.5 < np.abs(normal).max() < 6.5


def test_sampler_refuses_nonsense() -> None:
    assert CROPS[0] == "center"
    with pytest.raises(ValueError, match="unknown crops 'corner': choose from center, random, resized"):
        ViewSampler("corner")
    for t in (-0.1, 1.01, float("nan")):
        with pytest.raises(ValueError, match="between 0 and 1"):
            ViewSampler(noise=t)
    assert not ViewSampler().varies
    assert ViewSampler("random").varies and ViewSampler(noise=0.01).varies


# ---- the views of an image


def test_the_default_view_is_the_centre_crop_for_every_order(tokenizer: FSQTokenizer) -> None:
    crop = center_crop(PICTURE, 32)
    want = tokenizer.encode(torch.from_numpy(to_pixels(crop, 32))[None])[0].numpy()
    plain = Views(PICTURE, 32, AnyOrder(RandAR(SHAPE), tokenizer))
    assert plain.content == content_key(crop)
    for order in (0, 1, 19):
        got = plain.encoded(order)
        assert got.dtype == np.int64 and got.shape == (64,)
        np.testing.assert_array_equal(got, want)


def test_without_noise_there_is_none_bit_for_bit(tokenizer: FSQTokenizer) -> None:
    np.testing.assert_array_equal(
        views(tokenizer, crops="random", noise=0.0).encoded(3), views(tokenizer, crops="random").encoded(3)
    )
    plain = Views(PICTURE, 32, AnyOrder(RandAR(SHAPE), tokenizer))
    np.testing.assert_array_equal(views(tokenizer, noise=0.0).encoded(3), plain.encoded(0))


@pytest.mark.parametrize("fields", [{"crops": "random"}, {"noise": 0.3}, {"crops": "random", "noise": 0.3}])
def test_every_order_has_its_own_tokens_in_whatever_sequence(
    tokenizer: FSQTokenizer, fields: dict[str, object]
) -> None:
    forwards, backwards = views(tokenizer, **fields), views(tokenizer, **fields)
    rows = {k: forwards.encoded(k) for k in range(6)}
    for k in reversed(range(6)):
        np.testing.assert_array_equal(backwards.encoded(k), rows[k])
    assert len({row.tobytes() for row in rows.values()}) == 6
    other = views(tokenizer, seed=1, **fields).encoded(0)
    assert (other != rows[0]).any()


def test_a_view_is_the_crop_and_the_noise_of_the_sampler(tokenizer: FSQTokenizer) -> None:
    sampler = ViewSampler("random", 0.4, seed=2)
    image = Views(PICTURE, 32, AnyOrder(RandAR(SHAPE), tokenizer), sampler)
    crop = crop_of(sampler, PICTURE, 32, image.content, 7)
    normal = torch.from_numpy(normals_of(sampler, (3, 8, 8), image.content, 7))[None]
    want = tokenizer.encode(torch.from_numpy(to_pixels(crop, 32))[None], 0.4, normal)
    np.testing.assert_array_equal(image.encoded(7), want[0].numpy())


def test_orders_do_not_depend_on_the_views(tokenizer: FSQTokenizer) -> None:
    """The key is the centre crop's, so the same orders are compared with and without random crops."""
    assert (
        views(tokenizer, crops="random").content
        == Views(PICTURE, 32, AnyOrder(RandAR(SHAPE), tokenizer)).content
    )


def test_a_view_is_made_once(tokenizer: FSQTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    encode = FSQTokenizer.encode

    def spy(self: FSQTokenizer, *rest: object) -> torch.Tensor:
        made.append(1)
        return encode(self, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(FSQTokenizer, "encode", spy)
    plain, varied = Views(PICTURE, 32, AnyOrder(RandAR(SHAPE), tokenizer)), views(tokenizer, crops="random")
    assert varied.seconds_ahead(0) == 0  # nothing is known yet
    for order in (0, 1, 1, 0):
        plain.encoded(order)
        varied.encoded(order)
    assert len(made) == 1 + 2
    assert varied.slowest > 0
    assert (varied.seconds_ahead(0), varied.seconds_ahead(2)) == (0, varied.slowest)
    assert plain.seconds_ahead(5) == 0


def test_a_photograph_is_not_kept_whole(tokenizer: FSQTokenizer, tmp_path: Path) -> None:
    picture = Image.fromarray(noise(900, 1200, 4))
    image = views(tokenizer, picture, crops="random")
    assert min(image._image.size) < 80
    whole = crop_of(ViewSampler("random"), picture, 32, image.content, 2)
    want = tokenizer.encode(torch.from_numpy(to_pixels(whole, 32))[None])[0].numpy()
    np.testing.assert_array_equal(image.encoded(2), want)
