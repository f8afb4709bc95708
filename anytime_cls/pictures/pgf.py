r"""A figure as a `pgfpicture`, for `\input` into a LaTeX document, whose fonts its words then have.

Matplotlib's own way to write one runs LaTeX to measure every word. Here words are measured as Matplotlib
draws them, so no LaTeX is needed to write the file: a name may stand a point off, nothing else.
"""

from __future__ import annotations

import io
import re
from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pgf import RendererPgf
from matplotlib.figure import Figure
from matplotlib.text import Text

_SIGNS = {
    "δ": r"\ensuremath{\delta}", "λ": r"\ensuremath{\lambda}", "×": r"\ensuremath{\times}",
    "≤": r"\ensuremath{\leq}", "±": r"\ensuremath{\pm}", "−": r"\ensuremath{-}", "–": "--", "…": r"\ldots{}",
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
}  # fmt: skip


def latex(text: str, percent: str = r"\%") -> str:
    """Plain text as LaTeX: signs that it reads otherwise or lacks. percent: the sign's."""
    return re.sub(
        r".", lambda found: (_SIGNS | {"%": percent}).get(found[0], found[0]), text, flags=re.DOTALL
    )


class _Renderer(RendererPgf):
    """Measures text as Matplotlib draws it."""

    def __init__(self, figure: Figure, into: io.StringIO):
        super().__init__(figure, into)  # type: ignore[no-untyped-call]
        self.measure: Any = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]

    def get_text_width_height_descent(self, s: str, prop: Any, ismath: Any) -> tuple[float, float, float]:
        size: tuple[float, float, float] = self.measure.get_text_width_height_descent(s, prop, ismath)
        return size

    def draw_text(
        self, gc: Any, x: float, y: float, s: str, prop: Any, angle: float, ismath: Any = False,
        mtext: Text | None = None,
    ) -> None:  # fmt: skip
        # the renderer escapes % itself
        super().draw_text(  # type: ignore[no-untyped-call]
            gc, x, y, latex(s, "%"), prop, angle, ismath, mtext
        )


def pgf_text(figure: Figure) -> str:
    """The picture as LaTeX source; the document needs `\\usepackage{pgf}`."""
    memory = io.StringIO()
    width, height = figure.get_size_inches()
    memory.write(
        "% \\usepackage{pgf} and \\input this file\n\\begingroup\n\\makeatletter\n\\begin{pgfpicture}\n"
        f"\\pgfpathrectangle{{\\pgfpointorigin}}{{\\pgfqpoint{{{width:f}in}}{{{height:f}in}}}}\n"
        "\\pgfusepath{use as bounding box, clip}\n"
    )
    with matplotlib.rc_context({"pgf.rcfonts": False}):
        figure.draw(_Renderer(figure, memory))
    memory.write("\\end{pgfpicture}\n\\makeatother\n\\endgroup\n")
    return memory.getvalue()
