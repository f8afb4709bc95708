"""`anytime-cls plot`: accuracy against compute, as pictures, a report, CSV and a table."""

from __future__ import annotations

import io
import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .errors import Refused, complain, readable
from .outputs import check_output

if TYPE_CHECKING:
    from anytime_cls.curves.analysis import Analysis
    from anytime_cls.curves.files import Material
    from anytime_cls.curves.study import Study
    from anytime_cls.pictures.draw import Drawn
    from anytime_cls.pictures.style import Format
    from anytime_cls.race.fitted import Recommended

Option = typer.Option
_FORMATS = ("png", "svg", "pdf", "pgf", "html")
_X = ("passes", "flops", "seconds", "orders")
_Y = ("accuracy", "agreement", "top5")
_KINDS = ("pareto", "k", "classes-left", "budget", "reliability", "confusion")
_BANDS = ("paired", "absolute", "none")
_STYLES = ("page", "paper")
_INCHES = {"in": 1.0, "cm": 1 / 2.54, "mm": 1 / 25.4, "pt": 1 / 72.27, "px": 1 / 96}


def plot(
    context: typer.Context,
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILES", show_default=False,
            help="Curves of 'replay', full traces (replayed first) and live traces, of the same images.",
        ),
    ],
    out: Annotated[
        Path,
        Option(
            "--out", "-o", metavar="FILE", show_default=False, help="FILE.png, .svg, .pdf, .pgf or .html."
        ),
    ],
    x: Annotated[
        str | None,
        Option("--x", metavar="COST", show_default=False, help="passes (default), flops, seconds or orders."),
    ] = None,
    y: Annotated[str, Option("--y", metavar="WHAT", help="accuracy, agreement or top5.")] = "accuracy",
    kind: Annotated[
        str | None,
        Option(
            metavar="KIND", show_default=False,
            help="pareto (default), k, classes-left, budget, reliability, confusion (accuracy by class), or "
            "all (default of a report).",
        ),
    ] = None,
    curve: Annotated[
        list[str] | None,
        Option(
            "--curve", metavar="NAME", show_default=False,
            help="Only these beside the fixed ones; 'paired' takes 'paired m=8' too. May be repeated.",
        ),
    ] = None,
    every: Annotated[
        bool, Option("--all", help="Name every curve, in a legend, not only those one has to know.")
    ] = False,
    style: Annotated[
        str,
        Option(
            metavar="NAME",
            help="page, or paper: text stays text, nothing around the picture, and beside it a caption and "
            "tables in LaTeX and Markdown (FILE.tex, FILE.md).",
        ),
    ] = "page",
    width: Annotated[
        str | None,
        Option(metavar="W", show_default=False, help="As 3.3in, 84mm, 8.4cm, 240pt or 400px; default 3.5in."),
    ] = None,
    bands: Annotated[
        str,
        Option(
            metavar="KIND",
            help="95 % bands: paired (of the difference to all orders), absolute (of the mean) or none.",
        ),
    ] = "paired",
    bootstrap: Annotated[
        int, Option(min=0, max=100_000, metavar="N", help="Resamples of the images; 0 for no intervals.")
    ] = 1000,
    seed: Annotated[int, Option(min=0, metavar="N", help="Decides the resamples.")] = 0,
    title: Annotated[str, Option(metavar="TEXT", show_default=False, help="Above the picture.")] = "",
    maps: Annotated[
        Path | None,
        Option(
            metavar="WHY.html", show_default=False,
            help="A page of 'explain': races of a report link to their pictures there.",
        ),
    ] = None,
    quiet: Annotated[bool, Option("--quiet", "-q", help="No table and no notes.")] = False,
) -> int:  # fmt: skip
    """Draw accuracy against compute, with the saving at equal accuracy; the numbers go to FILE.csv beside it.

    Named are each model's race, the fixed K it replaces, the cheapest of those as accurate, and the front;
    other curves are grey.

    A saving is measured against the cheapest fixed K, or screen alone, that is at least as accurate on
    the same images.
    Exit codes: 0 done, 1 could not be written, 2 the command makes no sense.

    \b
    Example: anytime-cls plot full.h5 -o pareto.png
             anytime-cls plot curves.h5 full.h5 -o report.html
             anytime-cls plot curves.h5 full.h5 -o figure.pdf --style paper --width 3.3in
    """
    ending = out.suffix.lower().removeprefix(".")
    for name, value, known in (
        ("-o", ending, _FORMATS), ("--x", x or "passes", _X), ("--y", y, _Y), ("--bands", bands, _BANDS),
        ("--kind", kind or "all", (*_KINDS, "all")), ("--style", style, _STYLES),
    ):  # fmt: skip
        if value not in known:
            what = (
                f"a file ending in {', '.join('.' + k for k in known)}" if name == "-o" else ", ".join(known)
            )
            raise Refused(f"{name} takes {what}; got {str(out) if name == '-o' else value!r}")
    for beside in (out.suffix, ".csv", *((".tex", ".md") if style == "paper" else ())):
        check_output("-o", out.with_suffix(beside), True, files)
    inches = _inches(width)
    from anytime_cls.curves.analysis import analyse
    from anytime_cls.curves.study import join, select
    from anytime_cls.pictures.style import Format

    form = Format(inches, 96 if width and width.endswith("px") else 300, style == "paper", ending != "html")
    if maps is not None and ending != "html":
        raise Refused("--maps links the races of a report: name one with -o FILE.html")
    kind = kind or ("all" if ending == "html" else "pareto")
    kinds = list(_KINDS) if kind == "all" else [kind]
    opened: Material | None = None
    try:
        material = opened = _open(files, quiet, kinds != ["confusion"])
        study = select(join(material.files), curve or [])
        analysis = analyse(study, x or "passes", y, bootstrap, seed, _recommended(study))
        about = title if ending != "html" else ""
        drawn, missing = _draw(analysis, material, kinds, x, about, bands, form, every or bool(curve))
        if not drawn:
            raise Refused(missing[0])
        if not quiet:
            if kinds == ["confusion"]:
                print_classes(drawn[0])
            else:
                print_table(analysis)
            if kinds[0] == "pareto" and not analysis.paper_baseline:
                complain("no fixed K over whole orders among these files: name curves of whole orders too, "
                         "to compare with the paper's classifier", 0)  # fmt: skip
            for trace in material.traces:
                if not trace.complete:
                    complain(f"{trace.path} is not finished: these are {len(trace):,} images so far", 0)
            for line in missing:
                complain(f"left out {line}", 0)
        written = _write(out, ending, drawn, analysis, material, title, context, form, maps)
        if style == "paper" and kinds == ["pareto"]:
            written += _write_paper(out, drawn[0], analysis, bands, form, every or bool(curve), quiet)
    except ValueError as error:  # TraceError, CurvesError, ReplayError, StudyError: one line each
        raise Refused(str(error)) from None
    finally:
        if opened is not None:
            opened.close()
    if not quiet:
        complain(f"wrote {', '.join(str(path) for path in written)}", 0)
    return 0


def _open(files: list[str], quiet: bool, replay: bool) -> Material:
    """The files. replay: full traces, too; accuracy by class needs no more than the answers they hold."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from anytime_cls.curves.files import open_files
    from anytime_cls.models.known import known_of

    console = Console(stderr=True)
    with Progress(
        TextColumn("replaying {task.completed:,} of {task.total:,} races"), BarColumn(),
        TimeRemainingColumn(), console=console, transient=True, disable=quiet or not console.is_terminal,
    ) as bar:  # fmt: skip
        task = bar.add_task("", total=0, visible=False)
        return open_files(
            files, lambda done, total: bar.update(task, completed=done, total=total, visible=True),
            replay, known_of,
        )  # fmt: skip


def _inches(width: str | None) -> float:
    """`3.3in`, `84mm`, `400px`, ... → inches; a number alone is inches. Raises Refused."""
    if width is None:
        from anytime_cls.pictures.style import WIDTH

        return WIDTH
    unit = next((unit for unit in _INCHES if width.strip().endswith(unit)), "")
    try:
        inches = float(width.strip().removesuffix(unit)) * _INCHES[unit or "in"]
    except ValueError:
        raise Refused(f"--width takes a length such as 3.3in, 84mm or 400px, not {width!r}") from None
    if not 2 <= inches <= 20:
        raise Refused(f"--width must be 2 to 20 inches, and {width} is {inches:.3g}")
    return inches


def _recommended(study: Study) -> dict[str, Recommended]:
    """The default races of the embedded models among these runs, by model."""
    from anytime_cls.models.known import recommended

    hashes = {run.model: study.attrs[int(run.settings["file"])].get("model_sha256", "") for run in study.runs}
    found = {model: recommended(str(sha)) for model, sha in hashes.items()}
    return {model: race for model, race in found.items() if race is not None}


def _draw(
    analysis: Analysis, material: Material, kinds: list[str], x: str | None, title: str, bands: str,
    form: Format, every: bool,
) -> tuple[list[Drawn], list[str]]:  # fmt: skip
    from anytime_cls.pictures.draw import draw

    budget_x = x if x in ("passes", "flops") else "seconds"
    return draw(analysis, material, kinds, budget_x, title, bands, form, every)


def _write_paper(
    out: Path, drawn: Drawn, analysis: Analysis, bands: str, form: Format, every: bool, quiet: bool
) -> list[Path]:
    """The caption and the tables beside the picture."""
    from anytime_cls.files import replace_file
    from anytime_cls.pictures.paper import caption, latex_text, markdown, paper_rows

    words, rows = caption(analysis, bands, drawn.stopped, every), paper_rows(analysis, every)
    texts = {
        ".tex": latex_text(rows, words, out.name, form.width), ".md": markdown(rows, words),
    }  # fmt: skip
    for suffix, text in texts.items():
        replace_file(out.with_suffix(suffix), text.encode("utf-8", "replace"))
    if not quiet:
        print(f"\n{readable(words)}")
    return [out.with_suffix(suffix) for suffix in texts]


def _write(
    out: Path, ending: str, drawn: list[Drawn], analysis: Analysis, material: Material, title: str,
    context: typer.Context, form: Format, maps: Path | None,
) -> list[Path]:  # fmt: skip
    """The pictures and their CSV files; several kinds are told apart by NAME-KIND. Each is replaced whole."""
    from anytime_cls.files import replace_file
    from anytime_cls.pictures.style import save
    from anytime_cls.pictures.tables import write_csv

    written = []
    for number, picture in enumerate(drawn):
        path = out if not number else out.with_name(f"{out.stem}-{picture.kind}{out.suffix}")
        if ending != "html":
            memory = io.BytesIO()
            save(picture.figure, memory, ending, form)
            replace_file(path, memory.getbuffer())
            written.append(path)
        numbers = path.with_suffix(".csv")
        write_csv(numbers, picture.rows)
        written.append(numbers)
    if ending == "html":
        page = _page(drawn, analysis, material, title, context, _links(maps, out))
        replace_file(out, page.encode("utf-8", "replace"))
        written.insert(0, out)
    return written


def _links(maps: Path | None, out: Path) -> dict[str, str]:
    """Where a page of `explain` draws which picture, as seen from the report. Raises Refused."""
    if maps is None:
        return {}
    import os
    from urllib.parse import quote

    from anytime_cls.pictures.explain_page import links

    try:
        page = maps.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise Refused(f"{maps}: {error.strerror or error}") from None
    found = links(page, quote(os.path.relpath(maps, out.absolute().parent)))
    if not found:
        raise Refused(f"{maps} is no page of 'anytime-cls explain'")
    return found


def _page(
    drawn: list[Drawn],
    analysis: Analysis,
    material: Material,
    title: str,
    context: typer.Context,
    maps: dict[str, str],
) -> str:
    from anytime_cls.curves.leading import leading
    from anytime_cls.pictures.draw import draw, gallery
    from anytime_cls.pictures.report import Picture, report
    from anytime_cls.pictures.style import Format, svg_text

    if drawn[0].kind == "pareto" and len(analysis.study.series) > len(leading(analysis)):
        (full, *_), _ = draw(analysis, material, ["pareto"], form=Format(note=False), every=True)
        drawn = [*drawn, replace(full, kind="every", title="Every curve")]
    pictures = [
        Picture(d.kind, d.title, d.caption, svg_text(d.figure), d.rows, bool(d.figure.get_figwidth() > 5))
        for d in drawn
    ]
    attrs = analysis.study.attrs[0]
    keys = (("model", "model"), ("data", "dataset"))
    named = ", ".join(f"{word} {attrs[key]}" for word, key in keys if attrs.get(key))
    command = readable(shlex.join(["anytime-cls", *context.obj]))
    heading = title or f"Accuracy against compute: {named or 'anytime-cls'}"
    return report(analysis, heading, command, pictures, gallery(analysis, material), maps)


def print_table(analysis: Analysis) -> None:
    """Every series at its default setting: accuracy, agreement, K, passes, seconds, saving."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from anytime_cls.curves.analysis import summary_row
    from anytime_cls.pictures.wording import amount, verdict

    console = Console(highlight=False, markup=False)
    if not console.is_terminal:  # a file or a pipe has no width
        console = Console(highlight=False, markup=False, width=160)
    wide = console.width >= 128  # else without intervals and settings, which the CSV has
    table = Table(box=None, pad_edge=False, header_style="bold", collapse_padding=True)
    heads = ("rule", "setting", *(("accuracy %", "agreement %") if wide else ("acc %", "agree %")), "K mean",
             "med", "p95", "passes", "seconds", "saving", "against", "vs all")  # fmt: skip
    shown = [at for at, head in enumerate(heads) if wide or head != "setting"]
    for head in (heads[at] for at in shown):
        left = head in ("rule", "setting", "against")
        table.add_column(head, justify="left" if left else "right", no_wrap=not left, overflow="fold")
    for index in analysis.default.values():
        row = summary_row(analysis, index)
        values = (
            readable(row["curve"]), row["setting"], _share(row, "accuracy", wide),
            _share(row, "agreement", wide), f"{row['k_mean']:.1f}", f"{row['k_median']:g}",
            f"{row['k_p95']:g}", amount(row["passes"]), amount(row["seconds"]), _ratio(row, "saving", wide),
            row["saving_against"], _ratio(row, "saving_full", False),
        )  # fmt: skip
        style = "bold" if index == analysis.focus else ""
        table.add_row(*[Text(values[at], style) for at in shown])
    console.print(table)
    words = readable(verdict(analysis, analysis.focus))
    console.print(Text("\n" + words, "dim"), soft_wrap=not console.is_terminal)


def print_classes(drawn: Drawn) -> None:
    """Accuracy by class, hardest first, and what each is most often taken for; of many, the two ends."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, width=120)
    table = Table(box=None, pad_edge=False, header_style="bold", collapse_padding=True)
    for head in ("class", "images", "right %", "taken for"):
        table.add_column(head, justify="right" if head in ("images", "right %") else "left", overflow="fold")
    right = [row for row in drawn.rows if row["right"]][::-1]
    ends = right if len(right) <= 25 else [*right[:15], None, *right[-5:]]
    for row in ends:
        if row is None:
            table.add_row("...")
            continue
        wrong = [r for r in drawn.rows if r["class"] == row["class"] and not r["right"]][:3]
        values = (
            readable(row["class"]), f"{row['images']:,}",
            f"{100 * row['share']:.1f} [{100 * row['low']:.1f}, {100 * row['high']:.1f}]",
            readable(", ".join(f"{r['answer']} ({r['count']})" for r in wrong)),
        )  # fmt: skip
        table.add_row(*map(Text, values))
    console.print(table)
    console.print(Text("\n" + readable(drawn.caption), "dim"), soft_wrap=not console.is_terminal)


def _share(row: dict[str, Any], name: str, interval: bool) -> str:
    if row[name] != row[name]:
        return "–"
    text = f"{100 * row[name]:.1f}"
    return f"{text} [{100 * row[name + '_low']:.1f}, {100 * row[name + '_high']:.1f}]" if interval else text


def _ratio(row: dict[str, Any], name: str, interval: bool) -> str:
    from anytime_cls.pictures.wording import times

    if row[name] != row[name]:
        return "–"
    text = f"{times(row[name])}×"
    return f"{text} [{times(row[name + '_low'])}, {times(row[name + '_high'])}]" if interval else text
