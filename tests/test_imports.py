"""What is imported when: help is instant, and looking at a trace needs no PyTorch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from replay_data import full_trace, races

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
    """What a fresh Python has after running the code: top-level modules, and those one level below."""
    code += "\nimport sys; print('imported', *{'.'.join(name.split('.')[:2]) for name in sys.modules})"
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


COMMANDS = [  # with what each may not have
    (("models", "ls"), {"torch", "scipy", "h5py"}),
    (("trace", "info", "TRACE"), {"torch", "scipy"}),
    (("replay", "TRACE", "-o", "CURVES"), {"torch", "scipy.stats", "matplotlib"}),
    (("calibrate", "TRACE", "--risk", "0.1", "--out", "FITTED"), {"torch", "matplotlib"}),
]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder: Path = tmp_path_factory.mktemp("imports")
    trace = full_trace(folder / "full.h5", races(0, 300))
    return {"TRACE": str(trace), "CURVES": str(folder / "c.h5"), "FITTED": str(folder / "c.json")}


@pytest.mark.parametrize(("words", "unwanted"), COMMANDS, ids=lambda x: x[0] if isinstance(x, tuple) else "")
def test_commands_on_numbers_need_no_device(words, unwanted, files):
    argv = [files.get(word, word) for word in words]
    modules = imported(f"from anytime_cls_cli.main import main\nassert main({argv!r}) == 0")
    assert "anytime_cls" in modules and not unwanted & modules


def test_a_picture_waits_for_nothing_but_its_race(tiny_model_dir, photo):
    """SciPy's statistics take as long to import as torch does, and no race needs them."""
    argv = ["classify", str(photo), "--model", str(tiny_model_dir), "--device", "cpu", "-q"]
    modules = imported(f"from anytime_cls_cli.main import main\nassert main({argv!r}) == 0")
    unwanted = {"scipy.stats", "scipy.optimize", "h5py", "matplotlib", "pandas", "fastapi", "ray"}
    assert {"torch", "anytime_cls.engine"} <= modules and not unwanted & modules
