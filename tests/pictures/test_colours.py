"""Colours that colour-blind readers tell apart, by simulation.

The matrices are those of Machado, Oliveira & Fernandes, "A physiologically-based model for simulation of
color vision deficiency", IEEE TVCG 15(6), 2009, at severity 1.0, on linear sRGB; the distance is CIE 1976
ΔE*ab. Colours 2.3 apart are just noticeably different (Mahy et al. 1994) side by side; lines are not.
"""

from itertools import combinations

import numpy as np
import pytest

from anytime_cls.pictures import confusion, style
from anytime_cls.pictures.report import LIGHTER

SEEN = {
    "normal": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900],
    ],
}  # fmt: skip
WHITE = np.array([0.95047, 1.0, 1.08883])  # D65
TO_XYZ = [
    [0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041],
]  # fmt: skip


def linear(colour: str) -> np.ndarray:
    """sRGB as #rrggbb → linear light [3]."""
    c = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def lab(light: np.ndarray) -> np.ndarray:
    """Linear sRGB → CIE L*a*b* (D65)."""
    t = np.array(TO_XYZ) @ np.clip(light, 0, 1) / WHITE
    f = np.where(t > (6 / 29) ** 3, np.cbrt(t), t / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def distance(a: str, b: str, seen: str) -> float:
    matrix = np.array(SEEN[seen])
    return float(np.linalg.norm(lab(matrix @ linear(a)) - lab(matrix @ linear(b))))


def test_the_simulation_is_the_published_one():
    """White and greys stay what they are; red and green, as light, collapse for who lacks a cone."""
    for seen in SEEN:
        assert distance("#ffffff", "#ffffff", seen) == 0
        np.testing.assert_allclose(np.array(SEEN[seen]) @ np.ones(3), 1, atol=1e-5)
    assert lab(linear("#ffffff")) == pytest.approx([100, 0, 0], abs=0.02)
    assert distance("#d04040", "#7a7a00", "normal") > 3 * distance("#d04040", "#7a7a00", "deuteranopia")


@pytest.mark.parametrize("seen", SEEN)
def test_what_has_a_name_by_default_is_far_apart(seen):
    """Curves, the fixed K's ink, the grey of the rest, and the page."""
    colours = [*style.LEADING, style.INK, style.FAINT, "#ffffff"]
    for a, b in combinations(colours, 2):
        assert distance(a, b, seen) > 20, (a, b)


@pytest.mark.parametrize("seen", SEEN)
def test_so_it_is_on_a_dark_page(seen):
    """The report's own, lighter, colours there; its ink and paper are those of report.css."""
    curves = [LIGHTER.get(colour.lower(), colour) for colour in style.LEADING]
    for a, b in combinations([*curves, style.FAINT, "#e6e7e9", "#16181b"], 2):
        assert distance(a, b, seen) > 18, (a, b)


@pytest.mark.parametrize("seen", SEEN)
def test_rules_are_told_apart(seen):
    for (one, a), (other, b) in combinations(style.RULES.items(), 2):
        assert distance(a, b, seen) > 15, (one, other)


@pytest.mark.parametrize("seen", SEEN)
def test_right_and_wrong_are_told_apart(seen):
    assert distance(confusion.RIGHT, confusion.WRONG, seen) > 40
