"""A sweep that is about to run: where its trace goes, who does the work, how it ends."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import FAILED, INTERRUPTED, PIPE, Refused, complain, readable
from .outputs import check_output

if TYPE_CHECKING:
    from anytime_cls.classifier import AnytimeClassifier
    from anytime_cls.datasets.base import Dataset
    from anytime_cls.models.card import ModelCard
    from anytime_cls.plan.plan import RacePlan
    from anytime_cls.sweeps.sweep import Tally
    from anytime_cls.sweeps.workers import Crew

    from .show.sweep import Interrupts

LOCAL, RAY = "local", "ray"


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
        if self.engine not in (LOCAL, RAY):
            raise ValueError(f"unknown engine {self.engine!r}: choose local or ray")
        if self.address is not None and self.engine != RAY:
            raise ValueError("--address is a Ray cluster's: add --engine ray")

    @property
    def alone(self) -> bool:
        """Whether this process does it itself."""
        return self.workers == 1 and self.engine == LOCAL


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
        on_cpu = here == "cpu" and crew.engine == LOCAL  # on Ray its nodes decide
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
        if self.crew.engine == RAY:
            from anytime_cls.sweeps.ray import RayCrew

            team = RayCrew(setup, count, self.crew.address)
        else:
            team = ProcessCrew(replace(setup, trace=str(self.path), provenance=attributes))
        return lambda writer, meter, interrupts: run_workers(
            team, count, self.dataset, writer, meter, self.shard, interrupts
        )
