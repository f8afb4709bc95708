"""Does saving compute save time? Race many images, and score them on K whole orders, on the same engine.

    python examples/figures/sweep_speed.py IMAGES_FOLDER --images 60

Prints the saving in compute (whole passes, a prefix counting its share of FLOPs), the saving in wall-clock
time, their ratio (1: all compute saved is its share of the time saved), and where the time goes. The race is
the model's own, or that of --rule on whole orders; the other side is the paper's classifier, rule `fixed` on
K orders. It is cut in parts and the race repeated between them, so that a machine that slows down meanwhile
slows both down.
"""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from anytime_cls import AnytimeClassifier, Decision, RaceOptions
from anytime_cls.pixels.inputs import collect


@dataclass
class Total:
    """What the runs under one rule cost."""

    images: int = 0
    passes: float = 0.0
    wall: float = 0.0  # seconds
    cpu: float = 0.0  # seconds of all threads: less sensitive to what else the machine does
    model: float = 0.0  # seconds inside the transformer
    rows: float = 0.0  # whole passes it was given, padding included

    def line(self, name: str) -> str:
        n = self.images
        return (
            f"{name:>10}: {self.passes / n:6.1f} passes, {1e3 * self.wall / n:8.1f} ms an image "
            f"(CPU {1e3 * self.cpu / n:.1f}); outside the model {1 - self.model / self.wall:.1%}, "
            f"{1e3 * self.model / self.rows:.2f} ms a pass, padding {self.rows / self.passes - 1:.1%}"
        )


class Stopwatch:
    """Adds up the time spent in the model, by its forward hooks."""

    def __init__(self, model: torch.nn.Module):
        self.seconds, self.rows, self._began = 0.0, 0.0, 0.0
        self.config = model.config
        model.register_forward_pre_hook(self._begin)
        model.register_forward_hook(self._end)

    def _begin(self, model: torch.nn.Module, inputs: Any) -> None:
        self._began = time.perf_counter()

    def _end(self, model: torch.nn.Module, inputs: Any, output: torch.Tensor) -> None:
        if output.device.type == "cuda":
            torch.cuda.synchronize(output.device)
        self.seconds += time.perf_counter() - self._began
        self.rows += len(output) * self.config.flops(output.shape[1]) / self.config.flops()


def run(
    classifier: AnytimeClassifier, watch: Stopwatch, files: list[Path], options: RaceOptions, total: Total
) -> None:
    """Race these images and add what they cost to `total`."""
    seconds, rows, wall, cpu = watch.seconds, watch.rows, time.perf_counter(), time.process_time()
    decisions = [d for d in classifier.classify_many(files, options) if isinstance(d, Decision)]
    total.wall += time.perf_counter() - wall
    total.cpu += time.process_time() - cpu
    total.model += watch.seconds - seconds
    total.rows += watch.rows - rows
    total.images += len(decisions)
    total.passes += sum(d.passes for d in decisions)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--model", default="cifar10")
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--rule", help="on whole orders; default: the race that the model recommends")
    parser.add_argument("--delta", type=float)
    parser.add_argument("--max-orders", type=int, help="of the race")
    parser.add_argument("--fixed-orders", type=int, default=20, help="K of the paper's classifier")
    parser.add_argument("--parts", type=int, default=3, help="parts that the fixed run is cut in")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--batch-size", type=int)
    args = parser.parse_args()

    files = [item.source for item in collect([args.folder]) if isinstance(item.source, Path)]
    chosen = np.random.default_rng(0).choice(len(files), min(len(files), args.images), replace=False)
    files = [files[i] for i in chosen]
    classifier = AnytimeClassifier.load(args.model, args.device, batch_size=args.batch_size)
    watch = Stopwatch(classifier.scorer.model)
    options = RaceOptions(rule=args.rule, delta=args.delta, max_orders=args.max_orders)
    fixed_options = RaceOptions(rule="fixed", max_orders=args.fixed_orders)
    run(classifier, watch, files[:2], options, Total())  # warm up

    raced, fixed = Total(), Total()
    for part in np.array_split(np.arange(len(files)), args.parts):
        run(classifier, watch, files, options, raced)
        run(classifier, watch, [files[i] for i in part], fixed_options, fixed)
    run(classifier, watch, files, options, raced)

    print(f"{len(files)} images, model {classifier.card.name}, {torch.get_num_threads()} threads")
    print(raced.line(classifier.plan(options).rule.name))
    print(fixed.line(f"K = {args.fixed_orders}"))
    passes = (fixed.passes / fixed.images) / (raced.passes / raced.images)
    wall = (fixed.wall / fixed.images) / (raced.wall / raced.images)
    cpu = (fixed.cpu / fixed.images) / (raced.cpu / raced.images)
    print(
        f"{passes:.2f}x less compute, {wall:.2f}x less time: ratio {wall / passes:.2f} "
        f"(of CPU time {cpu / passes:.2f})"
    )


if __name__ == "__main__":
    main()
