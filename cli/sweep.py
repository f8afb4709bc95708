"""`anytime-cls sweep`: race a whole data set and record everything, safe from being killed."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options as option
from .errors import FAILED, INTERRUPTED, PIPE, Refused, complain, readable
from .help import MODEL
from .outputs import check_output
from .preset import apply_preset

if TYPE_CHECKING:
    from anytime_cls.classifier import AnytimeClassifier
    from anytime_cls.datasets.base import Dataset
    from anytime_cls.models.card import ModelCard
    from anytime_cls.plan.plan import RacePlan
    from anytime_cls.sweeps.sweep import Tally
    from anytime_cls.sweeps.workers import Crew

    from .show.sweep import Interrupts

Option = typer.Option
_LOCAL, _RAY = "local", "ray"


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
    ] = _LOCAL,
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


@dataclass(frozen=True)
class Output:
    """Where the trace goes, and what is said."""

    trace: str | None
    resume: bool
    overwrite: bool
    quiet: bool
    json: bool
    command: tuple[str, ...]  # the arguments as they were typed

    def check(self) -> None:
        """What can be refused before anything is looked for. Raises ValueError."""
        if self.resume and self.overwrite:
            raise ValueError("--resume goes on with a trace, --overwrite replaces it: leave one out")
        if self.trace is not None:
            self.path(self.trace)

    def path(self, default: str) -> Path:
        """The trace's path, if it may be written. Raises Refused and ValueError."""
        from anytime_cls.traces.hdf5 import _files

        path = Path(default if self.trace is None else self.trace)
        check_output("-o", path, overwrite=True)
        if _files(path) and not (self.resume or self.overwrite):
            raise ValueError(f"{path} exists already: go on with --resume, or replace it with --overwrite")
        return path

    @property
    def again(self) -> str:
        """The command line that goes on from here."""
        words = [word for word in self.command if word not in ("--overwrite", "--resume")]
        return readable(shlex.join(["anytime-cls", *words, "--resume"]))


@dataclass(frozen=True)
class Workers:
    """Who does the work. Raises ValueError for what makes no sense together."""

    workers: int
    engine: str
    address: str | None

    def __post_init__(self) -> None:
        if self.engine not in (_LOCAL, _RAY):
            raise ValueError(f"unknown engine {self.engine!r}: choose local or ray")
        if self.address is not None and self.engine != _RAY:
            raise ValueError("--address is a Ray cluster's: add --engine ray")

    @property
    def alone(self) -> bool:
        """Whether this process does it itself."""
        return self.workers == 1 and self.engine == _LOCAL


def run(job: Sweep, note: str = "") -> int:
    """Returns the exit code. note: a line about the request, for people."""
    from anytime_cls.pixels.listing import say_left_out
    from anytime_cls.sweeps.sweep import Stopped
    from anytime_cls.sweeps.workers import WorkersError
    from anytime_cls.traces.schema import TraceError

    from .show.sweep import Interrupts, say

    out = job.out
    for line in (*job.card.notes, note, say_left_out(job.dataset.left_out)):
        if line:
            say(line, out.quiet)
    with Interrupts(out.quiet) as interrupts:
        try:
            return job.run(interrupts)
        except (Stopped, KeyboardInterrupt):
            return complain(f"interrupted; go on with: {out.again}", INTERRUPTED)
        except BrokenPipeError:  # the reader of our output has seen enough
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return PIPE
        except (TraceError, WorkersError, RuntimeError, OSError) as error:
            return complain(f"{error}; go on with: {out.again}" if job.begun else str(error), FAILED)


class Sweep:
    """A sweep about to run, all that can be checked before the model is loaded checked.

    Raises ValueError in one line.
    """

    def __init__(
        self,
        model: str,
        card: ModelCard,
        plan: RacePlan,
        dataset: Dataset,
        crew: Workers,
        out: Output,
        shard: str | None,
        device: str,
        dtype: str,
        batch_size: int | None,
        threads: int | None = None,
    ):
        from anytime_cls.engine.device import choose_device
        from anytime_cls.engine.threads import threads_each
        from anytime_cls.plan.plan import Runtime
        from anytime_cls.sweeps.sweep import Shard

        self.model, self.card, self.plan, self.dataset = model, card, plan, dataset
        self.crew, self.out = crew, out
        self.begun = False  # there is a trace to go on with
        self.classifier: AnytimeClassifier | None = None  # of this process, where it does the work
        self.shard = None if shard is None else Shard.parse(shard)
        parts = (dataset.name, card.name, plan.rule.name)
        name = "-".join(re.sub(r"[^\w.+-]+", "-", part).strip("-.") for part in parts)
        of = f"-{shard.replace('/', '-of-')}" if shard else ""
        self.path = out.path(f"{name}{of}.h5")
        self.device = device  # as typed: workers choose among their own
        here = str(choose_device(device))
        on_cpu = here == "cpu" and crew.engine == _LOCAL  # on Ray its nodes decide
        most = threads or (threads_each(crew.workers) if on_cpu else None)
        self.runtime = Runtime(here, dtype, batch_size, most, fixed=threads is not None)
        if self.shard and not self.shard.indices(len(dataset.samples)):
            raise ValueError(f"no image is left for shard {self.shard} of {len(dataset.samples)} images")

    def run(self, interrupts: Interrupts) -> int:
        """Returns the exit code."""
        from anytime_cls.sweeps.resume import compare
        from anytime_cls.sweeps.sweep import remaining, sweep_provenance
        from anytime_cls.traces.write import TraceWriter

        from .record import typed
        from .show.sweep import Meter, report, say

        out = self.out
        attributes = sweep_provenance(
            self.plan, self.dataset, self.card, self.runtime, typed(out.command), self.shard,
            self.crew.workers, self.crew.engine,
        )  # fmt: skip
        labels = self.dataset.labels
        with ExitStack() as stack:
            try:
                if out.resume:  # before the model is loaded: a trace of another run is refused at once
                    writer = stack.enter_context(TraceWriter.resume(self.path, attributes, labels))
                    compare(self.dataset, writer, self.card.image_size, self._tell)
                    if not remaining(self.dataset, writer, self.shard)[1]:
                        writer.close()
                        say(f"{self.path} is finished: there is nothing to go on with", out.quiet)
                        return report(self.path, out.json, None, self.dataset.left_out, out.again)
                work = self._alone() if self.crew.alone else self._workers(attributes)
                interrupts.renew()  # Ray takes the signals
                if not out.resume:
                    writer = TraceWriter.create(self.path, attributes, labels, out.overwrite)
                    stack.enter_context(writer)
            except ValueError as error:
                raise Refused(str(error)) from None
            self.begun = True
            if not out.quiet:
                self._announce(*remaining(self.dataset, writer, self.shard))
            with Meter(out.quiet) as meter:
                tally = work(writer, meter, interrupts)
        return report(self.path, out.json, tally, self.dataset.left_out, out.again)

    def _announce(self, tally: Tally, todo: list[int]) -> None:
        """Say what is about to run, for about how long, and what for."""
        from anytime_cls.sweeps.expect import expect

        from .show.sweep import say
        from .show.todo import todo as lines

        classifier, workers = self.classifier, self.crew.workers
        on, expected = f"{workers} workers ({self.crew.engine})", None
        if classifier is not None:
            expected = expect(classifier, self.plan, len(todo))
            engine = classifier.engine
            on = f"{engine.device}, {engine.threads}" if engine.threads else str(engine.device)
        for line in lines(len(todo), tally.done, self.dataset.name, self.plan, on, expected):
            say(line)

    def _tell(self, images: int) -> None:
        from .show.sweep import say

        say(f"{images:,} files are not as they were, or not in the trace: comparing contents", self.out.quiet)

    def _alone(self) -> Callable[..., Tally]:
        """The sweep in this process."""
        from anytime_cls.classifier import AnytimeClassifier
        from anytime_cls.sweeps.sweep import run_sweep

        runtime = self.runtime
        given = runtime.threads if runtime.fixed else None
        classifier = AnytimeClassifier.load(
            self.card, runtime.device, runtime.dtype, runtime.batch_size, given
        )
        self.classifier = classifier
        return lambda writer, meter, interrupts: run_sweep(
            classifier, self.dataset, self.plan, writer, meter, self.shard, interrupts
        )

    def _workers(self, attributes: dict[str, Any]) -> Callable[..., Tally]:
        """The sweep by workers."""
        from anytime_cls.sweeps.processes import ProcessCrew
        from anytime_cls.sweeps.workers import Setup, run_workers

        runtime, count = self.runtime, self.crew.workers
        setup = Setup(
            self.model, self.device, runtime.dtype, runtime.batch_size, runtime.threads, self.dataset,
            self.plan, labels=self.card.labels, fixed=runtime.fixed,
        )  # fmt: skip
        team: Crew
        if self.crew.engine == _RAY:
            from anytime_cls.sweeps.ray import RayCrew

            team = RayCrew(setup, count, self.crew.address)
        else:
            team = ProcessCrew(replace(setup, trace=str(self.path), provenance=attributes))
        return lambda writer, meter, interrupts: run_workers(
            team, count, self.dataset, writer, meter, self.shard, interrupts
        )


def _prefixes(text: str | None) -> tuple[int, ...]:
    """Ascending token counts. Raises ValueError."""
    items = [item.strip() for item in (text or "").split(",") if item.strip()]
    if not all(item.isdecimal() and int(item) > 0 for item in items):
        raise ValueError(f"--record-prefixes is a list of token counts, as 8,16,32, not {text!r}")
    return tuple(sorted({int(item) for item in items}))
