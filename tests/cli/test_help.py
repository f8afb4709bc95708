"""Help and the first contact: widths, groups, nothing leaked, what to type instead."""

from __future__ import annotations

import io
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from anytime_cls_cli.errors import complain
from anytime_cls_cli.main import app, main

PICTURE = "holiday photo.jpg"


def commands(group: Any = app, *before: str) -> Iterator[tuple[str, ...]]:
    yield before
    for command in group.registered_commands:
        yield (*before, command.name)
    for inner in group.registered_groups:
        yield from commands(inner.typer_instance, *before, inner.name)


def help_of(words: tuple[str, ...], columns: int, capsys: Any, monkeypatch: Any, flag: str = "-h") -> str:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert main([*words, flag]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("words", list(commands()), ids=" ".join)
def test_help_uses_the_width_and_leaks_nothing(words, capsys, monkeypatch):
    narrow, wide = (help_of(words, columns, capsys, monkeypatch) for columns in (80, 120))
    assert max(map(len, narrow.splitlines())) <= 80 and max(map(len, wide.splitlines())) <= 120
    if max(map(len, wide.splitlines())) > 80:  # there was something to wrap
        assert narrow != wide and len(wide.splitlines()) <= len(narrow.splitlines())
    assert words[-1:] not in [("classify",), ("sweep",), ()] or wide != narrow
    assert help_of(words, 80, capsys, monkeypatch, "--help") == narrow
    for leak in (r"<\w+[\[\] ]", r"\{", r"\]\.\.\.", r"<=x|x>=", r"\bVALUE\b", r"\\\["):
        assert not re.search(leak, narrow), re.search(leak, narrow)
    assert "docs/glossary.md" in narrow


def test_options_and_commands_are_in_named_groups(capsys, monkeypatch):
    text = help_of(("classify",), 80, capsys, monkeypatch)
    groups = re.findall(r"^(\w[\w ]*):$", text, re.M)
    assert groups == ["Arguments", "Options", "Model", "Race", "Output", "Machine", "Help"]
    in_race = text.split("\nRace:\n")[1].split("\nOutput:\n")[0]
    assert "--delta" in in_race and "--budget" in in_race and "--device" not in in_race
    root = help_of((), 80, capsys, monkeypatch)
    order = [root.index(f"\n{name}:\n") for name in ("Classify", "Measure and compare", "Models of your own")]
    assert order == sorted(order) and "..." not in root.split("Help:")[0].partition("\n")[2]


def test_alone_it_says_five_lines_to_copy(capsys):
    assert main([]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert len(lines) == 5 and err == "" and all(len(line) < 80 for line in lines)
    known = {" ".join(words) for words in commands()}
    for line in lines:
        command, comment = line.split(" # ")
        name, *words = shlex.split(command)
        assert name == "anytime-cls" and comment.strip()
        assert words == ["--help"] or " ".join(words[:2]) in known or words[0] in known


def test_a_picture_in_a_command_s_place(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    for word in (PICTURE, "folder"):
        assert main([word]) == 2
        line = capsys.readouterr().err
        assert line.count("\n") == 1 and f"anytime-cls classify {shlex.quote(word)}" in line
    assert main(["clasify"]) == 2 and "Did you mean 'classify'?" in capsys.readouterr().err


def test_shells_can_ask_for_completions():
    done = subprocess.run(
        [sys.executable, "-m", "anytime_cls_cli"], capture_output=True, text=True, check=False,
        env={"COMP_WORDS": "anytime-cls clas", "COMP_CWORD": "1", "_ANYTIME_CLS_COMPLETE": "complete_bash",
             "PATH": "/usr/bin", "PYTHONPATH": ":".join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 0 and done.stdout.split() == ["classify"], done


def test_an_error_on_a_terminal_breaks_between_words(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("COLUMNS", "60")
    said = Terminal()
    monkeypatch.setattr(sys, "stderr", said)
    command = "anytime-cls sweep photos -o run.h5 " + "--limit 1 " * 9 + "--resume"
    assert complain(f"interrupted after a while, and some images are done; go on with: {command}", 130) == 130
    *text, last = said.getvalue().splitlines()
    assert last == command  # in one line, to be copied
    words = "anytime-cls: interrupted after a while, and some images are done; go on with:"
    assert all(len(line) <= 60 for line in text) and " ".join(text) == words and len(text) == 2
    said.truncate(0)
    complain("x", 2)
    assert said.getvalue().strip("\0") == "anytime-cls: x\n"
