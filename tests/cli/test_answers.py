"""What `classify` prints: columns that fit, the words of an answer, and the formats for programs."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from basics import TINY_LABELS, write_photo
from rich.cells import cell_len

from anytime_cls.race.decision import Decision, Standing
from anytime_cls_cli.main import main
from anytime_cls_cli.show.answers import (
    DOUBT,
    Layout,
    bar,
    end_words,
    fit,
    ranking_lines,
    separated_words,
)
from anytime_cls_cli.show.output import STABLE, JsonList, knows


def decision(probability: float = 0.84, label: str = "cat", stop: str = "decided", **more: Any) -> Decision:
    ranking = (
        Standing(label, 3, probability, -21.4, -22.0, -20.8, 16, True),
        Standing("dog", 5, 0.1, -22.5, None, None, 2, False),
        Standing("fish", 6, 0.0001, -29.5, None, None, 0, False),
    )
    fields = {
        "index": 3, "separation": 0.01, "orders": 16, "passes": 2.5, "full_passes": 19.4, "prefix": None,
        "pass_tokens": 4, "seconds": 0.103, "ranking": ranking,
    }  # fmt: skip
    return Decision(label=label, probability=probability, stop=stop, **fields | more)


@pytest.mark.parametrize("width", [40, 60, 80, 120])
@pytest.mark.parametrize(
    "name",
    ["a.jpg", "a very/long folder/" * 9 + "the end.jpg", "猫の写真" * 20],
    ids=["short", "long", "wide"],
)
@pytest.mark.parametrize(
    "label", ["cat", "a label of more than thirty characters", "猫" * 30], ids=["cat", "long", "wide"]
)
def test_no_line_is_wider_than_the_terminal(width, name, label):
    layout = Layout.of([name, "other.png"], [label, "dog"], width)
    for answer in (decision(0.84, label), decision(0.3, label), decision(0.99996, label, seconds=63.0)):
        line = layout.line(name, answer, [DOUBT]).plain
        assert cell_len(line) <= width
        if width >= 60:  # what it is about is there whole
            assert DOUBT in line and " %  " in line and (" ms" in line or " s" in line)
    if name.endswith("end.jpg") and width >= 80:
        assert "…" in line and "end.jpg" in line  # the end of a path tells files apart
    for text in ranking_lines(answer, 5):
        assert cell_len(text.plain) <= max(80, width)


def test_columns_line_up_and_piped_lines_are_whole():
    names = ["a.jpg", "b" * 200 + ".jpg"]
    layout = Layout.of(names, ["cat", "airplane"], None)
    short, long = (
        layout.line(name, decision(p), []).plain for name, p in zip(names, (0.84, 0.05), strict=True)
    )
    assert (
        names[1] in long and short.index("cat") == long.index("cat") and short.index("%") == long.index("%")
    )
    assert short.split() == ["a.jpg", "cat", "84.0", "%", bar(0.84, 8), "103", "ms"]


def test_bars_are_in_proportion_and_show_what_is_not_nothing():
    assert [bar(p, 8) for p in (0, 0.5, 1)] == ["", "████", "████████"]
    assert bar(0.5625, 8) == "████▌" and bar(0.002, 8) == "▏" and bar(0.0, 20) == ""
    assert cell_len(fit("猫猫猫", 4)) == 4 and fit("abc", 5) == "abc  " and fit("abcdef", 4, True) == "…def"


def test_the_words_say_stable_not_sure():
    assert end_words(decision()) == STABLE == "stable: more orders would not change it"
    assert end_words(decision(stop="max-orders")) == "all 16 orders used"
    assert end_words(decision(stop="budget")).startswith("budget spent before it was stable")
    assert separated_words(decision()) == "separated from every rival at δ = 0.01"
    assert "not separated" in separated_words(decision(separation=1.0))
    first, second, third = (text.plain for text in ranking_lines(decision(), 5))
    assert first.endswith("16 orders") and second.endswith("out after 2") and third.endswith("out at once")
    verbose = ranking_lines(decision(), 1, verbose=True)
    assert len(verbose) == 1 and "-21.4 nats [-22.0, -20.8]" in verbose[0].plain


def test_what_a_model_knows_is_said_in_a_line():
    assert knows(["cat", "dog"]) == "knows only: cat, dog"
    many = knows([f"c{i}" for i in range(200)], "big")
    assert many.startswith("knows only 200 kinds of things: c0, c1, ") and "models info big" in many


@pytest.fixture
def pictures(tmp_path: Path) -> list[str]:
    photos = [str(write_photo(tmp_path / f"{name}.jpg")) for name in ("one", "another")]
    return [*photos, str(tmp_path / "gone.jpg")]


def printed(capsys: Any, model: Path, *args: object) -> tuple[int, str]:
    code = main(
        ["classify", "--model", str(model), "--device", "cpu", "-q", "--max-orders", "4", *map(str, args)]
    )
    return code, capsys.readouterr().out


def test_piped_text_is_what_a_terminal_shows(tiny_model_dir, pictures, capsys, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    code, out = printed(capsys, tiny_model_dir, *pictures)
    one, another, gone = out.splitlines()
    assert code == 1 and "\x1b" not in out
    assert one.split()[1] in TINY_LABELS and one.index("%") == another.index("%")
    assert gone.split()[1] == "error:" and gone.startswith(pictures[2])
    monkeypatch.setenv("COLUMNS", "70")
    assert max(map(len, printed(capsys, tiny_model_dir, *pictures[:2])[1].splitlines())) <= 70


def test_top_and_verbose_say_more_of_each(tiny_model_dir, pictures, capsys):
    lines = printed(capsys, tiny_model_dir, *pictures[:2], "--top", 3)[1].splitlines()
    assert len(lines) == 8 and [line.startswith("  ") for line in lines] == [False, True, True, True] * 2
    lines = printed(capsys, tiny_model_dir, *pictures[:2], "-v")[1].splitlines()
    assert len(lines) == 6 and " passes" in lines[1] and "orders" in lines[1]
    lines = printed(capsys, tiny_model_dir, pictures[0])[1].splitlines()  # alone: five, and how it ended
    assert len(lines) == 8 and " of 40 passes" in lines[-1]


def test_formats_hold_the_same_answers(tiny_model_dir, pictures, capsys):
    code, lines = printed(capsys, tiny_model_dir, *pictures, "--json")
    rows = [json.loads(line) for line in lines.splitlines()]
    assert code == 1 and printed(capsys, tiny_model_dir, *pictures, "--format", "jsonl")[1].count("\n") == 3
    for row in rows:
        row.pop("seconds", None)
    listed = json.loads(printed(capsys, tiny_model_dir, *pictures, "--format", "json")[1])
    for row in listed:
        row.pop("seconds", None)
    assert listed == rows
    table = list(
        csv.DictReader(io.StringIO(printed(capsys, tiny_model_dir, *pictures, "--format", "csv")[1]))
    )
    assert [row["path"] for row in table] == pictures and table[2]["error"] == rows[2]["error"]
    for row, cells in zip(rows[:2], table, strict=False):
        assert cells["label"] == row["label"] and float(cells["probability"]) == row["probability"]
        assert cells["calibrated"] == str(int(row["calibrated"])) and cells["error"] == ""


def test_a_list_is_closed_however_the_run_ends(capsys):
    nothing, something = (JsonList(5, None) for _ in range(2))
    nothing.close()
    assert json.loads(capsys.readouterr().out) == []
    something.error("x", "interrupted")
    something.close()
    assert [row["path"] for row in json.loads(capsys.readouterr().out)] == ["x"]


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--format", "xml"], "unknown format 'xml': choose from text, json, jsonl, csv"),
        (["--json", "--format", "csv"], "--json and --format csv say two things"),
        (["--live", "--format", "csv"], "csv prints rows"),
    ],
)
def test_formats_that_make_no_sense(args, says, tiny_model_dir, capsys):
    assert main(["classify", "x.jpg", "--model", str(tiny_model_dir), *args]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and says in err
