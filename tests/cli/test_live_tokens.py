"""The picture's tokens beside the live bars: which are lit, how wide they are; a screen is shown first."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from basics import write_photo
from rich.console import Console

from anytime_cls.classifier import AnytimeClassifier
from anytime_cls.plan.options import RaceOptions
from anytime_cls_cli.show.live import LiveRace, picture
from anytime_cls_cli.show.tokens import DARK, Tokens, picture_of


def text_of(lines) -> list[str]:
    return ["".join(segment.text for segment in line) for line in lines]


def test_tokens_are_lit_as_they_are_scored(tiny_model_dir, photo):
    """Four tokens of each of three orders: exactly those, once an order."""
    classifier = AnytimeClassifier.load(str(tiny_model_dir), "cpu")
    options = RaceOptions(rule="fixed", orders="stratified", prefix=4, max_orders=3)
    tokens, jobs = Tokens(64, picture_of(photo, 32, 64)), []

    def update(job):
        jobs.append(job)
        tokens.take(job)
        before = tokens.counts.copy()
        tokens.take(job)
        assert (tokens.counts == before).all()  # nothing is counted twice
        for width in (40, 80, 120):
            lines = text_of(picture(job, classifier.labels, width, "a.jpg", Tokens(64, tokens.pixels)))
            assert max(map(len, lines)) <= width and any("▀" * 16 in line for line in lines) == (width >= 80)

    classifier.classify(photo, options, update)
    tokens.take(jobs[-1])
    expected = np.zeros(64, int)
    for k in range(3):
        expected[jobs[-1].draws.order(jobs[-1].content, k)[:4]] += 1
    np.testing.assert_array_equal(tokens.counts, expected)
    colours = {segment.style.color.triplet for line in tokens.lines() for segment in line}
    at = int(np.flatnonzero(expected)[0])
    assert tuple(tokens.pixels.reshape(-1, 3)[at].tolist()) in colours
    dark = int(np.flatnonzero(expected == 0)[0])
    assert tuple((tokens.pixels.reshape(-1, 3)[dark] * DARK).astype(int).tolist()) in colours


@pytest.mark.parametrize(("steps", "width"), [(4, 4), (64, 16), (256, 16), (1, 0), (50, 0), (576, 0)])
def test_what_makes_no_square_is_not_drawn(steps, width):
    tokens = Tokens(steps)
    assert tokens.width == width and all(len(line) == width for line in tokens.lines())


def test_a_picture_that_cannot_be_read_has_no_tokens(tmp_path: Path):
    (tmp_path / "x.jpg").write_bytes(b"no picture")
    assert picture_of(tmp_path / "x.jpg", 32, 64) is None
    assert picture_of(write_photo(tmp_path / "y.jpg"), 32, 64).shape == (8, 8, 3)


@pytest.mark.parametrize("budget", [None, "1h"])
def test_the_first_thing_seen_is_the_screen_s_answer(budget, tiny_model_dir, photo):
    """Before any pass."""
    classifier = AnytimeClassifier.load(str(tiny_model_dir), "cpu")
    options = RaceOptions(rule="paired", screen="table", max_orders=2, budget=budget)
    seen = []
    console = Console(file=io.StringIO(), force_terminal=True, width=100, color_system="truecolor")
    with LiveRace(console, classifier) as live:
        live.begin("a.jpg", photo)
        classifier.classify(
            photo, options, lambda job: seen.append((job.race.n, job.race.leader)) or live.update(job)
        )
    assert seen[0][0] == 0 and seen[-1][0] > 0
    drawn = console.file.getvalue()
    assert "▶" in drawn.split("0 orders of 2")[1].split("orders of 2")[0] and "▀" in drawn
