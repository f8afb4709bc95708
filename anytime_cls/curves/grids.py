"""Which settings a curve goes through: every rule from its safest to its cheapest, in at least 20 points.

A *spec* names one run of a replay: a rule, its settings, K_max and prefix, and where on which curve it lies.
"""

from __future__ import annotations

from collections.abc import (
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from anytime_cls.race.bounds import NormalMixture, PlainT, VariancePrior
from anytime_cls.race.peers import ClarkJainiRule, HalvingRule, MarginalRule
from anytime_cls.race.registry import (
    CALIBRATED,
    DELTA_RULES,
    RULES,
    SCREEN_RULES,
    SETTINGS,
)
from anytime_cls.race.rules import PairedRule
from anytime_cls.race.value import PRICES

POINTS = 24
#: The largest error of one pair (class) at one look: even odds, where whoever is behind leaves. marginal
#: splits it over two sides; strict's bound starts from 1.
LOOSEST = {"paired": 0.5, "strict": 0.99, "marginal": 0.99}
P_VALUES = np.union1d(np.geomspace(1e-6, 0.99, POINTS), ClarkJainiRule.p_value)  # two-sided


@dataclass(frozen=True)
class Spec:
    """One run of a replay. k_max: orders. prefix: tokens of a pass, None for whole orders.

    settings: of the rule, as `registry.make_rule` takes them, `delta` among them where the rule has one.
    """

    rule: str
    k_max: int
    curve: str
    knob: str
    knob_value: float
    settings: Mapping[str, Any] = field(default_factory=dict)
    prefix: int | None = None


def specs(
    rules: Sequence[str] | None,
    k_maxes: Sequence[int],
    n_classes: int,
    deltas: Sequence[float] | None = None,
    prefixes: Sequence[int | None] = (None,),
    settings: Mapping[str, Sequence[Any]] | None = None,
    block: int = 1,
) -> list[Spec]:
    """The runs asked for; what is not said takes a rule's default grid.

    Parameters
    ----------
    rules : names, None for all. `deltas` and `settings` (setting → values) apply to every rule that has one
    k_maxes : orders, ascending; `fixed` and `funnel`, whose knob is K, take every K up to the last
    prefixes : tokens, None for whole orders
    block : orders a pull; K goes in steps of it

    Raises ValueError for an unknown rule, or a δ or setting that none of the rules has.
    """
    names = list(dict.fromkeys(rules)) if rules else list(RULES)
    known = (*RULES, *SCREEN_RULES, CALIBRATED)
    settings = dict(settings or {})
    for name in names:
        if name not in known:
            raise ValueError(f"unknown rule {name!r}: choose from {', '.join(known)}")
    for setting in settings:
        if not any(setting in SETTINGS.get(name, ()) for name in names):
            having = ", ".join(name for name in RULES if setting in SETTINGS.get(name, ())) or "no rule"
            raise ValueError(f"{setting} is a setting of {having}, not of {', '.join(names)}")
    if deltas and not set(names) & set(DELTA_RULES):
        raise ValueError(f"δ steers {', '.join(DELTA_RULES)}, not {', '.join(names)}")
    out: list[Spec] = []
    for prefix in prefixes:
        for name in names:
            own = {key: list(values) for key, values in settings.items() if key in SETTINGS.get(name, ())}
            if deltas and name in DELTA_RULES:
                own["delta"] = list(deltas)
            out += _of_rule(name, k_maxes, n_classes, own, prefix, block)
    return out


def _of_rule(
    name: str,
    k_maxes: Sequence[int],
    n_classes: int,
    own: dict[str, list[Any]],
    prefix: int | None,
    block: int,
) -> Iterator[Spec]:
    tail = "" if prefix is None else f" m={prefix}"
    if name in SCREEN_RULES:
        yield Spec(name, k_maxes[-1], name, "k_max", k_maxes[-1])
        return
    if name in ("fixed", "funnel") and not own:
        for k in range(block, k_maxes[-1] + 1, block):
            yield Spec(name, k, name + tail, "k_max", k, {}, prefix)
        if name == "fixed":
            return
    per_k = own and all(len(values) == 1 for values in own.values()) and len(k_maxes) > 1
    for k in k_maxes:
        at_k = tail if len(k_maxes) == 1 or per_k else f"{tail} K={k}"
        for knob, value, curve, settings in _points(name, k // block, n_classes, own):
            if per_k:
                fixed = "".join(f" {key}={_show(value)}" for key, value in settings.items())
                yield Spec(name, k, curve + fixed + at_k, "k_max", k, settings, prefix)
            else:
                yield Spec(name, k, curve + at_k, knob, value, settings, prefix)


def _points(
    name: str, k_max: int, n_classes: int, own: dict[str, list[Any]]
) -> Iterable[tuple[str, float, str, dict[str, Any]]]:
    """(knob, its value, curve, settings) along a rule's curves at one K_max, in pulls."""
    if own:
        knob = max(own, key=lambda key: len(own[key]))
        held = {key: values[0] for key, values in own.items() if len(values) == 1 and key != knob}
        if len(held) < len(own) - 1:
            raise ValueError(f"rule {name!r}: only one of {', '.join(own)} can have several values")
        for at, value in enumerate(own[knob]):
            number = float(value) if isinstance(value, int | float) else float(at)
            yield knob, number, name, {**held, knob: value}
        return
    match name:
        case "paired" | "strict" | "marginal":
            share = delta_share(name, n_classes, k_max)
            cheapest = LOOSEST[name] / share
            grid = np.union1d(np.geomspace(1e-6, cheapest, POINTS), (0.01, 0.05, 0.1))
            for delta in grid[grid <= cheapest]:  # past δ = 1 it is nominal: what the split would add up to
                yield "delta", float(delta), name, {"alpha": float(delta * share)}
        case "funnel":  # the stages of the default, earlier and later
            for step in range(1, 21):
                stretch = step / 5
                stages = ((min(stretch / 16, 1.0), 5), (min(stretch / 4, 1.0), 2))
                yield "stretch", stretch, "funnel stages", {"stages": stages}
        case "clark-jaini":
            # theirs waits for 20 scores, of thousands: with a K_max of tens that is most of them
            for min_scores in (20, 4):
                curve = name if min_scores == 20 else f"{name} from {min_scores}"
                for p_value in P_VALUES:
                    settings = {"p_value": float(p_value), "min_scores": min_scores}
                    yield "p_value", float(p_value), curve, settings
        case "halving":  # at a saving of K_max every round is one order
            grid = np.geomspace(1.05, max(2.0, 1.5 * k_max), POINTS)
            for saving in np.union1d(grid, HalvingRule.saving):
                yield "saving", float(saving), name, {"saving": float(saving)}
        case "value":
            for price in PRICES:
                yield "price", float(price), name, {"price": float(price)}


def delta_share(name: str, n_classes: int, k_max: int) -> float:
    """What one pair (`marginal`: class) at one look gets of δ. k_max: pulls."""
    if name == "marginal":
        return MarginalRule(PlainT(), 1.0).alpha(n_classes, k_max)
    bound = NormalMixture(VariancePrior(1.0, 0.0, 1.0)) if name == "strict" else PlainT()
    return PairedRule(bound, 1.0).alpha(n_classes, k_max)


def _show(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)
