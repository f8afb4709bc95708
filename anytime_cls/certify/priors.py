"""Variance priors of the moderated bounds, fitted on held-out full traces."""

from __future__ import annotations

import numpy as np
from scipy.optimize import brentq
from scipy.special import digamma, polygamma

from anytime_cls.race.bounds import VariancePrior
from anytime_cls.race.rules import sample_variance

Array = np.ndarray


def fit_variance_prior(
    gap: np.ndarray, var: np.ndarray, df: int, power: float | None = None
) -> VariancePrior:
    """Fit σ² ~ s0²(gap) · d0 / χ²(d0) to sample variances with `df` degrees of freedom each.

    limma's moment estimator on the log scale (Smyth 2004, §6.2), with log s0² linear in log gap: E log s²
    and Var log s² of a scaled F are digammas and trigammas. `power=0` fits a constant s0².

    Parameters
    ----------
    gap : [n] mean differences, nats (their sign is ignored)
    var : [n] sample variances, nats²; zeros are left out
    """
    gap, var = np.abs(np.ravel(gap)), np.ravel(var)
    ok = np.isfinite(var) & (var > 0) & np.isfinite(gap)
    if ok.sum() < 10:
        raise ValueError(f"a variance prior needs at least 10 positive variances, got {int(ok.sum())}")
    gap, var = gap[ok], var[ok]
    floor = 0.1
    x = np.log(np.maximum(gap, floor))
    z = np.log(var) - digamma(df / 2) + np.log(df / 2)
    if power is None:
        slope = 0.0 if np.ptp(x) < 1e-9 else float(np.polyfit(x, z, 1)[0])
        # the prior is read at the observed gap, which is safe only while a larger gap looks no surer
        slope = min(max(slope, 0.0), 2.0)
    else:
        slope = power
    intercept = float(np.mean(z - slope * x))
    spread = float(np.var(z - slope * x, ddof=2)) - float(polygamma(1, df / 2))
    d0 = 1e4 if spread <= polygamma(1, 5e3) else 2 * brentq(lambda y: polygamma(1, y) - spread, 1e-3, 5e3)
    d0 = float(np.clip(d0, 2.0, 1e4))
    scale = np.exp(intercept + digamma(d0 / 2) - np.log(d0 / 2))
    return VariancePrior(scale=float(scale), power=slope, df=d0, gap_floor=floor)


def fit_priors(scores: Array) -> dict[str, VariancePrior]:
    """Variance priors from full traces [I, K, C]: `paired` for leader − class, `marginal` for one class."""
    k_max, n_classes = scores.shape[1:]
    leader = scores.mean(axis=1).argmax(axis=1)
    diff = np.take_along_axis(scores, leader[:, None, None], axis=2) - scores
    rival = np.arange(n_classes) != leader[:, None]
    paired = fit_variance_prior(diff.mean(axis=1)[rival], sample_variance(diff)[rival], k_max - 1)
    own = sample_variance(scores).ravel()
    return {"paired": paired, "marginal": fit_variance_prior(np.ones_like(own), own, k_max - 1, power=0.0)}
