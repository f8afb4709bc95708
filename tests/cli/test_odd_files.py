"""Folders with files that are no pictures, or that opening would hang on: the commands go on, and say so."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from basics import write_photo
from sweep_data import make_images

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs FIFOs")
PROGRAM = [sys.executable, "-m", "anytime_cls_cli"]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Four pictures in class folders; among them a FIFO, a photograph without a reader, and a text."""
    root = make_images(tmp_path / "pictures", 1)
    os.mkfifo(root / "cat" / "pipe.jpg")
    (root / "bird" / "x.jxl").write_bytes(b"\xff\x0a")
    (root / "bird" / "notes.txt").touch()
    return root


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [*PROGRAM, *map(str, arguments), "--device", "cpu", "--max-orders", "2"]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def test_a_sweep_leaves_them_out_and_says_so(tiny_model_dir, pictures, tmp_path):
    out = tmp_path / "x.h5"
    done = run("sweep", pictures, "--model", tiny_model_dir, "-o", out, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["images"] == 4 and found["errors"] == 0
    assert found["left_out"] == {"named pipe (FIFO)": 1, ".jxl": 1, ".txt": 1}
    assert "left out: 1 .jxl, 1 .txt, 1 named pipe (FIFO)\n" in done.stderr
    done = run("sweep", pictures, "--model", tiny_model_dir, "-o", out, "--overwrite", "-q")
    assert done.stderr == "" and "left out    1 .jxl, 1 .txt, 1 named pipe (FIFO)\n" in done.stdout


def test_classify_leaves_them_out_and_says_so(tiny_model_dir, pictures):
    done = run("classify", pictures, "--model", tiny_model_dir)
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 4
    assert "left out: 1 .jxl, 1 .txt, 1 named pipe (FIFO)\n" in done.stderr


def test_a_pipe_named_by_hand_is_read(tiny_model_dir, tmp_path):
    photo = write_photo(tmp_path / "photo.jpg")
    options = ["--model", tiny_model_dir, "--json", "--max-orders", "2", "-q"]
    words = shlex.join(map(str, [*PROGRAM, "classify", *options]))
    done = subprocess.run(
        ["bash", "-c", f"{words} {photo} <(cat {photo})"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    first, second = map(json.loads, done.stdout.splitlines())
    assert first["ranking"] == second["ranking"] and second["path"].startswith("/dev/fd/")


def test_no_error_line_prints_what_a_url_may_keep_secret(capsys):
    from anytime_cls_cli.errors import complain, without_secrets
    from anytime_cls_cli.record import typed

    url = "wds:https://me:pass@host.org/a-{0..9}.tar?X-Sig=abc&b='c'::gs://b/c.tar?k=v"
    assert without_secrets(f"{url} and").startswith("wds:https://...@host.org/a-{0..9}.tar?...")
    assert complain(f"cannot open {url}; go on with: x --resume", 1) == 1
    err = capsys.readouterr().err
    assert "abc" not in err and "pass" not in err and "k=v" not in err and err.endswith("x --resume\n")
    assert "abc" not in typed(["sweep", url]) and typed(["sweep", "a?.jpg"]) == "anytime-cls sweep 'a?.jpg'"
