"""`anytime-cls bench`: passes a second, FLOP/s, the measured ceiling and memory of a model on a device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options
from .errors import Refused

if TYPE_CHECKING:
    import torch

    from anytime_cls.classifier import AnytimeClassifier
    from anytime_cls.scorers.sigma import Transformer

BUSY = 1.25  # slowest over fastest repetition from which the reader is warned


def bench(
    model: options.Model = "cifar10",
    shape: Annotated[
        str | None,
        typer.Option(
            metavar="SHAPE",
            show_default=False,
            help="Random weights in place of a model: randar-l, randar-xl, or "
            "dim,layers,heads,vocab,classes,tokens.",
        ),
    ] = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "float32",
    threads: Annotated[
        int, typer.Option(min=0, max=1024, metavar="N", help="CPU threads; 0 leaves them as they are.")
    ] = 0,
    prefix: Annotated[
        str | None,
        typer.Option(metavar="M,...", show_default=False, help="Tokens scored; all of them by default."),
    ] = None,
    batch_size: Annotated[
        str,
        typer.Option(metavar="ROWS,...", help="Passes scored at once; auto looks for the fastest number."),
    ] = "auto",
    seconds: Annotated[
        float, typer.Option(min=0.0, metavar="S", help="About how long to measure; 3 repetitions at least.")
    ] = 20.0,
    compile: Annotated[
        bool, typer.Option("--compile", help="Compile the model (torch.compile, CUDA graphs); CUDA only.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> int:
    """Measure a model: passes a second, FLOP/s, their share of what matrix products reach here, memory.

    The ceiling is the model's own matrix products, timed alone in turns with whole passes, in the same dtype
    and with as many threads. FLOPs are a formula's: multiply-adds × 2, half of the attention's square.
    A model of another kind (diffusion, discriminative, head, ...) is timed through its own scorer.

    \b
    Example: anytime-cls bench --batch-size 1,4,16
             anytime-cls bench --shape randar-l --dtype bf16 --compile
    """
    import torch

    from anytime_cls.engine.bench import measure

    if threads:
        torch.set_num_threads(threads)
    name, transformer, classifier = _load(model, shape, device, dtype)
    if transformer is None:
        assert classifier is not None
        if compile:
            raise Refused(f"--compile is of any-order transformers: {name} is timed through its own scorer")
        return _bench_scorer(name, classifier, prefix, batch_size, seconds, json)
    prefixes = _numbers(prefix, "--prefix", transformer.config.n_tokens) or [transformer.config.n_tokens]
    run = None
    if compile:
        if transformer.output.weight.device.type != "cuda":
            raise Refused("--compile needs a CUDA device: on a CPU the layers work in place instead")
        run = torch.compile(transformer, mode="reduce-overhead", dynamic=False)
    try:
        rows, search = _rows(batch_size, transformer, max(prefixes), seconds)
        measured = [row.to_dict() for row in measure(transformer, rows, prefixes, seconds, run)]
    except RuntimeError as error:  # out of memory, or a dtype that the device does not run
        text = " ".join(str(error).split())[:200]
        raise Refused(f"{name} could not be run here: {text} (try a smaller --batch-size)") from None
    report = _describe(name, transformer) | {"search": search, "measured": measured}
    if json:
        from .show.output import print_json

        print_json(report)
    else:
        _print(report)
    return 0


def _load(
    model: str, shape: str | None, device: str, dtype: str
) -> tuple[str, Transformer | None, AnytimeClassifier | None]:
    """Its name, and an any-order transformer, or a model of another kind."""
    from anytime_cls.classifier import AnytimeClassifier
    from anytime_cls.engine.bench import parse_shape, random_model
    from anytime_cls.engine.device import choose_device, choose_dtype
    from anytime_cls.scorers.any_order import AnyOrder

    try:
        if shape is None:
            loaded = AnytimeClassifier.load(model, device, dtype)
            ours = loaded.scorer.model if isinstance(loaded.scorer, AnyOrder) else None
            return model, ours, loaded
        config, where, kind = parse_shape(shape), choose_device(device), choose_dtype(dtype)
        return f"{shape} (random weights)", random_model(config, where, kind), None
    except (ValueError, RuntimeError) as error:
        raise Refused(" ".join(str(error).split())) from None


def _numbers(text: str | None, option: str, most: int) -> list[int]:
    """`1,4,16` → [1, 4, 16], ascending, once each."""
    if text is None:
        return []
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and 1 <= int(part) <= most for part in parts):
        raise Refused(f"{option} takes numbers from 1 to {most}, separated by commas, not {text!r}")
    return sorted({int(part) for part in parts})


def _sizes(text: str) -> tuple[list[int], bool]:
    """What --batch-size names, and whether the fastest is to be found, too."""
    parts = [part.strip() for part in text.split(",")]
    named = ",".join(part for part in parts if part != "auto") or None
    return _numbers(named, "--batch-size", 65536), "auto" in parts


def _rows(
    text: str, transformer: Transformer, prefix: int, seconds: float
) -> tuple[list[int], dict[str, Any] | None]:
    """Rows to measure, and what a search for the fastest found (None without one)."""
    from anytime_cls.engine.bench import largest_batch

    given, auto = _sizes(text)
    if not auto:
        return given, None
    found = largest_batch(transformer, seconds / 4, prefix=prefix)
    search = {
        "tile": found.tile,
        "largest_that_fits": found.rows,
        "passes_per_second": {str(rows): speed for rows, speed in found.passes_per_second.items()},
    }
    return sorted({*given, found.tile}), search


def _bench_scorer(
    name: str, classifier: AnytimeClassifier, prefix: str | None, batch_size: str, seconds: float, json: bool
) -> int:
    """A model of any other kind, through its own scorer: there are no products to hold its passes against."""
    import numpy as np

    from anytime_cls.engine.bench_scorer import fastest_rows, measure_scorer

    scorer, classes = classifier.scorer, len(classifier.labels)
    steps = _numbers(prefix, "--prefix", scorer.shape.steps) or [scorer.shape.steps]
    given, auto = _sizes(batch_size)
    search = None
    try:
        encoded, _ = classifier.encode(np.zeros((8, 8, 3), np.uint8))
        if auto:
            speeds = fastest_rows(scorer, encoded, classes, seconds / 4)
            given = sorted({*given, max(speeds, key=lambda rows: speeds[rows])})
            search = {"passes_per_second": {str(rows): speed for rows, speed in speeds.items()}}
        timed = measure_scorer(scorer, encoded, classes, given, steps, seconds)
    except (RuntimeError, MemoryError) as error:
        text = " ".join(str(error).split())[:200]
        raise Refused(f"{name} could not be run here: {text} (try a smaller --batch-size)") from None
    report = _describe_scorer(name, classifier)
    report |= {"search": search, "measured": [row.to_dict() for row in timed]}
    if json:
        from .show.output import print_json

        print_json(report)
    else:
        _print_scorer(report)
    return 0


def _describe_scorer(name: str, classifier: AnytimeClassifier) -> dict[str, Any]:
    import torch

    from anytime_cls.engine.bench_scorer import pass_words

    shape, classes = classifier.scorer.shape, len(classifier.labels)
    return {
        "model": name, "method": classifier.card.method, "classes": classes,
        "steps": shape.steps, "joint": shape.joint, "a_pass": pass_words(shape, classes),
        "flops_per_pass": shape.flops(shape.steps, 1),
    } | _where(torch.device(classifier.scorer.device), classifier.scorer.dtype)  # fmt: skip


def _where(device: torch.device, dtype: str) -> dict[str, Any]:
    import torch

    from anytime_cls.engine.bench import device_name
    from anytime_cls.environment import versions

    return {
        "device": str(device), "device_name": device_name(device), "dtype": dtype,
        "threads": torch.get_num_threads(), "instructions": torch.backends.cpu.get_cpu_capability(),
        "versions": versions(),
    }  # fmt: skip


def _describe(name: str, transformer: Transformer) -> dict[str, Any]:
    weight, config = transformer.output.weight, transformer.config
    parameters = list(transformer.parameters())
    return {
        "model": name,
        "shape": config.to_dict(),
        "parameters": sum(p.numel() for p in parameters),
        "weights_bytes": sum(p.numel() * p.element_size() for p in parameters),
        "flops_per_pass": config.flops(),
    } | _where(weight.device, str(weight.dtype).removeprefix("torch."))


def _print(report: Mapping[str, Any]) -> None:
    """The report for people."""
    print(
        f"{report['model']}: {_unit(report['parameters'], '')} parameters "
        f"({_bytes(report['weights_bytes'])}), {report['shape']['n_tokens']} tokens, "
        f"{_unit(report['flops_per_pass'], 'FLOP')} a pass"
    )
    _print_where(report)
    if report["search"]:
        tried = ", ".join(
            f"{rows}: {speed:.4g}" for rows, speed in report["search"]["passes_per_second"].items()
        )
        print(
            f"passes/s by rows: {tried}; {report['search']['largest_that_fits']} rows would fit into memory"
        )
    print(f"\n{'rows':>5} {'tokens':>6} {'passes/s':>9} {'FLOP/s':>8} {'ceiling':>8} "
          f"{'share':>6} {'(from, to)':>14} {'memory':>9} {'times':>5}")  # fmt: skip
    for row in report["measured"]:
        share = row["share_of_ceiling"]
        memory = "?" if row["peak_bytes"] is None else _bytes(row["peak_bytes"])
        print(
            f"{row['rows']:>5} {row['prefix']:>6} {row['passes_per_second']:>9.4g} "
            f"{_unit(row['flops_per_second'], ''):>8} {_unit(row['ceiling_flops_per_second'], ''):>8} "
            f"{share['median']:>6.1%} {share['min']:>6.1%} {share['max']:>7.1%} {memory:>9} "
            f"{row['repetitions']:>5}"
        )
    print(
        "\nMedians of repetitions in turns; share: FLOP/s of whole passes over those of their matrix "
        "products alone;\nmemory: the peak of one call beside the weights."
    )
    _print_busy(report, "trust the shares more than the rates")


def _print_where(report: Mapping[str, Any]) -> None:
    threads = f", {report['threads']} threads, {report['instructions']}" if report["device"] == "cpu" else ""
    print(
        f"{report['dtype']} on {report['device']} ({report['device_name']}{threads}), "
        f"torch {report['versions']['torch']}"
    )


def _print_busy(report: Mapping[str, Any], so: str) -> None:
    spread = max(row["seconds"]["max"] / row["seconds"]["min"] for row in report["measured"])
    if spread > BUSY:
        print(
            f"The slowest repetition took {spread:.2g} times the fastest: other work ran on this machine, so "
            f"{so}."
        )


def _print_scorer(report: Mapping[str, Any]) -> None:
    """The report for people of a model that is timed through its scorer."""
    print(f"{report['model']} ({report['method']}): {report['a_pass']}, "
          f"{_unit(report['flops_per_pass'], 'FLOP')}")  # fmt: skip
    _print_where(report)
    if report["search"]:
        tried = (f"{rows}: {speed:.4g}" for rows, speed in report["search"]["passes_per_second"].items())
        print(f"passes/s by rows: {', '.join(tried)}")
    heads = f"{'rows':>5} {'steps':>6} {'passes/s':>9} {'FLOP/s':>8} {'a call':>9} {'memory':>9} {'times':>5}"
    print(f"\n{heads}")
    for row in report["measured"]:
        memory = "?" if row["peak_bytes"] is None else _bytes(row["peak_bytes"])
        print(
            f"{row['rows']:>5} {row['prefix']:>6} {row['passes_per_second']:>9.4g} "
            f"{_unit(row['flops_per_second'], ''):>8} {row['seconds']['median'] * 1e3:>6.1f} ms {memory:>9} "
            f"{row['repetitions']:>5}"
        )
    rows = "pictures" if report["joint"] else "passes"
    print(f"\nMedians of repetitions in turns; rows: {rows} in a call of its scorer; memory: the peak of one "
          "call beside the weights.")  # fmt: skip
    _print_busy(report, "measure again when it does not")


def _unit(number: float, unit: str) -> str:
    """1.23e10 → `12.3 G`."""
    for size, letter in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {letter}{unit}"
    return f"{number:.3g} {unit}".rstrip()


def _bytes(number: float) -> str:
    for size, unit in ((1 << 30, "GiB"), (1 << 20, "MiB")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number / 1024:.3g} KiB"
