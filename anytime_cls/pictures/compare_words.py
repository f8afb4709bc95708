"""What a comparison says: its first lines, and its tables as cells, Markdown and CSV rows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from anytime_cls.curves.compare import MARGIN, Ratio, setting
from anytime_cls.curves.compared import Compared
from anytime_cls.pictures.wording import amount, times

Cells = list[list[str]]
MAIN = ("method", "at its best rule", "accuracy %", "all draws %", "FLOPs", "passes", "ECE % (floor)",
        "× the race's FLOPs")  # fmt: skip
COST = ("method", "s an image, batched", "alone", "all draws", "MB, batched", "alone", "loaded")


def headline(found: Compared) -> list[str]:
    """What the race saves at equal accuracy: against each diffusion model, else against its own fixed K."""
    reference = found.reference
    if reference is None:
        return ["No any-order autoregressive model takes part, so there is no race to hold others against."]
    others = [m for m in found.methods if m.kind.endswith("diffusion")]
    lines = []
    for other in others:
        line = _verdict(found, found.ratios[other.name], other.name)
        fixed = found.ratios[f"{other.name} whole"]
        lines.append(f"{line} Against its fixed draws, as diffusion classifiers are run: {_range(fixed)}.")
    own = _verdict(found, found.ratios[f"{reference.name} fixed"], "its own fixed K")
    whole = _range(found.ratios[f"{reference.name} whole"])
    lines.append(f"{own} Against fixed K over whole orders, the paper's classifier: {whole}.")
    return lines + _better(found)


def _better(found: Compared) -> list[str]:
    """What does at least as well as the race for no more compute; nothing of it is left unsaid."""
    assert found.reference is not None
    race = next(row for row in found.rows if row["method"] == found.reference.name)
    better = [
        f"{row['method']} ({100 * row['accuracy']:.1f} % at {amount(row['flops'])} FLOPs)"
        for row in found.rows
        if row is not race and row["accuracy"] >= race["accuracy"] and row["flops"] <= race["flops"]
    ]
    if not better:
        return []
    spent = amount(race["flops"])
    return [f"At least as accurate for no more than the race's {spent} FLOPs: {', '.join(better)}."]


def _verdict(found: Compared, got: Ratio, other: str) -> str:
    assert found.reference is not None
    row = next(row for row in found.rows if row["method"] == found.reference.name)
    at = f"{100 * row['accuracy']:.1f} % [{100 * row['accuracy_low']:.1f}, {100 * row['accuracy_high']:.1f}]"
    run = setting(found.first, got.cost.index)
    cost = got.cost
    if cost.ratio >= 1:
        saves = f"{times(cost.ratio)}× fewer FLOPs [{times(cost.low)}, {times(cost.high)}] than {other}"
    else:
        low, high = times(1 / cost.high), times(1 / cost.low)
        saves = f"{times(1 / cost.ratio)}× more FLOPs [{low}, {high}] than {other}"
    which = (
        f"the cheapest as accurate is {run}" if cost.reached else f"none is as accurate; the best is {run}"
    )
    lead = f"{100 * got.lead:+.1f} points [{100 * got.lead_low:+.1f}, {100 * got.lead_high:+.1f}]"
    unsure = " The interval holds 1: these images alone do not show it." if cost.low < 1 < cost.high else ""
    return (
        f"The race of {found.reference.name} ({row['rule']}) is right on {at} of {row['images']:,} images "
        f"and takes {saves} ({which}); at equal FLOPs it leads by {lead}.{unsure}"
    )


def _range(got: Ratio) -> str:
    cost = got.cost
    return f"{times(cost.ratio)}× [{times(cost.low)}, {times(cost.high)}]" + (
        "" if cost.reached else ", where none is as accurate"
    )


def main_cells(rows: Iterable[Mapping[str, Any]]) -> Cells:
    """The table of `MAIN`."""
    return [
        [
            row["method"], row["rule"], _interval(row, "accuracy"), _percent(row["full_accuracy"]),
            amount(row["flops"]), f"{row['passes']:.1f}", _error(row), _times(row),
        ]
        for row in rows
    ]  # fmt: skip


def cost_cells(rows: Iterable[Mapping[str, Any]]) -> Cells:
    """The table of `COST`, of rows that were clocked."""
    return [
        [
            row["method"], _number(row["live_seconds_batched"]), _number(row["live_seconds_alone"]),
            _number(row["full_seconds"]),
            *(_number(row[f"live_bytes_{name}"] / 1e6) for name in ("batched", "alone", "loaded")),
        ]
        for row in rows if "live_images" in row
    ]  # fmt: skip


def set_cells(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], Cells]:
    """Accuracy of methods (columns) on sets of images (rows): heads and cells."""
    methods = list(dict.fromkeys(row["method"] for row in rows))
    sets = list(dict.fromkeys(row["images of"] for row in rows))
    by = {(row["images of"], row["method"]): row for row in rows}
    cells = [[name, *(_interval(by[name, method], "accuracy") for method in methods)] for name in sets]
    return ["images", *methods], cells


def markdown(heads: Sequence[str], cells: Cells) -> str:
    """A Markdown table."""

    def line(values: Iterable[str]) -> str:
        return "| " + " | ".join(value.replace("|", "\\|") for value in values) + " |\n"

    return line(heads) + line("---" for _ in heads) + "".join(map(line, cells))


def document(found: Compared, command: str, note: str) -> str:
    """The whole comparison as a Markdown page. note: where times were taken."""
    parts = [f"# {title(found)}\n"]
    parts += [f"{line}\n" for line in headline(found)]
    parts.append(markdown(MAIN, main_cells(found.rows)))
    parts.append(f"{explained(found)}\n")
    if cells := cost_cells(found.rows):
        parts += [markdown(COST, cells), f"{note}\n"]
    if len(found.studies) > 1:
        parts += ["## Other images\n", markdown(*set_cells(found.set_rows))]
        parts.append("Accuracy in per cent, each method at the rule chosen on the first line's images.\n")
    parts.append(f"Made by `{command}`\n")
    return "\n".join(parts)


def title(found: Compared) -> str:
    study = found.first
    name = str(study.attrs[0].get("dataset", ""))
    return (
        f"{len(found.methods)} method{'s' * (len(found.methods) != 1)} on {len(study.ids):,} images of {name}"
    )


def explained(found: Compared) -> str:
    """What the main table's columns are."""
    text = (
        "A method's best rule is the cheapest that is not inferior to all its draws (their difference in "
        f"accuracy, less a standard error, is above -{100 * MARGIN:g} point), chosen on one half of the "
        "images and measured on the other, and the other way round; the rule named is the one chosen on all. "
        "Accuracy with Wilson's 95 % interval. Passes are whole ones, a part counting its share. ECE is the "
        "expected calibration error, and its floor what perfect probabilities show on so many images."
    )
    if found.reference is not None:
        text += (
            f" The last column is what the method takes at {found.reference.name}'s accuracy, in times the "
            "FLOPs of that race (bootstrap over images, both on the same ones); > where it is never so "
            "accurate."
        )
    return text


def _interval(row: Mapping[str, Any], name: str) -> str:
    value, low, high = (100 * row[name + end] for end in ("", "_low", "_high"))
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"


def _percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{100 * value:.1f}"


def _error(row: Mapping[str, Any]) -> str:
    if math.isnan(row["ece"]):
        return "–"
    return f"{100 * row['ece']:.1f} ({100 * row['ece_floor']:.1f})"


def _times(row: Mapping[str, Any]) -> str:
    if math.isnan(row["times"]):
        return "–"
    sign = "" if row["times_reached"] else "> "
    return f"{sign}{times(row['times'])} [{times(row['times_low'])}, {times(row['times_high'])}]"


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3g}"
