"""Options and a model's card become one plan: the only place that knows what beats what.

Typed beats preset beats recommended beats default. What a model recommends is its rule `calibrated` where the
races are the ones that were calibrated, else `paired` on the same orders.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from anytime_cls.draws.views import ViewSampler
from anytime_cls.models.card import WEIGHTS, ModelCard
from anytime_cls.plan.options import RaceOptions
from anytime_cls.plan.plan import RacePlan, Why
from anytime_cls.race.fitted import Design, Fitted
from anytime_cls.race.registry import CALIBRATED, fitted_rule, temperature_at
from anytime_cls.race.rules import Rule

_DEFAULTS: dict[str, Any] = {
    "rule": "paired", "delta": 0.05, "max_orders": 32, "orders": "uniform", "crops": "center",
}  # fmt: skip
_RACE = (*_DEFAULTS, "prefix")


def make(
    options: RaceOptions,
    card: ModelCard,
    class_ids: Sequence[int] | None = None,
    preset: Collection[str] = (),
) -> RacePlan:
    """The plan of these options for one model. No weights are read, and no torch.

    Parameters
    ----------
    class_ids : the model's classes to race, a data set's; default those that the options name
    preset : names of the options that a preset set, not the caller

    Raises ValueError, in one line, for options that make no sense for this model.
    """
    ids = [int(i) for i in (card.class_ids(options.classes) if class_ids is None else class_ids)]
    chosen, why = _choose(options, card, preset)
    design, block = _design(chosen, options, card, len(ids))
    fitted = Fitted(card.tokens) if options.latent_noise else card.fitted  # fitted without noise
    delta = float(chosen["delta"])

    def ruled(name: str) -> Rule:
        if options.latent_noise and name == CALIBRATED:
            raise ValueError("rule 'calibrated' was fitted without latent noise: name another with it")
        return _screened(fitted_rule(fitted, name, delta, design, block), options.screen)

    try:
        rule = ruled(str(chosen["rule"]))
    except ValueError:
        if why["rule"] != "recommended" or chosen["rule"] != CALIBRATED:
            raise
        rule = ruled("paired")  # the calibration is for another δ, K_max or number of classes
    screens = _screens(rule, options, card)
    reporting = rule.pair_bound or ruled("paired").pair_bound
    assert reporting is not None
    own = fitted.of(design.draws, design.steps, design.crops).temperature
    return RacePlan(
        model=card.name,
        method=card.method,
        weights_sha256=card.sha256[WEIGHTS[0]],
        encoder_sha256=card.sha256[WEIGHTS[1]],
        tokens=card.tokens,
        class_ids=tuple(ids),
        labels=tuple(card.labels[i] for i in ids),
        noise=float(options.latent_noise),
        seed=options.seed,
        design=design,
        block=block,
        record=tuple(options.prefixes),
        screens=screens,
        fallback=_fallback(options, card, screens),
        rule=rule,
        delta=delta,
        reporting=reporting,
        aggregate=options.aggregate,
        temperature=temperature_at(rule, card.temperature if own is None else own),
        fitted=own is not None,
        budget=options.limit,
        shape=card.shape,
        why={**why, "temperature": "default" if own is None else "model"},
    )


def _screened(rule: Rule, screen: str | None) -> Rule:
    """The rule, if it goes with this screen. Raises ValueError for a calibration made with another."""
    own = next((stage.source for stage in rule.first_stages if isinstance(stage.source, str)), "none")
    if screen not in (None, own) and rule.name == CALIBRATED:
        raise ValueError(
            f"rule 'calibrated' was calibrated with screen {own!r}: leave --screen out, or name another rule"
        )
    return rule


def _screens(rule: Rule, options: RaceOptions, card: ModelCard) -> tuple[str, ...]:
    """Screens to run, the rule's own first. Raises ValueError for one that the model has not."""
    own = [stage.source for stage in rule.first_stages if isinstance(stage.source, str)]
    asked = [] if options.screen in (None, "none") else [str(options.screen)]
    names = tuple(dict.fromkeys([*own, *asked, *options.screens]))
    for name in names:
        if name not in card.shape.screens:
            there = ", ".join(card.shape.screens) or "none"
            raise ValueError(f"{card.name} has no screen {name!r}: it has {there}")
    if names and options.latent_noise:
        raise ValueError("screens see an image without noise: leave latent noise out")
    return names


def _fallback(options: RaceOptions, card: ModelCard, screens: tuple[str, ...]) -> str:
    """The cheapest screen, for budgets that allow nothing better; "" where there is a screen anyway."""
    if options.limit is None or screens or options.screen == "none" or options.latent_noise:
        return ""
    return next(iter(card.shape.screens), "")


def _choose(
    options: RaceOptions, card: ModelCard, preset: Collection[str]
) -> tuple[dict[str, Any], dict[str, Why]]:
    """What the race is to be, and why, by the names of `_RACE`."""
    asked = {name: value for name in _RACE if (value := getattr(options, name)) is not None}
    recommended: dict[str, Any] = {}
    own, typed = card.fitted.race, {"rule", "orders", "prefix"} & asked.keys()
    if own is not None and not typed and asked.get("crops", own.crops) == own.crops:
        recommended = {key: value for key, value in asdict(own).items() if value is not None}
    chosen = _DEFAULTS | recommended | asked
    RaceOptions(**chosen, latent_noise=options.latent_noise)  # together they make sense
    why: dict[str, Why] = {
        name: "preset" if name in preset else "typed" if name in asked
        else "recommended" if name in recommended else "default"
        for name in _RACE
    }  # fmt: skip
    return chosen, why


def _design(
    chosen: Mapping[str, Any], options: RaceOptions, card: ModelCard, n_classes: int
) -> tuple[Design, int]:
    """Which races these are, and draws a pull. Raises ValueError for what the model has not."""
    steps = int(chosen.get("prefix", card.tokens))
    if steps > card.tokens:
        raise ValueError(f"a prefix of {steps} tokens is longer than an image's {card.tokens}")
    draws = card.shape.draws(str(chosen["orders"]), steps)
    if options.prefixes and options.prefixes[-1] >= steps:
        raise ValueError(
            f"prefixes must be shorter than the {steps} tokens of a pass, got {options.prefixes[-1]}"
        )
    most = int(chosen["max_orders"])
    if most % draws.block:
        raise ValueError(f"{chosen['orders']} orders come in blocks of {draws.block}: max_orders must divide")
    crops = str(chosen["crops"])
    varies = ViewSampler(crops, options.latent_noise).varies
    distinct = None if varies else draws.distinct  # one draw seen in many views is many
    return Design(draws.name, steps, min(most, distinct or most), n_classes, crops), draws.block
