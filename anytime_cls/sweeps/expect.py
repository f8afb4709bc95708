"""What a sweep will take, said before it starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from anytime_cls.classifier import AnytimeClassifier, estimate_image
from anytime_cls.models.card import ModelCard
from anytime_cls.plan.plan import RacePlan
from anytime_cls.race.rules import CalibratedRule, FixedRule


@final
@dataclass(frozen=True)
class Expected:
    """Seconds of all images together.

    least, most : between races that are decided at once, and such that use all orders or their budget
    usual : at the passes that such races took on the images they were measured on; None where they were not
    full : of rule `fixed` on the same orders, which records what every other rule can be replayed on
    """

    least: float
    most: float
    usual: float | None
    full: float


def expect(classifier: AnytimeClassifier, plan: RacePlan, images: int) -> Expected:
    """What so many images take, in batches that they share. Warms the classifier up."""
    classifier.warm_up()
    cost, tokens = classifier.engine.cost, classifier.tokenize_seconds
    one = estimate_image(classifier, plan)
    a_pass = cost.seconds(1, classifier.engine.n_tokens) - cost.seconds(0, classifier.engine.n_tokens)
    passes = usual_passes(classifier.card, plan)
    usual = None if passes is None else min(one.most, passes * a_pass + tokens)
    least = min(one.least, one.least_passes * a_pass + tokens)  # batches are shared
    most = one.most if one.budget else min(one.most, one.most_passes * a_pass + tokens)
    full = one.full_passes * a_pass + tokens
    if isinstance(plan.rule, FixedRule) and not one.budget:
        least = usual = most
    found = (least, most, usual, full)
    return Expected(*(None if seconds is None else images * seconds for seconds in found))  # type: ignore[arg-type]


def usual_passes(card: ModelCard, plan: RacePlan) -> float | None:
    """Whole passes an image of races like these, as `calibrate` measured them on held-out images."""
    rule, design = plan.rule, plan.design
    if not isinstance(rule, CalibratedRule) or plan.budget is not None:
        return None
    for entry in card.fields.get("calibrated", ()):
        alike = (entry["k_max"], entry["n_classes"], entry["risk"]) == (
            design.k_max, design.n_classes, rule.delta,
        )  # fmt: skip
        where = entry["order_sampler"], entry.get("prefix") or plan.tokens, entry.get("crops", "center")
        alike = alike and where == (design.draws, design.steps, design.crops)
        if alike and "whole_passes" in entry.get("held_out", {}):
            return float(entry["held_out"]["whole_passes"])
    return None
