"""Which rungs to race on: none, unless they clearly save."""

from __future__ import annotations

from collections.abc import (
    Mapping,
)
from dataclasses import replace

import numpy as np

from anytime_cls.certify.designs import ALPHAS, Array, Design, Target, _rule
from anytime_cls.certify.risk import (
    LOSSES,
)
from anytime_cls.certify.stages import RungFit, candidates, fit_rungs
from anytime_cls.race.bounds import VariancePrior
from anytime_cls.race.races import run
from anytime_cls.replay.source import run_fixed


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
            races = run(rule, pulls, rung_scores)
            if LOSSES[target.loss](races.prediction, full, label).mean() <= target.risk:
                cost = design.spent(races)[2]
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
