"""The fuzzers run: a few cases of each kind of file, in a process of their own, since each case forks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).parent.parent / "examples" / "fuzz"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize(("name", "count"), [("images", 20), ("traces", 1)])
def test_a_few_cases_without_a_fault(name, count):
    ran = subprocess.run(
        [sys.executable, FUZZ / f"{name}.py", "--count", str(count), "--seed", "7"],
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert ran.returncode == 0 and "0 faults" in ran.stdout, ran.stdout + ran.stderr


def test_every_fuzzer_has_its_line():
    lines = (FUZZ / "README.md").read_text(encoding="utf-8").splitlines()
    listed = [line.split("`")[1] for line in lines if line.startswith("| `")]
    assert listed == sorted(path.name for path in FUZZ.glob("*.py") if path.name != "harness.py")
