"""The page in a browser: a photograph is dropped on it, and its race is drawn."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from server import served

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip

# A drop, as the browser makes one: a DataTransfer with a file.
DROP = """([name, text]) => {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], name, { type: "image/jpeg" }));
  const event = { dataTransfer: transfer, bubbles: true, cancelable: true };
  document.getElementById("drop").dispatchEvent(new DragEvent("dragover", event));
  document.getElementById("drop").dispatchEvent(new DragEvent("drop", event));
}"""


@pytest.fixture(scope="module")
def page(tiny_model_dir: Path) -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    browser_file = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser_file is None:
        pytest.skip(f"no browser of {', '.join(BROWSERS)}")
    with (
        served(tiny_model_dir, "--rule", "paired", "--max-orders", "16", "--budget", "5s") as server,
        playwright.sync_playwright() as session,
    ):
        browser = session.chromium.launch(executable_path=browser_file, args=list(FLAGS))
        opened = browser.new_page(viewport={"width": 1080, "height": 760})
        opened.said = []
        opened.on("console", lambda message: opened.said.append(message.text))
        opened.on("pageerror", lambda error: opened.said.append(str(error)))
        opened.goto(f"{server.url}/")
        yield opened
        browser.close()


def drop(page: Any, name: str, content: bytes) -> None:
    page.evaluate(DROP, [name, base64.b64encode(content).decode()])


def test_a_dropped_photograph_is_raced_and_drawn(page, photo):
    page.wait_for_function("document.getElementById('model').textContent === 'tiny, 10 classes'")
    page.evaluate("""() => {
        window.lefts = [];
        new MutationObserver(() => window.lefts.push(parseInt(document.getElementById("left").textContent)))
            .observe(document.getElementById("left"), { childList: true });
    }""")
    drop(page, "photo.jpg", photo.read_bytes())
    page.wait_for_selector("#told[data-done]")
    lefts = page.evaluate("window.lefts")
    assert len(lefts) > 2 and lefts == sorted(lefts, reverse=True) and lefts[-1] == 1
    row = page.evaluate("JSON.parse(document.querySelector('#json pre').textContent)")
    assert page.text_content("#leader").startswith(row["label"] + " ")
    assert page.text_content("#how").startswith("decided after ")
    assert page.locator("#field li").count() == 10
    assert page.text_content("#field li.leads .name") == row["label"]
    assert page.locator("#field li.out").count() == 9
    assert page.locator("#preview").is_visible() and page.locator("#error").is_hidden()
    assert page.said == []


def test_what_is_no_photograph_is_said_and_the_next_is_raced(page, photo):
    drop(page, "notes.txt", b"no image at all")
    page.wait_for_selector("#error:not([hidden])")
    assert "not an image that can be read" in page.text_content("#error")
    assert page.text_content("#leader") == "No answer"
    page.select_option("#budget", "100ms")
    drop(page, "photo.jpg", photo.read_bytes())
    page.wait_for_selector("#told[data-done]")
    assert page.locator("#error").is_hidden() and page.locator("#field li.leads").count() == 1


def test_a_second_photograph_takes_the_place_of_the_first(page, photo):
    for name in ("one.jpg", "two.jpg"):
        drop(page, name, photo.read_bytes())
    page.wait_for_selector("#told[data-done]")
    assert page.get_attribute("#preview", "alt") == "two.jpg"
    assert page.locator("#field li").count() == 10 and page.locator("#error").is_hidden()
