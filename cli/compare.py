"""`anytime-cls compare`: several methods on the same images, as a table and one picture."""

from __future__ import annotations

import io
import json as json_
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options as option
from .errors import FAILED, INTERRUPTED, Refused, complain, readable

if TYPE_CHECKING:
    from anytime_cls.curves.compared import Compared
    from anytime_cls.curves.file import Curves
    from anytime_cls.sweeps.contest import Contest, Job

    from .show.sweep import Interrupts

Option = typer.Option


def compare(
    context: typer.Context,
    dataset: Annotated[str, typer.Argument(metavar="NAME|PATH", help="A data set, as 'sweep' takes it.")],
    models: Annotated[
        list[str] | None,
        Option(
            "--models", metavar="A,B,...", show_default=False,
            help="Models as 'classify --model' takes them; NAME:raster reads one in raster order. The first "
            "autoregressive one is what the others are held against.",
        ),
    ] = None,
    rules: Annotated[
        str | None,
        Option(metavar="NAME,...", show_default=False,
               help="Race only by these rules (fixed K is always there). Default: all that a model has."),
    ] = None,
    shift: Annotated[
        list[str] | None,
        Option(
            "--shift", metavar="NAME,...", show_default=False,
            help="Sets of images: clean (default), corruptions, fog:5, fog:each, sketch, ... "
            "(docs/shifts.md), or other data sets. Rules are chosen on the first.",
        ),
    ] = None,
    out: Annotated[
        Path, Option("--out", "-o", metavar="FOLDER", help="Traces, curves, table and picture go here.")
    ] = Path("compare"),
    limit: Annotated[
        int | None,
        Option(min=1, metavar="N", show_default=False, help="Only N images, spread evenly over the classes."),
    ] = None,
    root: Annotated[
        str | None,
        Option(metavar="DIR", show_default=False, help="Where the data set is; else CIFAR10_ROOT and such."),
    ] = None,
    classes: option.Classes = None,
    max_orders: Annotated[int, Option(min=1, max=65535, metavar="K", help="Orders of an image.")] = 20,
    max_draws: Annotated[
        int, Option(min=1, max=65535, metavar="N", help="Times and noises of an image, of diffusion models.")
    ] = 48,
    time_images: Annotated[
        int,
        Option(min=0, metavar="N", help="Images that each method classifies live, for seconds and memory."),
    ] = 32,
    seed: Annotated[int, Option(min=0, metavar="N", help="Decides orders, shifts and resamples.")] = 0,
    bootstrap: Annotated[
        int, Option(min=0, max=100_000, metavar="N", help="Resamples of the images.")
    ] = 1000,
    resume: Annotated[
        bool, Option("--resume", help="Go on in a folder; models and shifts may be added.")
    ] = False,
    device: option.Device = "auto",
    dtype: option.Dtype = "float32",
    batch_size: option.BatchSize = "auto",
    threads: option.Threads = None,
    quiet: option.Quiet = False,
    json: Annotated[
        bool, Option("--json", help="One JSON object at the end, in place of the tables.")
    ] = False,
) -> int:  # fmt: skip
    """Compare methods on the same images: accuracy, compute, seconds, memory, calibration.

    Every method is recorded in full once, raced under every rule without the model, and stands at the rule
    that is best for it, chosen on other images than it is measured on. The folder has compare.html (tables
    and picture on one page), compare.md, compare.csv and compare.png, and the traces, from which 'plot' draws
    more.

    Exit codes: 0 done, 1 some images or the run failed, 2 the command makes no sense, 130 interrupted.

    \b
    Example: anytime-cls compare cifar10 --models cifar10,cifar10:raster --limit 100
             anytime-cls compare cifar10 --models cifar10 --shift clean,corruptions,sketch -o shifted
    """
    where = Folder(out, resume, quiet, tuple(context.obj))
    where.check()
    try:
        rows = option.batch_size(batch_size)
        from anytime_cls.engine.device import choose_device
        from anytime_cls.engine.threads import threads_each
        from anytime_cls.plan.options import dtype_name
        from anytime_cls.plan.plan import Runtime
        from anytime_cls.race.registry import CALIBRATED, RULES
        from anytime_cls.sweeps.contest import Contest, entrants, image_sets

        specs = list(dict.fromkeys(name for text in models or () for name in named(text)))
        wanted = None if rules is None else list(option.listed(rules))
        if strange := [name for name in wanted or () if name not in (*RULES, CALIBRATED)]:
            raise ValueError(f"unknown rule {strange[0]!r}: choose from {', '.join((*RULES, CALIBRATED))}")
        sets = image_sets(dataset, [name for text in shift or () for name in option.listed(text)])
        here = str(choose_device(device))
        most = threads or (threads_each() if here == "cpu" else None)
        runtime = Runtime(here, dtype_name(dtype), rows, most, fixed=threads is not None)
        contest = Contest(
            out, entrants(specs, dataset, root, option.names(classes)), sets, root, option.names(classes),
            limit, seed, max_orders, max_draws, runtime, where.command,
        )  # fmt: skip
        jobs = contest.jobs()
        for job in jobs:
            _ = job.plan  # says what makes no sense before any model is loaded
    except ValueError as error:
        raise Refused(str(error)) from None
    return run(contest, jobs, wanted, where, time_images, bootstrap, json)


def named(text: str) -> list[str]:
    """Models between commas; what follows a comma as NAME=VALUE is of the model before it."""
    found: list[str] = []
    for part in option.names(text) or ():
        if found and part.partition("=")[0].isidentifier() and "=" in part:
            found[-1] += f",{part}"
        else:
            found.append(part)
    return found


@dataclass(frozen=True)
class Folder:
    """Where everything goes. command: the arguments as they were typed."""

    path: Path
    resume: bool
    quiet: bool
    typed: tuple[str, ...]

    def check(self) -> None:
        """Raises Refused."""
        path = self.path
        if path.exists() and not path.is_dir():
            raise Refused(f"{path} is a file: -o names a folder")
        if not path.absolute().parent.is_dir():
            raise Refused(f"{path.absolute().parent} is not a folder: -o makes one in an existing one")
        if (path / "traces").exists() and not self.resume:
            raise Refused(
                f"{path} has a comparison already: go on with --resume, or name another folder (-o)"
            )

    @property
    def command(self) -> str:
        from .record import typed

        return typed(self.typed)

    @property
    def again(self) -> str:
        """The command line that goes on from here."""
        words = [word for word in self.typed if word != "--resume"]
        return readable(shlex.join(["anytime-cls", *words, "--resume"]))


def run(
    contest: Contest, jobs: list[Job], rules: list[str] | None, where: Folder, time_images: int,
    resamples: int, as_json: bool,
) -> int:  # fmt: skip
    """Records, replays, measures and writes. Returns the exit code."""
    from anytime_cls.sweeps.sweep import Stopped
    from anytime_cls.traces.schema import TraceError

    from .show.sweep import Interrupts

    try:
        todo = [job for job in jobs if job.left()]
    except ValueError as error:  # what is there is of another run
        raise Refused(str(error)) from None
    with Interrupts(where.quiet) as interrupts:
        try:
            failed = record(todo, where, interrupts)
            found = study(contest, jobs, rules, where, resamples, interrupts)
            times = clocks(contest, jobs, found, where, time_images, interrupts)
            write(found, times, contest, where)
        except (Stopped, KeyboardInterrupt):
            return complain(f"interrupted; go on with: {where.again}", INTERRUPTED)
        except (TraceError, RuntimeError, OSError) as error:
            return complain(f"{error}; go on with: {where.again}", FAILED)
        except ValueError as error:
            return complain(str(error), FAILED)
    from .show.compare import show

    show(found, as_json, where.path)
    if failed:
        why = f"{where.path / 'traces'} says why"
        return complain(f"{failed} images could not be classified, and are left out: {why}", FAILED)
    return 0


def record(jobs: list[Job], where: Folder, interrupts: Interrupts) -> int:
    """Every trace that is not all there yet, model by model; returns how many images failed."""
    from anytime_cls.classifier import AnytimeClassifier
    from anytime_cls.sweeps.expect import expect

    from .show.output import duration
    from .show.sweep import Meter, say

    interrupts.renew()
    loaded: tuple[str, AnytimeClassifier] | None = None
    failed = 0
    for number, job in enumerate(jobs, 1):
        name, runtime = job.entrant.card.identity, job.contest.runtime
        if loaded is None or loaded[0] != name:
            loaded = None  # the one before goes first
            loaded = name, AnytimeClassifier.load(
                job.entrant.card, runtime.device, runtime.dtype, runtime.batch_size,
                runtime.threads if runtime.fixed else None,
            )  # fmt: skip
        if not where.quiet:
            seconds = expect(loaded[1], job.plan, job.left()).most
            rest = sum(other.flops for other in jobs[number - 1 :]) / job.flops * seconds
            whole = f"; with all that is left to record about {duration(rest)}" if rest > seconds else ""
            design = job.plan.design
            draws = f"{design.k_max} {design.draws} draws of {design.n_classes} classes"
            say(
                f"{number}/{len(jobs)}  {job.name} on {job.images.name}: {len(job.data.samples):,} images, "
                f"{draws}, about {duration(seconds)}{whole}"
            )
        with Meter(where.quiet) as meter:
            failed += job.run(loaded[1], meter, interrupts).errors
    return failed


def study(
    contest: Contest,
    jobs: list[Job],
    rules: list[str] | None,
    where: Folder,
    resamples: int,
    interrupts: Interrupts,
) -> Compared:
    """Every rule over every trace, and what it comes to. Raises ValueError."""
    from anytime_cls.curves.compare import Contestant, labelled
    from anytime_cls.curves.compared import compared
    from anytime_cls.curves.study import join
    from anytime_cls.sweeps.sweep import Stopped

    from .replay import progress_bar

    studies = {}
    for images in contest.sets:
        mine = [job for job in jobs if job.images == images]
        files: list[tuple[str, Curves]] = []
        for job in mine:
            with progress_bar(where.quiet, f"{job.name} on {images.name}, every rule") as progress:
                files.append((job.name, job.replay(rules, progress)))
            if interrupts():
                raise Stopped
        studies[images.name] = labelled(join(files))
    first = [job for job in jobs if job.images == contest.sets[0]]
    methods = [
        Contestant(e.name, e.kind, tuple(at for at, job in enumerate(first) if job.entrant is e))
        for e in contest.entrants
    ]
    own = {images.name: images.dataset == contest.sets[0].dataset for images in contest.sets}
    return compared(studies, methods, own, resamples, contest.seed)


def clocks(
    contest: Contest, jobs: list[Job], found: Compared, where: Folder, images: int, interrupts: Interrupts
) -> dict[str, dict[str, Any]]:
    """Seconds and memory of every method at its best rule, by row, and added to the rows; those known from
    before are not taken anew."""
    from dataclasses import asdict

    from anytime_cls.files import replace_file
    from anytime_cls.plan.written import write as written
    from anytime_cls.sweeps.clock import clock
    from anytime_cls.sweeps.sweep import Stopped

    from .show.sweep import say

    file = where.path / "clock.json"
    known = _known(file)
    taken: dict[str, dict[str, Any]] = {}
    for method in found.methods if images else ():
        design, *_ = found.choices[method.name].best
        run = found.first.runs[method.find(found.first, found.choices[method.name].best)]
        first = [job for job in jobs if job.images == contest.sets[0] and job.entrant.name == method.name]
        job = first[design]
        plan = job.live(run)
        some = job.data.samples[:: max(1, len(job.data.samples) // images)][:images]
        key = f"{written(plan)} {contest.runtime} {job.data.name} {len(some)}"
        if key not in known:
            say(f"{method.name} live on {len(some)} images, by {run.rule}", where.quiet)
            known[key] = asdict(clock(job.entrant.card, plan, some, contest.runtime))
            replace_file(file, json_.dumps(known, indent=1).encode())
        taken[method.name] = known[key]
        if interrupts():
            raise Stopped
    for row in found.rows:
        row |= {f"live_{name}": value for name, value in taken.get(row["method"], {}).items()}
    return taken


def _known(file: Path) -> dict[str, dict[str, Any]]:
    """What was clocked before; nothing where that cannot be read."""
    from anytime_cls.sweeps.clock import Clocked

    try:
        found = json_.loads(file.read_text())
        return {key: vars(Clocked(**value)) for key, value in found.items()}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return {}


def write(found: Compared, times: dict[str, Any], contest: Contest, where: Folder) -> None:
    """compare.md, .csv, .html, .tex, .png, .svg and .pdf; each replaced whole."""
    from anytime_cls.files import replace_file
    from anytime_cls.pictures.compare import compare_figure
    from anytime_cls.pictures.compare_page import compare_page
    from anytime_cls.pictures.compare_words import MAIN, document, headline, main_cells, title
    from anytime_cls.pictures.paper import latex_text
    from anytime_cls.pictures.style import save
    from anytime_cls.pictures.tables import write_csv

    from .show.compare import as_plain, machine

    path = where.path
    note = machine(contest.runtime, times)
    replace_file(path / "compare.md", document(found, where.command, note).encode("utf-8", "replace"))
    write_csv(path / "compare.csv", as_plain(found.rows))
    if len(found.studies) > 1:
        write_csv(path / "sets.csv", as_plain(found.set_rows))
    figure = compare_figure(found, title(found))
    page = compare_page(found, compare_figure(found), where.command, note)
    replace_file(path / "compare.html", page.encode("utf-8", "replace"))
    for kind in ("png", "svg", "pdf"):
        memory = io.BytesIO()
        save(figure, memory, kind)
        replace_file(path / f"compare.{kind}", memory.getbuffer())
    rows, words = [list(MAIN), *main_cells(found.rows)], f"{title(found)}. {' '.join(headline(found))}"
    text = latex_text(rows, words, "compare.pdf", figure.get_figwidth())
    replace_file(path / "compare.tex", text.encode("utf-8", "replace"))
