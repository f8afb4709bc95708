"""Grey, sketched, restyled, cut out and marked pictures."""

from __future__ import annotations

import numpy as np
import pytest

from anytime_cls.shifts import looks, shortcuts
from anytime_cls.shifts.chance import Chance
from anytime_cls.shifts.foreground import background, foreground

SIDE = 32
ROW, COLUMN = np.mgrid[:SIDE, :SIDE]


def disc(colour: tuple[int, int, int], ground: tuple[int, int, int], radius: float = 9, seed: int = 0):
    """A disc on a ground, with a little noise; and where it is."""
    inside = np.hypot(ROW - 15.5, COLUMN - 15.5) < radius
    x = np.where(inside[..., None], colour, ground) + np.random.default_rng(seed).integers(-6, 7, (32, 32, 3))
    return x.clip(0, 255).astype(np.uint8), inside


RED_ON_BLUE, INSIDE = disc((200, 30, 30), (30, 30, 200))


def test_grey_is_luminance():
    found = looks.greyscale(RED_ON_BLUE)
    assert np.array_equal(found[..., 0], found[..., 1]) and np.array_equal(found[..., 0], found[..., 2])
    wanted = RED_ON_BLUE @ np.array([0.299, 0.587, 0.114])
    assert np.abs(found[..., 0] - wanted).max() <= 0.51


def test_a_sketch_is_white_but_for_edges():
    found = looks.sketch(RED_ON_BLUE)
    assert np.array_equal(found[..., 0], found[..., 2])
    radius = np.hypot(ROW - 15.5, COLUMN - 15.5)
    rim, flat = np.abs(radius - 9) < 1, np.abs(radius - 9) > 4
    assert found[rim].mean() < 90 and found[flat].mean() > 215
    assert (looks.sketch(np.full_like(found, 77)) == 255).all()


def test_a_texture_has_the_others_colours_and_the_pictures_shape():
    green, _ = disc((40, 220, 60), (20, 120, 30), radius=4, seed=1)
    green = green.copy()
    green[::2] = (green[::2] * 0.6).astype(np.uint8)  # grain
    found = looks.texture(RED_ON_BLUE, green, Chance(b"t")).astype(float)
    assert np.abs(found.mean(axis=(0, 1)) - green.mean(axis=(0, 1))).max() < 12
    grain = np.abs(np.diff(found, axis=0)).mean() / np.abs(np.diff(RED_ON_BLUE.astype(float), axis=0)).mean()
    assert grain > 1.5
    apart = np.abs(found[INSIDE].mean(axis=0) - found[~INSIDE].mean(axis=0)).max()
    assert apart > 25  # the disc can still be seen
    assert not np.array_equal(looks.texture(RED_ON_BLUE, green, Chance(b"u")), found)


@pytest.mark.parametrize("radius", [7, 9, 11])
def test_the_subject_is_found(radius):
    x, inside = disc((200, 180, 30), (60, 130, 60), radius)
    mask = foreground(x) > 0.5
    assert (mask & inside).sum() / (mask | inside).sum() > 0.8


def test_where_nothing_stands_out_it_is_an_oval():
    mask = foreground(np.full((32, 32, 3), 90, np.uint8))
    assert mask[16, 16] > 0.99 and mask[0, 0] < 0.01 and 0.12 < mask.mean() < 0.7


def test_a_background_has_no_subject():
    found = background(RED_ON_BLUE, foreground(RED_ON_BLUE))
    assert found.shape == (32, 32, 3) and np.abs(found - np.array([30, 30, 200]) / 255).max() < 0.25
    everything = background(RED_ON_BLUE, np.ones((32, 32)))  # no background at all: its mean
    assert np.allclose(everything, RED_ON_BLUE.mean(axis=(0, 1)) / 255)


def test_swapping_keeps_the_subject_and_takes_the_ground():
    other, _ = disc((240, 240, 240), (20, 160, 20), seed=2)
    found = looks.swapped(RED_ON_BLUE, other).astype(int)
    assert np.abs(found[13:19, 13:19] - [200, 30, 30]).max() < 25
    assert np.abs(found[:4, :4] - [20, 160, 20]).max() < 40


def test_a_patch_and_nothing_else():
    found = shortcuts.patch(RED_ON_BLUE, 3, 10)
    assert np.array_equal(found[4:], RED_ON_BLUE[4:]) and np.array_equal(found[:, 4:], RED_ON_BLUE[:, 4:])
    assert (found[:4, :4] == np.round(shortcuts.colour_of(3, 10))).all()
    assert not np.array_equal(found, RED_ON_BLUE)


def test_a_tint_is_of_the_background():
    found = shortcuts.tint(RED_ON_BLUE, 3, 9).astype(int)  # green
    assert np.abs(found[14:18, 14:18] - RED_ON_BLUE[14:18, 14:18]).max() <= 3
    assert found[0, 0, 1] > RED_ON_BLUE[0, 0, 1] + 90


def test_colours_tell_ten_classes_apart():
    colours = np.array([shortcuts.colour_of(i, 10) for i in range(10)])
    apart = np.abs(colours[:, None] - colours).max(axis=2) + 255 * np.eye(10)
    assert apart.min() > 100


@pytest.mark.parametrize("share", [0.0, 0.7, 1.0])
def test_a_mark_says_the_class_so_often_and_else_any_other(share):
    said = np.array([shortcuts.said_class(4, 10, share, Chance(b"%d" % i)) for i in range(3000)])
    assert (said == 4).mean() == pytest.approx(share, abs=0.03)
    others = np.bincount(said[said != 4], minlength=10)
    assert others[4] == 0 and (share == 1 or (np.delete(others, 4) > 0.6 * others.sum() / 9).all())
