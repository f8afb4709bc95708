"""Our RandAR against the reference's own forward pass, soft-max and gather: speed, memory, agreement.

    git clone https://github.com/ziqipang/RandAR
    python examples/figures/reference_speed.py --reference RandAR

The same random weights (through `load_reference`), the same rows, the same dtype and threads. Each side runs
in a process of its own, so that its memory can be told; they take turns, so that a machine that slows down
slows both down. The reference is called as the published classifier calls it: no gradients, all rows at once,
targets given (so its loss is computed too), soft-max over the vocabulary, gather, log. Ours runs in the tiles
that the engine uses, and its products alone are timed right after it.

By default RandAR-L at full size: about 2.5 minutes on two cores, and 4 GB of memory.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from anytime_cls.engine import bench
from anytime_cls.engine.device import choose_device, choose_dtype
from anytime_cls.scorers.randar import RandAR
from anytime_cls.scorers.shapes import RandARConfig


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--reference", required=True, type=Path, help="a clone of ziqipang/RandAR")
    parser.add_argument("--shape", default="randar-l", help="as of 'anytime-cls bench --shape'")
    parser.add_argument(
        "--rows", type=int, default=4, help="rows scored in a repetition: classes of one image"
    )
    parser.add_argument("--tile", type=int, help="rows at once for ours [2, on a GPU 16]")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=120, help="no repetition begins after this long")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument(
        "--memory-rows", type=int, default=32, help="rows for peak memory (the published script uses 125)"
    )
    parser.add_argument("--side", choices=("ours", "reference"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not (options.reference / "RandAR" / "model" / "randar_gpt.py").is_file():
        parser.error(f"{options.reference}: not a clone of https://github.com/ziqipang/RandAR")
    options.tile = min(options.rows, options.tile or (2 if options.device == "cpu" else 16))
    try:
        config = bench.parse_shape(options.shape)
    except ValueError as error:
        parser.error(str(error))
    if options.side:
        serve(options, config)
    else:
        compare(options, config)


def compare(options: argparse.Namespace, config: RandARConfig) -> None:
    """Start both sides, let them take turns, print what came out."""
    with tempfile.TemporaryDirectory() as folder:
        sides = {name: Side(name, Path(folder) / f"{name}.npy") for name in ("reference", "ours")}
        memory = {}
        for name, side in sides.items():  # one after the other
            tell(f"{name}: memory, with {options.memory_rows} rows")
            memory[name] = side.ask("memory")["bytes"]
            tell(f"{name}: building the model, first pass")
            side.ask("load")
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        ceilings = []
        began = time.perf_counter()
        for repetition in range(options.repetitions):
            if repetition >= 2 and time.perf_counter() - began > options.seconds:
                break
            for name, side in sides.items():
                answer = side.ask("run")
                seconds[name].append(answer["seconds"])
                tell(f"{name}: turn {repetition + 1} of {options.repetitions}, {answer['seconds']:.2f} s")
                if "ceiling" in answer:
                    ceilings.append(answer["ceiling"])
        log_p = [np.load(side.output) for side in sides.values()]
        for side in sides.values():
            side.close()
    element = choose_dtype(options.dtype).itemsize
    weights = element * (
        config.vocab_size * config.dim * 2
        + (config.n_classes + 1) * config.dim
        + config.n_layer * (4 * config.dim**2 + 3 * config.dim * config.hidden_dim)
    )
    rate = config.flops() * options.rows / np.array(seconds["ours"])
    share = rate / np.array(ceilings)
    ratios = np.array(seconds["reference"]) / np.array(seconds["ours"])
    print(f"{options.shape}, {options.rows} rows, {options.dtype} on {options.device}, "
          f"{options.threads} threads, {len(ratios)} repetitions in turns")  # fmt: skip
    for name, took in seconds.items():
        rows = options.rows / np.array(took)
        print(f"{name:>10}: {np.median(rows):8.3f} passes/s [{rows.min():.3f}, {rows.max():.3f}]")
    medians = {name: float(np.median(took)) for name, took in seconds.items()}
    print(f"ours is {medians['reference'] / medians['ours']:.2f} times as fast (ratio of medians; "
          f"single turns {ratios.min():.2f} to {ratios.max():.2f})")  # fmt: skip
    print(f"ours is at {np.median(share):.1%} [{share.min():.1%}, {share.max():.1%}] of the matmul ceiling "
          f"measured, {np.median(rate) / 1e9:.1f} of {np.median(ceilings) / 1e9:.1f} GFLOP/s")  # fmt: skip
    rows, known = options.memory_rows, {name: value for name, value in memory.items() if value is not None}
    for name, value in known.items():
        print(f"{name:>10}: {rows} rows peak at {value / 2**20:.0f} MiB beside the weights, "
              f"{(value + weights) / 2**20:.0f} MiB with all layers' weights")  # fmt: skip
    if len(known) == 2:
        print(f"ours needs {known['ours'] / known['reference']:.1%} of the reference's peak, "
              f"{(known['ours'] + weights) / (known['reference'] + weights):.1%} with weights")  # fmt: skip
    print(f"max |Δ log p| over {log_p[0].size} tokens: {np.abs(log_p[0] - log_p[1]).max():.2e} nats "
          f"(log p from {log_p[0].min():.1f} to {log_p[0].max():.1f})")  # fmt: skip


def tell(line: str) -> None:
    """Progress, on standard error."""
    print(line, file=sys.stderr, flush=True)


class Side:
    """A process that holds one of the two models and does what it is asked, a line at a time."""

    def __init__(self, name: str, output: Path):
        self.name, self.output = name, output
        command = [sys.executable, __file__, *sys.argv[1:], "--side", name]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def ask(self, what: str) -> dict:
        assert self._process.stdin and self._process.stdout
        print(what, self.output, file=self._process.stdin)
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"the process of {self.name} ended at {what!r}, see above")
        return json.loads(line)

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


def serve(options: argparse.Namespace, config: RandARConfig) -> None:
    """One side: answers each line on standard input with one of JSON."""
    torch.set_num_threads(options.threads)
    device = choose_device(options.device)
    score: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None
    for line in sys.stdin:
        what, _, output = line.strip().partition(" ")
        answer: dict = {}
        if what == "memory":
            # without gradients a layer's memory is free before the next: one layer peaks where all would
            one = RandARConfig.from_dict(config.to_dict() | {"n_layer": 1})
            small, _ = load(options, one)
            inputs = rows_of(config, options.memory_rows, device)
            answer["bytes"] = bench.peak_memory(lambda small=small, x=inputs: small(*x).cpu(), device)
            del small
        elif what == "load":
            score, model = load(options, config)
            inputs = rows_of(config, options.rows, device)
            # warm up, and keep the numbers
            np.save(output, score(*inputs).double().cpu().numpy())
            ceiling = bench.Ceiling(model, options.tile, config.n_tokens) if model else None
        else:
            assert score is not None
            answer["seconds"] = bench.seconds_of(lambda score=score, x=inputs: score(*x).cpu(), device)
            if ceiling:
                answer["ceiling"] = ceiling()
        print(json.dumps(answer), flush=True)


def rows_of(config: RandARConfig, rows: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens [rows, N] of one random image, classes [rows], one random order [rows, N]."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(config.vocab_size, (1, config.n_tokens), generator=generator)
    order = torch.randperm(config.n_tokens, generator=generator)[None]
    classes = torch.arange(rows) % config.n_classes
    return tokens.repeat(rows, 1).to(device), classes.to(device), order.repeat(rows, 1).to(device)


def random_state(shapes: dict[str, torch.Size]) -> dict[str, Tensor]:
    """The same weights for both sides, from the keys and shapes of a state dict."""
    state = {}
    for i, key in enumerate(sorted(shapes)):
        generator = torch.Generator().manual_seed(i)
        noise = torch.randn(shapes[key], generator=generator)
        state[key] = 1 + 0.1 * noise if len(shapes[key]) == 1 else 0.02 * noise
    return state


def load(
    options: argparse.Namespace, config: RandARConfig
) -> tuple[Callable[[Tensor, Tensor, Tensor], Tensor], RandAR | None]:
    """A side's scorer: tokens, classes, orders → log p [rows, N] in nats; and the model, where it is ours."""
    device, dtype = choose_device(options.device), choose_dtype(options.dtype)
    if options.side == "ours":
        model = RandAR(config)
        model.load_reference(random_state({k: v.shape for k, v in model.reference_state().items()}))
        model = model.to(device, dtype).eval()

        @torch.inference_mode()
        def ours(tokens: Tensor, classes: Tensor, orders: Tensor) -> Tensor:
            tiles = [x.split(options.tile) for x in (tokens, classes, orders)]
            return torch.cat([model(*tile) for tile in zip(*tiles, strict=True)])

        return ours, model

    sys.path.insert(0, str(options.reference))
    from RandAR.model.randar_gpt import RandARTransformer  # type: ignore[import-not-found]

    reference = RandARTransformer(
        dim=config.dim, n_layer=config.n_layer, n_head=config.n_head, vocab_size=config.vocab_size,
        block_size=config.n_tokens, num_classes=config.n_classes,
    )  # fmt: skip
    reference.load_state_dict(random_state({k: v.shape for k, v in reference.state_dict().items()}))
    reference = reference.to(device, dtype).eval()

    @torch.no_grad()
    def theirs(tokens: Tensor, classes: Tensor, orders: Tensor) -> Tensor:
        logits, _loss, orders = reference(tokens, classes, targets=tokens, token_order=orders)
        read = tokens.gather(1, orders)
        probability = logits.softmax(dim=-1)
        row, column = torch.arange(len(read))[:, None], torch.arange(read.shape[1])[None, :]
        return probability[row, column, read].log()

    return theirs, None


if __name__ == "__main__":
    main()
