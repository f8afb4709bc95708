"""Whether a factor f_n for stratified orders, which err less than independent ones, saves passes.

    python examples/figures/stratified_factor.py FULL.h5 --images 1000

f_n is the mean squared error of the first n pulls' paired differences, over what `bounds.effective_n` says
of n independent ones. Half of the images give it and the prior; on the others races whose radius at look n
is √f_n times as wide are compared at equal disagreement with races that do without. 95 % intervals by
bootstrap of images.
FULL.h5: `sweep --rule fixed --orders stratified --prefix M --max-orders K`.
"""

from __future__ import annotations

import argparse

import numpy as np
from control_variate import ALPHAS, RESAMPLES, RISKS, at_risk
from scipy.special import stdtr, stdtrit

from anytime_cls.certify.priors import fit_priors
from anytime_cls.race.bounds import ModeratedT, VariancePrior, effective_n
from anytime_cls.race.races import run
from anytime_cls.race.rules import CalibratedRule
from anytime_cls.replay.source import Source
from anytime_cls.traces.read import Trace

Array = np.ndarray


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("trace")
    parser.add_argument("--images", type=int, default=1000)
    args = parser.parse_args()
    pulls = np.concatenate([stack for _, stack in Source(Trace.open(args.trace)).stacks()])
    pulls = pulls[np.random.default_rng(0).permutation(len(pulls))[: args.images]]
    fit = np.random.default_rng(1).permutation(len(pulls)) < len(pulls) // 2
    factor, prior = factors(pulls[fit]), fit_priors(pulls[fit])["paired"]
    print(f"{args.trace}: {len(pulls)} images; f_n {np.round(factor, 2).tolist()}")
    without, with_it = (raced(pulls[~fit], prior, f) for f in (np.ones_like(factor), factor))
    n, rng = int((~fit).sum()), np.random.default_rng(2)
    drawn = [np.arange(n), *rng.integers(0, n, (RESAMPLES, n))]
    for risk in RISKS:
        a, b = (np.array([at_risk(*races, risk, rows) for rows in drawn]) for races in (without, with_it))
        low, high = np.quantile(b[1:] / a[1:], (0.025, 0.975))
        found = f"with f_n {b[0]:.1f} (×{b[0] / a[0]:.2f} [{low:.2f}, {high:.2f}])"
        print(f"another answer {risk:.0%}: {a[0]:.1f}, {found}")


def factors(pulls: Array) -> Array:
    """f_n of n = 1 .. K − 1, from pulls [I, K, C]."""
    leader = pulls.mean(axis=1).argmax(axis=1)[:, None, None]
    diff = np.take_along_axis(pulls, leader, axis=2) - pulls
    var, k_max = diff.var(axis=1, ddof=1), pulls.shape[1]
    rival, found = var > 0, []
    for n in range(1, k_max):
        error = (diff[:, :n].mean(axis=1) - diff.mean(axis=1)) ** 2
        found.append(float(np.mean(error[rival] / var[rival])) * effective_n(n, k_max))
    return np.array(found)


def raced(pulls: Array, prior: VariancePrior, factor: Array) -> tuple[Array, Array]:
    """Class scores and disagreements at every threshold, [A, I] both. A narrower radius is a larger α."""
    full, passes, errors = pulls.mean(axis=1).argmax(axis=1), [], []
    for alpha in ALPHAS:
        looks = []
        for n, f in enumerate(factor.tolist(), 1):
            df = prior.df + n - 1
            looks.append((n, float(stdtr(df, stdtrit(df, alpha) * np.sqrt(f)))))
        races = run(CalibratedRule(ModeratedT(prior), thresholds=tuple(looks)), pulls)
        passes.append(races.passes)
        errors.append(races.prediction != full)
    return np.array(passes, float), np.array(errors, float)


if __name__ == "__main__":
    main()
