"""compare.html: what `compare` says, its picture and its tables on one page that fetches nothing."""

from __future__ import annotations

import json
import re
import shutil
from html import unescape
from pathlib import Path

import pytest
from browsers import BROWSER, FLAGS, OVERFLOW
from sweep_data import make_images

from anytime_cls_cli.main import main

NAME = "<b>&tiny"  # a model may be called anything


@pytest.fixture(scope="module")
def made(tiny_model_dir, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("compare")
    shutil.copytree(tiny_model_dir, root / "odd")
    fields = json.loads((root / "odd" / "model.json").read_text())
    (root / "odd" / "model.json").write_text(json.dumps(fields | {"name": NAME}))
    images = make_images(root / "images", 3)
    words = ["compare", images, "--models", f"{tiny_model_dir},{root / 'odd'}:raster", "--max-orders", "3",
             "--bootstrap", "50", "--device", "cpu", "--threads", "1", "--shift", "clean,fog:5",
             "--time-images", "2", "-q", "-o", root / "out"]  # fmt: skip
    assert main([str(word) for word in words]) == 0
    return root / "out"


def cells(page: str, tag: str) -> list[str]:
    return [unescape(text) for text in re.findall(rf"<{tag}[^>]*>([^<]*)</{tag}>", page)]


def test_the_page_has_what_the_tables_and_the_picture_have(made):
    page, document = ((made / f"compare.{kind}").read_text() for kind in ("html", "md"))
    rows = [line for line in document.splitlines() if line.startswith("| ") and not line.startswith("| ---")]
    table = [cell for line in rows for cell in line.strip("| ").split(" | ")]
    assert sorted(cells(page, "th") + cells(page, "td")) == sorted(table)
    assert page.count("<table") == 3 and page.count("<svg") == 1 and page.count("<h1>") == 1
    for line in document.split("\n\n")[1:3]:  # what it says first
        assert line.strip() in unescape(page)
    assert re.findall(r'<tr class="focus">[^/]*>tiny</th>', page) and "anytime-cls compare" in page


def test_names_are_text_and_nothing_is_fetched(made):
    page = (made / "compare.html").read_text()
    assert "<b>" not in page and "&lt;b&gt;&amp;tiny:raster" in page
    assert "default-src 'none'" in page and "<script" not in page
    assert not re.search(r'(?:src|href)="(?!#)', page) and "url(http" not in page and "@import" not in page


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_all_of_it(made, width, scheme):
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if BROWSER is None:
        pytest.skip("no Chromium or Chrome on this machine")
    with playwright.sync_playwright() as session:
        browser = session.chromium.launch(executable_path=BROWSER, args=list(FLAGS))
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.goto((made / "compare.html").as_uri())
        assert page.evaluate(OVERFLOW) == [width, 3, []] and said == []
        ink, paper = page.evaluate(
            "() => [getComputedStyle(document.querySelector('figure svg')).color, "
            "getComputedStyle(document.body).backgroundColor]"
        )
        light, dark = ("rgb(255, 255, 255)", "rgb(22, 24, 27)")
        assert paper == (light if scheme == "light" else dark) and ink != paper
        browser.close()
