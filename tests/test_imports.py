"""What is imported when: help is instant, and looking at a trace needs no PyTorch."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {"torch", "h5py", "scipy", "matplotlib", "pandas", "ray", "fastapi", "uvicorn"}

# Asks every command there is for its help, so that a new one is covered.
HELP_OF_ALL = """
import sys
from anytime_cls_cli.main import app, main

def commands(app, *before):
    yield [*before]
    for command in app.registered_commands:
        yield [*before, command.name]
    for group in app.registered_groups:
        yield from commands(group.typer_instance, *before, group.name)

asked = list(commands(app))
assert ["classify"] in asked and ["trace", "info"] in asked, asked
for words in asked:
    assert main([*words, "--help"]) == 0, words
"""


def imported(code: str) -> set[str]:
    """The top-level modules that a fresh Python has after running the code."""
    code += "\nimport sys; print('imported', *{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split()[1:])


def test_the_command_line_imports_nothing_heavy():
    modules = imported("import anytime_cls_cli.main")
    assert {"anytime_cls_cli", "typer"} <= modules and not HEAVY & modules


def test_nor_does_the_help_of_any_command():
    assert not HEAVY & imported(HELP_OF_ALL)


@pytest.mark.parametrize("name", ["anytime_cls_cli.show.trace", "anytime_cls.traces.export"])
def test_traces_are_read_without_what_makes_them(name):
    modules = imported(f"import {name}")
    assert "h5py" in modules and not (HEAVY - {"h5py"} | {"pyarrow"}) & modules
