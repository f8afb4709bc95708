"""`anytime-cls classify`: check what was asked for, load, race, print."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from . import options as option
from .errors import FAILED, INTERRUPTED, PIPE, Refused, complain
from .show import output
from .show.output import JsonShow, PeopleShow, Show

if TYPE_CHECKING:
    from anytime_cls.classifier import AnytimeClassifier
    from anytime_cls.models.card import ModelCard
    from anytime_cls.pixels.decode import Source
    from anytime_cls.pixels.inputs import Input
    from anytime_cls.plan.options import ResolvedOptions
    from anytime_cls.race.decision import Decision, Failure


UNCALIBRATED = "not calibrated for such races: probabilities are no frequencies; see 'anytime-cls calibrate'"


@dataclass(frozen=True)
class Request:
    """The command line."""

    images: list[str]
    model: str
    budget: str | None
    delta: float | None
    rule: str | None
    max_orders: int | None
    top: int
    classes: str | None
    seed: int
    orders: str | None
    prefix: int | None
    aggregate: str
    crops: str
    latent_noise: float
    device: str
    dtype: str
    batch_size: str
    files_from: str | None
    json: bool
    trace: str | None
    live: bool | None
    quiet: bool
    command: tuple[str, ...]  # the arguments as they were typed


def run(request: Request, note: str = "") -> int:
    """Returns the exit code. Raises Refused before anything is classified if the request makes no sense.

    note: a line about the request, for people, above what it is expected to take.
    """
    began = time.perf_counter()
    people = not request.json and sys.stdout.isatty()
    try:
        batch_size = check(request, people)
        classifier, options = load(request, batch_size)
    except ValueError as error:
        raise Refused(str(error)) from None
    n_tokens = classifier.tokenizer.n_tokens
    show: Show = PeopleShow(request.top, n_tokens) if people else JsonShow(request.top)
    ready = time.perf_counter() - began
    from anytime_cls.classifier import estimate_image, is_long

    told = not request.quiet and is_long(classifier, options)
    warm = classifier.warm_up() if told or getattr(options.budget, "unit", "") == "seconds" else 0.0
    if told:
        note = "\n".join(filter(None, (note, output.estimate_line(estimate_image(classifier, options)))))
    if not request.quiet:
        introduce(classifier, options, ready, warm, note)
    session = Session(request, classifier, options, show)
    try:
        return session.run()
    except KeyboardInterrupt:
        kept = f"; the trace so far is {request.trace}.parts" if request.trace else ""
        return complain(f"interrupted: {session.done} done{kept}", INTERRUPTED)
    except BrokenPipeError:  # the reader of our output has seen enough
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE


def check(request: Request, people: bool) -> int | None:
    """Everything that can be refused before PyTorch is imported. Returns the batch size, None for auto.

    Raises ValueError in one line. What is cheapest to find out comes first.
    """
    if not request.images and request.files_from is None:
        raise ValueError(
            "no images given: name files, folders, globs, - (an image on stdin) or --files-from LIST"
        )
    if request.live and not people:
        reason = "--json prints rows" if request.json else "standard output is not one"
        raise ValueError(f"--live draws on a terminal, and {reason}: leave one of them out")
    batch_size = option.batch_size(request.batch_size)
    if request.trace is not None:
        path = Path(request.trace)
        for there in (path, path.with_name(path.name + ".parts")):
            if there.exists():
                raise ValueError(f"{there} exists already: name another file for --trace, or remove it")
        if not path.absolute().parent.is_dir():
            raise ValueError(f"{path.absolute().parent} is not a folder: --trace writes into an existing one")
    if request.budget is not None:
        from anytime_cls.plan.budget import parse_budget

        parse_budget(request.budget)
    from anytime_cls.models.zoo import read_card

    card = read_card(request.model)
    option.check_race(
        card, request.rule, request.delta, request.max_orders, request.orders, request.prefix, request.crops,
        request.latent_noise,
    )  # fmt: skip
    return batch_size


def load(request: Request, batch_size: int | None) -> tuple[AnytimeClassifier, ResolvedOptions]:
    """The model and the options, all checked. Raises ValueError in one line."""
    from anytime_cls.classifier import AnytimeClassifier
    from anytime_cls.engine.device import choose_device, choose_dtype
    from anytime_cls.models.zoo import read_card
    from anytime_cls.plan.options import RaceOptions

    options = RaceOptions(
        rule=request.rule, delta=request.delta, max_orders=request.max_orders, budget=request.budget,
        classes=option.names(request.classes), seed=request.seed, orders=request.orders,
        prefix=request.prefix, aggregate=request.aggregate, crops=request.crops,
        latent_noise=request.latent_noise,
    ).resolve(read_card(request.model))  # fmt: skip
    choose_device(request.device)
    choose_dtype(request.dtype)
    return AnytimeClassifier.load(request.model, request.device, request.dtype, batch_size), options


def introduce(
    classifier: AnytimeClassifier, options: ResolvedOptions, ready: float, warm: float, note: str = ""
) -> None:
    """What is about to run, for people. ready, warm: seconds it took to load, and to learn a batch's cost.
    note: further lines."""
    import torch

    from anytime_cls.race.registry import DELTA_RULES

    budget = options.budget
    card: ModelCard = classifier.card
    device = classifier.engine.device
    where = f"{device}, {torch.get_num_threads()} threads" if device.type == "cpu" else str(device)
    dtype = str(classifier.model.output.weight.dtype).removeprefix("torch.")
    learned = f" and clocked in {output.duration(warm)}" if warm > 0.2 else ""
    delta = f" at δ = {options.delta:g}" if options.rule in DELTA_RULES else ""
    allowed = f"budget {budget} an image" if budget else "no budget"
    tokens = f", {options.prefix} tokens each" if options.prefix else ""
    lines = (
        f"model {card.name} ({len(card.labels)} classes) on {where}, {dtype}; "
        f"loaded in {output.duration(ready)}{learned}, which no budget counts",
        f"rule {options.rule}{delta}, at most {options.max_orders} {options.orders} orders{tokens}, "
        f"{allowed}{output.views(options)}",
        *note.splitlines(),
        *([] if calibrated(card, options) else [UNCALIBRATED]),
    )
    console = Console(stderr=True)
    output.print_text(console, *(Text(line, style="dim") for line in lines))


def calibrated(card: ModelCard, options: ResolvedOptions) -> bool:
    """Whether the model's probabilities for such races were fitted to anything."""
    from anytime_cls.plan.options import race_design

    return "temperature" in race_design(card, options)


class Session:
    """One run over the images, in the order given."""

    def __init__(self, request: Request, classifier: AnytimeClassifier, options: ResolvedOptions, show: Show):
        self.request, self.classifier, self.options, self.show = request, classifier, options, show
        self.done = self.failed = 0
        self.passes = 0.0
        self._waiting: deque[Input] = deque()  # taken from the list of inputs, not answered yet
        self._recorder: Any = None
        self._tick: Callable[[], None] = lambda: None

    def run(self) -> int:
        from anytime_cls.pixels.inputs import collect
        from anytime_cls.traces.schema import TraceError

        inputs: Iterable[Input] = collect(self.request.images, self.request.files_from)
        people = isinstance(self.show, PeopleShow)
        began = time.perf_counter()
        try:
            with ExitStack() as stack:
                if self.request.trace is not None:
                    from .record import Recorder

                    recorder = Recorder(
                        self.request.trace, self.classifier, self.options, self.request.command
                    )
                    self._recorder = stack.enter_context(recorder)
                if people or (sys.stderr.isatty() and not self.request.json and not self.request.quiet):
                    inputs = list(inputs)
                    alone = len(inputs) == 1
                    if people and (self.request.live or (self.request.live is None and alone)):
                        self._watch(inputs, alone)
                        inputs = []
                    elif not alone:
                        self._progress(stack, len(inputs))
                    self._race(inputs, alone)
                else:
                    self._race(inputs, False)
        except TraceError as error:
            return complain(str(error), FAILED)
        if not self.request.quiet and self.done > 1:
            good = self.done - self.failed
            mean = f", {output.amount(round(self.passes / good, 1))} passes on average" if good else ""
            failed = f", {self.failed} failed" if self.failed else ""
            line = f"{self.done} images in {output.duration(time.perf_counter() - began)}{failed}{mean}"
            output.print_text(Console(stderr=True), Text(line, style="dim"))
        return FAILED if self.failed else 0

    def _watch(self, inputs: Iterable[Input], alone: bool) -> None:
        """One race after the other, each drawn while it runs."""
        from anytime_cls.pixels.decode import ImageError
        from anytime_cls.race.decision import Failure

        from .show.live import LiveRace

        assert isinstance(self.show, PeopleShow)
        for item in inputs:
            result: Decision | Failure
            if item.source is None:
                self._answer(item, Failure(item.error or ""), alone)
                continue
            with LiveRace(self.show.console, self.classifier) as live:
                live.begin(item.name)
                try:
                    result = self.classifier.classify(item.source, self.options, live.update)
                except ImageError as error:
                    result = Failure(str(error))
            self._answer(item, result, alone)

    def _race(self, inputs: Iterable[Input], alone: bool) -> None:
        """All images together: rows of different images share batches."""

        def sources() -> Iterator[Source]:
            for item in inputs:
                self._waiting.append(item)
                self._missing(alone)
                if item.source is not None:
                    yield item.source

        for result in self.classifier.classify_many(sources(), self.options):
            self._answer(self._waiting.popleft(), result, alone)
            self._missing(alone)
        self._missing(alone)

    def _missing(self, alone: bool) -> None:
        """Answer the inputs that could not be found and have their turn."""
        from anytime_cls.race.decision import Failure

        while self._waiting and self._waiting[0].source is None:
            item = self._waiting.popleft()
            self._answer(item, Failure(item.error or ""), alone)

    def _answer(self, item: Input, result: Decision | Failure, alone: bool) -> None:
        from anytime_cls.race.decision import Failure

        if self._recorder is not None:
            self._recorder.add(self.done, item.name, result)
        self.done += 1
        if isinstance(result, Failure):
            self.failed += 1
            self.show.error(item.name, result.error)
        else:
            self.passes += result.passes
            self.show.decision(item.name, result, alone)
        self._tick()

    def _progress(self, stack: ExitStack, total: int) -> None:
        """A bar for many images, under what is printed; on standard error when rows go to a file."""
        from .show.live import progress_bar

        mixed = isinstance(self.show, PeopleShow)  # the lines and the bar share the terminal
        console = self.show.console if isinstance(self.show, PeopleShow) else Console(stderr=True)
        progress = stack.enter_context(progress_bar(console, self.classifier, mixed))
        task = progress.add_task("", total=total)
        self._tick = lambda: progress.advance(task)
