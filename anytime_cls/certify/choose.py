"""Which stages to race with: none, unless they clearly save."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from anytime_cls.certify.designs import ALPHAS, Array, Design, Target, _rule
from anytime_cls.certify.risk import LOSSES
from anytime_cls.certify.stages import Source, StageFit, candidates, fit_stages
from anytime_cls.race.bounds import VariancePrior
from anytime_cls.race.races import run
from anytime_cls.replay.source import run_fixed

#: Times the weight of a screen that are tried: a regression over all rivals says little of the close ones.
TRUST = (1.0, 2.0, 4.0)


def choose_stages(
    design: Design, pulls: Array, scores: Mapping[Source, Array], label: Array, prior: VariancePrior,
    target: Target,
) -> StageFit:  # fmt: skip
    """The stages of the cheapest races on these images, among all sets of those recorded, or none.

    For every set, at the loosest of the thresholds with which these images' mean loss is within the risk.
    The images are few and the sets several, so stages must save twice the saving's standard error at least:
    the merely cheapest set cost up to a tenth more than none on other images (traces of a model shipped
    until commit c42a17e, docs/label-aware.md).
    """
    best = none = StageFit(target.risk)
    if not scores:
        return none
    full, means = run_fixed(pulls), pulls.mean(axis=1)
    least, bare = np.inf, None  # cost: of the best set so far (mean), of every race without stages
    sets = [
        (c, t) for c in candidates(scores) for t in (TRUST if any(isinstance(m, str) for m in c) else (1,))
    ]
    for chosen, trust in sets:
        fitted = fit_stages(scores, means, chosen, prior, target.risk, trust)
        if fitted is None:
            continue
        for alpha in reversed(ALPHAS[::4]):
            here = replace(fitted, alpha=float(alpha))
            rule = _rule(prior, design.k_max, here, float(alpha))
            races = run(rule, pulls, scores)
            if LOSSES[target.loss](races.prediction, full, label).mean() <= target.risk:
                cost = design.spent(races)[2]
                if not chosen:
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
