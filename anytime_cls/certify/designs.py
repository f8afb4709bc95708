"""What is calibrated, and what rules did to the images of a trace: targets, splits, designs and races."""

from __future__ import annotations

from collections.abc import (
    Callable,
)
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from anytime_cls.certify.risk import (
    LOSSES,
    Test,
    drop_p_value,
    drop_upper,
    fixed_sequence,
    images_needed,
    images_needed_for_drop,
    mean_test,
    p_value,
    upper_bound,
)
from anytime_cls.certify.stages import StageFit
from anytime_cls.race.bounds import ModeratedT, VariancePrior
from anytime_cls.race.fitted import ACCURACY, DISAGREEMENT
from anytime_cls.race.races import Races, run
from anytime_cls.race.rules import CalibratedRule, Rule, sparse_looks
from anytime_cls.race.value import ValueRule
from anytime_cls.replay.source import Source, run_fixed
from anytime_cls.stats.intervals import clopper_pearson, proportion
from anytime_cls.traces.cost import stage_cost

Array = np.ndarray
#: Thresholds tried, safe to loose: the moderated t's tail under which a pair is separated. The same at every
#: look: on traces of the `cifar10` shipped until commit c42a17e more of it early (α ∝ 1/√n) or late (α ∝ √n),
#: sharing α among the rivals left, or looking after every order changed passes at equal disagreement by a few
#: percent either way, which is noise.
ALPHAS = np.geomspace(1e-7, 0.5, 97)
EVERY_LOOK = 64  # pulls up to which a race looks after every one: 2 to 8 % fewer passes at equal risk
SPLIT = 0.5  # share of the images that are fitted on


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
    """What is to be held: the expected loss (a key of `risk.LOSSES`) below the risk, so surely.

    mean : over the draw of the calibration's images too (conformal risk control), not for nearly every one
    """

    loss: str
    risk: float
    confidence: float
    mean: bool = False

    @property
    def test(self) -> Test:
        if self.mean:
            return mean_test
        if self.loss == ACCURACY:
            return partial(drop_p_value, slack=(1 - self.confidence) / 20)
        return p_value

    @property
    def images_needed(self) -> int:
        """Fewest images on which even a rule without fault is certified."""
        if self.mean:
            return int(np.ceil(1 / self.risk)) - 1
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
    stages: tuple[int | str, ...] = ()  # recorded, to choose from: tokens of order 0, screens

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
        source = self.source
        return {"k_max": source.k_max, "n_classes": source.n_classes} | source.named(self.prefix)

    def spent(self, races: Races) -> tuple[Array, Array, Array]:
        """Passes of any length, tokens, and compute in whole passes, of each race: three [I]."""
        passes = races.passes * self.source.block
        cost = self.source.spent(self.prefix, races.n, races.passes)
        rows, sources = races.stage_rows, [stage.source for stage in races.stages]
        cost = cost + stage_cost(self.source.trace.attrs, sources, rows).sum(axis=1)
        scored = rows[:, [isinstance(m, int) for m in sources]].sum(axis=1)
        return passes + scored, passes * self.tokens + races.tokens, cost

    def gather(self, images: Array) -> tuple[Array, dict[int | str, Array]]:
        """Pulls [n, K, C] and what stages estimate of these images, in their order."""
        place = np.full(len(self.source.trace), -1)
        place[images] = np.arange(len(images))
        out = np.empty((len(images), self.k_max, self.source.n_classes))
        sources = {m: np.empty((len(images), self.source.n_classes)) for m in self.stages}
        for stack_images, pulls, scores in self.source.stacks_with_stages(self.prefix, self.stages):
            chosen = place[stack_images] >= 0
            at = place[stack_images[chosen]]
            out[at] = pulls[chosen]
            for m in self.stages:
                sources[m][at] = scores[m][chosen]
        return out, sources


@dataclass(frozen=True, eq=False)
class Raced:
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
) -> Raced:  # fmt: skip
    """Races every rule over these images of the trace."""
    n = len(label)
    prediction = np.full((len(rules), n), -1, np.int32)
    passes, tokens = np.zeros((2, len(rules), n), np.int32)
    cost = np.zeros((len(rules), n), np.float32)
    full = np.full(n, -1)
    racing = np.zeros(n, bool)
    racing[images] = True
    used = {stage.source for rule in rules for stage in rule.first_stages}
    done, total = 0, len(images) * len(rules)
    for stack, pulls, sources in design.source.stacks_with_stages(design.prefix, used):
        mine = racing[stack]
        stack, pulls = stack[mine], pulls[mine]
        sources = {m: scores[mine] for m, scores in sources.items()}
        if not len(stack):
            continue
        full[stack] = run_fixed(pulls)
        for at, rule in enumerate(rules):
            races = run(rule, pulls, sources)
            prediction[at, stack] = races.prediction
            passes[at, stack], tokens[at, stack], cost[at, stack] = design.spent(races)
            done += len(stack)
            if progress:
                progress(done, total)
    return Raced(design, rules, prediction, passes, tokens, cost, full, label)


def _rule(prior: VariancePrior, k_max: int, stages: StageFit, alpha: float) -> CalibratedRule:
    """The family's member at one threshold. k_max: pulls."""
    looks = range(1, k_max) if k_max <= EVERY_LOOK else sparse_looks(k_max)[:-1]
    thresholds = tuple((n, alpha) for n in (*looks, k_max))
    screening, rungs = stages.at(alpha)
    return CalibratedRule(
        ModeratedT(prior), stages.risk, thresholds=thresholds, rungs=rungs, screening=screening
    )


def _refusal(target: Target, losses: Array) -> str:
    n = len(losses)
    if target.loss == ACCURACY:
        bound = f"accuracy may fall by {target.upper(losses):.2g}, as far as {n} images can tell"
        return f"no threshold holds an accuracy drop of {target.risk:g}: even with the safest {bound}"
    errors = f"{losses.sum():g} of {n} images"
    return f"no threshold holds a risk of {target.risk:g}: even the safest errs on {errors}"
