"""examples/serve_load.py, on few requests: nothing is lost."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from basics import write_photo

SCRIPT = Path(__file__).parents[2] / "examples" / "serve_load.py"


def test_nothing_is_lost_under_load(tiny_model_dir, tmp_path):
    for seed in range(5):
        write_photo(tmp_path / f"{seed}.jpg", seed)
    few = ["--requests", "40", "--bad", "12", "--budget", "0.2s"]
    command = [sys.executable, str(SCRIPT), str(tmp_path), *few, "--serve", f"--model {tiny_model_dir}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "load: 40 requests from 8 clients, budget 0.2s: statuses {200: 40}" in done.stdout
    assert "bad: 12 bad uploads: statuses {422: 10, 413: 2}; the next photograph: answered" in done.stdout
    assert done.stdout.endswith("nothing lost; the server ended with code 0\n")
