"""What is shipped: every room and every file that they read."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
TOOL = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


def folders(root: str, name: str) -> set[str]:
    """The packages under a folder, by the names that they are installed under."""
    inits = sorted((ROOT / root).rglob("__init__.py"))
    return {".".join((name, *init.parent.relative_to(ROOT / root).parts)) for init in inits}


def test_every_folder_of_modules_is_a_package_that_is_shipped():
    assert folders("anytime_cls", "anytime_cls") | folders("cli", "anytime_cls_cli") == set(TOOL["packages"])


def test_every_file_that_is_read_is_package_data():
    there = {path for path in (ROOT / "anytime_cls").rglob("*") if path.is_file()}
    there = {path for path in there if path.suffix not in (".py", ".pyc")}
    shipped = set()
    for package, patterns in TOOL["package-data"].items():
        for pattern in patterns:
            shipped |= set(ROOT.joinpath(*package.split(".")).glob(pattern))
    assert there == {path for path in shipped if path.is_file()}
    assert len([path for path in there if path.name == "model.json"]) >= 3


def test_nothing_advises_a_name_that_is_not_published():
    """This package is on no index: what an extra needs is advised by its own name, or from a clone."""
    texts = [path for top in ("anytime_cls", "cli", "docs", "examples") for path in (ROOT / top).rglob("*")]
    texts = [path for path in [*texts, *ROOT.glob("*.md")] if path.suffix in (".py", ".md", ".html", ".json")]
    assert len(texts) > 150
    advice = re.compile(r"(pip|pipx|uv|uvx)( tool)?( pip)? (install|run|add) [\"']?(-U )?anytime[-_]cls")
    found = [str(path) for path in texts if advice.search(path.read_text(encoding="utf-8"))]
    assert not found and advice.search("pip install 'anytime-cls[plot]'")
