"""Costs and savings in words: for tables, pictures and the report."""

from __future__ import annotations

from anytime_cls.curves.analysis import Analysis
from anytime_cls.stats.intervals import wilson


def verdict(analysis: Analysis, index: int) -> str:
    """What a run reaches and what it saves, in two plain sentences; the second says so where it saves
    nothing, or where that is not certain."""
    study, run = analysis.study, analysis.study.runs[index]
    got, full = analysis.savings[index], analysis.savings_full[index]
    unit = "FLOPs" if analysis.x_kind == "flops" else analysis.x_kind
    low, high = wilson(float(analysis.y.value[index]), len(study.ids))  # as in the tables
    text = (
        f"{run_words(analysis, index)} {_REACHES[analysis.y_kind]} {100 * analysis.y.value[index]:.1f} % "
        f"[{100 * low:.1f}, {100 * high:.1f}] of {len(study.ids):,} image{'s' * (len(study.ids) != 1)}, for "
        f"{amount(analysis.x.value[index])} {unit} an image."
    )
    cost = analysis.all_orders(index)
    if got is None or full is None:
        if run.baseline or cost is None:
            return text
        saved = f"{times(cost / float(analysis.x.value[index]))}× {less(analysis.x_kind)}"
        return f"{text} That is {saved} than all {run.k_max} orders of every class ({amount(cost)})."
    kind = "fixed K" if study.runs[got.index].rule == "fixed" else "alternative"
    which = f"the cheapest {kind} as good" if got.reached else f"the best {kind}, which is less good"
    base = f"{which}, {baseline_words(analysis, got.index)} ({amount(analysis.x.value[got.index])} {unit})"
    if got.ratio >= 1:
        text += f" That is {times(got.ratio)}× {less(analysis.x_kind)} [{times(got.low)}, {times(got.high)}]"
        text += f" than {base}"
        if got.low < 1:
            text += ", though the interval holds 1: these images alone do not show a saving"
    else:
        more = less(analysis.x_kind, more=True)
        text += f" That is {times(1 / got.ratio)}× {more} than {base}: against it the race saves nothing"
    if full.index != got.index:
        most = baseline_words(analysis, full.index)
        text += f"; against all orders ({most}) it takes {times(full.ratio)}× {less(analysis.x_kind)}"
    return text + "."


_REACHES = {
    "accuracy": "gives the right answer on", "agreement": "answers as all orders do on",
    "top5": "has the right class among its best five on",
}  # fmt: skip


def run_words(analysis: Analysis, index: int) -> str:
    """A run as the subject of a sentence: "The race (calibrated on 4 tokens an order, δ = 0.01)"."""
    run = analysis.study.runs[index]
    part = "" if run.whole else f" on {run.settings.get('prefix')} tokens an order"
    about = f"{run.rule}{part}, {run.setting}"
    several = len({r.model for r in analysis.study.runs}) > 1
    of = f" of {run.model}" if several else ""
    return f"The race{of} ({about})" if index == analysis.focus and not run.baseline else f"{about}{of}"


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
    """Two lines: "7.1× [5.2, 9.0] fewer passes at 79.8 %" and "than K = 4 (15× fewer than K = 20)"."""
    got, full = analysis.savings[index], analysis.savings_full[index]
    assert got is not None
    at = f"{100 * analysis.y.value[index]:.1f} %"
    if got.ratio >= 1:
        first = f"{times(got.ratio)}× [{times(got.low)}, {times(got.high)}] {less(analysis.x_kind)} at {at}"
    else:
        more = less(analysis.x_kind, more=True)
        first = f"{times(1 / got.ratio)}× [{times(1 / got.high)}, {times(1 / got.low)}] {more} at {at}"
    second = f"than {baseline_words(analysis, got.index)}"
    second += "" if got.reached else ", the best there is"
    if full is not None and full.index != got.index:
        word = less(analysis.x_kind).split()[0]
        second += f" ({times(full.ratio)}× {word} than {baseline_words(analysis, full.index)})"
    return first, second


def baseline_words(analysis: Analysis, index: int) -> str:
    """A fixed run or a screen: "K = 4"; where others are of whole orders, "K = 4 of 8 tokens"; "the table
    alone"."""
    run = analysis.study.runs[index]
    if run.rule != "fixed":
        return f"the {run.rule} alone"
    several = len({r.settings.get("prefix") for r in analysis.study.runs if r.rule == "fixed"}) > 1
    if not several:
        return f"K = {run.k_max}"
    return (
        f"K = {run.k_max} whole orders"
        if run.whole
        else f"K = {run.k_max} of {run.settings['prefix']} tokens"
    )
