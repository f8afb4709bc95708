"""Whether a race that subtracts the table as a control variate takes fewer passes at equal disagreement.

    python examples/figures/control_variate.py FULL.h5 --model cifar10-manifold --images 600

    nb_k(c) = Σ log p(x_i | c) over the places of order k, each token read first;  nb(c) = over all places
    y_k(c)  = x_k(c) − β (nb_k(c) − (m/N) nb(c))

The second term's mean is known: 0 over a whole tiling. So races on y have the same K_max answer, and pulls
that vary less. FULL.h5: stratified orders, as many as are whole tilings (`sweep --rule fixed --orders
stratified --prefix M --max-orders K`), with its images where they were. Half of the images give β, the
variance prior and what the table counts as; on the others races at 60 thresholds are interpolated to the
risks.
Intervals: 95 %, bootstrap of images, paired.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from anytime_cls.certify.priors import fit_priors
from anytime_cls.certify.stages import fit_screen
from anytime_cls.classifier import AnytimeClassifier
from anytime_cls.race.bounds import ModeratedT, VariancePrior
from anytime_cls.race.races import run
from anytime_cls.race.rules import CalibratedRule, Screening
from anytime_cls.replay.source import Source
from anytime_cls.scorers.base import Piece
from anytime_cls.traces.read import Trace

Array = np.ndarray
RISKS = (0.02, 0.05, 0.1)
ALPHAS = np.geomspace(1e-6, 0.5, 60)
RESAMPLES = 400


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("trace")
    parser.add_argument("--model", required=True)
    parser.add_argument("--images", type=int, default=600)
    args = parser.parse_args()
    trace = Trace.open(args.trace)
    source = Source(trace)
    which = np.sort(np.random.default_rng(0).permutation(np.flatnonzero(source.good))[: args.images])
    pulls = np.concatenate([stack[np.isin(images, which)] for images, stack in source.stacks()])
    control, table = controls(trace, args.model, which, pulls.shape[1])
    fit = np.random.default_rng(1).permutation(len(which)) < len(which) // 2

    x, z = centred(pulls[fit]), centred(control[fit])
    # of what pulls vary by about their own mean: the K_max answer is the same whatever β
    x, z = x - x.mean(axis=1, keepdims=True), z - z.mean(axis=1, keepdims=True)
    beta = float((x * z).sum() / (z * z).sum())
    explained = beta * float((x * z).sum() / (x * x).sum())
    lower = pulls - beta * control
    moved = float(np.abs(control.mean(axis=1)).max())
    print(f"{args.trace}: {len(which)} images; β {beta:.2f} explains {explained:.1%} of the variance of "
          f"a pull; corrections cancel over K_max to {moved:.1e} nats")  # fmt: skip
    kinds = {"pulls": (pulls, False), "control variate": (lower, False),
             "table as pulls": (pulls, True), "both": (lower, True)}  # fmt: skip
    found = {name: raced(*kind, table, fit, pulls) for name, kind in kinds.items()}
    rng = np.random.default_rng(2)
    drawn = [np.arange((~fit).sum()), *(rng.integers(0, (~fit).sum(), (RESAMPLES, (~fit).sum())))]
    for risk in RISKS:
        passes = {
            name: np.array([at_risk(*kind, risk, rows) for rows in drawn]) for name, kind in found.items()
        }
        parts = []
        for name, values in passes.items():
            base = passes["table as pulls" if name == "both" else "pulls"]
            low, high = np.quantile(values[1:] / base[1:], (0.025, 0.975))
            parts.append(f"{name} {values[0]:.1f} (×{values[0] / base[0]:.2f} [{low:.2f}, {high:.2f}])")
        print(f"another answer {risk:.0%}: " + ", ".join(parts))


def controls(trace: Trace, model: str, which: Array, k_max: int) -> tuple[Array, Array]:
    """nb_k − (m/N) nb of every pull, [I, K, C], and nb, [I, C]."""
    classifier = AnytimeClassifier.load(model, "cpu")
    screen, shape = classifier.scorer.screens["table"], classifier.scorer.shape
    draws = shape.draws(str(trace.attrs["order_sampler"]), trace.pass_tokens)
    root, classes = Path(str(trace.attrs["root"])), np.arange(len(trace.labels))
    seed, control, table = int(trace.attrs["seed"]), [], []
    for i in which.tolist():
        encoded, content = classifier.encode(root / trace.images["path"][i])
        pieces = [Piece(encoded, draws.at(seed, content, k), classes) for k in range(k_max)]
        control.append(screen.control(pieces, trace.pass_tokens))
        table.append(screen.estimate([encoded], seed, [content], classes)[0])
    return np.array(control), np.array(table)


def centred(x: Array) -> Array:
    """About the mean of all classes."""
    found: Array = x - x.mean(axis=-1, keepdims=True)
    return found


def raced(x: Array, screened: bool, table: Array, fit: Array, pulls: Array) -> tuple[Array, Array]:
    """Class scores and disagreements of races at every threshold, of images not fitted on: [A, I] both."""
    prior, full = fit_priors(x[fit])["paired"], pulls.mean(axis=1).argmax(axis=1)[~fit]
    passes, errors = [], []
    for alpha in ALPHAS:
        races = run(
            rule(float(alpha), prior, x.shape[1], screened, table[fit], x[fit]),
            x[~fit],
            {"table": table[~fit]},
        )
        passes.append(races.passes)
        errors.append(races.prediction != full)
    return np.array(passes, float), np.array(errors, float)


def rule(
    alpha: float, prior: VariancePrior, k_max: int, screened: bool, table: Array, x: Array
) -> CalibratedRule:
    """A look after every pull, all at one threshold; behind the table where `screened`."""
    screening: Screening | None = None
    if screened:
        screening = fit_screen("table", table, x.mean(axis=1), prior).at(alpha)
    looks = tuple((n, alpha) for n in range(1, k_max))
    return CalibratedRule(ModeratedT(prior), thresholds=looks, screening=screening)


def at_risk(passes: Array, errors: Array, risk: float, rows: Array) -> float:
    """Class scores an image at this disagreement, interpolated between thresholds."""
    cost, wrong = passes[:, rows].mean(axis=1), np.maximum.accumulate(errors[:, rows].mean(axis=1))
    return float(np.interp(risk, wrong + 1e-9 * np.arange(len(wrong)), cost))


if __name__ == "__main__":
    main()
