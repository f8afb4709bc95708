"""`anytime-cls calibrate`: thresholds that hold a stated risk, from a full trace."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from anytime_cls.stats.wording import percent, percent_interval

from . import options as option
from .errors import FAILED, Refused, complain, readable
from .outputs import check_output
from .replay import numbers, progress_bar, tell

Option = typer.Option


def calibrate(
    traces: Annotated[
        list[str],
        typer.Argument(metavar="FULL.h5...", help="What 'sweep --rule fixed' recorded; of several designs, "
                       "a trace each."),
    ],
    risk: Annotated[
        str | None,
        Option(metavar="P,P,...", show_default=False,
               help="Share of images that may be answered otherwise than by all K_max orders. Default: "
               "0.01,0.02,0.05, or none with --accuracy-drop."),
    ] = None,
    accuracy_drop: Annotated[
        str | None,
        Option(metavar="P,P,...", show_default=False,
               help="How far accuracy may fall below that of all K_max orders, for labelled images. Also "
               "finds the price at which rule 'value' holds it."),
    ] = None,
    prefix: Annotated[
        int | None,
        Option(metavar="M", min=1, show_default=False,
               help="Calibrate races on the first M tokens of each order, as recorded by 'sweep "
               "--record-prefixes'. Default: the trace's own passes."),
    ] = None,
    rungs: Annotated[
        str | None,
        Option(metavar="M,M,...", show_default=False,
               help="Prefixes of the first order, as recorded, after which the hopeless may leave; taken "
               "where that makes races cheaper."),
    ] = None,
    screens: Annotated[
        str | None,
        Option(metavar="NAME,...", show_default=False,
               help="Screens, as recorded, that may rank classes before the first order; taken likewise."),
    ] = None,
    confidence: Annotated[
        float, Option(metavar="P", help="How sure each risk is held, over the draw of the fitted images.")
    ] = 0.95,
    value: Annotated[
        bool,
        Option("--value", help="Also a price of rule value for each risk: that stops where more orders "
               "would gain too little."),
    ] = False,
    guarantee: Annotated[
        str,
        Option(metavar="NAME", help="confident: each risk is held for nearly every draw of the fitted "
               "images, as sure as --confidence; mean: on average over them, for fewer passes."),
    ] = "confident",
    split: Annotated[
        float, Option(metavar="P", help="Share of the images to fit on; the figures are of the others.")
    ] = 0.5,
    seed: Annotated[int, Option(metavar="N", min=0, help="Decides which images those are.")] = 0,
    out: Annotated[
        str | None,
        Option("--out", "-o", metavar="CAL.json", show_default=False,
               help="Write what was fitted here, for 'replay --priors-from'."),
    ] = None,
    write_model: Annotated[
        str | None,
        Option(metavar="MODEL", show_default=False,
               help="Add it to this model's model.json (a folder, or an embedded model's name): '--rule "
               "calibrated' then uses it."),
    ] = None,
    priors: Annotated[
        bool, Option("--priors", help="Replace the model's variance priors and temperature too.")
    ] = False,
    recommend: Annotated[
        float | None,
        Option(metavar="P", show_default=False,
               help="Also make the race at this --risk the model's default, for commands that name neither "
               "rule, orders, prefix nor crops. Of several traces the cheapest, of those at most 0.5 points "
               "less accurate than the best."),
    ] = None,
    overwrite: Annotated[bool, Option("--overwrite", help="Replace an --out that is there.")] = False,
    json: Annotated[bool, Option("--json", help="A JSON object a trace, in place of the tables.")] = False,
    quiet: Annotated[bool, Option("--quiet", "-q", help="Nothing on standard error but errors.")] = False,
) -> int:  # fmt: skip
    """Fit the rule 'calibrated': as few passes as a stated risk of another answer allows.

    The guarantee needs no assumption on the scores: with --confidence, images drawn as those of the trace
    are answered otherwise than by all K_max orders with at most the risk (Learn then Test). It holds for the
    trace's K_max, classes, order sampler and prefix.

    \b
    Example: anytime-cls calibrate full.h5 --risk 0.01 --out cal.json
             anytime-cls calibrate full.h5 --prefix 16 --write-model MODEL
             anytime-cls calibrate full.h5 --accuracy-drop 0.01
             anytime-cls calibrate m4.h5 m8.h5 --write-model M --recommend 0.01
    """
    drops = numbers("--accuracy-drop", accuracy_drop, float) or []
    risks = numbers("--risk", risk or (None if drops else "0.01,0.02,0.05"), float) or []
    stages = [*option.listed(screens), *(numbers("--rungs", rungs, int) or [])]
    if guarantee not in ("confident", "mean"):
        raise Refused(f"--guarantee is confident or mean, not {guarantee!r}")
    designs = len(traces) if recommend is not None else 1
    if priors and write_model is None:
        raise Refused("--priors replaces those of a model: name it with --write-model")
    if recommend is not None and (write_model is None or recommend not in risks):
        raise Refused("--recommend takes one of the --risk values, and a model to write: --write-model")
    if out is not None:
        check_output("--out", Path(out), overwrite, traces)
        if len(traces) > 1:
            raise Refused("--out holds the calibration of one trace: give one, or --write-model")

    from anytime_cls.certify.store import best_calibration, store_calibration, write_json
    from anytime_cls.certify.thresholds import calibrate_trace
    from anytime_cls.models.card import WEIGHTS, ModelError
    from anytime_cls.models.zoo import read_card
    from anytime_cls.traces.read import Trace

    calibrations = []
    try:
        with ExitStack() as opened:
            recorded = [opened.enter_context(Trace.open(trace)) for trace in traces]
            if write_model is not None:  # before the work
                card = read_card(write_model)
                sha = card.sha256[WEIGHTS[0]]
                for trace in recorded:
                    if trace.attrs.get("model_sha256") != sha:
                        raise Refused(f"{trace.path} was recorded with other weights than {write_model}'s")
            for trace in recorded:
                with progress_bar(quiet, "races") as progress:
                    calibrations.append(calibrate_trace(
                        trace, risks, confidence, split, seed, drops, prefix, stages, designs,
                        guarantee == "mean", value, progress,
                    ))  # fmt: skip
    except ValueError as error:
        raise Refused(str(error)) from None
    try:
        if out is not None:
            write_json(Path(out), calibrations[0])
            tell(quiet, f"{out}: {len(calibrations[0]['calibrated'])} calibrations")
        if write_model is not None:
            best = -1 if recommend is None else best_calibration(calibrations, recommend)
            for i, fitted in enumerate(calibrations):
                path = store_calibration(card, fitted, priors, recommend if i == best else None)
                card = read_card(write_model)
            tell(quiet, f"{path}: calibrations added")
            if recommend is not None and len(traces) > 1:
                tell(quiet, f"recommended: {traces[best]}")
    except ModelError as error:
        return complain(str(error), FAILED)
    for name, fitted in zip(traces, calibrations, strict=True):
        if json:
            from .show.output import print_json

            print_json(fitted)
            continue
        if len(traces) > 1:
            print(f"\n{readable(name)}")
        _show(fitted, confidence)
    return 0


def _show(fitted: dict[str, Any], confidence: float) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("held")
    table.add_column("rule")
    for name in ("threshold", "fitted: errors", f"{100 * confidence:g} % bound", "held out: passes", "saving",
                 "disagreement (95 % interval)", "accuracy"):  # fmt: skip
        table.add_column(name, justify="right")
    for entry in fitted["calibrated"]:
        held = entry["held_out"]
        table.add_row(
            _held(entry), "calibrated", f"α {entry['alpha']:.3g}", *_fitted(entry), *_measured(held)
        )
        if screening := entry.get("screening"):
            worth = f"{screening['gap']:.3g} nats, worth {screening['weight']:.2g} orders"
            table.add_row("", f"  screen {screening['screen']}", worth)
        for m, gap in entry.get("rungs", ()):
            table.add_row("", f"  rung at {m} tokens", f"{gap:.3g} nats")
        for other in fitted.get("prices", ()):
            if (other["loss"], other["risk"]) == (entry["loss"], entry["risk"]):
                price = f"λ {other['price']:.3g}"
                table.add_row("", "value", price, *_fitted(other), *_measured(other["held_out"]))
        peer = f"paired, δ {entry['risk']:g}"
        table.add_row("", peer, "", "", "", *_measured(held["paired"]), style="dim")
    console = Console()
    if not console.is_terminal:
        console = Console(width=140)
    console.print(table)
    first = fitted["calibrated"][0]
    held = first["held_out"]
    images = (fitted.get("designs") or [fitted])[0]["calibration_images"]
    orders = f"{first['k_max']} orders" + (f" of {first['prefix']} tokens" if "prefix" in first else "")
    orders += f" on {first['crops']} crops" if "crops" in first else ""
    full = (
        f"; all {orders}: accuracy {percent(held['full_accuracy']['value'])}"
        if "full_accuracy" in held
        else ""
    )
    console.print(
        f"priors on {images} images, thresholds on {first['images']}, held out {held['images']}{full}",
        style="dim", highlight=False,
    )  # fmt: skip
    for entry in fitted.get("abstain", ()):
        held = f", risk {entry['risk']:g}" if "risk" in entry else ""
        places = ", ".join(f"{100 * float(p):g} %: {nats:.3g}" for p, nats in entry["thresholds"].items())
        console.print(
            f"evidence of none of these, {entry['rule']}{held}: nats at false alarms of {places}",
            style="dim", highlight=False,
        )  # fmt: skip


def _held(entry: dict[str, Any]) -> str:
    return f"{'risk' if entry['loss'] == 'disagreement' else 'drop'} {entry['risk']:g}"


def _fitted(entry: dict[str, Any]) -> tuple[str, str]:
    return f"{entry['errors']}", percent(entry["upper"], 2)


def _measured(row: dict[str, Any]) -> tuple[str, ...]:
    wrong = row["disagreement"]
    accuracy = percent(row["accuracy"]["value"]) if "accuracy" in row else ""
    return (
        f"{row['whole_passes']:.1f}", f"{row['saving']:.1f}×",
        percent_interval(wrong["value"], wrong["low"], wrong["high"], 2), accuracy,
    )  # fmt: skip
