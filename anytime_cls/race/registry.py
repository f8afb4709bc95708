"""Rules by name, with their settings and what was fitted for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from anytime_cls.race.bounds import (
    ModeratedT,
    NormalMixture,
    PlainT,
    VariancePrior,
)
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
)

RULES = ("paired", "strict", "marginal", "fixed", "funnel", "clark-jaini", "halving", "value")
CALIBRATED = "calibrated"  # needs what `anytime-cls calibrate` fits for a model, so it is not among RULES
DELTA_RULES = ("paired", "strict", "marginal", CALIBRATED)  # those that a δ steers
#: Settings of a rule besides δ, as `make_rule` takes them.
SETTINGS: dict[str, tuple[str, ...]] = {
    "paired": ("alpha",), "strict": ("alpha",), "marginal": ("alpha",), "funnel": ("stages",),
    "clark-jaini": ("p_value", "min_scores"), "halving": ("saving",), "value": ("price",),
    CALIBRATED: ("loss",),
}  # fmt: skip
DISAGREEMENT, ACCURACY = "disagreement", "accuracy"  # what a calibration holds down (risk.py)


@dataclass(frozen=True)
class RaceShape:
    """What a calibration is for: other races may err more often than it says."""

    k_max: int  # orders
    n_classes: int | None  # None: not known yet, not compared
    order_sampler: str = "uniform"
    prefix: int | None = None  # tokens of an order that a pass scores; None for whole orders


def make_rule(
    name: str,
    delta: float = 0.05,
    priors: Mapping[str, VariancePrior] | None = None,
    calibrated: Sequence[Mapping[str, Any]] = (),
    shape: RaceShape | None = None,
    temperature: float = 1.0,
    **settings: Any,
) -> Rule:
    """The rule of this name.

    Parameters
    ----------
    name : one of `RULES`, or `calibrated`
    delta : probability, per image, of another answer than all K_max orders would give, in (0, 1)
    priors : variance priors fitted on held-out traces, under `paired` and `marginal`. Without them
        `paired`, `marginal` and `value` fall back to the plain t (which can drop nothing before two
        orders), and `strict` is refused.
    calibrated, shape : for `calibrated`: a model's calibrations, and the race it is wanted for
    temperature : for `value`: soft-max of mean log-likelihoods over it is a probability
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
    if unknown and name in (*RULES, CALIBRATED):
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
            return _calibrated(calibrated, delta, shape, **settings)
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
    raise ValueError(f"unknown rule {name!r}: choose from {', '.join(RULES)}, {CALIBRATED}")


def temperature_at(rule: Rule, otherwise: float) -> float:
    """The temperature of a rule's decisions: its own where it was fitted, else its design's."""
    own = rule.temperature if isinstance(rule, CalibratedRule) else None
    return otherwise if own is None else own


def _calibrated(
    entries: Sequence[Mapping[str, Any]], risk: float, shape: RaceShape | None, loss: str = DISAGREEMENT
) -> CalibratedRule:
    """The calibration of the largest risk up to the one asked for: what holds less holds it too."""
    if loss not in (DISAGREEMENT, ACCURACY):
        raise ValueError(f"loss must be {DISAGREEMENT} or {ACCURACY}, got {loss!r}")
    if not entries:
        raise ValueError(
            "rule 'calibrated' needs a calibration and this model has none: 'anytime-cls calibrate' makes one"
        )
    try:
        fit = [e for e in entries if (shape is None or _fits(e, shape)) and _loss(e) == loss]
        usable = [e for e in fit if e["risk"] <= risk]
        if usable:
            best = max(usable, key=lambda entry: entry["risk"])
            thresholds = sorted((int(n), float(alpha)) for n, alpha in best["thresholds"].items())
            rungs = sorted((int(tokens), float(gap)) for tokens, gap in best.get("rungs", ()))
            bound = ModeratedT(VariancePrior.from_dict(best["prior"]))
            temperature = float(best["temperature"]) if "temperature" in best else None
            return CalibratedRule(bound, best["risk"], thresholds=tuple(thresholds), rungs=tuple(rungs),
                                  temperature=temperature)  # fmt: skip
        there = "; ".join(
            f"{_risk_text(e['risk'], _loss(e))} at {_race_text(e['k_max'], e['order_sampler'], e)} "
            f"of {e['n_classes']} classes"
            for e in entries
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"the model's calibrations cannot be read ({error!r}): calibrate it again") from None
    wanted = f"{_risk_text(risk, loss)} or less"
    if shape is not None:
        classes = "" if shape.n_classes is None else f" of {shape.n_classes} classes"
        race = _race_text(shape.k_max, shape.order_sampler, {"prefix": shape.prefix})
        wanted += f" at {race}{classes}"
    raise ValueError(f"rule 'calibrated' has no calibration for {wanted}: there is {there}")


def _loss(entry: Mapping[str, Any]) -> str:
    return entry.get("loss", DISAGREEMENT)


def _risk_text(risk: float, loss: str) -> str:
    return f"risk {risk:g}" if loss == DISAGREEMENT else f"accuracy drop {risk:g}"


def _race_text(k_max: int, sampler: str, entry: Mapping[str, Any]) -> str:
    prefix = entry.get("prefix")
    return f"{k_max} {sampler} orders" + ("" if prefix is None else f" (first {prefix} tokens)")


def _fits(entry: Mapping[str, Any], shape: RaceShape) -> bool:
    return (
        entry["k_max"] == shape.k_max
        and entry["order_sampler"] == shape.order_sampler
        and entry.get("prefix") == shape.prefix
        and shape.n_classes in (None, entry["n_classes"])
    )


def pull_priors(priors: Mapping[str, VariancePrior], block: int) -> dict[str, VariancePrior]:
    """Priors of single orders → of pulls of `block` orders.

    A pull varies 1/block as much, or less where the orders of a block are negatively correlated, as
    antithetic ones are (examples/compare_orders.py).
    """
    return {key: replace(prior, scale=prior.scale / block) for key, prior in priors.items()}


def design_fields(
    fields: Mapping[str, Any], order_sampler: str = "uniform", prefix: int | None = None
) -> Mapping[str, Any]:
    """What a model knows (`priors`, `temperature`) of races by this sampler on this many tokens of an order.

    Whole orders (None) have the fields of `model.json` itself, prefixes their entry of its `designs`, or
    nothing: a prefix's variances and probabilities are others than a whole order's.
    """
    if prefix is None:
        return fields
    for design in fields.get("designs", ()):
        if (design.get("order_sampler"), design.get("prefix")) == (order_sampler, prefix):
            return design
    return {}
