"""`anytime-cls`: the commands and their options. A command's work and imports are in its own file."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from anytime_cls import __version__

from . import options as option
from . import streams
from .bench import bench
from .budget import budget
from .calibrate import calibrate
from .compare import compare
from .curve import curve
from .errors import FAILED, INTERRUPTED, PIPE, USAGE, Refused, complain, explained, out_of_memory
from .explain import explain
from .help import CLASSIFY, HERE, MEASURE, MODELS, OUTPUT, RACE, App
from .models import app as models_app
from .plot import plot
from .preset import apply_preset
from .replay import replay
from .serve import serve
from .sweep import sweep
from .trace import app as trace_app
from .train import train

app = App(add_completion=True)

Option = typer.Option
TRY = """\
anytime-cls classify photo.jpg              # what is in it, and how sure
anytime-cls classify photos/ --budget 0.5s  # a line each, in half a second
anytime-cls models ls                       # which models there are
anytime-cls train FOLDER --out MODEL        # a model of your own classes
anytime-cls --help                          # all commands"""


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"anytime-cls {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    """Classify images with a generative model, spending only what each image needs.

    A race scores log p(image | class) under random token orders, one order after the other, and drops
    classes as soon as they cannot win.
    """
    if context.invoked_subcommand is None:
        typer.echo(TRY)


@app.command("classify", rich_help_panel=CLASSIFY)
def _classify(
    context: typer.Context,
    images: Annotated[
        list[str] | None,
        typer.Argument(metavar="IMAGES", help="Files, folders, globs, or - (an image on stdin)."),
    ] = None,
    model: option.Model = "cifar10",
    budget: Annotated[
        str | None,
        Option(
            rich_help_panel=RACE,
            metavar="AMOUNT",
            show_default=False,
            help="Most to spend on an image: 0.5s, 800ms, 2m, 200passes, 8orders or 3TFLOP. Seconds run from "
            "the decoded image to the answer. Without one: until stable, or --max-orders.",
        ),
    ] = None,
    delta: option.Delta = None,
    rule: option.Rule = None,
    max_orders: option.MaxOrders = None,
    top: Annotated[
        int | None,
        Option(
            rich_help_panel=OUTPUT,
            min=1,
            metavar="N",
            show_default=False,
            help="Classes of the ranking, best first. Default: 5; of many pictures in text 1.",
        ),
    ] = None,
    abstain_below: Annotated[
        float | None,
        Option(
            rich_help_panel=OUTPUT,
            metavar="P",
            show_default=False,
            help="Mark answers of a lower probability as abstained: 'abstained' in JSON.",
        ),
    ] = None,
    abstain: option.Abstain = None,
    classes: option.Classes = None,
    seed: option.Seed = 0,
    orders: option.Orders = None,
    prefix: option.Prefix = None,
    screen: option.Screen = None,
    aggregate: Annotated[
        str,
        Option(
            rich_help_panel=RACE,
            metavar="NAME",
            help="Over orders: mean (of log p), logmeanexp or softmax; the last two need --rule fixed.",
        ),
    ] = "mean",
    crops: option.Crops = None,
    latent_noise: option.LatentNoise = 0.0,
    preset: option.Preset = None,
    device: option.Device = "auto",
    dtype: option.Dtype = "float32",
    threads: option.Threads = None,
    batch_size: option.BatchSize = "auto",
    files_from: Annotated[
        str | None,
        Option(metavar="FILE", show_default=False, help="A list of images too, a path a line; - is stdin."),
    ] = None,
    format: Annotated[
        str,
        Option(
            rich_help_panel=OUTPUT,
            metavar="NAME",
            help="text (columns for people), json (a list), jsonl (an object a line) or csv.",
        ),
    ] = "text",
    json: Annotated[bool, Option("--json", rich_help_panel=OUTPUT, help="As --format jsonl.")] = False,
    verbose: Annotated[
        bool,
        Option("--verbose", "-v", rich_help_panel=OUTPUT, help="What it took, beneath every answer."),
    ] = False,
    trace: Annotated[
        str | None,
        Option(
            rich_help_panel=OUTPUT,
            metavar="OUT.h5",
            show_default=False,
            help="Record every log-likelihood, in a new HDF5 file.",
        ),
    ] = None,
    live: Annotated[
        bool | None,
        Option(
            "--live/--no-live",
            rich_help_panel=OUTPUT,
            show_default=False,
            help="Draw the race. Default: one image, on a terminal.",
        ),
    ] = None,
    max_pixels: option.MaxPixels = None,
    quiet: option.Quiet = False,
) -> int:
    """Classify images: a label, how sure, and what it cost.

    Exit codes: 0 all classified, 1 some failed, 2 the command makes no sense, 130 interrupted.

    \b
    Example: anytime-cls classify photo.jpg --budget 0.5s
             anytime-cls classify photos/ --json > answers.jsonl
    """
    from . import classify

    asked, note, set_by_it = apply_preset(context, preset, {
        "rule": rule, "delta": delta, "max_orders": max_orders, "budget": budget,
        "classes": option.names(classes), "seed": seed, "orders": orders, "prefix": prefix, "screen": screen,
        "aggregate": aggregate, "crops": crops, "latent_noise": latent_noise, "dtype": dtype,
    })  # fmt: skip
    if json and format not in ("text", "json", "jsonl"):
        raise Refused(f"--json and --format {format} say two things: leave one out")
    chosen = "jsonl" if json and format == "text" else format
    output = classify.Output(
        top, chosen, trace, live, quiet, tuple(context.obj), abstain_below, abstain, verbose
    )
    return classify.run(
        images or [], files_from, model, asked, device, batch_size, output, note, set_by_it, threads
    )


@app.command("doctor", rich_help_panel=HERE)
def _doctor(
    model: option.Model = "cifar10",
    device: option.Device = "auto",
    dtype: option.Dtype = "float32",
    threads: option.Threads = None,
    json: Annotated[bool, Option("--json", help="One JSON object.")] = False,
) -> int:
    """Check this machine: versions, devices, and measured passes per second.

    Takes a few seconds, and measures anew what a batch costs here, which budgets in seconds rely on.
    Exit code 1 if something is broken.
    """
    from . import doctor

    return doctor.run(model, device, dtype, json, threads)


app.command("serve", rich_help_panel=CLASSIFY)(serve)
app.command("explain", rich_help_panel=CLASSIFY)(explain)
app.command("curve", rich_help_panel=MEASURE)(curve)
app.command("budget", rich_help_panel=MEASURE)(budget)
app.command("sweep", rich_help_panel=MEASURE)(sweep)
app.command("replay", rich_help_panel=MEASURE)(replay)
app.command("plot", rich_help_panel=MEASURE)(plot)
app.command("compare", rich_help_panel=MEASURE)(compare)
app.command("calibrate", rich_help_panel=MEASURE)(calibrate)
app.add_typer(trace_app, name="trace", rich_help_panel=MEASURE)
app.add_typer(models_app, name="models", rich_help_panel=MODELS)
app.command("train", rich_help_panel=MODELS)(train)
app.command("bench", rich_help_panel=HERE)(bench)


def _wait_politely() -> None:
    """Let torch's threads give up their core soon when they wait for one another.

    libgomp lets them spin for long, so beside other busy processes each loop waits for a thread that has no
    core to run on. Read when torch is loaded; says nothing where the user has said something.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "20000")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    _wait_politely()
    try:
        with streams.ready():
            code = run(arguments)
            try:
                sys.stdout.flush()
            except OSError as error:
                streams.silence(sys.stdout)
                broken = isinstance(error, BrokenPipeError)
                code = code or (PIPE if broken else complain(explained(error), FAILED))
            return code
    except Refused as error:
        return complain(str(error), USAGE)


def run(arguments: list[str]) -> int:
    """The exit code; what goes wrong for reasons outside of this program is said in one line."""
    usage_error: type[Exception] = typer.BadParameter.__bases__[0]  # click's, wherever this typer keeps it
    try:
        result = app(args=arguments, obj=arguments, prog_name="anytime-cls", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except Refused as error:
        return complain(str(error), USAGE)
    except (KeyboardInterrupt, typer.Abort):
        return complain("interrupted", INTERRUPTED)
    except usage_error as error:
        text = error.format_message()  # type: ignore[attr-defined]
        return complain(f"{' '.join(text.split())} (--help shows the options)", USAGE)
    except OSError as error:
        return complain(explained(error), FAILED)
    except SystemExit as error:  # click and rich leave so when the reader of our output has seen enough
        if not isinstance(error.__context__, BrokenPipeError):
            raise
        streams.silence(sys.stdout)
        return PIPE
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        return complain("there is not enough memory: try a smaller model, image or batch", FAILED)
