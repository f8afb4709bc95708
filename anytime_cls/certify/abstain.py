"""With how little evidence a picture is none of the model's classes, at a stated rate of false alarms.

Evidence (`race.races.evidence`) is a number that every race ends with. On held-out pictures of the model's
own classes its k-th smallest value is a threshold below which further ones fall with a probability that is
Beta(k, n + 1 − k), whatever the evidence is distributed like (Wilks, *Determination of sample sizes for
setting tolerance limits*, Ann. Math. Statist. 1941): nothing is assumed but that pictures are drawn alike.
What it does not say is how many pictures of other things fall below it: docs/abstain.md has measurements.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import binom

from anytime_cls.certify.designs import Array, Design
from anytime_cls.race.races import evidence, run
from anytime_cls.race.rules import Rule

#: Shares of the model's own pictures that may be answered "none of these": a threshold for each.
RATES = (0.01, 0.02, 0.05, 0.1, 0.2)


def rank(n: int, rate: float, confidence: float | None) -> int:
    """Which of n held-out values, from the smallest, is the threshold; 0 where n are too few.

    confidence : the rate is held so surely over the draw of the n; None: on average over it, k / (n + 1)
    (Vovk et al., *Algorithmic Learning in a Random World*, 2005)
    """
    if confidence is None:
        return int(np.floor(rate * (n + 1) + 1e-9))
    return int((binom.sf(np.arange(n), n, rate) >= confidence).sum())


def thresholds(values: Array, confidence: float | None) -> dict[str, float]:
    """Evidence below which at most each of `RATES` of further pictures fall, by rate: of values [n]. As
    :func:`rank`; a rate that so few values cannot hold is left out."""
    rising = np.sort(values)
    places = {rate: rank(len(rising), rate, confidence) for rate in RATES}
    return {f"{rate:g}": float(rising[k - 1]) for rate, k in places.items() if k}


def abstentions(
    design: Design, images: Array, rules: Sequence[tuple[Mapping[str, Any], Rule]], confidence: float | None
) -> list[dict[str, Any]]:
    """Entries of `abstain` in model.json: for each rule (with what an entry says of it) its thresholds.

    images : held out, so that nothing about the rules was chosen by them: indices into the trace
    """
    mine = np.zeros(len(design.source.trace), bool)
    mine[images] = True
    found: list[list[Array]] = [[] for _ in rules]
    used = {stage.source for _, rule in rules for stage in rule.first_stages}
    for stack, pulls, sources in design.source.stacks_with_stages(design.prefix, used):
        some = mine[stack]
        if some.any():
            estimates = {m: scores[some] for m, scores in sources.items()}
            for values, (_, rule) in zip(found, rules, strict=True):
                values.append(evidence(run(rule, pulls[some], estimates).means()))
    sure = {"guarantee": "mean"} if confidence is None else {"confidence": confidence}
    entries = []
    for (about, _), values in zip(rules, found, strict=True):
        fitted = thresholds(np.concatenate(values), confidence)
        if fitted:
            entries.append({**about, **design.about, **sure, "images": len(images), "thresholds": fitted})
    return entries
