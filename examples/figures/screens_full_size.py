"""RandAR-L's screens at full size, random weights: is the gradient right, and is a table worth making?

    python examples/figures/screens_full_size.py --steps 32 --rows 64

First the gradient against finite differences of the exact score, in float32: one class's direction, the
first tokens of one order. Then CPU seconds, in turns in one process, of the gradient and of the final states
that would stand for the table (whose N · V · C numbers are too many): a state for every class and place and
the logarithm of its soft-max's sum, made once; an image is then a product of N states with N columns, a
class. What is measured is of a few rows; all of them are their number times as much. 4 GB of memory, minutes.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch

from anytime_cls.models.load import build_transformer
from anytime_cls.scorers.screens import GradientScreen, screens_of
from anytime_cls.scorers.shapes import SHAPES

STEP = 3e-4  # of a finite difference, in the distance from the mean class to one


def made(name: str) -> torch.nn.Module:
    """Random weights, large enough in the head that classes differ by nats."""
    torch.manual_seed(0)
    model = build_transformer(name.split("-")[0], SHAPES[name].to_dict())
    torch.nn.init.normal_(model.output.weight, std=0.02)
    return model.eval().requires_grad_(False)


def difference(model: torch.nn.Module, image: np.ndarray, steps: int) -> tuple[float, float]:
    """(by the gradient, by central differences) of log p along one class's embedding, nats."""
    config = model.config
    everyone = np.arange(config.n_classes)
    name = "stratified" if steps < config.n_tokens and config.n_tokens % steps == 0 else "uniform"
    order = config.draws(name, steps).at(0, b"screen:", 0).what[0]  # as the screen draws it
    found = GradientScreen(model, 1, steps).estimate([image], 0, [b""], everyone)[0]
    mean = model.cls_embedding.weight[:-1].mean(dim=0)
    one = int(np.abs(found - found.mean()).argmax())
    towards = model.cls_embedding.weight[one] - mean
    points = torch.stack([mean + STEP * towards, mean - STEP * towards])
    tokens, rows = (torch.from_numpy(x).expand(2, -1) for x in (image, order))
    with torch.inference_mode():
        log_p = model.token_log_probs(tokens, points, rows, steps).double().sum(dim=1)
    share = config.n_tokens / steps
    exact = share * float(log_p[0] - log_p[1]) / (2 * STEP)
    return float(found[one] - found.mean()), exact


def states(model: torch.nn.Module, rows: int) -> torch.Tensor:
    """Final states of so many pairs of class and place, [rows, dim]; and the sums of their soft-max."""
    config = model.config
    order = torch.arange(rows)[:, None] % config.n_tokens
    nothing = torch.zeros(rows, config.n_tokens, dtype=torch.int64)
    with torch.inference_mode():
        found = model.hidden(nothing, torch.arange(rows) % config.n_classes, order, 1)[:, 0]
        model.output(found).float().logsumexp(dim=1)
    return found


def seconds(run: Callable[[], object], times: int) -> float:
    """The median of CPU seconds, after a run that is not counted."""
    run()
    took = []
    for _ in range(times):
        began = time.process_time()
        run()
        took.append(time.process_time() - began)
    return float(np.median(took))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--shape", default="randar-l")
    parser.add_argument("--steps", type=int, default=32, help="tokens of the order for the finite difference")
    parser.add_argument("--rows", type=int, default=64, help="final states timed")
    parser.add_argument("--times", type=int, default=1)
    args = parser.parse_args()
    model = made(args.shape)
    config = model.config
    image = np.random.default_rng(0).integers(0, config.vocab_size, config.n_tokens)
    by_gradient, exact = difference(model, image, args.steps)
    print(f"gradient {by_gradient:.5f} nats, finite difference {exact:.5f}: relative error "
          f"{abs(by_gradient - exact) / abs(exact):.1e}", flush=True)  # fmt: skip

    every = config.n_classes * config.n_tokens
    making = every / args.rows * seconds(lambda: states(model, args.rows), args.times)
    size = every * config.dim * 2
    table = every * config.vocab_size * 4 / 2**30
    print(f"final states: {every:,}, {size / 1e9:.2f} GB in bf16 ({table:.1f} GiB as a table); "
          f"{making:,.0f} CPU seconds, by {args.rows} of them", flush=True)  # fmt: skip

    kept = torch.randn(config.n_classes, 16, config.dim)  # of so many places
    columns = model.output.weight[torch.from_numpy(image[:16])]
    looking = config.n_tokens / 16 * seconds(lambda: torch.einsum("cnd,nd->cn", kept, columns).sum(), 5)
    screen, everyone = screens_of(model)["gradient"], np.arange(config.n_classes)
    ranking = seconds(lambda: screen.estimate([image], 0, [b""], everyone), args.times)
    print(f"an image: {looking:.2f} CPU seconds by the states, {ranking:.1f} by the gradient "
          f"({screen.flops(config.n_classes) / config.flops():.1f} passes); the states are made for what "
          f"{making / max(1e-9, ranking - looking):,.0f} images' gradients take")  # fmt: skip


if __name__ == "__main__":
    main()
