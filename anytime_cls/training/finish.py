"""The last stage: weights are stored, races tried on held-out images, the best design recommended.

What is held out serves twice. Some of it (COMPARED images) is scored in every design, and the cheapest design
that is as good as any is kept (`certify.recommend`). In that design all of it is scored, up to what was asked
for, and thresholds are certified on it where it suffices.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from anytime_cls.certify.measure import measure_trace
from anytime_cls.certify.recommend import DELTA, Tried, certify, cheapest, figures, try_design
from anytime_cls.certify.store import store_calibration, write_json
from anytime_cls.classifier import AnytimeClassifier
from anytime_cls.datasets.base import Dataset
from anytime_cls.datasets.choose import choose
from anytime_cls.models.card import ModelCard
from anytime_cls.models.load import save_model
from anytime_cls.models.zoo import read_card
from anytime_cls.plan.make import make
from anytime_cls.plan.options import RaceOptions
from anytime_cls.plan.plan import Runtime
from anytime_cls.scorers.sigma import Transformer
from anytime_cls.sweeps.sweep import run_sweep, sweep_plan, sweep_provenance
from anytime_cls.tokenizers.base import Tokenizer
from anytime_cls.traces.read import Trace
from anytime_cls.traces.write import TraceWriter
from anytime_cls.training.folder import taken
from anytime_cls.training.recipe import Recipe
from anytime_cls.training.start import Start
from anytime_cls.training.train import NAIVE_BAYES

COMPARED = 60  # held-out images that designs are compared on
# parts an order is cut into (1: it is scored whole) → orders of each, at most
DESIGNS = {1: 4, 4: 16, 8: 32, 16: 32}
CALIBRATION = "calibration"  # the trace, in the model's folder, that the recommended race is fitted to
_FITTED = ("priors", "temperature", "calibration_images", "designs", "calibrated", "prices", "screens")


@dataclasses.dataclass(frozen=True)
class Scoring:
    """How many images are scored in full: held-out ones (0: none, and nothing is calibrated), of a test
    folder; on so many orders at most, for every class."""

    calibration_images: int = 500
    test_images: int = 1000
    max_orders: int = 32

    def designs(self, tokens: int) -> list[RaceOptions]:
        """Races to try, of images of so many tokens: whole orders, and disjoint parts of them."""
        return [
            RaceOptions(rule="fixed", orders="uniform", max_orders=min(most, self.max_orders)) if parts == 1
            else RaceOptions(rule="fixed", orders="stratified", prefix=tokens // parts,
                             max_orders=min(most, self.max_orders))
            for parts, most in DESIGNS.items() if tokens % parts == 0 and tokens // parts > 0
        ]  # fmt: skip


def finish(
    tokenizer: Tokenizer,
    model: Transformer,
    held_out: Dataset,
    test: Dataset | None,
    recipe: Recipe,
    out: Path,
    *,
    name: str,
    labels: list[str],
    data: str,
    notes: dict[str, str],
    scoring: Scoring,
    start: Start | None = None,
    progress: Callable[[str, int, int], None],
) -> ModelCard:
    """Stage 4: store the weights (transformer in float16), recommend a race and measure it, as stored.

    Traces of held-out images, `design-*.h5` and `calibration.h5`, give priors, temperatures and the race;
    one of test images, `test.h5` (the held-out ones, and the metrics say so, where the data have no test
    folder), the figures. All are of all classes, and go on where an attempt was cut short. A model that is
    there already is not written anew.
    labels: names of the classes, in the order of the folders. start: what the model was begun from.
    """
    with taken(out):
        if (out / "model.json").exists():
            card = read_card(out)
        else:
            fields = {
                "name": name,
                "labels": labels,
                **({} if labels == held_out.labels else {"synsets": held_out.labels}),
                "image_size": recipe.image_size,
                "data": data,
                **notes,
            }
            card = _store(out, fields, tokenizer, model, recipe, start)
        if "metrics" in card.fields or not scoring.calibration_images:
            return card
        device = str(next(model.parameters()).device)
        sweep = partial(full_trace, seed=recipe.seed, device=device, progress=progress)
        if card.fitted.race is None:
            _recommend(card, held_out, scoring, sweep)
            card = read_card(out)
        race = card.fitted.race
        assert race is not None
        if test is None:
            trace, kind = Trace.open(out / f"{CALIBRATION}.h5"), "held-out training images"
        else:
            options = RaceOptions("fixed", None, race.max_orders, orders=race.orders, prefix=race.prefix)
            trace, kind = sweep(card, "test", test, scoring.test_images, options), "test images"
        with trace:
            metrics = measure_trace(trace, card, kind)
            metrics["race"] = figures(trace, make(RaceOptions(), card).rule)
        write_json(out / "model.json", {**card.fields, "metrics": metrics})
        return read_card(out)


def _store(
    out: Path, fields: dict[str, Any], tokenizer: Tokenizer, model: Transformer, recipe: Recipe,
    start: Start | None,
) -> ModelCard:  # fmt: skip
    """The weights, and what is known of them before they are calibrated."""
    state: Mapping[str, Tensor]
    if start is None:
        assert not isinstance(tokenizer, type(None))
        kind = "manifold" if recipe.tokens == "manifold" else "fsq"
        shape = {"kind": kind, "saw_labels": recipe.tokens == "labels", **tokenizer.config.to_dict()}  # type: ignore[attr-defined]
        state = tokenizer.state_dict()  # type: ignore[attr-defined]
    else:
        shape, state = start.card.fields["tokenizer"], start.tokenizer_state()
        fields |= {"started_from": {"model": start.card.name, "sha256": start.card.sha256}}
    fields |= {
        "tokenizer": shape,
        "layout": recipe.layout,
        "model": model.config.to_dict(),
        "recipe": dataclasses.asdict(recipe),
        "naive_bayes": json.loads((out / NAIVE_BAYES).read_text(encoding="utf-8")),
    }
    stored = {key: value.half() for key, value in model.reference_state().items()}
    return save_model(out, fields, stored, state)


def _recommend(card: ModelCard, held_out: Dataset, scoring: Scoring, sweep: Callable[..., Trace]) -> None:
    """Tries the designs, and writes what was fitted and the race to recommend into the model."""
    bare = {key: value for key, value in card.fields.items() if key not in _FITTED}
    raced = dataclasses.replace(card, fields=bare)  # traces say nothing that a second attempt would not
    tried: list[Tried] = []
    designs = scoring.designs(card.tokens)
    compared = min(COMPARED, scoring.calibration_images)
    for options in designs:
        stage = f"design-{options.prefix or card.tokens}"
        with sweep(raced, stage, held_out, compared, options) as trace:
            tried.append(try_design(trace))
        store_calibration(card, tried[-1].fitted, replace_priors=True)
        card = read_card(card.path)
    best = cheapest(tried)
    options = designs[best]
    with sweep(raced, CALIBRATION, held_out, scoring.calibration_images, options) as trace:
        store_calibration(card, try_design(trace).fitted, replace_priors=True)
        certified = certify(trace, len(designs))
    card = read_card(card.path)
    if certified is not None:
        store_calibration(card, certified[0], recommend=certified[1])
        return
    race = {"rule": "paired", "delta": DELTA, "orders": options.orders, "prefix": options.prefix,
            "max_orders": options.max_orders}  # fmt: skip
    write_json(card.path / "model.json", {**card.fields, "race": race})


def full_trace(
    card: ModelCard, stage: str, images: Dataset, limit: int, options: RaceOptions, *, seed: int, device: str,
    progress: Callable[[str, int, int], None],
) -> Trace:  # fmt: skip
    """What `sweep --rule fixed --limit LIMIT --seed SEED` records of these images, in the model's folder,
    with the screens and rungs that a calibration may choose."""
    chosen = choose(images.name, images.root, card.labels, images.class_ids, [*images.samples], limit, seed)
    steps = options.prefix or card.tokens
    rungs = tuple(m for m in (4, 8) if m < steps)
    options = dataclasses.replace(options, seed=seed, prefixes=rungs, screens=tuple(card.shape.screens))
    plan, classifier = sweep_plan(chosen, card, options), AnytimeClassifier.load(card, device)
    path, attributes = card.path / f"{stage}.h5", sweep_provenance(plan, chosen, card, Runtime(device))
    with TraceWriter.resume(path, attributes, chosen.labels) as writer:
        run_sweep(classifier, chosen, plan, writer, lambda tally: progress(stage, tally.done, tally.total))
    return Trace.open(path)
