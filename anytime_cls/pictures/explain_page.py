"""Explanations as one offline HTML page. A picture's section has an address of its own: `#` and `anchor`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.resources import files
from string import Template

from anytime_cls.explain.tokens import Explanation, TokenAccuracy, anchor
from anytime_cls.pictures.explain import draw_accuracy, draw_one
from anytime_cls.pictures.report import inline_svg, text
from anytime_cls.pictures.style import svg_text


def links(page_text: str, href: str) -> dict[str, str]:
    """Where a page's pictures are: the first 16 digits of their content → address. href: the page's own."""
    return {
        found: f"{href}#{anchor(found)}" for found in re.findall(r'id="picture-([0-9a-f]{16})"', page_text)
    }


def page(
    explained: Sequence[Explanation], accuracy: TokenAccuracy | None, orders: int, title: str, command: str
) -> str:
    """The page. title: its heading. command: the one that made it. Nothing in it is fetched."""
    parts = [_section(number, one) for number, one in enumerate(explained)]
    if accuracy is not None:
        parts.append(_accuracy(accuracy, orders))
    template = files("anytime_cls.pictures").joinpath("explain.html").read_text(encoding="utf-8")
    return Template(template).substitute(title=text(title), body="\n".join(parts), command=text(command))


def _section(number: int, one: Explanation) -> str:
    answer, rival = one.labels[one.answer], one.labels[one.rival]
    votes = ", ".join(f"{label} {count}" for label, count in one.votes().items())
    areas = {name: f"{100 * area:.0f} %" for name, area in one.scores().items()}
    truth = f" It is {one.labels[one.truth]}." if one.truth >= 0 else ""
    said = (
        f"{answer}, {one.probability:.0%}; the best other class is {rival}.{truth} Single orders say: "
        f"{votes}. Insertion {areas['insertion']}, deletion {areas['deletion']}, random {areas['random']}."
    )
    alt = f"Evidence for {answer} against {rival} in {one.name}, order by order and over all orders"
    return (
        f'<section id="{anchor(one.content)}"><h2>{text(one.name)}</h2>\n<p>{text(said)}</p>\n'
        f"<figure>{inline_svg(svg_text(draw_one(one)), f'e{number}-', alt)}</figure></section>"
    )


def _accuracy(accuracy: TokenAccuracy, orders: int) -> str:
    said = (
        f"Over {accuracy.images} labelled pictures, how often one token alone is right about the class: by "
        f"its place (of one order, and averaged over {orders}), and by how many tokens were read before it."
    )
    svg = inline_svg(svg_text(draw_accuracy(accuracy, orders)), "accuracy-", said)
    return (
        f'<section id="tokens"><h2>How much one token knows</h2>\n<p>{text(said)}</p>\n'
        f"<figure>{svg}</figure></section>"
    )
