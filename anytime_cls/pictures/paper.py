"""What goes beside a picture in a paper: its numbers as tables (LaTeX, Markdown), and a caption to paste."""

from __future__ import annotations

from collections.abc import Sequence

from anytime_cls.curves.analysis import Analysis, summary_row
from anytime_cls.curves.leading import leading
from anytime_cls.curves.study import X_KINDS, Y_KINDS
from anytime_cls.pictures.lead import lead_note
from anytime_cls.pictures.pgf import latex
from anytime_cls.pictures.wording import amount, times, verdict

HEADS = ("", "setting", "accuracy, %", "agreement, %", "orders", "{cost}", "saving")


def caption(analysis: Analysis, bands: str, stopped: bool, every: bool = False) -> str:
    """The picture in sentences: what is drawn of what, what the race reaches, what the bars are."""
    attrs = analysis.study.attrs[analysis.study.runs[analysis.focus].settings["file"]]
    named = ", ".join(
        f"{key} {attrs[name]}" for key, name in (("model", "model"), ("data", "dataset")) if attrs.get(name)
    )
    what = f"{Y_KINDS[analysis.y_kind].capitalize()} against {X_KINDS[analysis.x_kind]}"
    note = lead_note(analysis, bands, stopped, every, paper=True)
    return f"{what}{f' ({named})' if named else ''}. {verdict(analysis, analysis.focus)} {note}"


def paper_rows(analysis: Analysis, every: bool = False) -> list[list[str]]:
    """The table: a head, and a row a curve of the picture at its marked point. Plain text."""
    study = analysis.study
    points = (
        [(name, i) for name, i in analysis.default.items()] if every
        else [(lead.name, lead.point) for lead in leading(analysis)]
    )  # fmt: skip
    cost = {"flops": "FLOPs", "orders": "passes"}.get(analysis.x_kind, analysis.x_kind)
    rows = [[head.format(cost=cost) for head in HEADS]]
    for name, index in points:
        row, run = summary_row(analysis, index), study.runs[index]
        spent = run.passes.mean() if analysis.x_kind == "orders" else analysis.x.value[index]
        saved = ""
        if row["saving"] == row["saving"]:
            saved = f"{times(row['saving'])}× [{times(row['saving_low'])}, {times(row['saving_high'])}]"
        rows.append([
            name, run.setting, _share(row, "accuracy"), _share(row, "agreement"), f"{row['k_mean']:.1f}",
            amount(float(spent)), saved,
        ])  # fmt: skip
    return _without_empty(rows)


def _share(row: dict[str, float], name: str) -> str:
    if row[name] != row[name]:
        return ""
    return f"{100 * row[name]:.1f} [{100 * row[name + '_low']:.1f}, {100 * row[name + '_high']:.1f}]"


def _without_empty(rows: list[list[str]]) -> list[list[str]]:
    """Without columns of which nothing is known."""
    keep = [at for at in range(len(rows[0])) if any(row[at] for row in rows[1:])]
    return [[row[at] for at in keep] for row in rows]


def markdown(rows: Sequence[Sequence[str]], words: str) -> str:
    """The caption, then the table."""
    clean = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    head, *body = ["| " + " | ".join(row) + " |" for row in clean]
    line = "| --- | --- |" + " ---: |" * (len(rows[0]) - 2)
    return "\n".join([words, "", head, line, *body, ""])


def latex_text(rows: Sequence[Sequence[str]], words: str, picture: str, width: float) -> str:
    """A figure environment with the picture and its caption, and a table (booktabs) of the same numbers."""
    shown = f"\\input{{{picture}}}" if picture.endswith(".pgf") else (
        f"\\includegraphics[width={width:g}in]{{{picture}}}"
    )  # fmt: skip
    head, *body = [" & ".join(map(latex, row)) + r" \\" for row in rows]
    about = latex(words.split(". ")[0])
    return "\n".join([
        r"% needs booktabs, and pgf or graphicx", r"\begin{figure}", r"  \centering", f"  {shown}",
        f"  \\caption{{{latex(words)}}}", r"\end{figure}", "", r"\begin{table*}", r"  \centering",
        f"  \\caption{{{about}, in numbers; 95\\,\\% intervals in brackets.}}",
        f"  \\begin{{tabular}}{{ll{'r' * (len(rows[0]) - 2)}}}", r"    \toprule", f"    {head}",
        r"    \midrule",
        *[f"    {line}" for line in body], r"    \bottomrule", r"  \end{tabular}", r"\end{table*}", "",
    ])  # fmt: skip
