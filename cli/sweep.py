"""`anytime-cls sweep`: race a whole data set and record everything, safe from being killed."""

from __future__ import annotations

from typing import Annotated

import typer

from . import options as option
from .errors import Refused
from .help import MODEL
from .preset import apply_preset
from .sweep_run import LOCAL, Output, Sweep, Workers, run

Option = typer.Option


def sweep(
    context: typer.Context,
    dataset: Annotated[
        str,
        typer.Argument(
            metavar="NAME|PATH",
            help="imagenet, imagenet-v2, -r, -a, -sketch, imagenet-c/CORRUPTION/SEVERITY, cifar10, "
            "tiny-imagenet, a folder of class folders, hfds:NAME or wds:URL.",
        ),
    ],
    model: option.Model = "cifar10",
    rule: option.Rule = None,
    delta: option.Delta = None,
    max_orders: option.MaxOrders = None,
    orders: option.Orders = None,
    prefix: option.Prefix = None,
    screen: option.Screen = None,
    crops: option.Crops = None,
    latent_noise: option.LatentNoise = 0.0,
    preset: option.Preset = None,
    seed: Annotated[int, Option(metavar="N", help="Decides the random orders, and --limit's choice.")] = 0,
    budget: Annotated[
        str | None,
        Option(metavar="AMOUNT", show_default=False, help="Most to spend on an image, as in 'classify'."),
    ] = None,
    classes: Annotated[
        str | None,
        Option(
            rich_help_panel=MODEL, metavar="A,B,...", show_default=False,
            help="Race only these classes, by name, synset or id; 'known': of the images only those whose "
            "class the model knows.",
        ),
    ] = None,
    limit: Annotated[
        int | None,
        Option(min=1, metavar="N", show_default=False, help="Only N images, spread evenly over the classes."),
    ] = None,
    ids: Annotated[
        str | None,
        Option(metavar="FILE", show_default=False, help="Only the images listed here, an id a line."),
    ] = None,
    root: Annotated[
        str | None,
        Option(metavar="DIR", show_default=False, help="Where the data set is; else IMAGENET_ROOT and such."),
    ] = None,
    labels: Annotated[
        str | None,
        Option(metavar="FILE", show_default=False, help="Names of the classes, where folders do not say."),
    ] = None,
    shift: Annotated[
        str | None,
        Option(metavar="NAME[:HOW]", show_default=False,
               help="Shift every image, as fog:5, corruptions, sketch or patch:0 (docs/shifts.md)."),
    ] = None,
    record_prefixes: Annotated[
        str | None,
        Option(
            metavar="M,M,...",
            show_default=False,
            help="Record the log-likelihood after so many tokens too; costs no further pass.",
        ),
    ] = None,
    record_screens: Annotated[
        str | None,
        Option(metavar="NAME,...", show_default=False,
               help="Record the estimates of these screens too: table, gradient."),
    ] = None,
    trace: Annotated[
        str | None,
        Option(
            "--trace", "-o", metavar="OUT.h5", show_default=False,
            help="The trace to write. Default: DATASET-MODEL-RULE.h5 in this folder.",
        ),
    ] = None,
    resume: Annotated[bool, Option("--resume", help="Go on with a trace that was cut short.")] = False,
    overwrite: Annotated[bool, Option("--overwrite", help="Replace a trace that is there.")] = False,
    workers: Annotated[
        int, Option(min=1, metavar="N", help="Processes on this machine, one a CUDA device; or Ray actors.")
    ] = 1,
    engine: Annotated[
        str, Option(metavar="NAME", help="Where workers run: local, or ray (pip install ray).")
    ] = LOCAL,
    address: Annotated[
        str | None,
        Option(
            metavar="HOST:PORT",
            show_default=False,
            help="The Ray cluster. Default: $RAY_ADDRESS, this machine's, or a new one for the run.",
        ),
    ] = None,
    shard: Annotated[
        str | None,
        Option(
            metavar="i/n",
            show_default=False,
            help="Only the i-th (1 to n) of n shares, into a file of its own; 'trace merge' joins them.",
        ),
    ] = None,
    device: option.Device = "auto",
    dtype: option.Dtype = "float32",
    threads: option.Threads = None,
    batch_size: option.BatchSize = "auto",
    max_pixels: option.MaxPixels = None,
    quiet: option.Quiet = False,
    json: Annotated[
        bool, Option("--json", help="One JSON object at the end, in place of the table.")
    ] = False,
) -> int:  # fmt: skip
    """Classify every image of a data set, and record every log-likelihood in a trace.

    Killed at any moment, the same command with --resume goes on from there, to the same trace as if nothing
    had happened. Ctrl-C ends the batch in flight and prints that command; a second one quits at once.

    Exit codes: 0 all classified, 1 some images or the run failed, 2 the command makes no sense, 130
    interrupted.

    \b
    Example: anytime-cls sweep cifar10 --root data/cifar10 --rule fixed
             anytime-cls sweep imagenet --model randar-l --workers 8 --resume
    """
    asked, note, set_by_it = apply_preset(context, preset, {
        "rule": rule, "delta": delta, "max_orders": max_orders, "budget": budget, "seed": seed,
        "orders": orders, "prefix": prefix, "screen": screen, "crops": crops,
        "latent_noise": latent_noise, "dtype": dtype,
    })  # fmt: skip
    out = Output(trace, resume, overwrite, quiet, json, tuple(context.obj))
    try:
        out.check()
        rows = option.batch_size(batch_size)
        asked["prefixes"] = _prefixes(record_prefixes)
        asked["screens"] = option.listed(record_screens)
        crew = Workers(workers, engine, address)
        from anytime_cls.datasets.names import class_names, open_dataset
        from anytime_cls.models.zoo import read_card
        from anytime_cls.plan.options import RaceOptions, dtype_name
        from anytime_cls.scorers.registry import is_third_party
        from anytime_cls.sweeps.sweep import sweep_plan

        dtype = dtype_name(asked.pop("dtype"))
        options, given = RaceOptions(**asked), option.names(classes)
        if is_third_party(model.partition(":")[0]):  # it may have no classes but the data set's
            given = given or class_names(dataset, root)
        card = read_card(model, given)
        data = open_dataset(
            dataset, card, root=root, classes=option.names(classes), limit=limit, ids=ids,
            labels_file=labels, seed=seed, shift=shift,
        )  # fmt: skip
        plan = sweep_plan(data, card, options, set_by_it)
        job = Sweep(model, card, plan, data, crew, out, shard, device, dtype, rows, threads)
    except ValueError as error:
        raise Refused(str(error)) from None
    return run(job, note)


def _prefixes(text: str | None) -> tuple[int, ...]:
    """Ascending token counts. Raises ValueError."""
    items = [item.strip() for item in (text or "").split(",") if item.strip()]
    if not all(item.isdecimal() and int(item) > 0 for item in items):
        raise ValueError(f"--record-prefixes is a list of token counts, as 8,16,32, not {text!r}")
    return tuple(sorted({int(item) for item in items}))
