"""Rules by name, with their settings and what was fitted for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from anytime_cls.race.bounds import (
    ModeratedT,
    NormalMixture,
    PlainT,
    VariancePrior,
)
from anytime_cls.race.fitted import ACCURACY, DISAGREEMENT, Calibration, Design, Fitted, Price
from anytime_cls.race.peers import (
    ClarkJainiRule,
    FunnelRule,
    HalvingRule,
    MarginalRule,
)
from anytime_cls.race.rules import (
    CalibratedRule,
    FixedRule,
    PairedRule,
    Rule,
    ScreenRule,
)

RULES = ("paired", "strict", "marginal", "fixed", "funnel", "clark-jaini", "halving", "value")
SCREEN_RULES = ("table", "gradient")  # a screen's answer and no race; `scorers.screens` has them
CALIBRATED = "calibrated"  # needs what `anytime-cls calibrate` fits for a model, so it is not among RULES
DELTA_RULES = ("paired", "strict", "marginal", CALIBRATED)  # those that a δ steers
#: Settings of a rule besides δ, as `make_rule` takes them.
SETTINGS: dict[str, tuple[str, ...]] = {
    "paired": ("alpha",), "strict": ("alpha",), "marginal": ("alpha",), "funnel": ("stages",),
    "clark-jaini": ("p_value", "min_scores"), "halving": ("saving",), "value": ("price",),
    CALIBRATED: ("loss",),
}  # fmt: skip


def make_rule(
    name: str,
    delta: float = 0.05,
    priors: Mapping[str, VariancePrior] | None = None,
    calibrated: Sequence[Calibration] = (),
    design: Design | None = None,
    temperature: float = 1.0,
    screen_temperature: float | None = None,
    **settings: Any,
) -> Rule:
    """The rule of this name.

    Parameters
    ----------
    name : one of `RULES` or `SCREEN_RULES`, or `calibrated`
    delta : probability, per image, of another answer than all K_max orders would give, in (0, 1)
    priors : variance priors fitted on held-out traces, under `paired` and `marginal`. Without them
        `paired`, `marginal` and `value` fall back to the plain t (which can drop nothing before two
        orders), and `strict` is refused.
    calibrated, design : for `calibrated`: a model's calibrations, and the races it is wanted for
    temperature : for `value`: soft-max of mean log-likelihoods over it is a probability
    screen_temperature : for `SCREEN_RULES`: that of a screen's estimates
    settings : the rule's own (`SETTINGS`). `alpha` (paired, strict, marginal): error of one pair (class)
        at one look, instead of δ's share; `stages`; `p_value`, `min_scores`; `saving`; `price`; `loss`
        (calibrated): what δ bounds, `disagreement` with K_max or the drop in `accuracy`

    Raises
    ------
    ValueError : an unknown rule or setting, a δ outside (0, 1), `strict` without a prior, or `calibrated`
        without a calibration for this race
    """
    if not 0 < delta < 1:
        raise ValueError(f"delta must lie between 0 and 1, got {delta:g}")
    unknown = sorted(set(settings) - set(SETTINGS.get(name, ())))
    if unknown and name in (*RULES, *SCREEN_RULES, CALIBRATED):
        known = ", ".join(SETTINGS.get(name, ())) or "none"
        raise ValueError(f"rule {name!r} has no setting {unknown[0]!r}; it has {known}")
    priors = priors or {}
    moderated = {key: ModeratedT(prior) for key, prior in priors.items()}
    each = settings.get("alpha")
    if each is not None and not 0 < each < 1:
        raise ValueError(f"alpha must lie between 0 and 1, got {each:g}")
    match name:
        case "paired":
            return PairedRule(moderated.get("paired", PlainT()), delta, each=each)
        case "strict":
            if "paired" not in priors:
                raise ValueError("rule 'strict' needs a variance prior and this model has none: use 'paired'")
            return PairedRule(NormalMixture(priors["paired"]), delta, name="strict", each=each)
        case "marginal":
            return MarginalRule(moderated.get("marginal", PlainT()), delta, each=each)
        case "calibrated":
            return _calibrated(calibrated, delta, design, **settings)
        case "table" | "gradient":
            return ScreenRule(name, screen_temperature)
        case "fixed":
            return FixedRule()
        case "funnel":
            return FunnelRule(**settings)
        case "clark-jaini":
            return ClarkJainiRule(**settings)
        case "halving":
            return HalvingRule(**settings)
        case "value":
            from anytime_cls.race.value import ValueRule  # which builds on this module

            return ValueRule(priors.get("paired"), temperature, **settings)
    raise ValueError(f"unknown rule {name!r}: choose from {', '.join((*RULES, *SCREEN_RULES, CALIBRATED))}")


def temperature_at(rule: Rule, otherwise: float) -> float:
    """The temperature of a rule's decisions: its own where it was fitted, else its design's."""
    return otherwise if rule.own_temperature is None else rule.own_temperature


def _calibrated(
    entries: Sequence[Calibration], risk: float, design: Design | None, loss: str = DISAGREEMENT
) -> CalibratedRule:
    """The calibration of the largest risk up to the one asked for: what holds less holds it too."""
    if loss not in (DISAGREEMENT, ACCURACY):
        raise ValueError(f"loss must be {DISAGREEMENT} or {ACCURACY}, got {loss!r}")
    if not entries:
        raise ValueError(
            "rule 'calibrated' needs a calibration and this model has none: 'anytime-cls calibrate' makes one"
        )
    fit = [entry for entry in entries if design in (None, entry.design) and entry.loss == loss]
    usable = [entry for entry in fit if entry.risk <= risk]
    if not usable:
        held = "risk" if loss == DISAGREEMENT else "accuracy drop"
        wanted = f"{held} {risk:g} or less" + ("" if design is None else f" at {design}")
        there = "; ".join(map(str, entries))
        raise ValueError(f"rule 'calibrated' has no calibration for {wanted}: there is {there}")
    best = max(usable, key=lambda entry: entry.risk)
    return CalibratedRule(
        ModeratedT(best.prior), best.risk, thresholds=best.thresholds, rungs=best.rungs,
        temperature=best.temperature, screening=best.screening,
    )  # fmt: skip


def _risk(entry: Price) -> float:
    return entry.risk


def fitted_rule(
    fitted: Fitted, name: str, delta: float, design: Design, block: int = 1, **settings: Any
) -> Rule:
    """A rule for races of one design, with the priors and calibrations that are known of its model.

    block : orders a pull. Rule `value` takes a price that was certified for these races, where there is one
    and no other is given: of the largest risk of another answer up to delta, else the one that loses least
    accuracy. Raises as `make_rule`.
    """
    if name == "value" and not settings:
        prices = [entry for entry in fitted.prices if entry.design == design]
        held = [entry for entry in prices if entry.loss == DISAGREEMENT and entry.risk <= delta * (1 + 1e-9)]
        accurate = [entry for entry in prices if entry.loss == ACCURACY]
        if held or accurate:  # what was certified is this price with this posterior
            best = max(held, key=_risk) if held else min(accurate, key=_risk)
            own = {"paired": best.prior}
            return make_rule(name, delta, own, temperature=best.temperature, price=best.price)
    fit = fitted.of(design.draws, design.steps, design.crops)
    return make_rule(
        name, delta, fit.of_pulls(block), fitted.calibrated, design,
        1.0 if fit.temperature is None else fit.temperature, fitted.screens.get(name), **settings,
    )  # fmt: skip
