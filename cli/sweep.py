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
from .preset import apply_preset

if TYPE_CHECKING:
    from anytime_cls.datasets.base import Dataset
    from anytime_cls.models.card import ModelCard
    from anytime_cls.plan.options import ResolvedOptions
    from anytime_cls.sweeps.sweep import Shard, Tally

    from .show.sweep import Interrupts

Option = typer.Option
_LOCAL, _RAY = "local", "ray"


@dataclass(frozen=True)
class Request:
    """The command line."""

    dataset: str
    model: str
    rule: str | None
    delta: float | None
    max_orders: int | None
    orders: str | None
    prefix: int | None
    crops: str
    latent_noise: float
    seed: int
    budget: str | None
    classes: str | None
    limit: int | None
    ids: str | None
    root: str | None
    labels: str | None
    record_prefixes: str | None
    trace: str | None
    resume: bool
    overwrite: bool
    workers: int
    engine: str
    address: str | None
    shard: str | None
    device: str
    dtype: str
    batch_size: str
    quiet: bool
    json: bool
    command: tuple[str, ...]  # the arguments as they were typed


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
    crops: option.Crops = "center",
    latent_noise: option.LatentNoise = 0.0,
    preset: option.Preset = None,
    seed: Annotated[int, Option(metavar="N", help="Decides the random orders, and --limit's choice.")] = 0,
    budget: Annotated[
        str | None,
        Option(metavar="AMOUNT", show_default=False, help="Most to spend on an image, as in 'classify'."),
    ] = None,
    classes: option.Classes = None,
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
    record_prefixes: Annotated[
        str | None,
        Option(
            metavar="M,M,...",
            show_default=False,
            help="Record the log-likelihood after so many tokens too; costs no further pass.",
        ),
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
        str, Option(metavar="NAME", help="Where workers run: local, or ray (pip install anytime-cls[ray]).")
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
    batch_size: option.BatchSize = "auto",
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
    Example: anytime-cls sweep cifar10 --root data/cifar10/test --rule fixed --limit 1000
             anytime-cls sweep imagenet --model randar-l --workers 8 -o in1k.h5 --resume
    """
    request = Request(
        dataset=dataset, model=model, rule=rule, delta=delta, max_orders=max_orders, orders=orders,
        prefix=prefix, crops=crops, latent_noise=latent_noise, seed=seed, budget=budget, classes=classes,
        limit=limit, ids=ids, root=root, labels=labels, record_prefixes=record_prefixes, trace=trace,
        resume=resume, overwrite=overwrite, workers=workers, engine=engine, address=address, shard=shard,
        device=device, dtype=dtype, batch_size=batch_size, quiet=quiet, json=json, command=tuple(context.obj),
    )  # fmt: skip
    return run(*apply_preset(context, preset, request))


def run(request: Request, note: str = "") -> int:
    """Returns the exit code. Raises Refused before any work if the request makes no sense.

    note: a line about the request, for people.
    """
    try:
        plan = Plan(request)
    except ValueError as error:
        raise Refused(str(error)) from None
    from anytime_cls.sweeps.sweep import Stopped
    from anytime_cls.sweeps.workers import WorkersError
    from anytime_cls.traces.schema import TraceError

    from .show.sweep import Interrupts, say

    if note:
        say(note, request.quiet)
    with Interrupts(request.quiet) as interrupts:
        try:
            return plan.run(interrupts)
        except (Stopped, KeyboardInterrupt):
            return complain(f"interrupted; go on with: {plan.again}", INTERRUPTED)
        except BrokenPipeError:  # the reader of our output has seen enough
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return PIPE
        except (TraceError, WorkersError, RuntimeError, OSError) as error:
            return complain(f"{error}; go on with: {plan.again}" if plan.begun else str(error), FAILED)


class Plan:
    """What a request comes to, all that can be checked before the model is loaded checked.

    Raises ValueError in one line. What is cheapest to find out comes first.
    """

    def __init__(self, request: Request):
        self.request = request
        self.begun = False  # there is a trace to go on with
        self.batch_size = option.batch_size(request.batch_size)
        prefixes = _prefixes(request.record_prefixes)
        if request.resume and request.overwrite:
            raise ValueError("--resume goes on with a trace, --overwrite replaces it: leave one out")
        if request.engine not in (_LOCAL, _RAY):
            raise ValueError(f"unknown engine {request.engine!r}: choose local or ray")
        if request.address is not None and request.engine != _RAY:
            raise ValueError("--address is a Ray cluster's: add --engine ray")
        if request.trace is not None:
            self.out = self._output(Path(request.trace))
        if request.budget is not None:
            from anytime_cls.plan.budget import parse_budget

            parse_budget(request.budget)
        from anytime_cls.models.zoo import read_card

        self.card: ModelCard = read_card(request.model)
        option.check_race(
            self.card, request.rule, request.delta, request.max_orders, request.orders, request.prefix,
            request.crops, request.latent_noise,
        )  # fmt: skip
        self.dataset = self._dataset()

        from anytime_cls.engine.device import choose_device, choose_dtype
        from anytime_cls.plan.options import RaceOptions
        from anytime_cls.sweeps.sweep import Shard, sweep_options, threads_each

        self.shard: Shard | None = None if request.shard is None else Shard.parse(request.shard)
        options = RaceOptions(
            rule=request.rule, delta=request.delta, max_orders=request.max_orders, budget=request.budget,
            seed=request.seed, orders=request.orders, prefix=request.prefix, prefixes=prefixes,
            crops=request.crops, latent_noise=request.latent_noise,
        )  # fmt: skip
        self.options: ResolvedOptions = sweep_options(self.dataset, self.card, options)
        if request.trace is None:
            self.out = self._output(Path(self._default_name()))
        self.device = str(choose_device(request.device))
        choose_dtype(request.dtype)
        on_cpu = self.device == "cpu" and request.engine == _LOCAL  # on Ray its nodes decide
        self.threads = threads_each(request.workers) if on_cpu else None
        if self.shard and not self.shard.indices(len(self.dataset.samples)):
            raise ValueError(f"no image is left for shard {self.shard} of {len(self.dataset.samples)} images")

    def _dataset(self) -> Dataset:
        from anytime_cls.datasets.names import open_dataset

        request = self.request
        return open_dataset(
            request.dataset, self.card, root=request.root, classes=option.names(request.classes),
            limit=request.limit, ids=request.ids, labels_file=request.labels, seed=request.seed,
        )  # fmt: skip

    def _default_name(self) -> str:
        """DATASET-MODEL-RULE.h5, with the shard's number if there is one."""
        shard = f"-{self.request.shard.replace('/', '-of-')}" if self.request.shard else ""
        parts = (self.dataset.name, self.card.name, self.options.rule)
        return "-".join(re.sub(r"[^\w.+-]+", "-", part).strip("-.") for part in parts) + f"{shard}.h5"

    def _output(self, path: Path) -> Path:
        """The trace's path, if it may be written. Raises ValueError."""
        from anytime_cls.traces.hdf5 import _files

        folder = path.absolute().parent
        if not folder.is_dir():
            raise ValueError(f"{folder} is not a folder: -o writes into an existing one")
        if path.is_dir():
            raise ValueError(f"{path} is a folder: name a file for -o")
        if not os.access(folder, os.W_OK):
            raise ValueError(f"{folder} cannot be written: check its permissions, or name another with -o")
        if _files(path) and not (self.request.resume or self.request.overwrite):
            raise ValueError(f"{path} exists already: go on with --resume, or replace it with --overwrite")
        return path

    @property
    def again(self) -> str:
        """The command line that goes on from here."""
        words = [word for word in self.request.command if word not in ("--overwrite", "--resume")]
        return readable(shlex.join(["anytime-cls", *words, "--resume"]))

    # ---- the run

    def run(self, interrupts: Interrupts) -> int:
        """Returns the exit code."""
        from anytime_cls.sweeps.sweep import remaining, sweep_provenance
        from anytime_cls.traces.write import TraceWriter

        from .record import typed
        from .show.sweep import Meter, report, say

        request = self.request
        attributes = sweep_provenance(
            self.dataset, self.card, self.options, self.device, request.dtype, typed(request.command),
            self.shard, request.workers, request.engine, self.threads,
        )  # fmt: skip
        labels = self.dataset.labels
        with ExitStack() as stack:
            try:
                if request.resume:  # before the model is loaded: a trace of another run is refused at once
                    writer = stack.enter_context(TraceWriter.resume(self.out, attributes, labels))
                    if not remaining(self.dataset, writer, self.shard)[1]:
                        writer.close()
                        say(f"{self.out} is finished: there is nothing to go on with", request.quiet)
                        return report(self.out, request.json, None)
                work = self._workers(attributes) if self._many else self._alone()
                if not request.resume:
                    writer = TraceWriter.create(self.out, attributes, labels, request.overwrite)
                    stack.enter_context(writer)
            except ValueError as error:
                raise Refused(str(error)) from None
            self.begun = True
            interrupts.renew()  # Ray takes the signals
            with Meter(request.quiet) as meter:
                tally = work(writer, meter, interrupts)
        return report(self.out, request.json, tally)

    @property
    def _many(self) -> bool:
        return self.request.workers > 1 or self.request.engine == _RAY

    def _alone(self) -> Callable[..., Tally]:
        """The sweep in this process."""
        import torch

        from anytime_cls.classifier import AnytimeClassifier
        from anytime_cls.sweeps.sweep import run_sweep

        request = self.request
        if self.threads:
            torch.set_num_threads(self.threads)
        classifier = AnytimeClassifier.load(request.model, self.device, request.dtype, self.batch_size)
        return lambda writer, meter, interrupts: run_sweep(
            classifier, self.dataset, self.options, writer, meter, self.shard, interrupts
        )

    def _workers(self, attributes: dict[str, Any]) -> Callable[..., Tally]:
        """The sweep by workers."""
        from anytime_cls.sweeps.processes import ProcessCrew
        from anytime_cls.sweeps.workers import Crew, Setup, run_workers

        request, count = self.request, self.request.workers
        setup = Setup(
            request.model, request.device, request.dtype, self.batch_size, self.threads, self.dataset,
            self.options,
        )  # fmt: skip
        crew: Crew
        if request.engine == _RAY:
            from anytime_cls.sweeps.ray import RayCrew

            crew = RayCrew(setup, count, request.address)
        else:
            crew = ProcessCrew(replace(setup, trace=str(self.out), provenance=attributes))
        return lambda writer, meter, interrupts: run_workers(
            crew, count, self.dataset, writer, meter, self.shard, interrupts
        )


def _prefixes(text: str | None) -> tuple[int, ...]:
    """Ascending token counts. Raises ValueError."""
    items = [item.strip() for item in (text or "").split(",") if item.strip()]
    if not all(item.isdecimal() and int(item) > 0 for item in items):
        raise ValueError(f"--record-prefixes is a list of token counts, as 8,16,32, not {text!r}")
    return tuple(sorted({int(item) for item in items}))
