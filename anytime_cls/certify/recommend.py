"""Which of several designs to race a model in, by full traces of the same held-out images, a trace each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import log_softmax

from anytime_cls.certify.designs import Array, Design, Target, _race, split_images
from anytime_cls.certify.measure import fit_trace, labelled
from anytime_cls.certify.thresholds import calibrate_trace
from anytime_cls.race.fitted import DISAGREEMENT, Fitted
from anytime_cls.race.races import run
from anytime_cls.race.registry import make_rule
from anytime_cls.race.rules import Rule
from anytime_cls.replay.source import Source
from anytime_cls.stats.intervals import proportion
from anytime_cls.traces.read import Trace

RISKS = (0.05, 0.1)  # what is recommended: the first that is certified
ALSO = (0.01, 0.02)  # risks that are certified beside it where the images suffice
SHARE = 0.8  # of the images, that priors and thresholds are fitted on
DELTA = 0.05  # of rule `paired`, where nothing is certified


@dataclass(frozen=True, eq=False)
class Tried:
    """A design on held-out images. loss: float64 [n], −log p(own class), nats, by all K_max orders.
    cost: whole passes of a race by rule `paired`, on average. right: how often all K_max orders are.
    fitted: priors and temperature, as `model.json` has them."""

    design: Mapping[str, Any]  # order_sampler, prefix (None: whole orders), k_max
    loss: Array
    cost: float
    right: Mapping[str, Any]
    fitted: Mapping[str, Any]


def try_design(trace: Trace) -> Tried:
    """Raises ValueError, in one line, for a trace that is not full, or of too few images to fit anything."""
    fitted = fit_trace(trace)
    source, pulls, label = labelled(trace)
    known = Fitted.read(fitted, source.tokens).of(source.sampler_name, source.pass_tokens, source.crops)
    assert known.temperature is not None  # fit_trace fits one
    means = pulls.mean(axis=1)
    loss = -log_softmax(means / known.temperature, axis=1)[np.arange(len(label)), label]
    races = run(make_rule("paired", DELTA, known.of_pulls(source.block)), pulls)
    design = Design(source, None)
    about = {"k_max": source.k_max, "prefix": None} | source.named()
    right = proportion(means.argmax(axis=1) == label)
    return Tried(about, loss, float(design.spent(races)[2].mean()), right, fitted)


def cheapest(tried: Sequence[Tried]) -> int:
    """The cheapest of the designs whose loss is within one standard error of the best's.

    The standard error is that of the paired difference. The rule is that of pruning trees (Breiman,
    Friedman, Olshen & Stone, *Classification and regression trees*, 1984). By loss, since accuracies of few
    images tie or differ by chance.
    """
    best = min(tried, key=lambda one: float(one.loss.mean()))

    def near(one: Tried) -> bool:
        more = one.loss - best.loss
        error = float(more.std(ddof=1)) / np.sqrt(len(more)) if len(more) > 1 else 0.0
        return bool(more.mean() <= error)

    return min((i for i, one in enumerate(tried) if near(one)), key=lambda i: tried[i].cost)


def images_to_certify(designs: int, risk: float = max(RISKS), confidence: float = 0.95) -> int:
    """Fewest held-out images with which `certify` can hold a risk, if none of them is answered otherwise."""
    need = Target(DISAGREEMENT, risk, 1 - (1 - confidence) / designs).images_needed
    n = need
    while len(split_images(np.arange(n), SHARE, 0).thresholds) < need:
        n += 1
    return n


def certify(trace: Trace, designs: int, confidence: float = 0.95) -> tuple[dict[str, Any], float] | None:
    """A calibration of these races, as `thresholds.calibrate_trace` gives, and the risk to recommend.

    designs : how many this one was chosen among, on these images too. None where the images are too few for
    the largest of RISKS, or no threshold holds it.
    """
    source = Source(trace)
    n = int((source.good).sum())
    found = None
    for risk in sorted((*RISKS, *ALSO), reverse=True):
        if n < images_to_certify(designs, risk, confidence):
            break
        held = sorted({risk} | ({entry["risk"] for entry in found["calibrated"]} if found else set()))
        stages: list[int | str] = [*source.screens, *source.prefixes]
        try:
            found = calibrate_trace(trace, held, confidence, SHARE, stages=stages, designs=designs)
        except ValueError:  # no threshold holds so little
            break
    if found is None:
        return None
    there = [entry["risk"] for entry in found["calibrated"]]
    return found, next(risk for risk in RISKS if risk in there)


def figures(trace: Trace, rule: Rule) -> dict[str, Any]:
    """What a rule's races did to a full trace's images: passes, compute, saving, disagreement, accuracy."""
    source = Source(trace)
    images = np.flatnonzero(source.good)
    return _race(Design(source, None), images, [rule], trace.images["label"], None).measure(0, images)
