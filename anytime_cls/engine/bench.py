"""How fast a transformer scores passes here, against what the device's matrix products allow.

The ceiling is measured, not read from a data sheet: the very products of a pass (their shapes, the model's
own weights, its dtype, as many threads), timed right after each repetition. Everything is repeated in turns,
so that a machine that slows down meanwhile slows every row down; medians are reported with their spread.
"""

from __future__ import annotations

import ctypes
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from anytime_cls.scorers.randar import RandAR
from anytime_cls.scorers.shapes import SHAPES, RandARConfig, SigmaConfig
from anytime_cls.scorers.sigma import Transformer
from anytime_cls.scorers.transformer import LOGIT_CHUNK, Block

CEILING_LAYERS = 4  # layers whose products a repetition times: the others' are the same
LEAST, MOST = 3, 200  # repetitions
SHARE_OF_MEMORY = 0.8  # of what is free may be planned for
GAIN = 1.02  # a larger tile must be faster by this factor to be preferred


def parse_shape(text: str) -> RandARConfig:
    """A name in SHAPES, or `dim,layers,heads,vocab,classes,tokens`. Raises ValueError in one line."""
    if text in SHAPES:
        return SHAPES[text]
    parts = text.split(",")
    if len(parts) != 6 or not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        names = ", ".join(SHAPES)
        raise ValueError(f"a shape is {names} or DIM,LAYERS,HEADS,VOCAB,CLASSES,TOKENS, not {text!r}")
    dim, layers, heads, vocab, classes, tokens = map(int, parts)
    return RandARConfig(dim, layers, heads, vocab, tokens, classes)


def random_model(config: RandARConfig, device: torch.device, dtype: torch.dtype) -> RandAR:
    """A RandAR of this shape with random weights, in eval mode. Raises ValueError for a senseless shape."""
    model = RandAR(config)
    nn.init.normal_(model.output.weight, std=0.02)
    return model.to(device, dtype).eval()


def rows_of(model: Transformer, rows: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """A tile's tokens, classes and orders on the model's device: one random image and order, many classes."""
    config, device = model.config, model.output.weight.device
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(config.vocab_size, (1, config.n_tokens), generator=generator)
    order = torch.rand(1, config.n_tokens, generator=generator).argsort(dim=1)
    classes = torch.arange(rows) % config.n_classes
    return (
        tokens.to(device).expand(rows, -1),
        classes.to(device),
        order.to(device).expand(rows, -1),
    )


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """Wall-clock seconds of one call, the device's work included."""
    _wait(device)
    began = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - began


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def products(model: Transformer, rows: int, prefix: int) -> Iterator[tuple[Sequence[nn.Linear], int]]:
    """The matrix products of a batch: (layers of the same shape, how many positions each reads)."""
    positions = rows * prefix * (1 if isinstance(model.config, SigmaConfig) else 2)
    blocks = [block for block in model.layers if isinstance(block, Block)]
    yield [block.attention.wqkv for block in blocks], positions
    yield [block.attention.wo for block in blocks], positions
    yield [block.feed_forward.w13 for block in blocks], positions
    yield [block.feed_forward.w2 for block in blocks], positions
    yield [model.output], rows * prefix


class Ceiling:
    """Times the matrix products of a batch and nothing else. Calling it gives FLOP/s."""

    def __init__(self, model: Transformer, rows: int, prefix: int):
        weight = model.output.weight
        self.device = weight.device
        self._turn = 0
        self._work = []
        chunk = max(1, LOGIT_CHUNK.get(self.device.type, 1 << 23) // model.config.vocab_size)
        for linears, positions in products(model, rows, prefix):
            if linears[0] is model.output:
                positions = min(positions, chunk)
            x = torch.randn(positions, linears[0].in_features, device=self.device).to(weight.dtype)
            out = x.new_empty(positions, linears[0].out_features)
            self._work.append((linears, rows * prefix if linears[0] is model.output else positions, x, out))
        self()  # the first time pays for allocation and kernel selection

    @torch.inference_mode()
    def __call__(self) -> float:
        flops = seconds = 0.0
        for linears, positions, x, out in self._work:
            n = min(len(linears), CEILING_LAYERS)
            some = [linears[(self._turn + i) % len(linears)].weight for i in range(n)]

            def run(some: list[Tensor] = some, x: Tensor = x, out: Tensor = out) -> None:
                for weight in some:
                    torch.mm(x, weight.t(), out=out)

            took = seconds_of(run, self.device) / (n * len(x))  # seconds a position
            seconds += took * positions * len(linears)
            flops += 2 * positions * len(linears) * some[0].numel()
        self._turn += CEILING_LAYERS
        return flops / seconds


@dataclass
class Timed:
    """What was measured at one number of rows in a call and one prefix."""

    rows: int
    prefix: int
    flops: float  # of the whole call
    peak_bytes: int | None = None  # above the loaded model; None where it cannot be read
    seconds: list[float] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """For people and JSON; rates are medians over repetitions."""
        seconds = np.array(self.seconds)
        return {
            "rows": self.rows,
            "prefix": self.prefix,
            "repetitions": len(seconds),
            "passes_per_second": self.rows / float(np.median(seconds)),
            "seconds": {q: float(f(seconds)) for q, f in _SPREAD.items()},
            "flops_per_second": float(np.median(self.flops / seconds)),
            "peak_bytes": self.peak_bytes,
        }


@dataclass
class Row(Timed):
    """The same of a tile of a transformer, beside its matrix products alone."""

    ceilings: list[float] = field(default_factory=list)  # FLOP/s, each right after its repetition

    def to_dict(self) -> dict[str, Any]:
        shares = self.flops / np.array(self.seconds) / np.array(self.ceilings)
        return super().to_dict() | {
            "ceiling_flops_per_second": float(np.median(self.ceilings)),
            "share_of_ceiling": {q: float(f(shares)) for q, f in _SPREAD.items()},
        }


_SPREAD: dict[str, Callable[[np.ndarray], np.floating]] = {"median": np.median, "min": np.min, "max": np.max}


def repetitions(seconds: float, began: float) -> Iterator[int]:
    """Counts until `seconds` since `began` are over: LEAST times at least, MOST at most."""
    for repetition in range(MOST):
        if repetition >= LEAST and time.perf_counter() - began > seconds:
            return
        yield repetition


@torch.inference_mode()
def measure(
    model: Transformer,
    rows: Sequence[int],
    prefixes: Sequence[int],
    seconds: float,
    run: Callable[..., Tensor] | None = None,
) -> list[Row]:
    """Score random rows at every size and prefix, in turns, for about `seconds`; each at least 3 times.

    rows: rows of a tile; prefixes: tokens scored, 1 .. N. run: what to call in place of the model, with its
    arguments (a compiled one). A size that runs out of memory raises torch's error.
    """
    device = model.output.weight.device
    jobs: list[tuple[Row, Callable[[], Tensor], Ceiling]] = []
    began = time.perf_counter()
    for prefix in prefixes:
        for n in sorted(rows):
            row = Row(n, prefix, n * model.config.flops(prefix))
            work: Callable[[], Tensor] = partial(run or model, *rows_of(model, n), prefix)
            row.peak_bytes = peak_memory(partial(seconds_of, work, device), device)
            jobs.append((row, work, Ceiling(model, n, prefix)))
    for _ in repetitions(seconds, began):
        for row, work, ceiling in jobs:
            row.seconds.append(seconds_of(work, device))
            row.ceilings.append(ceiling())
    return [row for row, _, _ in jobs]


def peak_memory(work: Callable[[], object], device: torch.device) -> int | None:
    """Most bytes in use at once during a call, above what was in use before it; None where unknown.

    On a CPU it is the process's resident memory (Linux only).
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    with suppress(
        OSError, AttributeError
    ):  # what the C library keeps for reuse would hide some of the call's
        ctypes.CDLL(None).malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        before = _status("VmRSS")
        work()
        return max(0, _status("VmHWM") - before)
    except OSError:
        work()
        return None


def memory_in_use(device: torch.device) -> int | None:
    """Bytes in use: allocated on a GPU, else this process's resident memory; None where unknown."""
    if device.type == "cuda":
        return int(torch.cuda.memory_allocated(device))
    try:
        return _status("VmRSS")
    except OSError:
        return None


def _status(name: str) -> int:
    """A size in /proc/self/status, bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) << 10
    raise OSError(f"no {name} in /proc/self/status")


def free_memory(device: torch.device) -> int:
    """Bytes that may be allocated: CUDA's own count, or what the machine and its cgroup have left."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
            return 2 << 30  # unknown: small enough for any machine that runs torch
        free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        free = min(free, limit - int(Path("/sys/fs/cgroup/memory.current").read_text()))
    except (OSError, ValueError):  # no cgroup, or no limit ("max")
        pass
    return max(free, 0)


def tile_bytes(model: Transformer, rows: int, prefix: int | None = None) -> int:
    """About what a tile of rows needs beside the weights, bytes, rather too much."""
    config, weight = model.config, model.output.weight
    m = config.n_tokens if prefix is None else prefix
    length = m if isinstance(config, SigmaConfig) else 2 * m
    # a layer's input, its norm, queries and keys in float32 and back, attention; SwiGLU's halves and product
    numbers = rows * length * (12 * config.dim + 3 * config.hidden_dim)
    logits = min(rows * m * config.vocab_size, LOGIT_CHUNK.get(weight.device.type, 1 << 23)) * 4
    return numbers * max(weight.element_size(), 4) + 3 * logits


@dataclass(frozen=True)
class BatchChoice:
    """What `largest_batch` found."""

    rows: int  # of the largest tile that fits in memory, and most it is worth giving the engine at once
    tile: int  # rows that are fastest in one call of the model
    passes_per_second: dict[int, float]  # rows of a tile → medians measured, whole orders


@torch.inference_mode()
def largest_batch(
    model: Transformer,
    seconds: float = 5.0,
    most: int = 4096,
    memory: int | None = None,
    prefix: int | None = None,
) -> BatchChoice:
    """The largest batch that fits a device, and the rows a tile that are fastest on it, measured.

    Tiles of 1, 2, 4, ... rows of `prefix` tokens (all by default) are timed until they no longer fit into
    80 % of `memory` bytes (what is free, by default), two doublings in a row brought nothing, or about
    `seconds` are over. The smallest tile within 2 % of the fastest wins: less is wasted on padding. A tile
    that runs out of memory all the same ends the search. One row is always tried; where not even that fits,
    torch's error is raised.
    """
    device = model.output.weight.device
    room = SHARE_OF_MEMORY * (free_memory(device) if memory is None else memory)
    rows = 1
    while rows < most and tile_bytes(model, 2 * rows, prefix) <= room:
        rows *= 2
    speeds: dict[int, float] = {}
    began, n, idle = time.perf_counter(), 1, 0
    while n <= rows and idle < 2:
        work = partial(model, *rows_of(model, n), prefix)
        try:
            first = seconds_of(work, device)
            left = seconds - (time.perf_counter() - began)
            repeats = max(1, min(5, int(left / (4 * first))))
            took = [seconds_of(work, device) for _ in range(repeats)]
        except RuntimeError as error:
            if not speeds or "memory" not in str(error).lower():
                raise
            torch.cuda.empty_cache()
            rows = n // 2
            break
        speed = n / float(np.median(took))
        idle = 0 if speed > GAIN * max(speeds.values(), default=0.0) else idle + 1
        speeds[n] = speed
        # the next tile takes about twice as long, twice: once to warm up
        if time.perf_counter() - began + 4 * float(np.median(took)) > seconds:
            break
        n *= 2
    best = max(speeds.values())
    return BatchChoice(rows, min(n for n, speed in speeds.items() if GAIN * speed >= best), speeds)


def device_name(device: torch.device) -> str:
    """What the device calls itself."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    if device.type != "cpu":
        return device.type
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
