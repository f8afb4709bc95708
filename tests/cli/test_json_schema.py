"""Rows of `classify --json` are what docs/json.schema.json and docs/json.md say, and nothing else."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from basics import write_photo
from jsonschema import Draft202012Validator

from anytime_cls.models.zoo import read_card
from anytime_cls_cli.main import main

DOCS = Path(__file__).parents[2] / "docs"
SCHEMA = json.loads((DOCS / "json.schema.json").read_text(encoding="utf-8"))
VALID = Draft202012Validator(SCHEMA)


def rows(capsys: Any, model: Path, *args: object) -> list[dict[str, Any]]:
    """What is printed, each row held against the schema."""
    main(["classify", "--json", "--model", str(model), "--device", "cpu", "-q", *map(str, args)])
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for row in found:
        VALID.validate(row)
    return found


def test_the_schema_is_one():
    Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize(
    "options",
    [
        ("--max-orders", 4), ("--rule", "fixed", "--max-orders", 2), ("--budget", "7passes"),
        ("--budget", "1ms"), ("--prefix", 8, "--orders", "stratified"), ("--classes", "cat,dog"),
        ("--top", 1, "--orders", "antithetic"), ("--rule", "fixed", "--aggregate", "softmax"),
        ("--rule", "halving", "--max-orders", 4), ("--crops", "random", "--max-orders", 4),
    ],
)  # fmt: skip
def test_rows_are_valid(options, photo, tiny_model_dir, capsys):
    assert len(rows(capsys, tiny_model_dir, photo, *options)) == 1


def test_rows_of_images_that_cannot_be_read_are_valid(photo, tiny_model_dir, tmp_path, capsys):
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jpg"))
    write_photo(odd)
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    found = rows(
        capsys, tiny_model_dir, tmp_path / "none.jpg", odd, tmp_path / "broken.jpg", "--max-orders", 2
    )
    assert ["error" in row for row in found] == [True, False, True] and "path_bytes" in found[1]


def test_a_row_says_which_model_answered(photo, tiny_model_dir, capsys):
    (row,) = rows(capsys, tiny_model_dir, photo, "--max-orders", 2)
    card = read_card(str(tiny_model_dir))
    sha = card.sha256
    assert row["schema"] == 1 and row["model"] == {
        "name": "tiny", "method": card.method, "sha256": sha["transformer.safetensors"],
        "tokenizer_sha256": sha["tokenizer.safetensors"],
    }  # fmt: skip


def test_probabilities_that_were_fitted_to_such_races_are_called_calibrated(photo, tiny_model_dir, capsys):
    for options, calibrated in ((("--orders", "uniform"), True), (("--prefix", 8), False)):
        (row,) = rows(capsys, tiny_model_dir, photo, "--max-orders", 2, *options)
        assert row["calibrated"] is calibrated


def test_an_answer_that_is_not_sure_enough_abstains(photo, tiny_model_dir, tmp_path, capsys):
    other = write_photo(tmp_path / "other.jpg", 5)
    sure = [row["probability"] for row in rows(capsys, tiny_model_dir, photo, other, "--max-orders", 2)]
    assert "abstained" not in rows(capsys, tiny_model_dir, photo, "--max-orders", 2)[0]
    for least in (0.0, min(sure), (min(sure) + max(sure)) / 2, 1.0):
        found = rows(capsys, tiny_model_dir, photo, other, "--max-orders", 2, "--abstain-below", least)
        assert [row["abstained"] for row in found] == [p < least for p in sure]
        assert all(row["label"] for row in found)


@pytest.mark.parametrize("bad", ["-0.1", "1.5", "nan", "sure"])
def test_what_is_no_probability_is_refused(bad, photo, capsys):
    assert main(["classify", str(photo), "--abstain-below", bad]) == 2
    err = capsys.readouterr().err
    assert "--abstain-below" in err and err.count("\n") == 1


def test_the_document_and_the_schema_have_the_same_keys():
    text = (DOCS / "json.md").read_text(encoding="utf-8")
    parts = re.split(r"^## |^A class in", text, flags=re.MULTILINE)
    keys = [
        set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", part, re.MULTILINE))))
        for part in parts
    ]
    answer, standing, error = keys[1:4]
    for name, said in (("answer", answer), ("class", standing), ("error", error)):
        assert said == SCHEMA["$defs"][name]["properties"].keys(), name
    assert all(f"`{key}`" in text for key in SCHEMA["$defs"]["model"]["properties"])


def test_other_rows_are_not_valid(photo, tiny_model_dir, capsys):
    (row,) = rows(capsys, tiny_model_dir, photo, "--max-orders", 2)
    for change in (
        {"probability": 1.5},
        {"schema": 2},
        {"more": 1},
        {"model": {}},
        {"stop": "tired"},
        {"error": "x"},
    ):
        assert not VALID.is_valid(row | change)
    for key in ("probability", "model", "schema", "calibrated"):
        assert not VALID.is_valid({k: v for k, v in row.items() if k != key})
