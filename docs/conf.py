"""The documents as a site: `sphinx-build -W -c docs . OUT`, from the root, so that README.md is one of them.

What is read is Markdown as it stands in the repository. A link to a page, a heading or a file that is not
there is a warning, and warnings are errors.
"""

import re

from sphinx.application import Sphinx

project = "anytime-cls"
extensions = ["myst_parser"]
root_doc = "docs/index"
include_patterns = [
    "*.md",
    "docs/*.md",
    "examples/PHOTOS.md",
    "examples/figures/README.md",
    "examples/fuzz/README.md",
    "anytime_cls/models/data/README.md",
]
source_suffix = {".md": "markdown"}
myst_heading_anchors = 4
html_theme = "furo"
html_title = project
html_show_copyright = False


def contents(app: Sphinx, name: str, source: list[str]) -> None:
    """The side bar has the pages that docs/index.md links to, section by section."""
    if name != root_doc:
        return
    parts = re.split(r"^## (.*)$", source[0], flags=re.M)
    for title, text in zip(parts[1::2], parts[2::2], strict=True):
        links = re.findall(r"\[([^]]*)\]\(([^)]*\.md)\)", text)
        pages = "\n".join(f"{link} </docs/{page}>" for link, page in links)
        source[0] += f"\n```{{toctree}}\n:hidden:\n:caption: {title}\n\n{pages}\n```\n"


def front_door(app: Sphinx, error: Exception | None) -> None:
    """The site's own address leads to its root document, which is in docs/."""
    if error is None and app.builder.format == "html":
        page = f'<!doctype html><meta http-equiv="refresh" content="0; url={root_doc}.html">\n'
        (app.outdir / "index.html").write_text(page, encoding="utf-8")


def setup(app: Sphinx) -> None:
    app.connect("source-read", contents)
    app.connect("build-finished", front_door)
