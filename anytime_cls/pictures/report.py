"""The HTML report: one offline file with the race in numbers, pictures, a gallery of races, and provenance.

The page is `page/report.html` (Jinja, which escapes every word: names in files may be hostile). Nothing is
fetched, by content and by policy (a Content-Security-Policy that allows data: pictures alone). Light and dark
follow the reader's setting.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from anytime_cls.curves.analysis import Analysis, summary_row
from anytime_cls.curves.study import X_KINDS, Y_KINDS
from anytime_cls.pictures.gallery import RaceShown
from anytime_cls.pictures.shown import Shown, share, shown_table
from anytime_cls.pictures.style import INK
from anytime_cls.pictures.wording import amount, baseline_words, run_words, times, verdict
from anytime_cls.race.drawn import race_svg
from anytime_cls.stats.intervals import wilson

PAGE = Path(__file__).parent / "page"
#: Colours of curves that are too dim on a dark page, and what they become there.
LIGHTER = {
    "#0072b2": "#2f86dd", "#882255": "#ffd400", "#117733": "#5fbf7f", "#8b6914": "#cda652",
    "#6e7f00": "#b5c63f", "#5566aa": "#98a6e6", "#7a5195": "#b993d6", "#aa4466": "#e07f9d",
    "#d55e00": "#ff8b3d", "#996633": "#cf9b62", "#332288": "#9a90ea", "#56b4e9": "#7cc4f0",
}  # fmt: skip


@dataclass(frozen=True)
class Picture:
    """A figure of the report. svg: as matplotlib writes it. rows: its numbers. wide: over the whole page."""

    name: str
    title: str
    caption: str
    svg: str
    rows: Sequence[Mapping[str, Any]]
    wide: bool = False


@dataclass(frozen=True)
class Gallery:
    """The easiest and hardest races of one run."""

    curve: str
    setting: str
    easy: Sequence[RaceShown] = field(default_factory=list)
    hard: Sequence[RaceShown] = field(default_factory=list)


def report(
    analysis: Analysis,
    title: str,
    command: str,
    pictures: Sequence[Picture],
    gallery: Gallery | None,
    maps: Mapping[str, str] | None = None,
) -> str:
    """The whole page. command: the one that made it. pictures: the first leads, the others are folded. maps:
    where a race's evidence is drawn (`explain_page.links`)."""
    study, focus = analysis.study, analysis.focus
    figures = [_figure(picture, number) for number, picture in enumerate(pictures)]
    races = [] if gallery is None else [*gallery.easy, *reversed(gallery.hard)]
    left = (
        f" {study.left_out:,} images that not all files share, or that failed, were left out."
        if study.left_out
        else ""
    )
    return rendered(
        "report.html",
        title=title, verdict=verdict(analysis, focus), tiles=list(tiles(analysis)),
        lead=figures[0], pictures=figures[1:], rules=_rules(analysis), rules_note=_rules_note(analysis),
        races=[_race(race, study.labels, maps or {}) for race in races],
        gallery_words=f"{run_words(analysis, focus)}, on the easiest and the hardest pictures.",
       
        words=[{"term": term, "id": key, "meaning": text} for term, key, text in words()], command=command,
        provenance=(
            f"{len(study.ids):,} images, {len(study.labels):,} classes, {analysis.resamples:,} bootstrap "
            f"resamples, seed {analysis.seed}.{left}"
        ),
        files=[
            {"name": name, "facts": [(key, _short(value)) for key, value in sorted(attrs.items())]}
            for name, attrs in zip(study.names, study.attrs, strict=True)
        ],
    )  # fmt: skip


def rendered(template: str, **values: Any) -> str:
    """A page of `page/`, with the style and the colours that all of them share."""
    environment = Environment(
        loader=FileSystemLoader(PAGE), autoescape=True, undefined=StrictUndefined, finalize=_clean,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    style = Markup((PAGE / "report.css").read_text("utf-8"))  # ours
    lighter = [(dark[1:], light) for dark, light in LIGHTER.items()]
    return environment.get_template(template).render(style=style, lighter=lighter, **values)


def words() -> list[list[str]]:
    """The page's glossary: [term, id, meaning]; the terms are those of docs/glossary.md."""
    found: list[list[str]] = json.loads((PAGE / "words.json").read_text("utf-8"))
    return found


def text(value: object) -> str:
    """Anything as HTML text (or a quoted attribute): escaped, control codes and lone surrogates replaced."""
    return escape(str(_clean(str(value))))


def _clean(value: Any) -> Any:
    """What the template prints, without control codes and lone surrogates; markup is left alone."""
    if value is None or isinstance(value, Markup):
        return value
    return "".join(c if c.isprintable() or c == " " else "\ufffd" for c in str(value))


def tiles(analysis: Analysis) -> Iterator[dict[str, str]]:
    """Four numbers of the race: how right, how much compute, how much less than what, how long."""
    index = analysis.focus
    row, run = summary_row(analysis, index), analysis.study.runs[index]
    low, high = wilson(float(analysis.y.value[index]), len(analysis.study.ids))  # as in the sentence
    right = {"accuracy": "right", "agreement": "answered as all orders do", "top5": "in the best five"}
    yield {
        "head": right[analysis.y_kind], "value": f"{100 * analysis.y.value[index]:.1f} %",
        "about": f"95 % interval {100 * low:.1f} to {100 * high:.1f}; {len(analysis.study.ids):,} images",
    }  # fmt: skip
    everything = analysis.all_orders(index)
    yield {
        "head": X_KINDS[analysis.x_kind], "value": amount(float(analysis.x.value[index])),
        "about": f"of {amount(everything)} for all {run.k_max} orders of every class" if everything else "",
    }  # fmt: skip
    got = analysis.savings[index]
    if got is not None:
        than = f"than {baseline_words(analysis, got.index)}" + (
            ", the cheapest as good" if got.reached else ", the best of fixed K"
        )
        what, ratio = ("less", got.ratio) if got.ratio >= 1 else ("more", 1 / got.ratio)
        ends = (got.low, got.high) if got.ratio >= 1 else (1 / got.high, 1 / got.low)
        about = f"{than}; 95 % interval {times(ends[0])} to {times(ends[1])}"
        yield {"head": f"{what} compute", "value": f"{times(ratio)}×", "about": about}
    elif everything:
        ratio = everything / float(analysis.x.value[index])
        yield {"head": "less compute", "value": f"{times(ratio)}×", "about": "than all orders of every class"}
    else:
        yield {
            "head": "orders an image",
            "value": f"{row['k_mean']:.1f}",
            "about": f"median {row['k_median']:g}",
        }
    kind = "measured" if row["seconds_kind"] == "measured" else "estimated from passes"
    seconds = row["seconds"]
    value = f"{1000 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"
    yield {"head": "time an image", "value": value, "about": kind}


def _figure(picture: Picture, number: int) -> dict[str, Any]:
    table = shown_table(picture.name, picture.rows, picture.title)
    return {
        "title": picture.title, "caption": picture.caption, "wide": picture.wide, "table": table,
        "svg": Markup(inline_svg(picture.svg, f"f{number}-", picture.title)), "left_out": table.left_out,
        "rows": len(picture.rows),
    }  # fmt: skip


def inline_svg(svg: str, prefix: str, title: str) -> str:
    """An SVG document as an element of a page: own ids, the page's ink and paper, a label to be read out."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\s(?:xmlns(?::\w+)?|version)="[^"]*"', "", svg)
    svg = re.sub(r'\bid="', f'id="{prefix}', svg)
    svg = re.sub(r'\b(?:xlink:)?href="#', f'href="#{prefix}', svg)
    svg = svg.replace("url(#", f"url(#{prefix}")
    svg = svg.replace(INK, "currentColor").replace("#ffffff", "var(--page)")
    for colour in LIGHTER:
        svg = svg.replace(colour, f"var(--c{colour[1:]})")
    label = text(title)
    return re.sub(r"<svg\b", f'<svg role="img" aria-label="{label}"', svg, count=1).rstrip() + "\n"


def _rules(analysis: Analysis) -> Shown:
    """The table of accuracy, agreement, K, cost and saving, the race's row marked."""
    heads = [
        "rule", "setting", "accuracy %", "agreement %", "K mean", "passes", "seconds", "saving", "against",
        "all orders",
    ]  # fmt: skip
    rows = []
    for index in analysis.default.values():
        row = summary_row(analysis, index)
        rows.append({"focus": index == analysis.focus, "cells": [
            row["curve"], row["setting"], share(row, "accuracy"), share(row, "agreement"),
            f"{row['k_mean']:.1f}", amount(row["passes"]), amount(row["seconds"]), _ratio(row, "saving"),
            row["saving_against"] or "–",
            "–" if math.isnan(row["saving_full"]) else f"{times(row['saving_full'])}×",
        ]})  # fmt: skip
    return Shown("", heads, rows, 2)


def _rules_note(analysis: Analysis) -> str:
    return (
        "Accuracy and agreement with Wilson's 95 % intervals, savings with bootstrap ones. A saving (in "
        f"{analysis.x_kind}) is against the cheapest fixed K, or screen alone, that has at least the rule's "
        f"{Y_KINDS[analysis.y_kind]}; below 1 the race costs more than that. The last column is "
        "against all orders. K is the orders used; seconds of replays are estimated from passes."
    )


def _ratio(row: Mapping[str, Any], name: str) -> str:
    if math.isnan(row[name]):
        return "–"
    return f"{times(row[name])}× [{times(row[name + '_low'])}, {times(row[name + '_high'])}]"


def _race(race: RaceShown, labels: list[str], maps: Mapping[str, str]) -> dict[str, Any]:
    known = race.truth >= 0
    return {
        "answer": labels[race.answer],
        "sure": "" if math.isnan(race.probability) else _percent(race.probability),
        "truth": race.label if known else "", "wrong": known and race.truth != race.answer, "id": race.id,
        "spent": f"{race.orders} order{'s' * (race.orders != 1)}, {amount(race.passes)} passes",
        "picture": race.picture, "small": race.picture.startswith("data:image/png"),
        "alt": f"a {race.label}" if race.label else "image without a label",
        "svg": Markup(race_svg(race.scores, race.answer, labels, race.truth)),
        "map": maps.get(race.content[:16], ""),
    }  # fmt: skip


def _percent(p: float) -> str:
    return ">99.9 %" if 0.9995 <= p < 1 else f"{100 * p:.1f} %"


def _short(value: Any) -> str:
    shown = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return shown if len(shown) <= 2000 else shown[:2000] + " …"
