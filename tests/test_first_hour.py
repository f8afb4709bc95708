"""docs/first-hour.md: its commands, in its order, on a few small pictures."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from PIL import Image
from sweep_data import make_images

from anytime_cls.models.zoo import read_card
from anytime_cls_cli.main import main

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "first-hour.md").read_text(encoding="utf-8")
COMMANDS = [
    line[2:] for block in re.findall(r"```console\n(.*?)```", PAGE, re.S) for line in block.splitlines()
]
NOT_OURS = ["python3 -m venv .venv && . .venv/bin/activate", "pip install .", "ls photos"]
# what makes a command small; nothing else of it is changed
TOY = {
    "budget": ["--limit", "10", "--at", "20passes"],
    "curve": ["--limit", "10", "--whole-orders", "1"],
    "train": ["--max-orders", "4", "--device", "cpu"],
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone's examples, a CIFAR-10 of two pictures a class, and photographs of two classes of one's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("anytime_cls.training.settle.TUNED", (5, 10))
    (tmp_path / "examples").mkdir()
    for photo in (ROOT / "examples").glob("*.jpg"):
        shutil.copy(photo, tmp_path / "examples")
    make_images(tmp_path / "data" / "cifar10" / "test", 2, read_card("cifar10").labels)
    for name, colour in (("ours", (200, 40, 40)), ("theirs", (40, 40, 200))):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(30):
            picture = Image.new("RGB", (32, 32), colour)
            picture.putpixel((i % 32, 3), (i * 8, 0, 0))
            picture.save(tmp_path / "photos" / name / f"{i}.png")
    return tmp_path


def run(command: str) -> str:
    """What one of the page's commands prints, once it has ended well."""
    words = shlex.split(command)
    assert words[0] == "anytime-cls", command
    target = None
    if ">" in words:
        words, (_, target) = words[: words.index(">")], words[words.index(">") :]
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main([*words[1:], *TOY.get(words[1], [])]) == 0, command
    if target:
        Path(target).write_text(out.getvalue(), encoding="utf-8")
    return out.getvalue()


def test_the_page_s_commands_run_in_its_order(here):
    said = {command: run(command) for command in COMMANDS if command not in NOT_OURS}
    assert len(said) == len(COMMANDS) - len(NOT_OURS) >= 12
    first = said["anytime-cls classify examples/bird.jpg"].splitlines()
    assert first[0].startswith("examples/bird.jpg  ") and " %  " in first[0] and len(first) >= 8
    assert len((here / "answers.csv").read_text().splitlines()) == 1 + len(list(here.glob("examples/*.jpg")))
    assert "20passes" in said["anytime-cls budget cifar10"]
    for page in ("cifar10.html", "photos.html"):
        assert "</html>" in (here / page).read_text(encoding="utf-8")
    assert (here / "curve.pdf").read_bytes().startswith(b"%PDF") and (here / "curve.tex").is_file()
    rows = said["anytime-cls classify photos --model runs/photos"].splitlines()
    assert len(rows) == 60 and all(" ours " in row or " theirs " in row for row in rows)
    card = json.loads((here / "runs" / "photos" / "model.json").read_text())
    assert card["labels"] == ["ours", "theirs"]


def test_the_page_names_what_is_there():
    for target in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert (ROOT / "docs" / target).exists(), target
    assert "(first-hour.md)" in (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
