"""On a terminal: the line, the ranking, and the live picture of a race."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
from basics import TINY_LABELS, write_photo

from anytime_cls_cli.main import main


class Terminal(io.StringIO):
    """A standard output that is a terminal of 100 columns."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str]]:
    """Runs `classify` on a terminal: exit code, and what was written to it."""

    def run(*args: object) -> tuple[int, str]:
        out = Terminal()
        monkeypatch.setenv("TERM", "xterm-256color")
        monkeypatch.setenv("COLUMNS", "100")
        monkeypatch.delenv("NO_COLOR", raising=False)
        monkeypatch.setattr(sys, "stdout", out)
        return main(["classify", *map(str, args)]), out.getvalue()

    return run


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def test_terminal_gets_a_line_and_a_ranking(tiny_model_dir, photo, terminal):
    options = ("--no-live", "--top", 3, "--max-orders", 8)
    code, out = terminal(photo, "--model", tiny_model_dir, *options)
    assert code == 0
    first, *ranking, end, spent = plain(out).splitlines()
    found = re.fullmatch(
        r"\S*/photo.jpg  (\w+)  +([<>\d.]+) %  [█▏▎▍▌▋▊▉]+ +\S+ m?s(  probably wrong)?", first
    )
    assert found and found[1] in TINY_LABELS
    assert len(ranking) == 3 and found[1] in ranking[0] and "nats" not in plain(out)
    assert end.strip() in ("stable: more orders would not change it", "all 8 orders used")
    assert re.fullmatch(r"  \d orders?, \d+ of 80 passes", spent)


def test_terminal_is_safe_from_file_names(tiny_model_dir, tmp_path, terminal):
    evil = write_photo(tmp_path / "a\x1b[2Jb\nc.jpg")
    gone = str(tmp_path / "[bold]gone")
    code, out = terminal(evil, gone, "--model", tiny_model_dir, "--max-orders", 2, "-q")
    assert code == 1 and "\x1b[2Jb" not in out and "a\ufffd[2Jb\ufffdc.jpg  " in plain(out)
    assert re.search(rf"{re.escape(gone)} +error: no file\s+matches", plain(out))


def test_live_picture(tiny_model_dir, photo, terminal):
    options = ("--rule", "marginal", "--budget", "1m", "--device", "cpu")
    code, out = terminal(photo, "--model", tiny_model_dir, *options)
    out = plain(out)
    assert code == 0
    assert "▶" in out and "classes in" in out and "% of 60s" in out and "▒" in out
    assert "photo.jpg  " in out.splitlines()[-8]  # the answer comes after the picture, with a ranking of 5


def test_live_frames_are_throttled(tiny_model_dir, photo, monkeypatch):
    """By a clock of its own, that a busy machine does not move: a batch takes 10 ms, a frame nothing."""
    from rich.console import Console

    from anytime_cls.classifier import AnytimeClassifier
    from anytime_cls.plan.options import RaceOptions
    from anytime_cls_cli.show import live as module
    from anytime_cls_cli.show.live import FRAMES, LiveRace

    now = [0.0]
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: now[0], thread_time=lambda: 0.0))
    classifier = AnytimeClassifier.load(str(tiny_model_dir), "cpu", batch_size=1)
    updates = []
    with LiveRace(Console(file=Terminal(), force_terminal=True, width=100), classifier) as live:
        live.begin("x")

        def update(job):
            updates.append(job)
            now[0] += 0.010
            live.update(job)

        classifier.classify(photo, RaceOptions(rule="fixed", max_orders=8), update)
    assert len(updates) == 80 and 0.8 * FRAMES - 1 <= live.frames <= 1 + 0.8 * FRAMES


@pytest.mark.parametrize("width", [40, 80, 200])
@pytest.mark.parametrize("n_classes", [3, 1000])
def test_picture_fits(width, n_classes):
    from anytime_cls.draws.orders import OrderSampler
    from anytime_cls.engine.engine import Job
    from anytime_cls.race.bounds import ModeratedT, VariancePrior
    from anytime_cls.race.race import Race
    from anytime_cls.race.rules import PairedRule
    from anytime_cls_cli.show.live import picture

    rng = np.random.default_rng(0)
    race = Race(n_classes, 16, PairedRule(ModeratedT(VariancePrior(1.0, 0.0, 20.0))))
    job = Job(0, np.zeros(4, int), b"", race, np.arange(n_classes), OrderSampler("uniform", 4), 4)
    labels = [f"class {i} of a very long name" for i in range(n_classes)]
    quality = -300 - 10 * np.abs(rng.normal(size=n_classes))
    quality[n_classes // 2] = -290
    rows = []
    for order in range(8):
        some = np.flatnonzero(race.alive)
        race.record(order, some[: len(some) // 2], quality[some[: len(some) // 2]] + rng.normal())
        rows.append(picture(job, labels, width, "image.jpg"))
        rest = some[len(some) // 2 :]
        race.record(order, rest, quality[rest] + rng.normal())
        rows.append(picture(job, labels, width, "image.jpg"))
        if race.done:
            break
    for lines in rows:
        texts = ["".join(segment.text for segment in line) for line in lines]
        assert max(map(len, texts)) <= width and len(texts) <= 18
    final = ["".join(segment.text for segment in line) for line in rows[-1]]
    [leader] = [text for text in final if text.startswith("▶")]
    assert f"class {n_classes // 2}" in leader
    assert any("out at" in text for text in final) or width == 40
