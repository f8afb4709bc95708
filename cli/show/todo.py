"""What a sweep is about to do, how long that takes, and what its trace will be good for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anytime_cls.race.registry import DELTA_RULES

from .output import count, duration, views

if TYPE_CHECKING:
    from anytime_cls.plan.plan import RacePlan
    from anytime_cls.sweeps.expect import Expected


def todo(images: int, done: int, where: str, plan: RacePlan, on: str, expected: Expected | None) -> list[str]:
    """Lines for people.

    images : left to do, `done` were done before. where : the data set. on : the device, and its threads.
    expected : None where workers will say how fast they are
    """
    design = plan.design
    before = f" ({done:,} are done)" if done else ""
    delta = f" at δ = {plan.delta:g}" if plan.rule.name in DELTA_RULES else ""
    tokens = "" if plan.whole else f" of {design.steps} tokens"
    race = f"{plan.rule.name}{delta} on at most {design.k_max} {design.draws} orders{tokens}{views(plan)}"
    lines = [
        f"to do: {count(images, 'image')} of {where}{before}, {design.n_classes} classes each, "
        f"by rule {race}; {plan.model} on {on}"
    ]
    if expected is not None:
        lines.append(f"expected: {_seconds(expected)}")
    if plan.rule.name == "fixed" and plan.budget is None:
        lines.append("its trace will hold every score: 'anytime-cls replay' can race any rule on it")
    else:
        taking = "" if expected is None else f", in about {duration(expected.full)}"
        lines.append(
            "its trace will hold what these races score: no other rule can be replayed on it. "
            f"'{_full(plan)}' records all that is needed for that{taking}"
        )
    return lines


def _full(plan: RacePlan) -> str:
    """Options of a sweep that scores all classes on all orders of this race."""
    design = plan.design
    prefix = "" if plan.whole else f" --prefix {design.steps}"
    crops = "" if design.crops == "center" else f" --crops {design.crops}"
    return f"--rule fixed --orders {design.draws}{prefix} --max-orders {design.k_max}{crops}"


def _seconds(expected: Expected) -> str:
    least, most = duration(expected.least), duration(expected.most)
    if expected.usual is None:
        return f"{least} to {most}" if least != most else f"about {most}"
    if expected.usual == expected.most:
        return f"about {most}"
    return f"about {duration(expected.usual)}, as on the images the race was calibrated with; at most {most}"
