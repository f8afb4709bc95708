"""When a race's answer is "none of these": what was calibrated for such races, looked up."""

from __future__ import annotations

from anytime_cls.models.card import ModelCard
from anytime_cls.plan.plan import RacePlan
from anytime_cls.race.decision import Decision
from anytime_cls.race.fitted import Abstention


def abstention(card: ModelCard, plan: RacePlan) -> Abstention | None:
    """What the model was calibrated to for races by this plan; None where it was not."""
    if plan.noise:  # fitted without
        return None
    risk = plan.rule.holds
    for entry in card.fitted.abstain:
        if (entry.design, entry.rule, entry.risk) == (plan.design, plan.rule.name, risk):
            return entry
    return None


def threshold(card: ModelCard, plan: RacePlan, rate: float) -> float:
    """Evidence, in nats, below which a picture is none of the model's classes, so that at most this share of
    its own pictures are called so. Raises ValueError, in one line, where that was not calibrated."""
    if not 0 < rate < 1:
        raise ValueError(f"a share of false alarms lies between 0 and 1, not {rate:g}")
    entry = abstention(card, plan)
    if entry is None:
        raise ValueError(
            f"{card.name} was not calibrated to abstain in races by rule {plan.rule.name!r} on "
            f"{plan.design}: 'anytime-cls calibrate FULL.h5 --write-model MODEL' does it"
        )
    found = entry.at(rate)
    if found is None:
        least = entry.thresholds[0][0]
        raise ValueError(f"the smallest share that {card.name} was calibrated to abstain at is {least:g}")
    return found


def unlike(decision: Decision, nats: float) -> bool | None:
    """Whether a decision has less evidence than this; None where the budget cut its race short, so that it
    cannot be compared (which raises no false alarm)."""
    if decision.stop == "budget" or decision.shortlist is not None:
        return None
    return decision.evidence < nats
