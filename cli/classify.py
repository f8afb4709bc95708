"""`anytime-cls classify`: check what was asked for, load, race, print."""

from __future__ import annotations

import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from . import options as option
from .errors import FAILED, INTERRUPTED, Refused, complain
from .outputs import check_output
from .show import output
from .show.answers import RANKED, TextShow
from .show.output import About, Csv, JsonLines, JsonList, Show

if TYPE_CHECKING:
    from anytime_cls.classifier import AnytimeClassifier
    from anytime_cls.models.card import ModelCard
    from anytime_cls.pixels.decode import Source
    from anytime_cls.pixels.inputs import Input
    from anytime_cls.plan.plan import RacePlan
    from anytime_cls.race.decision import Decision, Failure


TEXT = "text"
LISTS = {"json": JsonList, "jsonl": JsonLines}
FORMATS = (TEXT, *LISTS, "csv")
UNCALIBRATED = "not calibrated for such races: probabilities are no frequencies; see 'anytime-cls calibrate'"


@dataclass(frozen=True)
class Output:
    """How answers are given."""

    top: int | None  # classes of the ranking, None for as many as suit the format
    format: str  # one of FORMATS
    trace: str | None
    live: bool | None
    quiet: bool
    command: tuple[str, ...]  # the arguments as they were typed
    abstain_below: float | None = None  # the least probability of an answer that is meant
    abstain: float | None = None  # most of the model's own pictures that may be answered "none of these"
    verbose: bool = False

    @property
    def people(self) -> bool:
        """Whether answers are drawn on a terminal."""
        return self.format == TEXT and sys.stdout.isatty()

    def show(self, about: About) -> Show:
        """Where answers go."""
        if self.format == TEXT:
            return TextShow(self.top, about, self.verbose)
        top = self.top or RANKED
        return Csv(about) if self.format == "csv" else LISTS[self.format](top, about)


def run(
    images: list[str],
    files_from: str | None,
    model: str,
    asked: dict[str, Any],
    device: str,
    batch_size: str,
    out: Output,
    note: str = "",
    preset: Collection[str] = (),
    threads: int | None = None,
) -> int:
    """Returns the exit code. Raises Refused before anything is classified if the request makes no sense.

    asked: fields of RaceOptions, and the dtype. note: a line about the request, for people, above what it is
    expected to take. preset: which of the options a preset set.
    """
    began = time.perf_counter()
    try:
        rows = check(images, files_from, out, batch_size)
        card, plan = settle(model, asked, preset)
        about = About.of(card, plan, out.abstain_below, out.abstain)
        classifier = load(card, device, asked["dtype"], rows, threads)
    except ValueError as error:
        raise Refused(str(error)) from None
    note = "\n".join(filter(None, (*card.notes, note)))
    show = out.show(about)
    ready = time.perf_counter() - began
    from anytime_cls.classifier import estimate_image, is_long

    told = not out.quiet and is_long(classifier, plan)
    warm = classifier.warm_up() if told or getattr(plan.budget, "unit", "") == "seconds" else 0.0
    if told:
        note = "\n".join(filter(None, (note, output.estimate_line(estimate_image(classifier, plan)))))
    if not out.quiet:
        introduce(classifier, plan, ready, warm, note)
    session = Session(images, files_from, out, classifier, plan, show)
    try:
        return session.run()
    except KeyboardInterrupt:
        kept = f"; the trace so far is {out.trace}.parts" if out.trace else ""
        return complain(f"interrupted: {session.done} done{kept}", INTERRUPTED)


def check(images: list[str], files_from: str | None, out: Output, batch_size: str) -> int | None:
    """Everything that can be refused before a model is looked for. Returns the batch size, None for auto.

    Raises ValueError in one line. What is cheapest to find out comes first.
    """
    if not images and files_from is None:
        raise ValueError(
            "no images given: name files, folders, globs, - (an image on stdin) or --files-from LIST"
        )
    if out.format not in FORMATS:
        raise ValueError(f"unknown format {out.format!r}: choose from {', '.join(FORMATS)}")
    if out.live and not out.people:
        reason = "standard output is not one" if out.format == TEXT else f"{out.format} prints rows"
        raise ValueError(f"--live draws on a terminal, and {reason}: leave one of them out")
    if out.abstain_below is not None and not 0 <= out.abstain_below <= 1:
        raise ValueError(f"--abstain-below is a probability, 0 to 1, not {out.abstain_below:g}")
    rows = option.batch_size(batch_size)
    if out.trace is not None:
        path = Path(out.trace)
        check_output("--trace", path, overwrite=True)
        for there in (path, path.with_name(path.name + ".parts")):
            if there.exists():
                raise ValueError(f"{there} exists already: name another file for --trace, or remove it")
    return rows


def settle(model: str, asked: dict[str, Any], preset: Collection[str]) -> tuple[ModelCard, RacePlan]:
    """The card and the plan of the race: made once, without PyTorch. Raises ValueError in one line."""
    from anytime_cls.models.zoo import read_card
    from anytime_cls.plan.make import make
    from anytime_cls.plan.options import RaceOptions, dtype_name

    dtype_name(asked["dtype"])
    options = RaceOptions(**{name: value for name, value in asked.items() if name != "dtype"})
    card = read_card(model, asked.get("classes"))
    return card, make(options, card, preset=preset)


def load(
    card: ModelCard, device: str, dtype: str, batch_size: int | None, threads: int | None = None
) -> AnytimeClassifier:
    """The model on its device. Raises ValueError in one line."""
    from anytime_cls.classifier import AnytimeClassifier
    from anytime_cls.engine.device import choose_device

    choose_device(device)
    return AnytimeClassifier.load(card, device, dtype, batch_size, threads)


def introduce(
    classifier: AnytimeClassifier, plan: RacePlan, ready: float, warm: float, note: str = ""
) -> None:
    """What is about to run, for people. ready, warm: seconds it took to load, and to learn a batch's cost.
    note: further lines."""
    from anytime_cls.race.registry import DELTA_RULES

    card, design, engine = classifier.card, plan.design, classifier.engine
    engine.settle()
    where = f"{engine.device}, {engine.threads}" if engine.threads else str(engine.device)
    dtype = classifier.scorer.dtype
    learned = f" and clocked in {output.duration(warm)}" if warm > 0.2 else ""
    delta = f" at δ = {plan.delta:g}" if plan.rule.name in DELTA_RULES else ""
    allowed = f"budget {plan.budget} an image" if plan.budget else "no budget"
    tokens = "" if plan.whole else f", {design.steps} tokens each"
    lines = (
        f"model {card.name} ({len(card.labels)} classes) on {where}, {dtype}; "
        f"loaded in {output.duration(ready)}{learned}, which no budget counts",
        output.knows(plan.labels, card.name),
        f"rule {plan.rule.name}{delta}, at most {design.k_max} {design.draws} orders{tokens}, "
        f"{allowed}{output.views(plan)}",
        *note.splitlines(),
        *([] if plan.fitted else [UNCALIBRATED]),
    )
    console = Console(stderr=True)
    output.print_text(console, *(Text(line, style="dim") for line in lines))


class Session:
    """One run over the images, in the order given."""

    def __init__(
        self,
        images: list[str],
        files_from: str | None,
        out: Output,
        classifier: AnytimeClassifier,
        plan: RacePlan,
        show: Show,
    ):
        self.images, self.files_from, self.out = images, files_from, out
        self.classifier, self.plan, self.show = classifier, plan, show
        self.done = self.failed = self.abstained = 0
        self.passes = 0.0
        self._waiting: deque[Input] = deque()  # taken from the list of inputs, not answered yet
        self._recorder: Any = None
        self._tick: Callable[[], None] = lambda: None

    def run(self) -> int:
        from anytime_cls.pixels.inputs import collect
        from anytime_cls.pixels.listing import say_left_out
        from anytime_cls.traces.schema import TraceError

        skipped: Counter[str] = Counter()
        inputs: Iterable[Input] = collect(self.images, self.files_from, skipped)
        began = time.perf_counter()
        try:
            with ExitStack() as stack:
                stack.callback(self.show.close)
                if self.out.trace is not None:
                    from .record import Recorder

                    recorder = Recorder(self.out.trace, self.classifier, self.plan, self.out.command)
                    self._recorder = stack.enter_context(recorder)
                self._all(inputs, stack)
        except TraceError as error:
            return complain(str(error), FAILED)
        if not self.out.quiet and skipped:
            output.print_text(Console(stderr=True), Text(say_left_out(skipped), style="dim"))
        if not self.out.quiet and self.done > 1:
            good = self.done - self.failed
            mean = f", {output.amount(round(self.passes / good, 1))} passes on average" if good else ""
            failed = f", {self.failed} failed" if self.failed else ""
            failed += f", {self.abstained} abstained" if self.abstained else ""
            line = f"{self.done} images in {output.duration(time.perf_counter() - began)}{failed}{mean}"
            output.print_text(Console(stderr=True), Text(line, style="dim"))
        return FAILED if self.failed else 0

    def _all(self, inputs: Iterable[Input], stack: ExitStack) -> None:
        """Every picture, in order. Rows are streamed; text is in columns, so all names are needed first."""
        out, alone = self.out, False
        bar = sys.stderr.isatty() and not out.quiet and (out.people or not sys.stdout.isatty())
        if bar or out.format == TEXT:
            inputs = known = list(inputs)
            alone = len(known) == 1
            self.show.expect([item.name for item in known])
            if out.people and (out.live or (out.live is None and alone)):
                return self._watch(known, alone)
            if bar and not alone:
                self._progress(stack, len(known))
        self._race(inputs, alone)

    def _watch(self, inputs: Iterable[Input], alone: bool) -> None:
        """One race after the other, each drawn while it runs."""
        from anytime_cls.pixels.decode import ImageError
        from anytime_cls.race.decision import Failure

        from .show.live import LiveRace

        assert isinstance(self.show, TextShow)
        for item in inputs:
            result: Decision | Failure
            if item.source is None:
                self._answer(item, Failure(item.error or ""), alone)
                continue
            with LiveRace(self.show.console, self.classifier) as live:
                live.begin(item.name, item.source)
                try:
                    result = self.classifier.classify(item.source, self.plan, live.update)
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

        for result in self.classifier.classify_many(sources(), self.plan):
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
            self.abstained += self.show.about.abstains(result)
            self.show.decision(item.name, result, alone)
        self._tick()

    def _progress(self, stack: ExitStack, total: int) -> None:
        """A bar for many images, under what is printed; on standard error when rows go to a file."""
        from .show.live import progress_bar

        mixed = self.out.people  # the lines and the bar share the terminal
        console = self.show.console if mixed and isinstance(self.show, TextShow) else Console(stderr=True)
        progress = stack.enter_context(progress_bar(console, self.classifier, mixed))
        task = progress.add_task("", total=total)
        self._tick = lambda: progress.advance(task)
