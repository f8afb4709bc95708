"""A comparison as one offline HTML page: what it says, the picture, the tables. Light and dark follow the
reader's setting, as in the report."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup
from matplotlib.figure import Figure

from anytime_cls.curves.compared import Compared
from anytime_cls.pictures.compare_words import (
    COST,
    MAIN,
    Cells,
    cost_cells,
    explained,
    headline,
    main_cells,
    set_cells,
    title,
)
from anytime_cls.pictures.report import inline_svg, rendered
from anytime_cls.pictures.shown import Shown
from anytime_cls.pictures.style import svg_text


def compare_page(found: Compared, figure: Figure, command: str, note: str) -> str:
    """The page; nothing in it is fetched. figure: `compare.compare_figure`. command: the one that made it.
    note: where times were taken."""
    focus = found.reference.name if found.reference is not None else ""
    tables = [
        _table("Each method at its best rule", MAIN, main_cells(found.rows), focus, 2, explained(found))
    ]
    if cells := cost_cells(found.rows):
        tables.append(_table("Seconds and memory of an image", COST, cells, focus, 1, note))
    if len(found.studies) > 1:
        heads, cells = set_cells(found.set_rows)
        about = "Accuracy in per cent, each method at the rule chosen on the first row's images."
        tables.append(_table("Other images", heads, cells, "", 1, about))
    svg = Markup(inline_svg(svg_text(figure), "c-", f"Accuracy against FLOPs of {title(found)}"))
    return rendered(
        "compare.html", title=title(found), lines=headline(found), svg=svg, tables=tables, command=command
    )


def _table(
    name: str, heads: Any, cells: Cells, focus: str, words: int, note: str
) -> dict[str, Any]:  # fmt: skip
    """words: columns from the left that are text. focus: the row in bold, by its first cell."""
    rows = [{"focus": row[0] == focus, "cells": row} for row in cells]
    return {"title": name, "shown": Shown("", list(heads), rows, words), "note": note}
