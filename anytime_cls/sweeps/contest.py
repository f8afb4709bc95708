"""Several methods on the same images: which races of each are recorded, and where.

Everything is recorded as full traces (rule `fixed`), one a method, race design and set of images, from which
every rule is replayed. A folder holds them:

    traces/SET/METHOD.h5            whole draws, uniform: the paper's race
    traces/SET/METHOD-DESIGN.h5     the race that the model recommends, where that is another
    curves/SET/...                  each replayed under every rule (`curves.full`)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from anytime_cls.classifier import AnytimeClassifier
from anytime_cls.curves.file import Curves, read_curves, write_curves
from anytime_cls.curves.files import same_run
from anytime_cls.curves.full import default_rules, full_curves
from anytime_cls.curves.study import StudyRun
from anytime_cls.datasets.base import Dataset
from anytime_cls.datasets.names import class_names, open_dataset
from anytime_cls.models.card import ModelCard
from anytime_cls.models.zoo import read_card
from anytime_cls.plan.options import RaceOptions
from anytime_cls.plan.plan import RacePlan, Runtime
from anytime_cls.plan.written import read_race
from anytime_cls.race.fitted import Fitted
from anytime_cls.replay.source import Source
from anytime_cls.scorers.registry import is_third_party
from anytime_cls.shifts.registry import CLEAN, MIX, SEVERITIES, STANDARD, is_shift, parse
from anytime_cls.sweeps.resume import compare
from anytime_cls.sweeps.sweep import Tally, remaining, run_sweep, sweep_plan, sweep_provenance
from anytime_cls.traces.hdf5 import _files
from anytime_cls.traces.known import trace_fitted
from anytime_cls.traces.read import Trace
from anytime_cls.traces.write import TraceWriter

RASTER = ":raster"  # behind a model's name: it is read in raster order, which an any-order model can be
SPREAD = "levels"  # the sampler of a diffusion model whose first draws, however many, are well spread
EACH = ":each"  # behind a corruption's name: all five severities, a set each


@dataclass(frozen=True)
class Entrant:
    """A method that takes part. name: of its rows and files, of no other entrant; how: of its races, beside
    what its card recommends."""

    spec: str
    name: str
    card: ModelCard
    raster: bool = False

    @property
    def one_draw(self) -> bool:
        """Whether there is only one draw to score: no race to speak of."""
        draws = self.card.shape.draws("raster" if self.raster else "uniform", self.card.tokens)
        return draws.distinct == 1

    @property
    def kind(self) -> str:
        """What it is, for people and for what is compared with what."""
        shape = self.card.shape
        if self.card.method == "masked":
            return "masked diffusion"
        if shape.joint:
            return "discriminative"
        if shape.unit == "loss":
            return "diffusion"
        return "one order" if self.one_draw else "autoregressive"

    def designs(self, max_orders: int, max_draws: int) -> dict[str, RaceOptions]:
        """The races that are recorded: a name for files ("" for the paper's), and how. max_draws: of a
        diffusion model, whose draws say less and cost less than an order."""
        most = max_draws if self.card.shape.unit == "loss" else max_orders
        screens = () if self.raster else tuple(self.card.shape.screens)
        own = self.card.fitted.race
        whole = RaceOptions("fixed", max_orders=1 if self.one_draw else most, screens=screens,
                            orders="raster" if self.raster else "uniform")  # fmt: skip
        found = {"": whole}
        if own is None and (pull := self._pull):
            most = -(-(whole.max_orders or 1) // pull) * pull
            found[SPREAD] = replace(whole, orders=SPREAD, max_orders=most)
        if own is not None and not self.raster and (own.orders, own.prefix) != ("uniform", None):
            name = own.orders if own.prefix is None else f"{own.orders}-{own.prefix}"
            found[name] = replace(
                whole, orders=own.orders, prefix=own.prefix, max_orders=max(own.max_orders, 1)
            )
        return found

    @property
    def _pull(self) -> int:
        """Draws of a pull of a diffusion model's `SPREAD` ones; 0 where there are none."""
        if not self.kind.endswith("diffusion"):
            return 0
        try:
            return self.card.shape.draws(SPREAD, self.card.tokens).block
        except ValueError:
            return 0


@dataclass(frozen=True)
class ImageSet:
    """Images that all methods see. name: of rows and folders; own: whether they are the data set's own
    images, shifted or not, and so have its ids."""

    name: str
    dataset: str
    shift: str | None
    own: bool


@dataclass
class Contest:
    """Who takes part, on what. Raises ValueError in one line."""

    folder: Path
    entrants: Sequence[Entrant]
    sets: Sequence[ImageSet]
    root: str | None = None
    classes: Sequence[str | int] | None = None
    limit: int | None = None
    seed: int = 0
    max_orders: int = 20
    max_draws: int = 100
    runtime: Runtime = field(default_factory=lambda: Runtime("cpu"))
    command: str = ""

    def jobs(self) -> list[Job]:
        """Every trace that there is to be, method by method. Raises ValueError for images that are not there,
        and for methods of different classes."""
        found: list[Job] = []
        labels: dict[str, list[str]] = {}
        for entrant in self.entrants:
            for images in self.sets:
                data = open_dataset(
                    images.dataset, entrant.card, root=self.root if images.own else None,
                    classes=self.classes, limit=self.limit, seed=self.seed, shift=images.shift,
                )  # fmt: skip
                first = labels.setdefault(images.name, data.labels)
                if data.labels != first:
                    raise ValueError(
                        f"{entrant.name} and {self.entrants[0].name} race different classes ("
                        f"{_differ(data.labels, first)}): methods are compared on the same classes, in order"
                    )
                designs = entrant.designs(self.max_orders, self.max_draws)
                found += [Job(self, entrant, images, *design, data) for design in designs.items()]
        return found


@dataclass
class Job:
    """One trace: a method's races of one design on one set of images."""

    contest: Contest
    entrant: Entrant
    images: ImageSet
    design: str
    options: RaceOptions
    data: Dataset

    @cached_property
    def plan(self) -> RacePlan:
        """Of its sweep. Raises ValueError."""
        return sweep_plan(self.data, self.entrant.card, replace(self.options, seed=self.contest.seed))

    @property
    def name(self) -> str:
        return self.entrant.name + (f"-{self.design}" if self.design else "")

    @property
    def flops(self) -> float:
        """Of all its images."""
        design = self.plan.design
        draw = self.entrant.card.shape.flops(design.steps, design.n_classes)
        return len(self.data.samples) * design.k_max * draw

    def path(self, what: str) -> Path:
        """Of its `traces` or `curves`."""
        return self.contest.folder / what / file_name(self.images.name) / f"{file_name(self.name)}.h5"

    def left(self) -> int:
        """Images still to be raced. Raises ValueError where what is there is of another run."""
        path = self.path("traces")
        if not _files(path):
            return len(self.data.samples)
        writer = self._writer()
        try:
            compare(self.data, writer, self.entrant.card.image_size)
            found = len(remaining(self.data, writer)[1])
            writer.close(finish=not found)
        except BaseException:
            writer.close(finish=False)
            raise
        return found

    def run(
        self,
        classifier: AnytimeClassifier,
        on_progress: Callable[[Tally], None] | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> Tally:
        """Records what is left. Raises `Stopped`, and TraceError where the trace cannot be written."""
        with self._writer() as writer:
            return run_sweep(classifier, self.data, self.plan, writer, on_progress, stop=stop)

    def replay(
        self, rules: Sequence[str] | None = None, progress: Callable[[int, int], None] | None = None
    ) -> Curves:
        """Every rule asked for over its trace (default: all that there are for it), and `fixed` and the
        screens in any case. Kept in a file, and read from there the next time. Raises ValueError."""
        path = self.path("curves")
        with Trace.open(self.path("traces")) as trace:
            names = self._rules(trace, rules)
            asked = ",".join(names)
            if path.is_file():
                there = read_curves(path)
                same = same_run(there.attrs, trace.attrs) and there.attrs.get("replayed") == asked
                if same and there.ids.tolist() == trace.images["id"].tolist():
                    return there
            found = full_curves(trace, names, fitted=self._fitted(trace), progress=progress)
        found.attrs["replayed"] = asked
        path.parent.mkdir(parents=True, exist_ok=True)
        write_curves(path, found)
        return found

    def _fitted(self, trace: Trace) -> Fitted:
        return trace_fitted(trace) if trace.noisy else self.entrant.card.fitted

    def _rules(self, trace: Trace, rules: Sequence[str] | None) -> list[str]:
        """Of these the ones that this trace can be raced by."""
        if self.plan.design.k_max == 1:
            return ["fixed"]
        source = Source(trace)
        can = default_rules(source, self._fitted(trace))
        wanted = can if rules is None else ["fixed", *rules, *source.screens]
        return [name for name in dict.fromkeys(wanted) if name in can]

    def live(self, run: StudyRun) -> RacePlan:
        """The plan of a replayed run as a race of its own: nothing is recorded that it does not need."""
        plan = read_race(self.plan, run.plan)
        needed = tuple(s.source for s in plan.rule.first_stages if isinstance(s.source, str))
        return replace(plan, record=(), screens=needed, fallback="")

    def _writer(self) -> TraceWriter:
        path, contest = self.path("traces"), self.contest
        path.parent.mkdir(parents=True, exist_ok=True)
        attributes: dict[str, Any] = sweep_provenance(
            self.plan, self.data, self.entrant.card, contest.runtime, contest.command
        )
        return TraceWriter.resume(path, attributes, self.data.labels)


def entrants(
    specs: Sequence[str], dataset: str, root: str | None, classes: Sequence[str] | None
) -> list[Entrant]:
    """The methods of these names; one of open vocabulary takes the first other model's classes, or the data
    set's. Raises ValueError for a model that there is not, and for no model."""
    if not specs:
        raise ValueError("name the models to compare: --models A,B,C")
    cards: dict[str, ModelCard] = {}
    bases = {spec: spec.removesuffix(RASTER) for spec in specs}
    for base in bases.values():
        if not is_third_party(base.partition(":")[0]):
            cards[base] = read_card(base)
    given = list(classes or ()) or next((card.labels for card in cards.values()), [])
    for base in bases.values():
        if base not in cards:
            cards[base] = read_card(base, given or class_names(dataset, root))
    found: list[Entrant] = []
    for spec in dict.fromkeys(specs):
        card, raster = cards[bases[spec]], spec.endswith(RASTER)
        name = card.name + (RASTER if raster else "")
        if any(other.name == name for other in found):
            name = f"{name} {card.identity[:6]}"
        if any(other.name == name for other in found):
            raise ValueError(f"{spec} is named twice, or is the same model as another: name each once")
        found.append(Entrant(spec, name, card, raster))
    return found


def image_sets(dataset: str, shifts: Sequence[str]) -> list[ImageSet]:
    """What --shift names: `clean`, shifts of the data set, and other data sets. Raises ValueError."""
    found: list[ImageSet] = []
    for text in shifts or (CLEAN,):
        if text.strip().lower() == CLEAN:
            found.append(ImageSet(CLEAN, dataset, None, True))
            continue
        kind = text.strip().lower().removesuffix(EACH)
        if is_shift(kind):
            for one in _each(kind) if kind != text.strip().lower() else [kind]:
                name = parse(one).name
                found.append(ImageSet(name, dataset, name, True))
        else:
            found.append(ImageSet(text, text, None, False))
    return list({images.name: images for images in found}.values())


def _each(kind: str) -> Iterator[str]:
    for name in STANDARD if kind == MIX else (kind,):
        yield from (f"{name}:{severity}" for severity in SEVERITIES)


def file_name(text: str) -> str:
    """A name that any file system takes."""
    return re.sub(r"[^\w.+-]+", "-", text).strip("-.") or "-"


def _differ(a: Sequence[str], b: Sequence[str]) -> str:
    if len(a) != len(b):
        return f"{len(a)} and {len(b)}"
    return next(f"{x!r} and {y!r}" for x, y in zip(a, b, strict=True) if x != y)
