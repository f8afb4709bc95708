"""CIFAR-10-C's corruptions, against the formulas that are published, and what follows from them."""

from __future__ import annotations

import colorsys
import io
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image
from scipy.stats import poisson

from anytime_cls.shifts import filters
from anytime_cls.shifts.chance import Chance
from anytime_cls.shifts.corruptions import TABLE, corrupt
from anytime_cls.shifts.registry import EXTRA, MIX, STANDARD, Shift, ShiftError, parse

GREY = np.full((32, 32, 3), 128, np.uint8)
#: Those that draw nothing.
FIXED = {"defocus-blur", "zoom-blur", "brightness", "contrast", "pixelate", "jpeg-compression",
         "gaussian-blur", "saturate"}  # fmt: skip
#: Those of which more of the parameter is more of the change, at every severity.
RISING = {"gaussian-noise", "shot-noise", "impulse-noise", "speckle-noise", "zoom-blur", "fog", "brightness",
          "contrast", "jpeg-compression", "pixelate", "gaussian-blur"}  # fmt: skip


def picture(seed: int = 0) -> np.ndarray:
    """A smooth picture with some noise and every kind of colour."""
    rng = np.random.default_rng(seed)
    x = filters.smooth(rng.uniform(0, 1, (32, 32, 3)), 2.0)
    x = (x - x.min()) / (x.max() - x.min())
    return np.round(255 * (0.9 * x + 0.1 * rng.uniform(0, 1, x.shape))).astype(np.uint8)


def at(name: str, severity: int, x: np.ndarray, key: bytes = b"k") -> np.ndarray:
    return corrupt(x, name, severity, Chance(key))


def spread(name: str, severity: int, x: np.ndarray, pictures: int = 40) -> np.ndarray:
    """Differences, 0 to 1, of many draws."""
    return np.concatenate(
        [(at(name, severity, x, b"%d" % i).astype(float) - x).ravel() for i in range(pictures)]
    ) / 255  # fmt: skip


def test_there_are_nineteen_at_five_severities():
    assert set(TABLE) == {*STANDARD, *EXTRA} and len(STANDARD) == 15 and len(EXTRA) == 4
    assert all(len(parameters) == 5 for _, parameters in TABLE.values())


@pytest.mark.parametrize("name", TABLE)
def test_each_is_a_function_of_picture_severity_and_key(name):
    x = picture()
    for severity in range(1, 6):
        once, again = at(name, severity, x), at(name, severity, x)
        assert once.dtype == np.uint8 and once.shape == x.shape
        assert np.array_equal(once, again) and not np.array_equal(once, x)
        others = [at(name, severity, x, b"%d" % i) for i in range(6)]
        assert all(np.array_equal(once, other) for other in others) == (name in FIXED)
    assert np.array_equal(x, picture())  # it was left alone


@pytest.mark.parametrize("name", sorted(RISING))
def test_severities_rise(name):
    x = picture()
    change = [np.abs(spread(name, severity, x, 4)).mean() for severity in range(1, 6)]
    assert all(a < b for a, b in pairwise(change))


@pytest.mark.parametrize(
    ("severity", "sd"), list(zip((1, 2, 3, 4, 5), (0.04, 0.06, 0.08, 0.09, 0.10), strict=True))
)
def test_gaussian_noise_has_the_published_spread(severity, sd):
    drawn = spread("gaussian-noise", severity, GREY)
    assert drawn.std() == pytest.approx(sd, rel=0.02)
    assert drawn.mean() == pytest.approx(-0.5 / 255, abs=0.001)  # cut down to bytes, as theirs


@pytest.mark.parametrize(
    ("severity", "photons"), list(zip((1, 2, 3, 4, 5), (500, 250, 100, 75, 50), strict=True))
)
def test_shot_noise_is_poisson(severity, photons):
    assert spread("shot-noise", severity, GREY).std() == pytest.approx(np.sqrt(128 / 255 / photons), rel=0.02)


@pytest.mark.parametrize(
    ("severity", "sd"), list(zip((1, 2, 3, 4, 5), (0.06, 0.1, 0.12, 0.16, 0.2), strict=True))
)
def test_speckle_noise_grows_with_the_light(severity, sd):
    dark, light = (np.full_like(GREY, level) for level in (60, 120))
    assert spread("speckle-noise", severity, light).std() == pytest.approx(sd * 120 / 255, rel=0.03)
    assert spread("speckle-noise", severity, dark).std() == pytest.approx(sd * 60 / 255, rel=0.03)


@pytest.mark.parametrize(
    ("severity", "share"), list(zip((1, 2, 3, 4, 5), (0.01, 0.02, 0.03, 0.05, 0.07), strict=True))
)
def test_impulses_are_so_many_and_half_of_them_white(severity, share):
    drawn = np.concatenate([at("impulse-noise", severity, GREY, b"%d" % i).ravel() for i in range(60)])
    assert set(np.unique(drawn)) == {0, 128, 255}
    assert (drawn != 128).mean() == pytest.approx(share, rel=0.1)
    assert (drawn == 255).sum() / (drawn != 128).sum() == pytest.approx(0.5, abs=0.05)


def test_counts_are_those_of_the_inverse_of_poisson():
    rate = np.geomspace(1e-3, 500, 4000)
    drawn = Chance(b"p").poisson(rate)
    assert np.array_equal(drawn, poisson.ppf(Chance(b"p").uniform(rate.shape), rate))
    assert Chance(b"p").poisson(np.zeros(3)).tolist() == [0, 0, 0]


@pytest.mark.parametrize("name", ["defocus-blur", "gaussian-blur", "glass-blur", "motion-blur", "zoom-blur",
                                  "elastic-transform", "pixelate", "contrast"])  # fmt: skip
def test_an_even_picture_stays_even(name):
    for severity in range(1, 6):
        assert np.abs(at(name, severity, GREY).astype(int) - 128).max() <= 1


def test_a_glassy_pixel_is_one_that_was_there():
    """At the first severity nothing is blurred (σ = 0.05), so every colour is one of the picture's."""
    x = picture()
    colours = {tuple(c) for c in x.reshape(-1, 3).tolist()}
    found = at("glass-blur", 1, x)
    # floor of x/255·255 may fall one below: compared with what that gives
    cut = np.floor(x / 255.0 * 255).astype(np.uint8)
    colours |= {tuple(c) for c in cut.reshape(-1, 3).tolist()}
    recut = {tuple(np.floor(np.array(c) / 255 * 255).astype(int).tolist()) for c in colours}
    assert {tuple(c) for c in found.reshape(-1, 3).tolist()} <= colours | recut


def test_motion_is_half_a_gaussian_in_one_direction():
    x = np.zeros((32, 32))
    x[16, 20] = 1
    trail = filters.motion(x, 6, 1.5, 0.0)
    weight = np.exp(-(np.arange(13) ** 2) / (2 * 1.5**2))
    assert np.allclose(trail[16, 20 - 12 : 21][::-1], weight / weight.sum())
    assert trail.sum() == pytest.approx(1) and np.count_nonzero(trail.sum(axis=1)) == 1
    down = filters.motion(x, 6, 1.5, 90.0)
    assert np.count_nonzero(down.sum(axis=0)) == 1 and np.allclose(down[:, 20], trail[16].take(
        np.arange(32) + 4, mode="clip"))  # fmt: skip


def test_zooming_keeps_the_middle():
    x = np.zeros((32, 32, 1))
    x[12:20, 12:20] = 1
    found = filters.clipped_zoom(x, 1.25)
    assert found.shape == x.shape and found.sum() > 1.3 * x.sum()
    assert np.allclose(found[:, :, 0], found[::-1, ::-1, 0], atol=0.35)


def test_contrast_is_about_each_channels_mean():
    x = picture() / 255.0
    mean = x.mean(axis=(0, 1))
    for severity, factor in enumerate((0.75, 0.5, 0.4, 0.3, 0.15), 1):
        wanted = (((x - mean) * factor + mean).clip(0, 1) * 255).astype(np.uint8)
        assert np.array_equal(at("contrast", severity, picture()), wanted)


@pytest.mark.parametrize("name", ["brightness", "saturate"])
def test_hue_saturation_value(name):
    x = np.concatenate([picture().reshape(-1, 3)[::7], [[0, 0, 0], [90, 90, 90], [255, 0, 10]]])
    square = np.resize(x, (32, 32, 3)).astype(np.uint8)
    amounts = {
        "brightness": [(1, 0, 1, v) for v in (0.05, 0.1, 0.15, 0.2, 0.3)],
        "saturate": [(s, p, 1, 0) for s, p in ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2))],
    }
    for severity, (s_times, s_plus, v_times, v_plus) in enumerate(amounts[name], 1):
        found = at(name, severity, square).reshape(-1, 3)
        for was, now in zip(square.reshape(-1, 3)[:200], found[:200], strict=True):
            h, s, v = colorsys.rgb_to_hsv(*was / 255)
            s, v = min(1, s * s_times + s_plus), min(1, v * v_times + v_plus)
            wanted = np.array(colorsys.hsv_to_rgb(h, s, v)) * 255
            assert np.abs(now - wanted).max() <= 1.001, (was, now, wanted)


def test_jpeg_and_pixelate_are_pillows():
    x = Image.fromarray(picture())
    for severity, quality in enumerate((80, 65, 58, 50, 40), 1):
        file = io.BytesIO()
        x.save(file, "JPEG", quality=quality)
        assert np.array_equal(at("jpeg-compression", severity, picture()), np.asarray(Image.open(file)))
    for severity, share in enumerate((0.95, 0.9, 0.85, 0.75, 0.65), 1):
        few = (int(32 * share),) * 2
        wanted = x.resize(few, Image.Resampling.BOX).resize((32, 32), Image.Resampling.BOX)
        assert np.array_equal(at("pixelate", severity, picture()), np.asarray(wanted))


def test_fog_lightens_and_never_beyond_its_bounds():
    x = picture()
    most = x.max() / 255
    for severity, amount in enumerate((0.2, 0.5, 0.75, 1, 1.5), 1):
        found = at("fog", severity, x) / 255
        low = x / 255 * most / (most + amount)
        assert (found >= low - 2 / 255).all()
        assert (found <= (x / 255 + amount) * most / (most + amount) + 1 / 255).all()


def test_a_plasma_goes_from_nothing_to_all_and_is_smoother_the_faster_it_decays():
    rough, fine = (filters.plasma(32, decay, Chance(b"f")) for decay in (1.75, 3.0))
    for x in (rough, fine):
        assert x.shape == (32, 32) and x.min() == 0 and x.max() == 1
    steps = [np.abs(np.diff(x, axis=0)[:-1]).mean() for x in (rough, fine)]
    assert steps[1] < steps[0]


def test_weather_adds_light_and_mud_takes_it():
    dark = np.full_like(GREY, 40)
    for name in ("snow", "frost"):
        assert (at(name, 3, dark).mean(axis=2) > 40).mean() > 0.2
    water, mud = at("spatter", 1, dark, b"2"), at("spatter", 5, np.full_like(GREY, 200), b"2")
    assert (water >= 40).all() and (water > 60).any()
    brown = mud[(mud != 200).any(axis=2)]
    assert len(brown) and (brown[:, 0] >= brown[:, 2]).all() and (mud <= 200).all()


def test_edges_are_those_of_a_square():
    x = np.zeros((32, 32))
    x[8:24, 8:24] = 200
    found = filters.edges(x, 50, 150)
    near = np.zeros((32, 32), bool)
    near[7:25, 7:25] = True
    near[9:23, 9:23] = False
    assert found.any() and not found[~near].any() and found.sum() >= 56


def test_elastic_moves_pixels_only_so_far():
    x = np.zeros((32, 32, 3), np.uint8)
    x[16, 16] = 255
    for severity in range(1, 6):
        for i in range(10):
            found = at("elastic-transform", severity, x, b"%d" % i).astype(float).sum(axis=2)
            if found.sum():
                middle = np.array([(found.sum(axis=a) * np.arange(32)).sum() / found.sum() for a in (1, 0)])
                assert np.abs(middle - 16).max() < 8


def test_the_mixture_is_one_of_the_fifteen():
    x = picture()
    seen = set()
    for i in range(200):
        key = b"m%d" % i
        found = parse(MIX).apply(x, Chance(key))
        chance = Chance(key)
        name = STANDARD[int(chance.integers(0, 15))]
        severity = int(chance.integers(1, 6))
        assert np.array_equal(found, corrupt(x, name, severity, chance))
        seen.add((name, severity))
    assert {name for name, _ in seen} == set(STANDARD) and {s for _, s in seen} == {1, 2, 3, 4, 5}
    chance = Chance(b"q")
    name = STANDARD[int(chance.integers(0, 15))]
    assert np.array_equal(parse("corruptions:5").apply(x, Chance(b"q")), corrupt(x, name, 5, chance))


def test_names():
    assert parse("fog:5") == Shift("fog", 5) and parse("Gaussian_Noise").name == "gaussian-noise:3"
    assert parse("corruptions").name == "corruptions" and parse("corruptions:2").name == "corruptions:2"
    assert parse("sketch").name == "sketch" and parse("patch:0.95").name == "patch:0.95"
    assert parse("tint").name == "tint:0"
    for text, said in (
        ("fogg:5", "did you mean 'fog'?"), ("fog:6", "a severity is 1 to 5"), ("fog:", "a severity is"),
        ("nothing-like-it", "there is corruptions, gaussian-noise"), ("sketch:2", "has no severity"),
        ("patch:2", "how often it says the true class"), ("patch:x", "how often"),
    ):  # fmt: skip
        with pytest.raises(ShiftError, match=said.replace("?", r"\?")):
            parse(text)
