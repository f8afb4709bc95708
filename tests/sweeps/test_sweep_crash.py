"""Sweeps that are killed, interrupted or run out of room, and go on to what an uninterrupted one gives."""

from __future__ import annotations

import os
import random
import re
import shlex
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from sweep_data import contents, make_images, start

from anytime_cls.traces.read import Trace
from anytime_cls.traces.schema import TraceError
from anytime_cls_cli.main import main

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
OPTIONS = ("--max-orders", 8, "--seed", 3, "--record-prefixes", "8,16", "--device", "cpu")


@pytest.fixture(scope="module")
def command(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    root = make_images(tmp_path_factory.mktemp("data") / "images", 12)
    return ["sweep", root, "--model", tiny_model_dir, *OPTIONS, "-o"]


@pytest.fixture(scope="module")
def whole(command: list[object], tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], int]:
    """An uninterrupted run's contents, and its size in bytes."""
    folder = tmp_path_factory.mktemp("whole")
    process = start([*command, folder / "whole.h5"], folder / "log")
    process.join()
    assert process.exitcode == 0, (folder / "log").read_text()
    return contents(folder / "whole.h5"), (folder / "whole.h5").stat().st_size


def done(path: Path) -> int:
    """Images on disk that a reader finds."""
    try:
        with Trace.open(path) as trace:
            return len(trace)
    except TraceError as error:
        assert "there is no trace" in str(error)
        return 0


def test_sigkill_up_to_ten_times_at_random_moments(command, whole, tmp_path):
    path, log = tmp_path / "x.h5", tmp_path / "log"
    parts = path.with_name("x.h5.parts")
    rng = random.Random(20)
    seen = [0]
    for _ in range(10):
        wanted = len(list(parts.glob("part-*.h5"))) + rng.randrange(4)
        process = start([*command, path, "--resume"], log, slow=0.01)
        wait_for(lambda: len(list(parts.glob("part-*.h5"))) >= min(wanted, 22), log)  # noqa: B023
        time.sleep(rng.uniform(0, 0.1))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL, log.read_text()
        seen.append(done(path))
        if seen[-1] > 42:  # a fast machine: the next could end before it is killed
            break
    assert seen == sorted(seen) and len(set(seen)) > 4
    process = start([*command, path, "--resume"], log)
    process.join()
    assert process.exitcode == 0, log.read_text()
    assert contents(path) == whole[0]
    assert [p.name for p in tmp_path.glob("x.h5*")] == ["x.h5"]


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_interrupted_run_prints_the_command_that_goes_on(command, whole, tmp_path, name):
    path, log = tmp_path / "x.h5", tmp_path / "log"
    process = start([*command, path, "--overwrite"], log, images_per_part=5, slow=0.01)
    wait_for(lambda: list(path.with_name("x.h5.parts").glob("part-*")), log)
    os.kill(process.pid, getattr(signal, name))
    process.join()
    assert process.exitcode == 130, log.read_text()
    text = log.read_text()
    assert "ending after the batch in flight; once more quits at once" in text and "Traceback" not in text
    found = re.search(r"interrupted; go on with: anytime-cls (.*)", text)
    assert found
    assert 5 <= done(path) < 48 and not path.exists()
    arguments = shlex.split(found[1])
    assert arguments[-1] == "--resume" and "--overwrite" not in arguments
    assert main([*arguments, "-q"]) == 0
    assert contents(path) == whole[0]


def test_a_second_interrupt_quits_at_once(command, tmp_path):
    path, log = tmp_path / "x.h5", tmp_path / "log"
    process = start([*command, path], log, slow=60)
    wait_for(lambda: path.with_name("x.h5.parts").exists(), log)
    os.kill(process.pid, signal.SIGINT)
    wait_for(lambda: "once more" in log.read_text(), log)
    os.kill(process.pid, signal.SIGINT)
    process.join(30)
    assert process.exitcode == 130


def test_full_disk_is_one_line_and_loses_nothing(command, whole, tmp_path):
    path, log = tmp_path / "x.h5", tmp_path / "log"
    process = start([*command, path], log, limit=whole[1] * 9 // 10)  # parts fit, the finished trace does not
    process.join()
    text = log.read_text()
    assert process.exitcode == 1, text
    assert re.fullmatch(
        r"anytime-cls: cannot write .*File too large; what was finished before is safe; "
        r"go on with: .* --resume",
        text.splitlines()[-1],
    )
    assert text.count("anytime-cls: ") == 1 and "Traceback" not in text
    assert 0 < done(path) <= 48 and not path.exists()
    process = start([*command, path, "--resume"], log)
    process.join()
    assert process.exitcode == 0, log.read_text()
    assert contents(path) == whole[0]


def wait_for(condition: Any, log: Path) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until, log.read_text()
        time.sleep(0.005)
