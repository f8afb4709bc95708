"""Values of options that a shell offers, asked as a shell asks."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from anytime_cls.models.zoo import embedded_names
from anytime_cls_cli import complete


def offered(line: str) -> list[str]:
    """What bash is told for the last word of a line."""
    words = line.split(" ")
    asked = {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1), "_ANYTIME_CLS_COMPLETE": "complete_bash"}
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "anytime_cls_cli"],
        capture_output=True, text=True, timeout=120, check=False, env={**os.environ, **asked},
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    assert not any(line.split("|")[-1].strip() == "torch" for line in done.stderr.splitlines())
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("anytime-cls classify --model cifar10-h", ["cifar10-head"]),
        ("anytime-cls sweep --rule ha", ["halving"]),
        ("anytime-cls classify --orders str", ["stratified"]),
        ("anytime-cls sweep --screen g", ["gradient"]),
        ("anytime-cls classify --crops re", ["resized"]),
    ],
)
def test_a_shell_offers_values(line: str, names: list[str]) -> None:
    assert offered(line) == names


def test_all_are_offered_for_nothing_typed() -> None:
    assert complete.models("") == list(embedded_names())
    assert {"paired", "table", "calibrated"} <= set(complete.rules(""))
    assert complete.models("unicorn") == []
