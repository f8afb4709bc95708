"""Costs and savings in words: for tables, pictures and the report."""

from __future__ import annotations

from anytime_cls.curves.analysis import Analysis
from anytime_cls.curves.study import Y_KINDS
from anytime_cls.stats.intervals import wilson


def verdict(analysis: Analysis, index: int) -> str:
    """What a run saves, in plain sentences; says so where it saves nothing, or where that is not certain."""
    study, run = analysis.study, analysis.study.runs[index]
    got, full = analysis.savings[index], analysis.savings_full[index]
    unit = "FLOPs" if analysis.x_kind == "flops" else analysis.x_kind
    low, high = wilson(float(analysis.y.value[index]), len(study.ids))  # as in the tables
    text = (
        f"{run.series} ({run.setting}) takes {amount(analysis.x.value[index])} {unit} an image and reaches "
        f"{Y_KINDS[analysis.y_kind]} of {100 * analysis.y.value[index]:.1f} % [{100 * low:.1f}, "
        f"{100 * high:.1f}] on {len(study.ids):,} image{'s' * (len(study.ids) != 1)}."
    )
    if got is None or full is None:
        return text
    base = "fixed K" if study.runs[got.index].rule == "fixed" else "baseline"
    which = f"cheapest {base} as good" if got.reached else f"best {base}, which is less good,"
    cost = amount(analysis.x.value[got.index])
    text += f" The {which} is {analysis.fixed_name(got.index)} ({cost} {unit}): "
    if got.ratio >= 1:
        text += f"{times(got.ratio)}× {less(analysis.x_kind)} [{times(got.low)}, {times(got.high)}]."
        if got.low < 1:
            text += " The interval holds 1: these images alone do not show a saving against it."
    else:
        more = less(analysis.x_kind, more=True)
        text += f"the race takes {times(1 / got.ratio)}× {more}, so it saves nothing against it."
    if full.index != got.index:
        most = analysis.fixed_name(full.index)
        text += f" Against all orders ({most}): {times(full.ratio)}× {less(analysis.x_kind)}."
    return text


def less(x_kind: str, more: bool = False) -> str:
    """ "fewer passes", "less time": what a saving is of; its opposite with `more`."""
    if x_kind == "seconds":
        return "more time" if more else "less time"
    return ("more " if more else "fewer ") + ("FLOPs" if x_kind == "flops" else x_kind)


def times(ratio: float) -> str:
    """A ratio to two or three digits."""
    return f"{ratio:.0f}" if ratio >= 99.5 else f"{ratio:.1f}" if ratio >= 1.095 else f"{ratio:.2f}"


def amount(value: float) -> str:
    """A cost to three digits or whole: 21.2, 320, 0.101, 84.1G."""
    for size, letter in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def saving_text(analysis: Analysis, index: int) -> tuple[str, str]:
    """Two lines: "7.1× fewer passes at 79.8 % [5.2, 9.0]" and "than fixed K = 4 (15× fewer than K = 20)"."""
    got, full = analysis.savings[index], analysis.savings_full[index]
    assert got is not None
    at = f"{100 * analysis.y.value[index]:.1f} %"
    if got.ratio >= 1:
        first = f"{times(got.ratio)}× {less(analysis.x_kind)} at {at} [{times(got.low)}, {times(got.high)}]"
    else:
        more = less(analysis.x_kind, more=True)
        first = f"{times(1 / got.ratio)}× {more} at {at} [{times(1 / got.high)}, {times(1 / got.low)}]"
    kind = "fixed " if analysis.study.runs[got.index].rule == "fixed" else ""
    second = f"than {kind}{analysis.fixed_name(got.index)}"
    second += "" if got.reached else f", the best {kind.strip() or 'baseline'}"
    if full is not None and full.index != got.index:
        word = less(analysis.x_kind).split()[0]
        second += f" ({times(full.ratio)}× {word} than {analysis.fixed_name(full.index)})"
    return first, second
