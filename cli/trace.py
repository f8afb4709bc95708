"""`anytime-cls trace`: look into traces, join the shards of a run, export them for other programs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .errors import FAILED, USAGE, Refused, complain, explained, readable
from .help import App
from .outputs import check_output

if TYPE_CHECKING:
    from anytime_cls.traces.read import Trace
    from anytime_cls.traces.schema import TraceError

app = App(help="Look into traces, join shards, import and export them.")


_FORMATS = (".csv", ".parquet", ".npz")  # of export


@app.command("info")
def info(
    files: Annotated[
        list[str], typer.Argument(metavar="FILES", help="Traces, of unfinished runs too.", show_default=False)
    ],
    json: Annotated[bool, typer.Option("--json", help="One JSON object a file.")] = False,
) -> int:
    """Show where a trace came from and what it came to.

    RUN.h5 of a run that is not finished is read from the folder RUN.h5.parts. Of a file that 'replay' wrote,
    which is no trace, it says what is in it. Exit code 2 if a file is neither; the others are shown.

    \b
    Example: anytime-cls trace info runs/*.h5
             anytime-cls trace info run.h5 --json | jq .accuracy
    """
    from anytime_cls.traces.read import Trace
    from anytime_cls.traces.schema import TraceError

    from .show.output import print_json
    from .show.trace import describe, describe_curves, print_info

    code = shown = 0
    for name in files:
        try:
            with Trace.open(_meant(name)) as trace:
                found = describe(trace)
        except TraceError as error:
            curves = describe_curves(_meant(name))
            if curves is None:
                code = complain(str(error), USAGE)
                continue
            found = curves
        except OSError as error:
            code = max(code, complain(explained(error), FAILED))
            continue
        if json:
            print_json(found)
        else:
            print_info(found, apart=shown > 0)
        shown += 1
    return code


@app.command("merge")
def merge(
    files: Annotated[
        list[str], typer.Argument(metavar="FILES", help="The shards' traces.", show_default=False)
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="OUT.h5", help="The joined trace.", show_default=False)
    ],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT.h5 if it is there.")] = False,
    allow_unfinished: Annotated[
        bool,
        typer.Option(
            "--allow-unfinished", help="Take unfinished shards too; OUT.h5 then counts as unfinished."
        ),
    ] = False,
) -> int:
    """Join the shards of one run into one trace.

    They must agree in model, data set, classes, seed, rule and whatever else decides the numbers. Images are
    put in the order of the run; one that is in several shards is taken from the first. OUT.h5 is there whole
    or not at all.

    Example: anytime-cls trace merge part1.h5 part2.h5 part3.h5 -o run.h5
    """
    from anytime_cls.traces.merge import merge_traces
    from anytime_cls.traces.read import Trace
    from anytime_cls.traces.schema import TraceError

    from .show.trace import images_to_do

    paths = [_meant(name) for name in files]
    check_output("-o", out, overwrite, paths)
    try:
        _check_images(paths)
        merge_traces(paths, out, overwrite, allow_unfinished)
        with Trace.open(out) as trace:
            found, errors = len(trace), int((trace.images["error"] != "").sum())
            total = images_to_do(trace.attrs) or found
    except TraceError as error:
        return _failed(error)
    failed = f", {errors:,} of them failed" if errors else ""
    of = f" of the run's {total:,}" if total != found else ""
    print(readable(f"{out}: {found:,}{of} images from {len(paths)} traces{failed}"))
    return 0


@app.command("import")
def import_(
    context: typer.Context,
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILES", show_default=False,
            help="Results of another program: .pt, .pth, .npy or .npz files, or folders of them.",
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="OUT.h5", help="The trace.", show_default=False)
    ],
    names: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", show_default=False,
            help="What classes are called: a line each, or a CSV file with columns classname and classidx.",
        ),
    ] = None,
    targets: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", show_default=False,
            help="Each image's class number, where the results do not say: lines, .npy or .pt.",
        ),
    ] = None,
    elements: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, show_default=False,
            help="Numbers of the latent that a squared error is the mean of. Default: 16384 (of 512 pixels); "
            "of DiT's 256 pixels 4096.",
        ),
    ] = None,
    common: Annotated[
        bool,
        typer.Option("--common", help="Keep only the draws that every class has: they can be replayed."),
    ] = False,
    in_order: Annotated[
        bool,
        typer.Option("--in-order", help="Keep draws as they were taken; else each image's are shuffled."),
    ] = False,
    dataset: Annotated[str, typer.Option(metavar="NAME", help="What the images are called.")] = "imported",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT.h5 if it is there.")] = False,
) -> int:  # fmt: skip
    """Make a trace of another program's results: replay, calibrate and plot it without a GPU.

    Read are diffusion-classifier's results, a file an image (eval_prob_adaptive.py) or a folder a class
    (eval_prob_dit.py), and ar-classifier's likelihoods [images, trials, classes]. No code in a file is run.

    \b
    Example: anytime-cls trace import runs/v2-0_1trials/ --names cifar10_prompts.csv -o sd.h5
             anytime-cls trace import likelyhoods.pt --targets targets.npy -o randar.h5
             anytime-cls replay randar.h5 -o curves.h5
    """
    from .trace_import import run

    return run(files, out, names, targets, elements, common, in_order, dataset, overwrite, tuple(context.obj))


@app.command("export")
def export(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A trace.", show_default=False)],
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", metavar="OUT", help="OUT.csv, OUT.parquet or OUT.npz.", show_default=False
        ),
    ],
    scores: Annotated[
        bool, typer.Option("--scores", help="One log-likelihood a row, instead of one image a row.")
    ] = False,
    form: Annotated[
        str | None,
        typer.Option(
            "--format", metavar="NAME", show_default=False, help="csv, parquet or npz, whatever OUT ends in."
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT if it is there.")] = False,
) -> int:
    """Write a trace as CSV, Parquet or NumPy's npz.

    Rows are images: the columns of docs/trace.md, and the names of label and prediction. With --scores they
    are log-likelihoods in the order they were scored: id, order, cls (index of the class), cls_name, prefix,
    round, value (nats), and covariate where draws have one; a trace may then be larger than memory. Parquet
    needs pandas and pyarrow. An .npz has both, images and scores, as arrays: docs/trace.md says which.

    \b
    Example: anytime-cls trace export run.h5 -o images.csv
             anytime-cls trace export run.h5 --scores -o scores.parquet
             anytime-cls trace export full.h5 --format npz -o full.npz
    """
    from anytime_cls.traces.export import (
        export_csv,
        export_npz,
        export_parquet,
        export_scores_csv,
        export_scores_parquet,
    )
    from anytime_cls.traces.read import Trace
    from anytime_cls.traces.schema import TraceError

    kind = out.suffix.lower() if form is None else f".{form.lower()}"
    if kind not in _FORMATS:
        named = "--format" if form else f"{out}: its end, or --format,"
        raise Refused(f"{named} says what to write: csv, parquet or npz")
    if scores and kind == ".npz":
        raise Refused("an .npz has images and scores: leave --scores out")
    check_output("-o", out, overwrite, [file])
    try:
        with Trace.open(_meant(file)) as trace, _whole(out) as temporary:
            what = f"{len(trace):,} images"
            if kind == ".npz":
                rows = export_npz(trace, temporary, _with_progress(trace))
                what = f"{rows:,} log-likelihoods of {what}"
            elif scores:
                write_scores = export_scores_csv if kind == ".csv" else export_scores_parquet
                rows = write_scores(trace, temporary, _with_progress(trace))
                what = f"{rows:,} log-likelihoods of {what}"
            else:
                _make_utf8(trace)
                (export_csv if kind == ".csv" else export_parquet)(trace, temporary)
            note = "" if trace.complete else " (the run is not finished)"
    except TraceError as error:
        return _failed(error)
    print(readable(f"{out}: {what}{note}"))
    return 0


def _meant(name: str) -> Path:
    """The trace that is meant: also by the folder of an unfinished one's parts."""
    path = Path(name)
    return path.with_suffix("") if path.suffix == ".parts" and path.is_dir() else path


def _failed(error: TraceError) -> int:
    """The exit code: 1 if the system would not read or write, 2 if what was asked for makes no sense."""
    cause = error.__cause__
    return complain(str(error), FAILED if isinstance(cause, OSError) and cause.errno else USAGE)


def _check_images(paths: list[Path]) -> None:
    """Refuses shards with different images at one position of the run, or one image at two.

    Shards whose provenance differs are left to `merge_traces`, which says in what.
    """
    from anytime_cls.traces.read import Trace
    from anytime_cls.traces.schema import MATCH_KEYS

    run: list[Any] | None = None
    at: dict[int, tuple[str, Path]] = {}
    of: dict[str, tuple[int, Path]] = {}
    for path in paths:
        with Trace.open(path) as shard:
            now = [shard.labels, *map(shard.attrs.get, MATCH_KEYS)]
            run = run or now
            if now != run:
                return
            for index, key in zip(shard.images["index"].tolist(), shard.images["id"], strict=True):
                other, first = at.setdefault(index, (key, path))
                if other != key:
                    raise Refused(f"cannot merge {path} with {first}: they are of different images; number "
                                  f"{index} of the run is {other!r} there and {key!r} here")  # fmt: skip
                place, first = of.setdefault(key, (index, path))
                if place != index:
                    raise Refused(f"cannot merge {path} with {first}: they are of different runs; image "
                                  f"{key!r} is number {place} there and {index} here")  # fmt: skip


@contextlib.contextmanager
def _whole(out: Path) -> Iterator[Path]:
    """`files.replacing`, whose errors, and the exporters', are TraceErrors that name `out`."""
    from anytime_cls.files import replacing
    from anytime_cls.traces.schema import TraceError

    temporary = out
    try:
        with replacing(out) as temporary:
            yield temporary
    except TraceError as error:
        raise TraceError(str(error).replace(str(temporary), str(out))) from error.__cause__
    except OSError as error:
        raise TraceError(f"cannot write {out}: {error.strerror or error}") from error


def _with_progress(trace: Trace) -> Any:
    """The images of a trace and their scores, with a progress bar where standard error is a terminal."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return track(
        trace, "exporting", len(trace), console=console, transient=True, disable=not console.is_terminal
    )


def _make_utf8(trace: Trace) -> None:
    """File names that are not UTF-8 show their bytes as \\udcXX, which pandas would trip over."""
    for values in trace.images.values():
        if values.dtype == object:
            values[:] = [text.encode("utf-8", "backslashreplace").decode() for text in values]
    trace.labels = [label.encode("utf-8", "backslashreplace").decode() for label in trace.labels]
