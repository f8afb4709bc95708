"""What is shipped: every room and every file that they read."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

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


def test_what_an_index_shows_has_links_that_work_there():
    """No link to a file of the repository, which an index has not; the project's links are addresses."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    shown = (ROOT / project["readme"]).read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)]+)\)", shown)
    assert links and all(link.startswith("https://") for link in links)
    assert project["urls"] and all(url.startswith("https://") for url in project["urls"].values())


def test_the_readme_is_a_page():
    """Two sentences, a race, two commands, one curve, one comparison; every file that it names is there."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(readme.splitlines()) <= 120
    assert readme.count("![") == 3 and readme.index("docs/race.svg") < readme.index("docs/curve.png")
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", readme) if "://" not in link]
    assert len(links) > 15 and all((ROOT / link).exists() for link in links)
    svg = (ROOT / "docs/race.svg").read_text(encoding="utf-8")
    assert "url(http" not in svg and "<text" in svg


def test_the_source_distribution_has_what_is_tracked():
    """MANIFEST.in, and what pyproject.toml ships, name every tracked file: checked where git is at hand."""
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("not in a clone")
    manifest, named = (ROOT / "MANIFEST.in").read_text().splitlines(), {".gitignore", "MANIFEST.in"}
    for line in manifest:
        command, *words = line.split()
        if command == "include":
            named |= set(words)
        elif command == "recursive-include":
            for pattern in words[1:]:
                named |= {str(path.relative_to(ROOT)) for path in (ROOT / words[0]).rglob(pattern)}
    files = [name for name in tracked.stdout.splitlines() if not name.startswith(("anytime_cls/", "cli/"))]
    assert len(files) > 200 and set(files) <= named, set(files) - named
