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
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from anytime_cls.certify.priors import fit_priors
from anytime_cls.certify.risk import (
    LOSSES,
    Test,
    drop_p_value,
    drop_upper,
    fixed_sequence,
    images_needed,
    images_needed_for_drop,
    p_value,
    upper_bound,
)
from anytime_cls.certify.stages import RungFit, candidates, fit_rungs
from anytime_cls.certify.temperature import decision_means, fit_temperature
from anytime_cls.race.bounds import ModeratedT, VariancePrior
from anytime_cls.race.fitted import ACCURACY, DISAGREEMENT
from anytime_cls.race.races import Outcomes, run, rungs_of
from anytime_cls.race.registry import make_rule
from anytime_cls.race.rules import CalibratedRule, Rule, sparse_looks
from anytime_cls.race.value import PRICES, ValueRule
from anytime_cls.replay.source import Source, run_fixed
from anytime_cls.stats.intervals import clopper_pearson, proportion
from anytime_cls.traces.read import Trace

Array = np.ndarray
#: Thresholds tried, safe to loose: the moderated t's tail under which a pair is separated. The same at every
#: look: on cifar10's traces more of it early (α ∝ 1/√n) or late (α ∝ √n), sharing α among the rivals left, or
#: looking after every order changed passes at equal disagreement by a few percent either way, which is noise.
ALPHAS = np.geomspace(1e-7, 0.5, 97)
SPLIT = 0.5  # share of the images that are fitted on
_TEMPERATURE_IMAGES = 1000


@dataclass(frozen=True)
class Split:
    """Which images do what: arrays of indices into the trace. Priors must not see the thresholds' images."""

    priors: Array
    thresholds: Array
    held_out: Array


def split_images(usable: Array, share: float, seed: int) -> Split:
    """`share` of the images to fit (a fifth of them, 20 to 500, for the priors), the rest held out."""
    if not 0 < share < 1:
        raise ValueError(f"the split must lie between 0 and 1, got {share:g}")
    order = np.random.default_rng(seed).permutation(usable)
    n_fit = round(share * len(order))
    n_priors = int(np.clip(round(0.2 * n_fit), 20, 500))
    return Split(order[:n_priors], order[n_priors:n_fit], order[n_fit:])


@dataclass(frozen=True)
class Target:
    """What is to be held: the expected loss (a key of `risk.LOSSES`) below the risk, so surely."""

    loss: str
    risk: float
    confidence: float

    @property
    def test(self) -> Test:
        if self.loss == ACCURACY:
            return partial(drop_p_value, slack=(1 - self.confidence) / 20)
        return p_value

    @property
    def images_needed(self) -> int:
        """Fewest images on which even a rule without fault is certified."""
        need = images_needed_for_drop if self.loss == ACCURACY else images_needed
        return need(self.risk, self.confidence)

    def upper(self, losses: Array) -> float:
        """One-sided upper bound of the expected loss."""
        if self.loss == ACCURACY:
            return drop_upper(losses, self.confidence)
        return upper_bound(int(losses.sum()), len(losses), self.confidence)

    def __str__(self) -> str:
        return f"accuracy drop {self.risk:g}" if self.loss == ACCURACY else f"risk {self.risk:g}"


@dataclass(frozen=True, eq=False)
class Design:
    """The races of a trace that are calibrated: passes over whole orders, or over prefixes of them."""

    source: Source
    prefix: int | None  # as recorded, None for the trace's own passes
    rung_tokens: tuple[int, ...] = ()  # recorded for order 0

    @property
    def k_max(self) -> int:
        """Pulls."""
        found: int = self.source.k_max // self.source.block
        return found

    @property
    def tokens(self) -> int:
        """Of a pass."""
        return self.prefix or self.source.pass_tokens

    @property
    def about(self) -> dict[str, Any]:
        """The races that an entry is for."""
        source, prefix = self.source, self.source.design_prefix(self.prefix)
        about = {"k_max": source.k_max, "order_sampler": source.sampler_name, "n_classes": source.n_classes}
        return about if prefix is None else about | {"prefix": prefix}

    def spent(self, rule: Rule, outcome: Outcomes) -> tuple[Array, Array, Array]:
        """Passes of any length, tokens, and compute in whole passes, of each race: three [I]."""
        passes = outcome.passes * self.source.block
        cost = passes * self.source.cost(self.prefix)
        for (m, _), rows in zip(rungs_of(rule), outcome.rung_rows.T, strict=True):
            cost = cost + rows * self.source.cost(m)
        return passes + outcome.rung_rows.sum(axis=1), passes * self.tokens + outcome.tokens, cost

    def gather(self, images: Array) -> tuple[Array, dict[int, Array]]:
        """Pulls [n, K, C] and rung scores of these images, in their order."""
        place = np.full(len(self.source.trace), -1)
        place[images] = np.arange(len(images))
        out = np.empty((len(images), self.k_max, self.source.n_classes))
        rungs = {m: np.empty((len(images), self.source.n_classes)) for m in self.rung_tokens}
        for stack_images, pulls, scores in self.source.stacks_with_rungs(self.prefix, self.rung_tokens):
            chosen = place[stack_images] >= 0
            at = place[stack_images[chosen]]
            out[at] = pulls[chosen]
            for m in self.rung_tokens:
                rungs[m][at] = scores[m][chosen]
        return out, rungs


def calibrate_trace(
    trace: Trace,
    risks: Iterable[float] = (),
    confidence: float = 0.95,
    split: float = SPLIT,
    seed: int = 0,
    drops: Iterable[float] = (),
    prefix: int | None = None,
    rungs: Sequence[int] = (),
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
    rungs : tokens at which classes may leave inside the first order, as the trace recorded; for every risk
        the set of them is taken, or none, that promises the cheapest races
    progress : hears image-races done, and of how many

    Returns what `model.json` can hold: `priors` and `temperature` (of prefixes: in `designs`), `calibrated`
    (a list, one entry a risk, with the figures on the held-out images under `held_out`), `prices`, and where
    it is from.

    Raises ValueError, in one line, for a trace that is not full or lacks a prefix, risks outside (0, 1), or
    too few images.
    """
    targets = _targets(risks, drops, confidence)
    if trace.varies:
        raise ValueError(
            f"{trace.path} was recorded with random crops or latent noise; calibrations are for one view"
        )
    source = Source(trace)
    design = _design(source, prefix, rungs)
    label = trace.images["label"]
    accuracy = any(target.loss == ACCURACY for target in targets)
    usable = source.good & (label >= 0) if accuracy else source.good
    if not usable.any():
        raise ValueError(f"{trace.path} has no labelled images: accuracy cannot be held without them")
    parts = split_images(np.flatnonzero(usable), split, seed)
    _enough(parts, targets, split)

    first = _first_look(design, parts, label)
    families = [(target, first.family(target)) for target in targets]
    prices = first.prices() if accuracy else []
    families += [(target, prices) for target in targets if target.loss == ACCURACY]
    peers = {target.risk: make_rule("paired", target.risk, first.priors) for target in targets}
    rules = list(dict.fromkeys([rule for _, family in families for rule in family] + [*peers.values()]))
    at = {rule: i for i, rule in enumerate(rules)}
    races = _race(design, np.concatenate([parts.thresholds, parts.held_out]), rules, label, progress)

    where = {key: trace.attrs[key] for key in ("model_sha256", "dataset", "seed") if key in trace.attrs}
    entries: dict[str, list[dict[str, Any]]] = {"calibrated": [], "prices": []}
    for target, family in families:
        found = races.certify(target, [at[rule] for rule in family], parts.thresholds)
        if found is None:
            continue
        certified, figures = found
        rule = family[certified]
        measured = races.measure(at[rule], parts.held_out)
        measured["paired"] = races.measure(at[peers[target.risk]], parts.held_out)
        held = {"risk": target.risk, "confidence": target.confidence, "loss": target.loss}
        prior = {"prior": first.priors["paired"].to_dict()}
        entries["prices" if isinstance(rule, ValueRule) else "calibrated"].append(
            held | design.about | first.knobs(rule) | prior | figures | where | {"held_out": measured}
        )

    whose = ("model", "model_sha256", "tokenizer_sha256", "dataset", "order_sampler", "dtype")
    mine = {key: trace.attrs[key] for key in whose if key in trace.attrs}
    return {"schema": 1, **mine, **first.fitted(), **{key: some for key, some in entries.items() if some}}


def _targets(risks: Iterable[float], drops: Iterable[float], confidence: float) -> list[Target]:
    """What is asked for, each once. Raises ValueError for shares outside (0, 1)."""
    targets = [Target(DISAGREEMENT, risk, confidence) for risk in sorted(set(risks))]
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
    rung_scores: Mapping[int, Array]  # tokens → [n + some, C]
    label: Array  # int [n + some], −1 unknown
    priors: Mapping[str, VariancePrior]  # of pulls

    def family(self, target: Target) -> list[Rule]:
        """The rule at every threshold, from safe to loose, with the rungs that pay."""
        n = self.n
        mine = {m: scores[:n] for m, scores in self.rung_scores.items()}
        prior, k_max = self.priors["paired"], self.design.k_max
        rungs = choose_rungs(self.design, self.pulls[:n], mine, self.label[:n], prior, target)
        return [_rule(prior, k_max, rungs, float(alpha)) for alpha in ALPHAS]

    def prices(self) -> list[Rule]:
        """Rule `value` at every price, from safe to loose."""
        scale = fit_temperature(self.pulls[: self.n].mean(axis=1), self.label[: self.n])
        return [ValueRule(self.priors["paired"], scale, float(price)) for price in PRICES]

    def temperature(self, rule: Rule) -> dict[str, float]:
        """At which the soft-max at this rule's decisions is a probability, if there are labels."""
        known = self.label >= 0
        if not known.any():
            return {}
        rungs = {m: scores[known] for m, scores in self.rung_scores.items()}
        means = decision_means(rule, self.pulls[known], rungs)
        return {"temperature": fit_temperature(means, self.label[known])}

    def knobs(self, rule: Rule) -> dict[str, Any]:
        """What an entry says of its rule."""
        if isinstance(rule, ValueRule):
            return {"price": rule.price, "temperature": rule.temperature}
        assert isinstance(rule, CalibratedRule)
        rungs = {"rungs": [list(rung) for rung in rule.rungs]} if rule.rungs else {}
        return {
            "alpha": rule.alpha(self.design.source.n_classes, self.design.k_max),
            "thresholds": {str(n): alpha for n, alpha in rule.thresholds},
        } | rungs | self.temperature(rule)  # fmt: skip

    def fitted(self) -> dict[str, Any]:
        """Priors (of single orders) and temperature: of whole orders a model's own, else of one design."""
        block, about = self.design.source.block, self.design.about
        priors = {key: replace(prior, scale=prior.scale * block) for key, prior in self.priors.items()}
        fitted = {
            "calibration_images": self.n,
            "priors": {key: prior.to_dict() for key, prior in priors.items()},
        } | self.temperature(make_rule("paired", 0.05, self.priors))  # fmt: skip
        if "prefix" not in about:
            return fitted
        own = {key: about[key] for key in ("order_sampler", "prefix")}
        return {"priors": {}, "designs": [own | fitted]}


def _first_look(design: Design, parts: Split, label: Array) -> FirstLook:
    n, some = len(parts.priors), parts.thresholds[:_TEMPERATURE_IMAGES]
    images = np.concatenate([parts.priors, some])
    pulls, rung_scores = design.gather(images)
    return FirstLook(design, n, pulls, rung_scores, label[images], fit_priors(pulls[:n]))


@dataclass(frozen=True, eq=False)
class Races:
    """What R rules did to the images of a trace: arrays [R, images], meaningless for images not raced."""

    design: Design
    rules: list[Rule]
    prediction: Array
    passes: Array
    tokens: Array
    cost: Array  # whole passes
    full: Array  # [images]: the answer of all K_max pulls
    label: Array

    def losses(self, loss: str, rule: int, on: Array) -> Array:
        """Losses of one rule on some images: [n]."""
        return LOSSES[loss](self.prediction[rule, on], self.full[on], self.label[on])

    def certify(self, target: Target, family: list[int], on: Array) -> tuple[int, dict[str, Any]] | None:
        """The loosest rule of a family, safe to loose, that holds the target on these images: its place in it
        and the figures. None if not even the first does and it is `value`; ValueError if it is another."""
        losses = np.stack([self.losses(target.loss, rule, on) for rule in family])
        at = fixed_sequence(losses, target.risk, target.confidence, target.test)
        if at is not None:
            errors = int((losses[at] > 0).sum())
            return at, {"images": len(on), "errors": errors, "upper": target.upper(losses[at])}
        if isinstance(self.rules[family[0]], ValueRule):
            return None  # its posterior is a model, whose safest price may err more than is asked
        raise ValueError(_refusal(target, losses[0]))

    def measure(self, rule: int, on: Array) -> dict[str, Any]:
        """What a rule did to the images `on`: passes, tokens, compute in whole passes and its saving (over
        all K_max passes of this length), disagreement and accuracy with 95 % intervals."""
        source, n = self.design.source, len(on)
        wrong = int(self.losses(DISAGREEMENT, rule, on).sum())
        low, high = clopper_pearson(wrong, n)
        whole = source.full_cost * source.cost(self.design.prefix)
        row: dict[str, Any] = {
            "images": n,
            "passes": round(float(self.passes[rule, on].mean()), 2),
            "tokens": round(float(self.tokens[rule, on].mean()), 1),
            "whole_passes": round(float(self.cost[rule, on].mean()), 3),
            "saving": round(whole / float(self.cost[rule, on].mean()), 2),
            "disagreement": {
                "value": wrong / n, "errors": wrong, "low": round(low, 5), "high": round(high, 5),
            },
        }  # fmt: skip
        known = on[self.label[on] >= 0]
        if len(known):
            row["accuracy"] = proportion(self.prediction[rule, known] == self.label[known])
            row["full_accuracy"] = proportion(self.full[known] == self.label[known])
            lost = self.losses(ACCURACY, rule, known)
            row["lost"] = {"value": round(float(lost.mean()), 5), "harmed": int((lost > 0).sum()),
                           "helped": int((lost < 0).sum())}  # fmt: skip
        return row


def _race(
    design: Design, images: Array, rules: list[Rule], label: Array,
    progress: Callable[[int, int], None] | None,
) -> Races:  # fmt: skip
    """Races every rule over these images of the trace."""
    n = len(label)
    prediction = np.full((len(rules), n), -1, np.int32)
    passes, tokens = np.zeros((2, len(rules), n), np.int32)
    cost = np.zeros((len(rules), n), np.float32)
    full = np.full(n, -1)
    racing = np.zeros(n, bool)
    racing[images] = True
    used = sorted({m for rule in rules for m, _ in rungs_of(rule)})
    done, total = 0, len(images) * len(rules)
    for stack, pulls, rung_scores in design.source.stacks_with_rungs(design.prefix, used):
        mine = racing[stack]
        stack, pulls = stack[mine], pulls[mine]
        rung_scores = {m: scores[mine] for m, scores in rung_scores.items()}
        if not len(stack):
            continue
        full[stack] = run_fixed(pulls)
        for at, rule in enumerate(rules):
            outcome = run(rule, pulls, rung_scores)
            prediction[at, stack] = outcome.prediction
            passes[at, stack], tokens[at, stack], cost[at, stack] = design.spent(rule, outcome)
            done += len(stack)
            if progress:
                progress(done, total)
    return Races(design, rules, prediction, passes, tokens, cost, full, label)


def choose_rungs(
    design: Design, pulls: Array, rung_scores: Mapping[int, Array], label: Array, prior: VariancePrior,
    target: Target,
) -> RungFit:  # fmt: skip
    """The rungs of the cheapest races on these images, among all sets of those recorded, or none.

    For every set, at the loosest of the thresholds with which these images' mean loss is within the risk.
    The images are few and the sets several, so rungs must save twice the saving's standard error at least:
    the merely cheapest set cost up to a tenth more than none on other images (`cifar10-recon`'s traces).
    """
    best = none = RungFit(target.risk)
    if not rung_scores:
        return none
    full = run_fixed(pulls)
    least, bare = np.inf, None  # cost: of the best set so far (mean), of every race without rungs
    for tokens in candidates(rung_scores):
        fitted = fit_rungs(rung_scores, full, tokens, target.risk)
        if fitted is None:
            continue
        for alpha in reversed(ALPHAS[::4]):
            here = replace(fitted, alpha=float(alpha))
            rule = _rule(prior, design.k_max, here, float(alpha))
            outcome = run(rule, pulls, rung_scores)
            if LOSSES[target.loss](outcome.prediction, full, label).mean() <= target.risk:
                cost = design.spent(rule, outcome)[2]
                if not tokens:
                    bare = cost
                elif bare is not None and not _clearly_less(cost, bare):
                    break
                if cost.mean() < least:
                    best, least = here, float(cost.mean())
                break
    return best


def _clearly_less(cost: Array, than: Array) -> bool:
    """By twice the standard error of the mean difference: two [n]."""
    saved = than - cost
    return bool(saved.mean() > 2 * saved.std(ddof=1) / np.sqrt(len(saved)))


def _rule(prior: VariancePrior, k_max: int, rungs: RungFit, alpha: float) -> CalibratedRule:
    """The family's member at one threshold. k_max: pulls."""
    thresholds = tuple((n, alpha) for n in sparse_looks(k_max))
    return CalibratedRule(ModeratedT(prior), rungs.risk, thresholds=thresholds, rungs=rungs.at(alpha))


def _design(source: Source, prefix: int | None, rungs: Sequence[int]) -> Design:
    """Checks the prefixes asked for against the trace. Raises ValueError."""
    prefix = None if prefix == source.pass_tokens else prefix
    design = Design(source, prefix, tuple(sorted(set(rungs))))
    there = ", ".join(map(str, source.prefixes)) or "none"
    for m in (*(() if prefix is None else (prefix,)), *design.rung_tokens):
        if m not in source.prefixes:
            raise ValueError(
                f"{source.trace.path} has no prefix of {m} tokens (it has {there}): "
                f"'anytime-cls sweep --record-prefixes {m}' records it"
            )
    for m in design.rung_tokens:
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


def _refusal(target: Target, losses: Array) -> str:
    n = len(losses)
    if target.loss == ACCURACY:
        bound = f"accuracy may fall by {target.upper(losses):.2g}, as far as {n} images can tell"
        return f"no threshold holds an accuracy drop of {target.risk:g}: even with the safest {bound}"
    errors = f"{losses.sum():g} of {n} images"
    return f"no threshold holds a risk of {target.risk:g}: even the safest errs on {errors}"
