"""The HTML report: one offline file with pictures, tables, provenance, and a gallery of races.

Nothing is fetched, by content and by policy (a Content-Security-Policy that allows data: pictures alone);
every word of a file, whose names may be hostile, is escaped. Light and dark follow the reader's setting.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from anytime_cls.curves.analysis import Analysis, summary_row
from anytime_cls.curves.study import Y_KINDS
from anytime_cls.pictures.gallery import RaceShown, race_svg
from anytime_cls.pictures.style import INK
from anytime_cls.pictures.wording import amount, times, verdict

_STYLE = """
:root { color-scheme: light dark; --page: #ffffff; --ink: #1b1c1e; --soft: #5d636b; --line: #d9dce0;
  --card: #f6f7f8; --accent: #0072b2; --wrong: #b3400a; }
@media (prefers-color-scheme: dark) { :root { --page: #16181b; --ink: #e6e7e9; --soft: #a2a8b0;
  --line: #34383e; --card: #1e2125; --accent: #6cb8ea; --wrong: #ff9a5c; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1.2rem 4rem; max-width: 76rem; background: var(--page); color:
  var(--ink);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: .2rem 0 .6rem; }
h2 { font-size: 1.2rem; margin: 2.4rem 0 .8rem; border-bottom: 1px solid var(--line); padding-bottom: .3rem;
  }
h3 { font-size: 1rem; margin: 1.4rem 0 .6rem; }
p { max-width: 62rem; margin: .5rem 0; } .soft { color: var(--soft); font-size: .9rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: .88rem; font-variant-numeric:
  tabular-nums; }
th, td { text-align: left; padding: .3rem .6rem .3rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top;
  white-space: nowrap; } td.n, th.n { text-align: right; } td.wide { white-space: normal; overflow-wrap:
  anywhere; }
tr.focus { font-weight: 600; } caption { text-align: left; color: var(--soft); padding-bottom: .4rem; }
.figures { columns: 2 28rem; column-gap: 2.4rem; } figure { margin: 0 0 2rem; break-inside: avoid; }
figure.wide { column-span: all; max-width: 58rem; } figure svg { width: 100%; height: auto; display: block; }
figcaption { color: var(--soft); font-size: .88rem; margin-top: .3rem; }
details { margin-top: .6rem; } summary { cursor: pointer; color: var(--accent); font-size: .9rem; }
.races { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 21rem), 1fr)); gap: 1rem;
  padding: 0;
  list-style: none; margin: 0; }
.races li { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: .7rem; }
.top { display: flex; gap: .8rem; align-items: flex-start; } .top img, .blank { width: 80px; height: 80px;
  flex: none;
  border-radius: .3rem; background: var(--line); object-fit: cover; } .pixels { image-rendering: pixelated;
  }
.blank { display: grid; place-items: center; color: var(--soft); font-size: .7rem; text-align: center; }
.top div { min-width: 0; font-size: .88rem; line-height: 1.35; } .name { color: var(--soft); font-size:
  .75rem;
  overflow-wrap: anywhere; } .bad { color: var(--wrong); } .race { width: 100%; height: auto; display:
  block;
  margin-top: .4rem; font: 8px system-ui, "DejaVu Sans", sans-serif; } .race text { fill: var(--soft); }
.race text.answer { fill: var(--accent); font-weight: 600; } .race text.truth { fill: var(--wrong);
  font-weight: 600; }
.race polyline { fill: none; stroke: var(--soft); stroke-width: .8; opacity: .75; } .race circle { fill:
  var(--soft); }
.race polyline.answer { stroke: var(--accent); stroke-width: 1.8; opacity: 1; } .race circle.answer { fill:
  var(--accent); }
.race polyline.truth { stroke: var(--wrong); stroke-width: 1.5; opacity: 1; } .race circle.truth { fill:
  var(--wrong); }
.race .axis { stroke: var(--line); stroke-width: .8; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: .4rem; padding: .7rem;
  overflow-x: auto;
  white-space: pre-wrap; overflow-wrap: anywhere; font-size: .85rem; }
@media print { details { display: none; } li, figure { break-inside: avoid; } }
"""
# Colours of curves that are too dim on a dark page, and what they become there.
_LIGHTER = {
    "#0072b2": "#2f86dd", "#882255": "#d9739f", "#117733": "#5fbf7f", "#8b6914": "#cda652",
    "#6e7f00": "#b5c63f", "#5566aa": "#98a6e6", "#7a5195": "#b993d6", "#aa4466": "#e07f9d",
    "#d55e00": "#ff8b3d", "#996633": "#cf9b62", "#332288": "#9a90ea",
}  # fmt: skip
_STYLE += ":root {{ {} }}\n@media (prefers-color-scheme: dark) {{ :root {{ {} }} }}\n".format(
    *(" ".join(f"--c{a[1:]}: {(a, b)[dark]};" for a, b in _LIGHTER.items()) for dark in (0, 1))
)


@dataclass(frozen=True)
class Picture:
    """A figure of the report. svg: as matplotlib writes it. rows: its numbers. wide: over both columns."""

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
    analysis: Analysis, title: str, command: str, pictures: Sequence[Picture], gallery: Gallery | None
) -> str:
    """The whole page. command: the one that made it. pictures: the first is shown largest."""
    study = analysis.study
    best = analysis.best
    about = list(dict.fromkeys([analysis.focus, *([best] if best is not None else [])]))
    parts = [
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; "
        "style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n",
        f"<header><h1>{text(title)}</h1>\n",
        *[f"<p>{text(verdict(analysis, index))}</p>\n" for index in about],
        "</header>\n<main>\n",
        _section("curves", "Curves", _figures(pictures)),
        _section("rules", "Every rule at its default setting", _summary(analysis)),
        _section("gallery", "Easiest and hardest images", _gallery(gallery, study.labels)) if gallery else "",
        _section("provenance", "Where the numbers come from", _provenance(analysis, command)),
        "</main>\n</body>\n</html>\n",
    ]  # fmt: skip
    return "".join(parts)


def text(value: object) -> str:
    """Anything as HTML text (or a quoted attribute): escaped, control codes and lone surrogates replaced."""
    plain = "".join(c if c.isprintable() or c == " " else "\ufffd" for c in str(value))
    return escape(plain)


def _section(name: str, title: str, body: str) -> str:
    return f'<section aria-labelledby="{name}"><h2 id="{name}">{text(title)}</h2>\n{body}</section>\n'


def _figures(pictures: Sequence[Picture]) -> str:
    parts = ['<div class="figures">\n']
    for number, picture in enumerate(pictures):
        wide = ' class="wide"' if picture.wide else ""
        parts.append(
            f"<figure{wide}>{inline_svg(picture.svg, f'f{number}-', picture.title)}"
            f"<figcaption><strong>{text(picture.title)}.</strong> {text(picture.caption)}</figcaption>"
            f"<details><summary>Numbers ({len(picture.rows)} rows)</summary>"
            f'<div class="scroll">{table(picture.rows, picture.title)}</div></details></figure>\n'
        )
    return "".join(parts) + "</div>\n"


def inline_svg(svg: str, prefix: str, title: str) -> str:
    """An SVG document as an element of a page: own ids, the page's ink and paper, a label to be read out."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\s(?:xmlns(?::\w+)?|version)="[^"]*"', "", svg)
    svg = re.sub(r'\bid="', f'id="{prefix}', svg)
    svg = re.sub(r'\b(?:xlink:)?href="#', f'href="#{prefix}', svg)
    svg = svg.replace("url(#", f"url(#{prefix}")
    svg = svg.replace(INK, "currentColor").replace("#ffffff", "var(--page)")
    for colour in _LIGHTER:
        svg = svg.replace(colour, f"var(--c{colour[1:]})")
    label = text(title)
    return re.sub(r"<svg\b", f'<svg role="img" aria-label="{label}"', svg, count=1).rstrip() + "\n"


def _summary(analysis: Analysis) -> str:
    """The table of accuracy, agreement, K, cost and saving."""
    rows = [summary_row(analysis, i) for i in analysis.default.values()]
    head = ("rule", "setting", "accuracy %", "agreement %", "K mean", "median", "95 %", "passes", "seconds",
            "saving", "against", "against all")  # fmt: skip
    cells = []
    for row, index in zip(rows, analysis.default.values(), strict=True):
        mark = ' class="focus"' if index == analysis.focus else ""
        values = [
            text(row["curve"]), text(row["setting"]), _share(row, "accuracy"), _share(row, "agreement"),
            f"{row['k_mean']:.1f}", f"{row['k_median']:g}", f"{row['k_p95']:g}", amount(row["passes"]),
            amount(row["seconds"]), _ratio(row, "saving"), text(row["saving_against"] or "–"),
            "–" if math.isnan(row["saving_full"]) else f"{times(row['saving_full'])}×",
        ]  # fmt: skip
        cells.append(f"<tr{mark}>" + "".join(
            f'<th scope="row">{v}</th>' if not n else f"<td{' class=n' if n not in (1, 10) else ''}>{v}</td>"
            for n, v in enumerate(values)
        ) + "</tr>\n")  # fmt: skip
    heads = "".join(
        f'<th scope="col"{" class=n" if n not in (0, 1, 10) else ""}>{text(h)}</th>'
        for n, h in enumerate(head)
    )
    note = (
        "Accuracy and agreement with Wilson's 95 % intervals, savings with bootstrap ones. A saving (in "
        f"{analysis.x_kind}) is against the cheapest fixed K, or screen alone, that has at least the rule's "
        f"{Y_KINDS[analysis.y_kind]}; below 1 the race costs more than that. The last column is "
        "against all orders. K is the orders used; seconds of replays are estimated from passes."
    )
    return (
        f'<div class="scroll"><table><thead><tr>{heads}</tr></thead>\n<tbody>{"".join(cells)}</tbody></table>'
        "</div>"
        f'<p class="soft">{text(note)}</p>\n'
    )


def _share(row: Mapping[str, Any], name: str) -> str:
    if math.isnan(row[name]):
        return "–"
    return f"{100 * row[name]:.1f} [{100 * row[name + '_low']:.1f}, {100 * row[name + '_high']:.1f}]"


def _ratio(row: Mapping[str, Any], name: str) -> str:
    if math.isnan(row[name]):
        return "–"
    return f"{times(row[name])}× [{times(row[name + '_low'])}, {times(row[name + '_high'])}]"


def table(rows: Sequence[Mapping[str, Any]], caption: str) -> str:
    """Rows of plain values as an HTML table."""
    if not rows:
        return ""
    heads = "".join(f'<th scope="col">{text(key)}</th>' for key in rows[0])
    body = "".join("<tr>" + "".join(_cell(value) for value in row.values()) + "</tr>\n" for row in rows)
    head = f"<caption>{text(caption)}</caption><thead><tr>{heads}</tr></thead>"
    return f"<table>{head}\n<tbody>{body}</tbody></table>"


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return f"<td>{'yes' if value else 'no'}</td>"
    if isinstance(value, int | float):
        return f'<td class="n">{"–" if math.isnan(value) else f"{value:.6g}"}</td>'
    return f"<td>{text(value)}</td>"


def _gallery(gallery: Gallery, labels: list[str]) -> str:
    intro = (
        f"Races of {gallery.curve} ({gallery.setting}). Lines are each class's mean log-likelihood less the "
        "answer's, order by order (before the first all are equal); a line ends, with a dot, where its class "
        "left. Blue is the answer, orange the true class where the answer is wrong."
    )
    parts = [f'<p class="soft">{text(intro)}</p>\n']
    for title, races in (("Easiest", gallery.easy), ("Hardest", gallery.hard)):
        if races:
            items = "".join(_race(race, labels) for race in races)
            parts.append(f'<h3>{title}</h3>\n<ul class="races">\n{items}</ul>\n')
    return "".join(parts)


def _race(race: RaceShown, labels: list[str]) -> str:
    name = labels[race.answer]
    wrong = race.truth >= 0 and race.truth != race.answer
    small = " class=pixels" if race.picture.startswith("data:image/png") else ""
    alt = f"a {race.label}" if race.label else "image without a label"
    picture = (
        f'<img{small} src="{race.picture}" alt="{text(alt)}">' if race.picture
        else '<div class="blank" aria-hidden="true">no file</div>'
    )  # fmt: skip
    sure = "" if math.isnan(race.probability) else f" {_percent(race.probability)}"
    verdict_ = (
        f'<span class="bad">is {text(race.label)}</span>' if wrong else ("right" if race.truth >= 0 else "")
    )
    orders = f"{race.orders} order{'s' * (race.orders != 1)}, {amount(race.passes)} passes"
    return (
        f'<li><div class="top">{picture}<div><strong>{text(name)}</strong>{sure}<br>{verdict_}<br>{orders}'
        f'<br><span class="name">{text(race.id)}</span></div></div>{race_svg(race, labels)}</li>\n'
    )


def _percent(p: float) -> str:
    return "&gt;99.9 %" if 0.9995 <= p < 1 else f"{100 * p:.1f} %"


def _provenance(analysis: Analysis, command: str) -> str:
    study = analysis.study
    parts = [f"<p>This page was made by</p><pre>{text(command)}</pre>\n"]
    left = (
        f" {study.left_out:,} images that not all files share, or that failed, were left out."
        if study.left_out
        else ""
    )
    parts.append(
        f'<p class="soft">{len(study.ids):,} images, {len(study.labels):,} classes, {analysis.resamples:,} '
        f"bootstrap resamples, seed {analysis.seed}.{left}</p>\n"
    )
    for name, attrs in zip(study.names, study.attrs, strict=True):
        rows = "".join(
            f'<tr><th scope="row">{text(key)}</th><td class="wide">{text(_short(value))}</td></tr>\n'
            for key, value in sorted(attrs.items())
        )
        parts.append(
            f'<h3>{text(name)}</h3>\n<div class="scroll"><table><tbody>{rows}</tbody></table></div>\n'
        )
    return "".join(parts)


def _short(value: Any) -> str:
    shown = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return shown if len(shown) <= 2000 else shown[:2000] + " …"
