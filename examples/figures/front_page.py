"""A picture of several models: accuracy against orders, compute and a time budget, a row a model.

    anytime-cls sweep cifar10 --rule fixed --limit 1000 -o whole.h5
    anytime-cls sweep cifar10 --rule fixed --limit 1000 --orders stratified --prefix 8 --max-orders 64 \\
        -o m8.h5
    python examples/figures/front_page.py cifar10=whole.h5,m8.h5 tiny-imagenet=... -o front.png

Each argument is NAME=FILE,FILE,...: full traces (replayed here), or curves of `anytime-cls replay` with their
traces, all of the same images. Drawn are the paper's classifier (K whole orders for every class, from K = 1),
the kind of fixed K that is cheapest of those as good as the race, the race that saves most of it (or --race
CURVE), and `paired` on whole orders. Figures and open markers are at a rule's default δ, of the race at
--risk. The numbers go to CSV beside the picture.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from anytime_cls.curves.analysis import Analysis, analyse, point_rows
from anytime_cls.curves.files import Material, open_files
from anytime_cls.curves.pareto import band, common_grid
from anytime_cls.curves.study import StudyError, join, select
from anytime_cls.pictures import style
from anytime_cls.pictures.draw import races
from anytime_cls.pictures.tables import budget_rows, write_csv
from anytime_cls.pictures.wording import saving_text

WIDTH, ROW = 8.0, 2.15  # inches


def marked(analysis: Analysis, race: str, risk: float | None) -> Analysis:
    """With the race's run at this risk standing for it. Raises StudyError if none was raced at it."""
    runs = analysis.study.runs
    if risk is None:
        return analysis
    knobs = {float(runs[i].settings.get("knob_value", np.nan)): i for i in analysis.study.series[race]}
    if risk not in knobs:
        raise StudyError(f"{race} has no risk {risk:g}: it has {', '.join(f'{k:g}' for k in sorted(knobs))}")
    return replace(analysis, default=analysis.default | {race: knobs[risk]})


def chosen(analysis: Analysis, race: str | None) -> dict[str, tuple[str, style.Look]]:
    """The curves to draw, by name in the study: their names in the legend, and their looks."""
    study = analysis.study
    if race and race not in analysis.default:
        raise StudyError(f"there is no curve {race!r}; these files have {', '.join(analysis.default)}")
    best = analysis.default[race] if race else analysis.best
    if best is None or analysis.reference is None:
        raise StudyError("needs a race and the fixed K to compare it with")
    whole, saved = study.runs[analysis.reference], analysis.savings[best]
    of_prefixes = ("fixed K of prefixes", style.Look("#8B6914", "s", (0, (1, 1))))
    papers = ("fixed K (the paper's)", style.Look(style.INK, "o", (0, (4, 1.5))))
    names = {whole.series: papers if whole.whole else of_prefixes}
    if saved is not None and (fixed := study.runs[saved.index].series) not in names:
        names[fixed] = of_prefixes
    if "paired" in study.series and study.runs[best].series != "paired":
        names["paired"] = ("paired, whole orders", style.Look("#0072B2", "D", (0, (5, 1, 1, 1))))
    names[study.runs[best].series] = ("race", style.Look("#D55E00", "^", "-"))
    return names


def draw_curves(ax: Axes, analysis: Analysis, names: dict[str, tuple[str, style.Look]]) -> None:
    """Accuracy against a cost; bands: 95 % of the paired difference to all orders. Open: default settings."""
    x, y = analysis.x, analysis.y
    against = y[[analysis.reference]]
    for name, (_, look) in names.items():
        at = np.array(analysis.study.series[name])
        if len(at) > 1:
            curve = band(x[at], y[at], common_grid(x.value), against=against)
            ax.plot(curve.grid, curve.value, color=look.colour, ls=look.dash, zorder=3)
            ax.fill_between(curve.grid, curve.low, curve.high, color=look.colour, alpha=0.12, lw=0, zorder=1)
        default = analysis.default[name]
        ax.plot(
            x.value[default], y.value[default], look.marker, color=look.colour, mfc="white", ms=4.5, zorder=5
        )
    ax.set_xlim(x.value.min() / 1.2, x.value.max() * 1.2)


def draw_budget(
    ax: Axes, analysis: Analysis, material: Material, names: dict[str, tuple[str, style.Look]]
) -> list[dict]:
    """Accuracy had every race been stopped at a budget in seconds, at its trace's own pace."""
    study = analysis.study
    went = {name: race for name, race in races(analysis, material).items() if name in names}
    if not went:
        raise StudyError("needs the traces too, not only curves of them")
    runs = {name: study.runs[analysis.default[name]] for name in went}
    cost = {name: run.seconds / run.passes for name, run in runs.items()}
    full = study.runs[analysis.reference or 0].prediction
    rows = budget_rows(went, dict.fromkeys(went, study.label), cost, analysis.resamples, reference=full)
    for name in went:
        mine = [row for row in rows if row["curve"] == name]
        budget, y, low, high = (np.array([r[key] for r in mine]) for key in ("budget", "y", "low", "high"))
        look = names[name][1]
        ax.plot(budget, y, color=look.colour, ls=look.dash, drawstyle="steps-post", zorder=3)
        ax.fill_between(budget, low, high, color=look.colour, alpha=0.12, lw=0, step="post", zorder=1)
    budgets = [row["budget"] for row in rows]
    ax.set_xlim(min(budgets) / 1.1, max(budgets) * 1.1)
    return rows


def draw_row(
    axes: list[Axes], title: str, files: list[str], race: str | None, risk: float | None, resamples: int
) -> tuple[dict[str, tuple[str, style.Look]], list[list[dict]]]:
    """One model's three panels; returns its curves, and the rows of the curves and of the budgets."""
    material = open_files(files)
    try:
        study = join(material.files)
        if len({run.model for run in study.runs}) > 1:
            raise StudyError("the files of a row must be of one model")
        analysis = analyse(study, "flops", resamples=resamples)
        names = chosen(analysis, race)
        race_name = list(names)[-1]
        study = select(study, list(names))
        flops = marked(analyse(study, "flops", resamples=resamples), race_name, risk)
        draw_curves(
            axes[0], replace(analyse(study, "orders", resamples=resamples), default=flops.default), names
        )
        draw_curves(axes[1], flops, names)
        timed = draw_budget(axes[2], flops, material, names)
    finally:
        material.close()
    low = min(ax.dataLim.y0 for ax in axes)
    high = max(ax.dataLim.y1 for ax in axes)
    for ax in axes:
        ax.set_xscale("log")
        ax.set_ylim(low - 0.03 * (high - low), high + 0.34 * (high - low))
    most = int(axes[0].get_xlim()[1])
    axes[0].xaxis.set_major_locator(FixedLocator([1 << i for i in range(most.bit_length())]))
    axes[0].xaxis.set_minor_locator(NullLocator())
    axes[0].xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    for ax in axes[1:]:
        style.log_ticks(ax, dense=300)
    style.percent_ticks(axes[0], high)
    axes[0].set_ylabel(f"{title}\naccuracy (%)")
    first, second = saving_text(flops, flops.default[race_name])
    saved = f"{first}\n{second}".replace(" (", "\n(")
    about = f"{len(study.ids):,} images, {len(study.labels)} classes\nrace: {race_name}"
    for ax, words in zip(axes, (about, saved), strict=False):
        ax.text(0.03, 0.985, words, transform=ax.transAxes, fontsize=6.2, va="top").set_in_layout(False)
    return names, [
        [{"row": title} | row for row in rows if row["curve"] in names] for rows in (point_rows(flops), timed)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("rows", nargs="+", metavar="NAME=FILE,FILE,...")
    parser.add_argument(
        "--race", metavar="CURVE", action="append", default=[],
        help="the race to show, once or once a row; default: the one that saves most on these images",
    )  # fmt: skip
    parser.add_argument(
        "--risk", metavar="R", type=float, action="append", default=[],
        help="the race's δ at which figures and markers are, once or once a row; default: nearest 0.05",
    )  # fmt: skip
    parser.add_argument("--bootstrap", type=int, default=1000, help="resamples of the images")
    parser.add_argument("-o", "--out", type=Path, default=Path("front.png"))
    args = parser.parse_args()
    named = [text.partition("=") for text in args.rows]
    if not all(files for _, _, files in named):
        parser.error("rows are NAME=FILE,FILE,...")
    if not {len(args.race), len(args.risk)} <= {0, 1, len(named)}:
        parser.error("--race and --risk are given once, or once a row")
    raced, risks = (
        given * len(named) if len(given) == 1 else given or [None] * len(named)
        for given in (args.race, args.risk)
    )
    legend: dict[str, style.Look] = {}
    numbers: list[list[dict]] = [[], []]
    with style.styled():
        figure = Figure(figsize=(WIDTH, ROW * len(named) + 0.75), layout="constrained")
        FigureCanvasAgg(figure)
        grid = figure.subplots(len(named), 3, sharey="row", squeeze=False)
        for axes, (title, _, files), race, risk in zip(grid, named, raced, risks, strict=True):
            try:
                names, rows = draw_row(list(axes), title, files.split(","), race, risk, args.bootstrap)
            except ValueError as error:  # one line each
                parser.error(f"{title}: {error}")
            legend |= dict(names.values())
            for all_rows, more in zip(numbers, rows, strict=True):
                all_rows += more
        for ax, label in zip(grid[-1], ("orders (K)", "FLOPs an image", "budget an image (s)"), strict=True):
            ax.set_xlabel(label)
        handles = [
            Line2D([], [], color=look.colour, ls=look.dash, marker=look.marker, mfc="white", label=label)
            for label, look in legend.items()
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=min(4, len(handles)))
    style.save(figure, args.out, "png")
    tables = (args.out.with_suffix(".csv"), args.out.with_name(f"{args.out.stem}-budget.csv"))
    for path, rows in zip(tables, numbers, strict=True):
        write_csv(path, rows)
    print(f"wrote {args.out}, {tables[0]} and {tables[1]}")


if __name__ == "__main__":
    main()
