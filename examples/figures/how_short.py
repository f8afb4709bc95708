"""How short should an order be? Accuracy and cross entropy of K orders, for every design that traces hold.

    for m in 4 16; do anytime-cls sweep tiny-imagenet --root DATA/train --ids runs/tiny/holdout.txt \\
        --limit 800 --model runs/tiny --rule fixed --orders stratified --prefix $m --max-orders 16 \\
        -o held-out-$m.h5; done
    python examples/figures/how_short.py held-out-4.h5 held-out-16.h5

Traces are of rule `fixed`, of one model; the images are those that all of them have, with labels. Recorded
prefixes are designs too. Cross entropy is −log of the probability of the true class, the soft-max of the mean
log-likelihoods at the temperature that makes it least; its paired difference to the first trace's last line
(all its orders) comes with a standard error. It tells designs apart long before accuracy does.
"""

import argparse
from collections.abc import Iterator

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from anytime_cls.certify.designs import Design
from anytime_cls.replay.source import Source
from anytime_cls.traces.read import Trace


def cross_entropy(means: np.ndarray, label: np.ndarray) -> np.ndarray:
    """−log p(label) at the best temperature, nats: [I, C] and int [I] → [I]."""

    def losses(log_t: float) -> np.ndarray:
        return -log_softmax(means / np.exp(log_t), axis=1)[np.arange(len(label)), label]

    return losses(minimize_scalar(lambda x: losses(x).mean(), bounds=(-3, 3), method="bounded").x)


def designs(trace: Trace, ids: list[str]) -> Iterator[tuple[str, int, np.ndarray]]:
    """Name, tokens an order and scores [I, K, C] of these images: the trace's passes, then its prefixes."""
    source = Source(trace)
    row = {one: i for i, one in enumerate(trace.images["id"])}
    rows = np.array([row[one] for one in ids])
    for prefix in (None, *reversed(source.prefixes)):
        design = Design(source, prefix)
        of = "" if prefix is None else f" of {source.pass_tokens}"
        name = f"{design.tokens}{of} tokens, {source.sampler_name}"
        yield name, design.tokens * source.block, design.gather(rows)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("traces", nargs="+", metavar="FULL.h5")
    args = parser.parse_args()
    traces = [Trace.open(path) for path in args.traces]
    if len({trace.attrs["model_sha256"] for trace in traces}) > 1:
        parser.error("the traces must be of one model")
    label_of: dict[str, int] = {}
    for trace in traces:
        images = trace.images
        usable = (images["error"] == "") & (images["label"] >= 0)
        mine = dict(zip(images["id"][usable], images["label"][usable].tolist(), strict=True))
        label_of = mine if trace is traces[0] else {k: v for k, v in label_of.items() if k in mine}
    if not label_of:
        parser.error("there are no labelled images that all traces have")
    ids, label = list(label_of), np.array(list(label_of.values()))

    first = None
    print(f"{len(ids):,} images; tokens: of a class, K times an order's")
    for trace in traces:
        for name, tokens, scores in designs(trace, ids):
            for k in sorted({*(1 << i for i in range(scores.shape[1].bit_length())), scores.shape[1]}):
                means = scores[:, :k].mean(axis=1)
                loss, right = cross_entropy(means, label), (means.argmax(axis=1) == label).mean()
                line = f"{name:28} K = {k:<3} {k * tokens:5} tokens  {right:6.1%}  {loss.mean():.3f} nats"
                if first is not None:
                    apart = loss - first
                    line += f"  {apart.mean():+.3f} ± {apart.std(ddof=1) / np.sqrt(len(apart)):.3f}"
                print(line)
            first = loss if first is None else first
        trace.close()


if __name__ == "__main__":
    main()
