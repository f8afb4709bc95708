"""What do rungs save, and what would a cache of keys and values save on top? From a full trace of prefixes.

    anytime-cls sweep cifar10 --root DATA/train --ids runs/cifar10/holdout.txt --rule fixed \\
        --orders stratified --prefix 8 --max-orders 16 --record-prefixes 2,4 -o held-out-8.h5
    python examples/figures/rung_costs.py held-out-8.h5 --rungs 2,4 --risk 0.05

Races are calibrated on half of the images, without rungs and with those that pay, and counted on the other
half. Who survives a rung is scored anew from the order's first token. A cache would save those tokens, at
most: it has to be kept, cut to the survivors and attended to.
"""

import argparse

import numpy as np

from anytime_cls.certify.designs import SPLIT, split_images
from anytime_cls.certify.thresholds import calibrate_trace
from anytime_cls.race.fitted import Fitted
from anytime_cls.race.races import run
from anytime_cls.race.registry import fitted_rule
from anytime_cls.replay.source import Source
from anytime_cls.traces.read import Trace


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("trace", help="of rule fixed on prefixes, with shorter ones recorded")
    parser.add_argument("--rungs", default="2,4", help="recorded prefixes to choose rungs from")
    parser.add_argument("--risk", type=float, default=0.05)
    args = parser.parse_args()

    with Trace.open(args.trace) as trace:
        source = Source(trace)
        held_out = split_images(np.flatnonzero(source.good), SPLIT, seed=0).held_out
        for wanted in ([], [int(m) for m in args.rungs.split(",")]):
            found = calibrate_trace(trace, [args.risk], stages=wanted)
            fitted = Fitted.read(found, source.tokens)
            rule = fitted_rule(fitted, "calibrated", args.risk, source.design(), source.block)
            tokens, again = np.zeros((2, len(trace)))
            lengths = [stage.source for stage in rule.first_stages]
            for images, pulls, scores in source.stacks_with_stages(None, lengths):
                raced = run(rule, pulls, scores)
                tokens[images] = raced.passes * source.block * source.pass_tokens + raced.tokens
                for before, rows in zip(lengths, raced.stage_rows.T[1:], strict=False):
                    again[images] += rows * before  # those scored at the next rung
                left = np.isnan(raced.behind).sum(axis=1) * (raced.n > 0)
                again[images] += left * max(lengths, default=0)
            error = found["calibrated"][0]["held_out"]["disagreement"]["value"]
            share = again[held_out].sum() / tokens[held_out].sum()
            print(f"rungs {lengths or 'none'}: {tokens[held_out].mean():.1f} tokens an image, "
                  f"of which scored again {share:.1%}; another answer {error:.2%}")  # fmt: skip


if __name__ == "__main__":
    main()
