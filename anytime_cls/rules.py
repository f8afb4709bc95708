"""Elimination rules: which classes leave a race after n orders.

A rule is a few lines: `looks` says after how many orders it acts, `keep` says who stays. Everything works
on a stack of races at once (scores [I, n, C]), so that live races (I = 1) and replays of recorded traces
(I = thousands) run the same code. Pure NumPy; a rule never sees an image or a model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from anytime_cls.bounds import Bound, ModeratedT, NormalMixture, PlainT, VariancePrior
from anytime_cls.orders import block_of, check_sampler, distinct_orders

Array = np.ndarray


class Rule(Protocol):
    """Decides which classes stay in a race."""

    @property
    def name(self) -> str: ...

    def looks(self, n_classes: int, k_max: int) -> tuple[int, ...]:
        """Order counts, ascending, the last k_max, after which classes may leave.

        Orders between two looks are scored together, so sparse looks also mean fuller batches.
        """
        ...

    def keep(self, scores: Array, alive: Array, k_max: int) -> Array:
        """Who stays after n orders: scores [I, n, C] (nats, NaN for the dead), alive [I, C] → bool [I, C].

        Called at the rule's looks before k_max; at k_max only the leader stays, whatever the rule.
        """
        ...


def mean_scores(scores: Array, alive: Array) -> Array:
    """Order-averaged log-likelihood of the living, −inf for the dead: [I, n, C] → [I, C]."""
    return np.where(alive, scores.mean(axis=1), -np.inf)


def paired(scores: Array, alive: Array) -> tuple[Array, Array]:
    """Mean and variance over orders of leader − class: scores [I, n, C] → two [I, C], NaN for the dead.

    All classes are scored on the same orders, so what an order adds to every class cancels here
    (Clark & Jaini 2023 call it shared noise).
    """
    leader = mean_scores(scores, alive).argmax(axis=1)
    lead = scores[np.arange(len(scores)), :, leader][:, :, None]
    diff = lead - np.where(alive[:, None], scores, np.nan)
    return diff.mean(axis=1), sample_variance(diff)


def sample_variance(x: Array) -> Array:
    """Unbiased variance over axis 1, zero for a single order."""
    return x.var(axis=1, ddof=1) if x.shape[1] > 1 else np.zeros_like(x[:, 0])


def sparse_looks(k_max: int) -> tuple[int, ...]:
    """1, 2, 3, 4, 6, 8, 12, 16, 24, 32, ... k_max: each look costs δ, and late ones differ little."""
    steps = (1, *(f << i for i in range(31) for f in (2, 3)))
    return (*(n for n in steps if n < k_max), k_max)


@dataclass(frozen=True)
class PairedRule:
    """Drop a class when the bound on the paired difference leader − class excludes zero.

    δ is split over the C − 1 rivals (only pairs with the K_max winner can err, so a union bound over
    C − 1 pairs covers whoever leads) and, unless the bound is anytime-valid, over the looks. `each`, where
    given, is spent on every pair at every look instead: past δ's share it promises nothing.
    """

    bound: Bound
    delta: float = 0.05
    name: str = "paired"
    each: float | None = None

    def looks(self, n_classes: int, k_max: int) -> tuple[int, ...]:
        return sparse_looks(k_max)

    def alpha(self, n_classes: int, k_max: int, n: int = 1) -> float:
        """The error spent on one pair at the look after n orders."""
        if self.each is not None:
            return self.each
        looks = 1 if self.bound.anytime else max(1, len(self.looks(n_classes, k_max)) - 1)
        return self.delta / max(1, n_classes - 1) / looks

    def radius(self, scores: Array, alive: Array, k_max: int) -> tuple[Array, Array]:
        """Mean difference to the leader and the bound's half-width on it: two [I, C]."""
        gap, var = paired(scores, alive)
        n, n_classes = scores.shape[1:]
        return gap, self.bound.radius(gap, var, n, k_max, self.alpha(n_classes, k_max, n))

    def keep(self, scores: Array, alive: Array, k_max: int) -> Array:
        gap, radius = self.radius(scores, alive, k_max)
        return alive & ~(gap > radius)


@dataclass(frozen=True)
class CalibratedRule(PairedRule):
    """The paired rule with thresholds fitted on held-out traces (`calibrate`) to a risk, here `delta`.

    The guarantee is distribution-free: it needs images like those of the calibration, not normal
    differences or a right prior. `thresholds` are (orders scored, α at that look), for one K_max. `rungs`,
    (tokens, gap in nats) in rising tokens, are races inside the first order, which the risk covers too: who
    is more than `gap` behind the best after so many of its tokens leaves before the first pull.
    `temperature`, where it was fitted, makes probabilities of the soft-max at these races' decisions.
    """

    name: str = "calibrated"
    thresholds: tuple[tuple[int, float], ...] = ()
    rungs: tuple[tuple[int, float], ...] = ()
    temperature: float | None = None

    def looks(self, n_classes: int, k_max: int) -> tuple[int, ...]:
        return (*(n for n, _ in self.thresholds if n < k_max), k_max)

    def alpha(self, n_classes: int, k_max: int, n: int = 1) -> float:
        """The threshold of the last look up to n (intervals are asked for between looks too)."""
        passed = [alpha for look, alpha in self.thresholds if look <= n]
        return passed[-1] if passed else self.thresholds[0][1]


@dataclass(frozen=True)
class MarginalRule:
    """Drop a class when its upper confidence bound is below the leader's lower bound.

    The bounds are on each class's own order-averaged log-likelihood, two-sided; δ is split over classes
    and looks; `each`, where given, is a class's at every look instead. What an order adds to every class
    does not cancel here, hence `paired`.
    """

    bound: Bound
    delta: float = 0.05
    name: str = "marginal"
    each: float | None = None

    def looks(self, n_classes: int, k_max: int) -> tuple[int, ...]:
        return sparse_looks(k_max)

    def radius(self, scores: Array, k_max: int) -> Array:
        """Half-width of each class's confidence interval: [I, C]."""
        n, n_classes = scores.shape[1:]
        var = sample_variance(scores)
        return self.bound.radius(np.ones_like(var), var, n, k_max, self.alpha(n_classes, k_max) / 2)

    def alpha(self, n_classes: int, k_max: int) -> float:
        """The error spent on one class at one look, both sides together."""
        if self.each is not None:
            return self.each
        return self.delta / n_classes / max(1, len(self.looks(n_classes, k_max)) - 1)

    def keep(self, scores: Array, alive: Array, k_max: int) -> Array:
        mean, radius = mean_scores(scores, alive), self.radius(scores, k_max)
        leader = mean.argmax(axis=1)[:, None]
        leaders_lower = np.take_along_axis(mean - radius, leader, axis=1)
        return alive & ~(mean + radius < leaders_lower)


@dataclass(frozen=True)
class FixedRule:
    """No elimination: every class is scored on all K orders. The paper's classifier."""

    name: str = "fixed"

    def looks(self, n_classes: int, k_max: int) -> tuple[int, ...]:
        return (k_max,)

    def keep(self, scores: Array, alive: Array, k_max: int) -> Array:
        return alive


@dataclass(frozen=True)
class ClarkJainiRule:
    """Paired t-test without correction, p < 2e-3, once a class has at least 20 scores.

    Clark & Jaini, *Text-to-Image Diffusion Models are Zero-Shot Classifiers*, NeurIPS 2023.
    """

    p_value: float = 2e-3
    min_scores: int = 20
    name: str = "clark-jaini"

    def looks(self, n_classes: int, k_max: int) -> tuple[int, ...]:
        return (*range(self.min_scores, k_max), k_max)

    def keep(self, scores: Array, alive: Array, k_max: int) -> Array:
        gap, var = paired(scores, alive)
        radius = PlainT(finite=False).radius(gap, var, scores.shape[1], k_max, self.p_value / 2)
        return alive & ~(gap > radius)


@dataclass(frozen=True)
class FunnelRule:
    """Keep the best m classes after each stage: no statistics, the same for every image.

    diffusion-classifier's `eval_prob_adaptive` (Li et al., ICCV 2023) and A-VARC+'s candidate stages.
    Stages are (share of K_max, classes kept).
    """

    stages: tuple[tuple[float, int], ...] = ((1 / 16, 5), (1 / 4, 2))
    name: str = "funnel"

    def _plan(self, k_max: int) -> dict[int, int]:
        return {max(1, math.ceil(share * k_max)): kept for share, kept in self.stages}

    def looks(self, n_classes: int, k_max: int) -> tuple[int, ...]:
        return (*(n for n in self._plan(k_max) if n < k_max), k_max)

    def keep(self, scores: Array, alive: Array, k_max: int) -> Array:
        return alive & top(mean_scores(scores, alive), self._plan(k_max)[scores.shape[1]])


@dataclass(frozen=True)
class HalvingRule:
    """Correlated sequential halving: ⌈log2 C⌉ rounds of equal cost, each keeping the better half.

    Baharav & Tse, *Ultra Fast Medoid Identification via Correlated Sequential Halving*, NeurIPS 2019
    (1906.04356): arms share their samples. The pass budget is C · K_max / `saving`, exceeded where a round's
    share of it is less than one order of the classes left.
    """

    saving: float = 16.0
    name: str = "halving"

    def _plan(self, n_classes: int, k_max: int) -> dict[int, int]:
        """Orders scored so far → classes kept."""
        rounds = max(1, math.ceil(math.log2(n_classes)))
        budget = n_classes * k_max / self.saving
        plan, left, n = {}, n_classes, 0
        while left > 1 and n < k_max:
            n = min(k_max, n + max(1, math.floor(budget / (left * rounds))))
            left = math.ceil(left / 2)
            plan[n] = left
        return plan

    def looks(self, n_classes: int, k_max: int) -> tuple[int, ...]:
        return (*(n for n in self._plan(n_classes, k_max) if n < k_max), k_max)

    def keep(self, scores: Array, alive: Array, k_max: int) -> Array:
        n, n_classes = scores.shape[1:]
        return alive & top(mean_scores(scores, alive), self._plan(n_classes, k_max)[n])


def top(mean: Array, m: int) -> Array:
    """Mask of the m best of each row (ties go to the lower class index): [I, C] → bool [I, C]."""
    best = np.argsort(-mean, axis=1, kind="stable")[:, :m]
    mask = np.zeros(mean.shape, bool)
    np.put_along_axis(mask, best, True, axis=1)
    return mask


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
            from anytime_cls.value import ValueRule  # which builds on this module

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


def model_rule(
    fields: Mapping[str, Any], name: str, delta: float, max_orders: int, n_classes: int | None = None,
    order_sampler: str = "uniform", prefix: int | None = None, **settings: Any,
) -> Rule:  # fmt: skip
    """A rule for races of one model, with the priors and calibrations that its `model.json` holds.

    fields : has `priors`, `temperature`, `designs`, `calibrated` and `prices`, or not. max_orders : K_max, in
    orders. prefix : tokens of an order that a pass scores, None for all. Rule `value` takes the calibrated
    price of these races, the safest, where there is one and no other is given. Raises as `make_rule`.
    """
    check_sampler(order_sampler)
    design = design_fields(fields, order_sampler, prefix)
    priors = {key: VariancePrior.from_dict(prior) for key, prior in design.get("priors", {}).items()}
    k_max = min(max_orders, distinct_orders(order_sampler) or max_orders)
    shape = RaceShape(k_max, n_classes, order_sampler, prefix)
    temperature = float(design.get("temperature", 1.0))
    if name == "value" and not settings:
        fitted = [entry for entry in fields.get("prices", ()) if _fits(entry, shape)]
        if fitted:  # what was certified is this price with this posterior
            safest = min(fitted, key=lambda entry: entry["risk"])
            own = {"paired": VariancePrior.from_dict(safest["prior"])}
            return make_rule(name, delta, own, temperature=safest["temperature"], price=safest["price"])
    return make_rule(
        name, delta, pull_priors(priors, block_of(order_sampler)), fields.get("calibrated", ()), shape,
        temperature, **settings,
    )  # fmt: skip
