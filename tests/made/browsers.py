"""A Chromium, where the machine has one, and what a page must not do in it."""

import shutil

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None
)
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
# What is wider than the page, or hides a part of itself, with everything unfolded.
OVERFLOW = """() => {
  document.querySelectorAll("details").forEach((d) => { d.open = true; });
  const width = document.documentElement.clientWidth, bad = [];
  if (document.documentElement.scrollWidth > width) bad.push("the page");
  for (const e of document.querySelectorAll("body *")) {
    if (e.closest("svg") && e.tagName.toLowerCase() !== "svg") continue;
    const box = e.getBoundingClientRect();
    const out = box.width > 0 && (box.right > width + 0.5 || box.left < -0.5);
    const hides = e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).overflowX !== "visible";
    if (out || hides) bad.push(`${e.tagName} ${e.className} ${(e.textContent || "").slice(0, 40)}`);
  }
  return [width, document.querySelectorAll("table").length, bad];
}"""
