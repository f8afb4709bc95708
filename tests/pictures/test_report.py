"""The HTML report: complete, escaped, offline, and rendered by a real browser where there is one."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from browsers import BROWSER, FLAGS, OVERFLOW
from curve_data import K_MAX, LABELS, N_IMAGES, write_trace
from PIL import Image

from anytime_cls.curves.live import live_curves
from anytime_cls.curves.study import join
from anytime_cls.pictures.gallery import choose, thumbnail
from anytime_cls.pictures.report import inline_svg, text
from anytime_cls.pictures.report import words as glossary_words
from anytime_cls.race.drawn import race_svg, running_gaps
from anytime_cls.traces.read import Trace

VOID = {"meta", "link", "img", "br", "hr", "input"}


class Page(HTMLParser):
    """Everything of a page that the tests ask for; fails on tags that do not nest."""

    def __init__(self, source: str):
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.feed(source)
        self.close()
        assert self.open == [], f"not closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, {key: value or "" for key, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A full trace whose files exist (8 × 8 pictures with hostile names), and its report."""
    path = tmp_path_factory.mktemp("report")
    images = path / "images"
    images.mkdir()
    rng = np.random.default_rng(0)
    for i in range(N_IMAGES):
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8)).save(images / f"{i:03d}<i>.png")
    write_trace(path / "full.h5", root=images, failed=7)
    done = subprocess.run(
        [sys.executable, "-m", "anytime_cls_cli", "plot", "full.h5", "-o", "report.html", "--bootstrap", "40",
         "--title", "<em>Mine</em> & \"yours\""],
        cwd=path, capture_output=True, text=True, timeout=120, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return path


@pytest.fixture(scope="module")
def page(folder) -> Page:
    return Page((folder / "report.html").read_text("utf-8"))


def test_all_there_is_is_there(page):
    said = page.text
    for words in (
        "<em>Mine</em> & \"yours\"", "The race (paired, δ = 0.05) gives the right answer on", "Every rule at",
        "Races, from easy to hard", "Every curve", "Words", "passes per image",
        "Where the numbers come from", "anytime-cls plot full.h5 -o report.html", "model_sha256",
        "Classes left",
        "59 images", "1 images that not all files share, or that failed, were left out",
        "anytime-cls sweep '<script>alert(1)</script>' -o full.h5",
    ):  # fmt: skip
        assert words in said, words
    for rule in ("fixed", "paired", "strict", "marginal", "funnel", "halving", "clark-jaini"):
        assert rule in said
    figures = [attrs for tag, attrs in page.tags if tag == "svg"]
    assert len([a for a in figures if a.get("class") != "race"]) == 7
    assert len([a for a in figures if a.get("class") == "race"]) == 6
    assert sum(tag == "img" for tag, _ in page.tags) == 6
    assert said.index("The race (") < said.index("Accuracy against passes") < said.index("Races, from easy")
    assert (
        sum(attrs.get("class") == "tiles" for _, attrs in page.tags) == 1
        and said.count("95 % interval ") >= 1
    )


def test_the_race_leads_and_the_rest_is_folded(folder, page):
    """Two sentences and four tiles before the picture; what follows the gallery is in closed <details>."""
    source = (folder / "report.html").read_text("utf-8")
    words = re.search(r'<p class="lead">(.*?)</p>', source, re.DOTALL)[1]
    assert len(re.findall(r"\.(?= [A-Z]|$)", words)) == 2
    tiles = re.search(r'<ul class="tiles">(.*?)</ul>', source, re.DOTALL)[1]
    assert tiles.count("<li>") == 4 == len(re.findall(r"<strong>[^<]*\d", tiles))
    assert "<details open" not in source and source.count('<ul class="races">') == 1
    folded = source[source.index('id="more"') :]
    assert source.index('class="races"') < source.index('id="more"')
    for table in re.finditer("<table", folded):
        before = folded[: table.start()]
        assert before.count("<details>") > before.count("</details>")


def test_the_page_s_words_are_the_glossary_s(page):
    glossary = (Path(__file__).parents[2] / "docs/glossary.md").read_text("utf-8")
    known = {
        word
        for row in re.findall(r"^\| (\*\*.*?) \|", glossary, re.M)
        for word in re.findall(r"\*\*(.*?)\*\*", row)
    }
    found = glossary_words()
    assert {term for term, _, _ in found} - {"class"} <= known
    assert len({key for _, key, _ in found}) == len(found) >= 10
    for _, attrs in page.tags:
        if attrs.get("href", "").startswith("#word-"):
            assert attrs["href"][6:] in {key for _, key, _ in found}


def test_it_is_offline_and_inert(page):
    for tag, attrs in page.tags:
        assert tag not in ("script", "link", "iframe", "object", "embed", "base", "form", "em", "i", "b")
        for name, value in attrs.items():
            assert not name.startswith("on")
            if name in ("src", "href", "xlink:href", "action", "data", "srcset", "poster"):
                assert value.startswith(("data:image/png;base64,", "data:image/jpeg;base64,", "#")), (
                    tag,
                    name,
                    value,
                )
            assert "url(" not in value or "url(#" in value
            assert "http:" not in value and "https:" not in value
    policy = [
        a["content"] for t, a in page.tags if t == "meta" and a.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


def test_it_can_be_read_out(page):
    headings = [tag for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert headings[0] == "h1" and headings.count("h1") == 1
    assert all(int(b[1]) - int(a[1]) <= 1 for a, b in pairwise(headings))
    for tag, attrs in page.tags:
        if tag == "img":
            assert attrs["alt"]
        if tag == "svg":
            assert attrs["role"] == "img" and attrs["aria-label"]
        if tag == "th":
            assert attrs["scope"] in ("row", "col")
    assert ("html", {"lang": "en"}) in page.tags
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    for tag, attrs in page.tags:  # every reference inside the page leads somewhere
        for value in attrs.values():
            for target in re.findall(r"url\(#([^)]+)\)", value):
                assert target in ids
        if tag == "use":
            assert attrs["href"][1:] in ids


def test_colours_follow_the_page(folder):
    source = (folder / "report.html").read_text("utf-8")
    figures = "".join(re.findall(r"<figure>.*?</svg>", source, re.DOTALL))
    assert "currentColor" in figures and "#1b1c1e" not in figures and "#ffffff" not in figures
    assert "prefers-color-scheme: dark" in source


def test_no_word_of_a_file_is_markup():
    assert text('<b>"x"\'&\x1b[2J\ud800\n') == "&lt;b&gt;&quot;x&quot;&#x27;&amp;\ufffd[2J\ufffd\ufffd"
    drawn = inline_svg(
        '<?xml version="1.0"?><svg xmlns="http://w"><g id="a"/><use xlink:href="#a"/></svg>', "f-", '"<'
    )
    assert drawn.strip() == '<svg role="img" aria-label="&quot;&lt;"><g id="f-a"/><use href="#f-a"/></svg>'


def test_the_gallery_has_the_extremes(folder):
    with Trace.open(folder / "full.h5") as trace:
        (run,) = join([("x", live_curves(trace))]).runs
        place = thumbnail(trace, 0)
    object.__setattr__(run, "passes", np.arange(len(run.passes), 0, -1.0))
    easy, hard = choose(run, 3)
    assert easy == [58, 57, 56] and hard == [0, 1, 2]
    assert place.startswith("data:image/png;base64,")
    assert choose(run, 59)[1] == []  # nobody is both


def test_a_picture_that_is_gone_or_broken_is_left_out(tmp_path):
    (tmp_path / "000<i>.png").write_bytes(b"no picture")
    with Trace.open(write_trace(tmp_path / "full.h5", root=tmp_path)) as trace:
        assert thumbnail(trace, 0) == "" == thumbnail(trace, 1)


def test_a_race_is_drawn_as_it_went():
    scores = (
        np.array([[0.0, -1, -5, -2, -9, -7], [0, 1, np.nan, -2, np.nan, np.nan], [0, -3, *[np.nan] * 4]])
        - 300
    )
    gaps = running_gaps(scores, 0)
    np.testing.assert_allclose(gaps[:, 1], [-1, 0, -1])
    np.testing.assert_allclose(gaps[:2, 3], [-2, -2])
    page = Page(race_svg(scores, 0, LABELS, 1))
    lines = {attrs["class"]: attrs["points"].split() for tag, attrs in page.tags if tag == "polyline"}
    assert len(lines["answer"]) == 4 == len(lines["truth"])  # from no orders to three
    dots = [attrs["class"] for tag, attrs in page.tags if tag == "circle"]
    assert dots == ["rival"] * 4  # who left before the end
    assert "cat" in page.text and "dog" in page.text
    label = next(attrs["aria-label"] for tag, attrs in page.tags if tag == "svg")
    assert label.startswith("cat leads after 3 orders") and "frog left after 2" in label


@pytest.mark.parametrize("n_classes", [2, 1000])
def test_races_of_few_and_of_many_classes(n_classes):
    rng = np.random.default_rng(0)
    source = race_svg(rng.normal(size=(K_MAX, n_classes)), 1, [f"class {c}" for c in range(n_classes)])
    assert len(source) < 20_000 and "nan" not in source
    Page(source)


# --- in a browser ------------------------------------------------------------------------------------------


def browse(*arguments: str, profile: Path) -> subprocess.CompletedProcess:
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
             "--disable-background-networking", "--disable-component-update", "--disable-sync",
             "--disable-quic", "--hide-scrollbars")  # fmt: skip
    return subprocess.run(
        [str(BROWSER), *flags, f"--user-data-dir={profile}", *arguments],
        capture_output=True,
        text=True,
        timeout=90,
    )


@pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome on this machine")
def test_a_browser_renders_it(folder, tmp_path):
    address = (folder / "report.html").as_uri()
    shot = tmp_path / "shot.png"
    done = browse("--window-size=1200,3000", f"--screenshot={shot}", address, profile=tmp_path / "a")
    assert done.returncode == 0, done.stderr[-500:]
    assert "Refused to" not in done.stderr  # the page's own policy blocked nothing
    with Image.open(shot) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    assert pixels.shape[:2] == (3000, 1200)
    blue = (np.abs(pixels - (0, 0x72, 0xB2)).sum(axis=2) < 12).sum()  # the curve of `paired`
    assert blue > 500
    ink = (pixels.sum(axis=2) < 200).mean(axis=1) > 0
    assert ink[:200].any() and ink[1500:].any()  # from the heading on down
    dom = browse("--dump-dom", address, profile=tmp_path / "b").stdout
    assert dom.count("<figure") == 7 and dom.count('class="race"') == 6 and "<em>" not in dom


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if BROWSER is None:
        pytest.skip("no Chromium or Chrome on this machine")
    with playwright.sync_playwright() as session:
        opened = session.chromium.launch(executable_path=BROWSER, args=list(FLAGS))
        yield opened
        opened.close()


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_clipped(folder, browser, width, scheme):
    """Everything unfolded, at a laptop's width and a phone's: no table, picture or word leaves the page."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.goto((folder / "report.html").as_uri())
    wide = "() => { document.querySelector('figure').style.minWidth = '3000px'; }"
    got = page.evaluate(OVERFLOW)
    assert got[0] == width and got[1] >= 8 and got[2] == []
    page.evaluate(wide)  # the measure sees what it is to see
    assert any(line.startswith("FIGURE") for line in page.evaluate(OVERFLOW)[2])
    page.close()
