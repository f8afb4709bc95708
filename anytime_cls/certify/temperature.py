"""Fit what a model must know of itself, on images neither its training nor its tests have seen.

A full trace (every class on every order) of held-out images gives the variance priors of the moderated
bounds, and the temperature at which the soft-max of the mean log-likelihoods is a calibrated probability at
the default rule's decision; `measure` is what its card then says of it. thresholds.py goes on from there to
rules that hold a stated risk.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from anytime_cls.race.races import Sources, run
from anytime_cls.race.rules import Rule

Array = np.ndarray


def decision_means(rule: Rule, scores: Array, sources: Sources | None = None) -> Array:
    """Mean log-likelihoods [I, C] as they stand when a rule has decided (`Races.means`): scores [I, K, C].

    sources : as `race.races.run` takes them, for a rule with stages
    """
    return run(rule, scores, sources).means()


def fit_temperature(means: Array, labels: Array) -> float:
    """T at which the largest of softmax(means / T) says best whether it is right, by log loss: means [I, C],
    labels int [I].

    Of the answer alone, since that is the probability reported: the loss over all classes asks for more doubt
    (the tails of log-likelihoods are heavier than a soft-max's). Targets are not 1 and 0 but Platt's (1999,
    *Probabilistic outputs for support vector machines*, eq. 2): a few images that are all answered rightly
    must not make every probability 1.
    """
    answer = means.argmax(axis=1)
    right = answer == labels
    n_right, n_wrong = int(right.sum()), int((~right).sum())
    target = np.where(right, (n_right + 1) / (n_right + 2), 1 / (n_wrong + 2))

    def loss(log_t: float) -> float:
        log_p = log_softmax(means / np.exp(log_t), axis=1)[np.arange(len(answer)), answer]
        wrong = np.log(np.maximum(-np.expm1(log_p), 1e-12))
        return -float((target * log_p + (1 - target) * wrong).mean())

    return float(np.exp(minimize_scalar(loss, bounds=(-3.0, 6.0), method="bounded").x))
