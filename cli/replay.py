"""`anytime-cls replay`: any rule, at any setting, over a recorded trace."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .errors import FAILED, Refused, complain, readable
from .outputs import check_output

if TYPE_CHECKING:
    from anytime_cls.curves.file import CurveRun, Curves
    from anytime_cls.race.fitted import Fitted
    from anytime_cls.traces.read import Trace

Option = typer.Option
POINTS_SHOWN = 5  # rows of the table a curve gets; the file has every run


def replay(
    context: typer.Context,
    trace: Annotated[
        str, typer.Argument(metavar="FULL.h5", help="A trace that 'sweep --rule fixed' recorded.")
    ],
    rule: Annotated[
        list[str] | None,
        Option(
            metavar="NAME", show_default=False,
            help="paired, strict, marginal, fixed, funnel, clark-jaini, halving, value or calibrated; may be "
            "given several times. Default: all.",
        ),
    ] = None,
    delta: Annotated[
        str | None,
        Option(metavar="P,P,...", show_default=False,
               help="δ of every rule that has one (paired, strict, marginal, calibrated). Without it a rule "
               "goes through 24 or more settings, safe to cheap."),
    ] = None,
    max_orders: Annotated[
        str | None,
        Option(metavar="K,K,...", show_default=False,
               help="K_max; default: the trace's. fixed and funnel take every K up to the largest."),
    ] = None,
    prefix: Annotated[
        str | None,
        Option(metavar="M,M,...", show_default=False,
               help="Race on the first M tokens of each order, as recorded by 'sweep --record-prefixes'."),
    ] = None,
    alpha: Annotated[
        str | None,
        Option(metavar="P,P,...", show_default=False,
               help="paired, strict, marginal: error of one pair at one look, in place of its share of δ."),
    ] = None,
    p_value: Annotated[
        str | None, Option(metavar="P,P,...", show_default=False, help="clark-jaini: of its t-test (0.002).")
    ] = None,
    min_scores: Annotated[
        str | None, Option(metavar="N,N,...", show_default=False, help="clark-jaini: orders before it (20).")
    ] = None,
    saving: Annotated[
        str | None,
        Option(metavar="X,X,...", show_default=False, help="halving: full cost over its budget (16)."),
    ] = None,
    price: Annotated[
        str | None,
        Option(metavar="P,P,...", show_default=False,
               help="value: accuracy that a pass must gain (0.0001)."),
    ] = None,
    stages: Annotated[
        str | None,
        Option(metavar="SHARE:CLASSES,...", show_default=False,
               help="funnel: classes kept after shares of K_max (1/16:5,1/4:2)."),
    ] = None,
    model: Annotated[
        str | None,
        Option(metavar="NAME", show_default=False,
               help="Whose priors and calibrations to use, by name or folder. Default: the trace's own."),
    ] = None,
    priors_from: Annotated[
        str | None,
        Option(metavar="CAL.json", show_default=False, help="Priors and calibrations of 'calibrate --out'."),
    ] = None,
    out: Annotated[
        str | None,
        Option("--out", "-o", metavar="CURVES.h5", show_default=False,
               help="Where every image's outcome goes, for 'plot'. Without it only the table is printed."),
    ] = None,
    overwrite: Annotated[bool, Option("--overwrite", help="Replace a file that is there.")] = False,
    every: Annotated[
        bool, Option("--all", help=f"Every run in the table, not {POINTS_SHOWN} of each curve.")
    ] = False,
    json: Annotated[bool, Option("--json", help="One JSON object a run, in place of the table.")] = False,
    quiet: Annotated[bool, Option("--quiet", "-q", help="Nothing on standard error but errors.")] = False,
) -> int:  # fmt: skip
    """Race rules over a trace that holds every class on every order, without the model.

    The races are the live ones: a sweep with the same rule and seed decides the same, after as many passes.

    \b
    Example: anytime-cls replay full.h5 -o curves.h5
             anytime-cls replay full.h5 --rule paired --delta 0.01,0.05,0.1
    """
    settings: dict[str, list[Any]] = {
        name: values
        for name, text, kind in (
            ("alpha", alpha, float), ("p_value", p_value, float), ("min_scores", min_scores, int),
            ("saving", saving, float), ("price", price, float),
        )
        if (values := numbers(f"--{name.replace('_', '-')}", text, kind))
    }  # fmt: skip
    deltas = numbers("--delta", delta, float)
    k_max = numbers("--max-orders", max_orders, int)
    prefixes = numbers("--prefix", prefix, int)
    names = [name.strip() for item in rule or () for name in item.split(",") if name.strip()] or None
    if model is not None and priors_from is not None:
        raise Refused("--model and --priors-from both say whose priors to use: leave one out")
    if out is not None:
        check_output("-o", Path(out), overwrite, [trace, *([priors_from] if priors_from else [])])

    from anytime_cls.curves.file import CurvesError, write_curves
    from anytime_cls.curves.full import full_curves
    from anytime_cls.models.known import known_of
    from anytime_cls.race.peers import parse_stages
    from anytime_cls.traces.read import Trace

    try:
        if stages is not None:
            settings["stages"] = [parse_stages(stages)]
        with Trace.open(trace) as recorded:
            fitted = known_of(recorded, model, priors_from)
            tell(quiet, *_remarks(recorded, fitted, prefixes))
            with progress_bar(quiet, "races") as progress:
                curves = full_curves(recorded, names, deltas, k_max, prefixes, settings, fitted, progress)
    except ValueError as error:
        raise Refused(str(error)) from None
    curves.attrs["replay_command"] = readable(shlex.join(["anytime-cls", *context.obj]))
    if out is not None:
        try:
            write_curves(out, curves)
        except CurvesError as error:
            return complain(str(error), FAILED)
    if json:
        from .show.output import print_json

        for run in curves.runs:
            print_json(figures(run, curves))
    else:
        _show(curves, every)
        if out is not None:
            tell(quiet, f"{out}: {len(curves.runs)} runs over {len(curves.ids)} images")
    return 0


def numbers(option: str, text: str | None, kind: type) -> list[Any] | None:
    """`0.01,0.05` → numbers; None for no text. Raises Refused."""
    if text is None:
        return None
    try:
        return [kind(item) for item in text.split(",")]
    except ValueError:
        what = "whole numbers" if kind is int else "numbers"
        raise Refused(f"{option} takes {what} with commas between, not {text!r}") from None


def tell(quiet: bool, *lines: str) -> None:
    """Lines for people, on standard error."""
    from rich.console import Console

    console = Console(stderr=True, quiet=quiet)
    for line in lines:
        whole = not console.is_terminal
        console.print(readable(line), style="dim", markup=False, highlight=False, soft_wrap=whole)


@contextmanager
def progress_bar(quiet: bool, what: str) -> Iterator[Callable[[int, int], None] | None]:
    """A bar on standard error, where that is a terminal; yields what hears done and total."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield None
        return
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _remarks(trace: Trace, fitted: Fitted, prefixes: list[int] | None) -> Iterator[str]:
    if not trace.complete:
        yield f"{trace.path} is unfinished: these are the {len(trace)} images so far"
    errors = int((trace.images["error"] != "").sum())
    if errors:
        yield f"{errors} of {len(trace)} images could not be classified: they are left out"
    draws, crops = str(trace.attrs.get("order_sampler", "uniform")), trace.crops
    there = {trace.pass_tokens, *trace.attrs.get("prefixes", ())}
    lengths = [m for m in prefixes or [trace.pass_tokens] if m in there]
    if not all("paired" in fitted.of(draws, m, crops).priors for m in lengths):
        yield (
            "no variance priors for such races: paired and marginal use the plain t, strict is left "
            "out; --model or --priors-from name some"
        )


def figures(run: CurveRun, curves: Curves) -> dict[str, Any]:
    """A run in numbers: settings, accuracy (None without labels), agreement, orders, whole passes, saving."""
    import numpy as np

    from anytime_cls.traces.cost import full_passes

    good = run.prediction >= 0
    known = good & (curves.label >= 0)
    fraction = float(run.token_fraction[good].mean())
    orders = run.orders[good]
    return {
        **run.settings,
        "images": int(good.sum()),
        "accuracy": float((run.prediction == curves.label)[known].mean()) if known.any() else None,
        "agreement": float((run.prediction == curves.full)[good].mean()),
        "orders_mean": float(orders.mean()),
        "orders_median": float(np.median(orders)),
        "orders_p95": float(np.quantile(orders, 0.95)),
        "passes": fraction * full_passes(curves.attrs, len(curves.labels)),
        "calls": float(run.passes[good].mean()),
        "token_fraction": fraction,
        "saving": 1 / fraction,
        "seconds": float(run.seconds[good].mean()),
    }


def _show(curves: Curves, every: bool) -> None:
    """The table: a few runs of every curve, or all."""
    from rich.console import Console
    from rich.table import Table

    from anytime_cls.stats.wording import percent

    from .show.output import amount, times

    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("curve", "setting"):
        table.add_column(name)
    for name in ("accuracy", "agreement", "K mean", "median", "95 %", "passes", "saving"):
        table.add_column(name, justify="right")
    hidden = 0
    for name in curves.names:
        runs = curves.curve(name)
        shown = runs if every else _some(runs)
        hidden += len(runs) - len(shown)
        for run in shown:
            row = figures(run, curves)
            accuracy = "" if row["accuracy"] is None else percent(row["accuracy"])
            table.add_row(
                name if run is shown[0] else "", _setting(run), accuracy, percent(row["agreement"]),
                f"{row['orders_mean']:.1f}", f"{row['orders_median']:.0f}", f"{row['orders_p95']:.0f}",
                amount(round(row["passes"], 1)), f"{times(row['saving'])}×",
            )  # fmt: skip
    console = Console()
    if not console.is_terminal:
        console = Console(width=110)
    console.print(table)
    if hidden:
        console.print(f"and {hidden} more runs (--all shows them)", style="dim", highlight=False)


def _some(runs: list[CurveRun]) -> list[CurveRun]:
    """Evenly spread along the curve, the ends included; and δ = 0.05, the default."""
    at = {round(i * (len(runs) - 1) / max(1, POINTS_SHOWN - 1)) for i in range(POINTS_SHOWN)}
    at |= {i for i, run in enumerate(runs) if run.settings.get("delta") == 0.05}
    return [runs[i] for i in sorted(at)]


def _setting(run: CurveRun) -> str:
    knob, value = run.settings["knob"], run.settings["knob_value"]
    if knob == "k_max":
        return f"K {value:g}"
    name = {"delta": "δ", "alpha": "α", "p_value": "p", "price": "λ"}.get(knob, knob)
    return f"{name} {run.settings[knob] if knob == 'stages' else format(value, '.3g')}"
