"""`anytime-cls calibrate`: rules fitted to a full trace so that they hold a stated risk.

Images are split three ways. The first part gives what the rules are made of (variance priors, temperature,
gaps of rungs) and the second says which threshold holds the risk (risk.py): the guarantee needs the two
apart. The third is what the figures are of.
"""

from __future__ import annotations

from collections.abc import (
    Callable,
    Iterable,
    Mapping,
    Sequence,
)
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from anytime_cls.certify.abstain import abstentions
from anytime_cls.certify.choose import choose_stages
from anytime_cls.certify.designs import (
    ALPHAS,
    SPLIT,
    Array,
    Design,
    Split,
    Target,
    _race,
    _rule,
    split_images,
)
from anytime_cls.certify.priors import fit_priors
from anytime_cls.certify.temperature import decision_means, fit_temperature
from anytime_cls.race.bounds import VariancePrior
from anytime_cls.race.fitted import ACCURACY, DISAGREEMENT
from anytime_cls.race.registry import make_rule
from anytime_cls.race.rules import CalibratedRule, FixedRule, Rule
from anytime_cls.race.value import PRICES, ValueRule
from anytime_cls.replay.source import Source
from anytime_cls.traces.read import Trace

_TEMPERATURE_IMAGES = 1000


def calibrate_trace(
    trace: Trace,
    risks: Iterable[float] = (),
    confidence: float = 0.95,
    split: float = SPLIT,
    seed: int = 0,
    drops: Iterable[float] = (),
    prefix: int | None = None,
    stages: Sequence[int | str] = (),
    designs: int = 1,
    mean: bool = False,
    value: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Fits the rule `calibrated` to each risk on one part of a full trace, and measures it on another.

    Parameters
    ----------
    risks : shares of images answered otherwise than by all K_max pulls. Each is held with `confidence` on
        its own: P(risk > r) ≤ 1 − confidence over the draw of the images that thresholds are fitted on
        (risk.py), for images like them raced as they were
    split, seed : the share of images to fit on, drawn at random
    drops : falls in accuracy below K_max's, held alike; images need labels. Rule `value` gets a price for
        each too
    prefix : tokens of an order that a pass scores, as the trace recorded; default its own passes
    stages : where classes may leave before the first pull, as the trace recorded: tokens of the first order,
        names of screens; for every risk the set of them is taken, or none, that promises the cheapest races
    designs : how many traces one will be chosen from, by what this says of each: every one is certified at
        1 − (1 − confidence) / designs, so that the choice is covered
    mean : hold risks on average over the draw of the images too (conformal risk control), for fewer passes
    value : a price of rule `value` for each of the risks as well; images need labels
    progress : hears image-races done, and of how many

    Returns what `model.json` can hold: `priors` and `temperature` (of prefixes: in `designs`), `calibrated`
    (a list, one entry a risk, with the figures on the held-out images under `held_out`), `prices`, `abstain`
    (abstain.py, by the held-out images), and where it is from.

    Raises ValueError, in one line, for a trace that is not full or lacks a prefix, risks outside (0, 1), or
    too few images.
    """
    confidence = 1 - (1 - confidence) / designs
    targets = _targets(risks, drops, confidence, mean)
    if trace.noisy:
        raise ValueError(f"{trace.path} was recorded with latent noise; calibrations are without")
    source = Source(trace)
    design = _design(source, prefix, stages)
    label = trace.images["label"]
    accuracy = any(target.loss == ACCURACY for target in targets)
    usable = source.good & (label >= 0) if accuracy or value else source.good
    if not usable.any():
        raise ValueError(f"{trace.path} has no labelled images: accuracy cannot be held without them")
    parts = split_images(np.flatnonzero(usable), split, seed)
    _enough(parts, targets, split)

    first = _first_look(design, parts, label)
    families = [(target, first.family(target)) for target in targets]
    prices = first.prices() if accuracy or value else []
    families += [(target, prices) for target in targets if value or target.loss == ACCURACY]
    peers = {target.risk: make_rule("paired", target.risk, first.priors) for target in targets}
    rules = list(dict.fromkeys([rule for _, family in families for rule in family] + [*peers.values()]))
    at = {rule: i for i, rule in enumerate(rules)}
    races = _race(design, np.concatenate([parts.thresholds, parts.held_out]), rules, label, progress)

    where = {key: trace.attrs[key] for key in ("model_sha256", "dataset", "seed") if key in trace.attrs}
    entries: dict[str, list[dict[str, Any]]] = {"calibrated": [], "prices": [], "abstain": []}
    settled: list[tuple[dict[str, Any], Rule]] = [({"rule": "fixed"}, FixedRule())]
    for target, family in families:
        found = races.certify(target, [at[rule] for rule in family], parts.thresholds)
        if found is None:
            continue
        certified, figures = found
        rule = family[certified]
        measured = races.measure(at[rule], parts.held_out)
        measured["paired"] = races.measure(at[peers[target.risk]], parts.held_out)
        sure = {"guarantee": "mean"} if target.mean else {"confidence": target.confidence}
        held = {"risk": target.risk, **sure, "loss": target.loss}
        prior = {"prior": first.priors["paired"].to_dict()}
        entries["prices" if isinstance(rule, ValueRule) else "calibrated"].append(
            held | design.about | first.knobs(rule) | prior | figures | where | {"held_out": measured}
        )
        if isinstance(rule, CalibratedRule) and target.loss == DISAGREEMENT:
            settled.append(({"rule": rule.name, "risk": target.risk}, rule))
    none = abstentions(design, parts.held_out, settled, None if mean else confidence)
    entries["abstain"] = [entry | where for entry in none]

    whose = ("model", "model_sha256", "tokenizer_sha256", "dataset", "order_sampler", "crops", "dtype")
    mine = {key: trace.attrs[key] for key in whose if key in trace.attrs}
    alone = first.screens()
    return {
        "schema": 1,
        **mine,
        **first.fitted(),
        **({"screens": alone} if alone else {}),
        **{key: some for key, some in entries.items() if some},
    }


def _targets(risks: Iterable[float], drops: Iterable[float], confidence: float, mean: bool) -> list[Target]:
    """What is asked for, each once. Raises ValueError for shares outside (0, 1)."""
    targets = [Target(DISAGREEMENT, risk, confidence, mean) for risk in sorted(set(risks))]
    targets += [Target(ACCURACY, drop, confidence) for drop in sorted(set(drops))]
    for value in (*(target.risk for target in targets), confidence):
        if not 0 < value < 1:
            raise ValueError(f"risks and the confidence must lie between 0 and 1, got {value:g}")
    return targets


@dataclass(frozen=True, eq=False)
class FirstLook:
    """What the first part's images say, before any threshold is tested; and what rules are made of it.

    Arrays are of the `n` images for the priors, then of some that thresholds are tested on: temperatures,
    which no guarantee depends on, take them all.
    """

    design: Design
    n: int
    pulls: Array  # [n + some, K, C], nats
    sources: Mapping[int | str, Array]  # what each stage estimates, [n + some, C]
    label: Array  # int [n + some], −1 unknown
    priors: Mapping[str, VariancePrior]  # of pulls

    def family(self, target: Target) -> list[Rule]:
        """The rule at every threshold, from safe to loose, with the stages that pay."""
        n = self.n
        mine = {m: scores[:n] for m, scores in self.sources.items()}
        prior, k_max = self.priors["paired"], self.design.k_max
        stages = choose_stages(self.design, self.pulls[:n], mine, self.label[:n], prior, target)
        return [_rule(prior, k_max, stages, float(alpha)) for alpha in ALPHAS]

    def prices(self) -> list[Rule]:
        """Rule `value` at every price, from safe to loose."""
        scale = fit_temperature(self.pulls[: self.n].mean(axis=1), self.label[: self.n])
        return [ValueRule(self.priors["paired"], scale, float(price)) for price in PRICES]

    def temperature(self, rule: Rule) -> dict[str, float]:
        """At which the soft-max at this rule's decisions is a probability, if there are labels."""
        known = self.label >= 0
        if not known.any():
            return {}
        sources = {m: scores[known] for m, scores in self.sources.items()}
        means = decision_means(rule, self.pulls[known], sources)
        return {"temperature": fit_temperature(means, self.label[known])}

    def knobs(self, rule: Rule) -> dict[str, Any]:
        """What an entry says of its rule."""
        if isinstance(rule, ValueRule):
            return {"price": rule.price, "temperature": rule.temperature}
        assert isinstance(rule, CalibratedRule)
        stages: dict[str, Any] = {"rungs": [list(rung) for rung in rule.rungs]} if rule.rungs else {}
        if rule.screening is not None:
            stages["screening"] = asdict(rule.screening)
        return {
            "alpha": rule.alpha(self.design.source.n_classes, self.design.k_max),
            "thresholds": {str(n): alpha for n, alpha in rule.thresholds},
        } | stages | self.temperature(rule)  # fmt: skip

    def screens(self) -> dict[str, float]:
        """Temperatures at which the screens' own estimates are probabilities, by name; needs labels."""
        known = self.label >= 0
        return {
            m: fit_temperature(scores[known], self.label[known])
            for m, scores in self.sources.items()
            if isinstance(m, str) and known.any()
        }

    def fitted(self) -> dict[str, Any]:
        """Priors (of single orders) and temperature: of whole orders a model's own, else of one design."""
        source = self.design.source
        priors = {key: replace(prior, scale=prior.scale * source.block) for key, prior in self.priors.items()}
        fitted = {
            "calibration_images": self.n,
            "priors": {key: prior.to_dict() for key, prior in priors.items()},
        } | self.temperature(make_rule("paired", 0.05, self.priors))  # fmt: skip
        return {"priors": {}} | source.kept(fitted, self.design.prefix)


def _first_look(design: Design, parts: Split, label: Array) -> FirstLook:
    n, some = len(parts.priors), parts.thresholds[:_TEMPERATURE_IMAGES]
    images = np.concatenate([parts.priors, some])
    pulls, sources = design.gather(images)
    return FirstLook(design, n, pulls, sources, label[images], fit_priors(pulls[:n]))


def _design(source: Source, prefix: int | None, stages: Sequence[int | str]) -> Design:
    """Checks what is asked for against the trace. Raises ValueError."""
    prefix = None if prefix == source.pass_tokens else prefix
    design = Design(source, prefix, tuple(dict.fromkeys(stages)))
    rungs = sorted(m for m in design.stages if isinstance(m, int))
    for name in design.stages:
        if isinstance(name, str):
            source.stage_stacks(name)  # raises where it was not recorded
    there = ", ".join(map(str, source.prefixes)) or "none"
    for m in (*(() if prefix is None else (prefix,)), *rungs):
        if m not in source.prefixes:
            raise ValueError(
                f"{source.trace.path} has no prefix of {m} tokens (it has {there}): "
                f"'anytime-cls sweep --record-prefixes {m}' records it"
            )
    for m in rungs:
        if m >= design.tokens:
            raise ValueError(f"a rung of {m} tokens is not shorter than a pass, which has {design.tokens}")
    return design


def _enough(parts: Split, targets: list[Target], split: float) -> None:
    """Raises ValueError where even a rule that never errs could not be certified."""
    have = len(parts.thresholds)
    if len(parts.priors) < 20 or len(parts.held_out) == 0:
        raise ValueError("a calibration needs more images: record at least 50")
    for target in targets:
        need = target.images_needed
        if have < need:
            total = int(np.ceil((need + min(500, need // 4)) / split)) + 1
            what = "--risk" if target.loss == DISAGREEMENT else "--accuracy-drop"
            raise ValueError(
                f"{target} at confidence {target.confidence:g} needs {need} images to fit thresholds on, and "
                f"{have} are left for that: record about {total}, or raise {what} or --split"
            )
