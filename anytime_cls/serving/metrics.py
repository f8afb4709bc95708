"""Counts of a server, in Prometheus' text format (version 0.0.4)."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import final

BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)  # seconds
PREFIX = "anytime_cls_"


@final
class Histogram:
    """How often a time fell into each bucket. `help` is what it is a time of."""

    def __init__(self, name: str, help: str):
        self.name, self.help = name, help
        self.counts = [0] * (len(BUCKETS) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(BUCKETS, seconds)] += 1
        self.sum += seconds

    def lines(self) -> list[str]:
        name, total, rows = PREFIX + self.name, 0, []
        for edge, count in zip((*map(str, BUCKETS), "+Inf"), self.counts, strict=True):
            total += count
            rows.append(f'{name}_bucket{{le="{edge}"}} {total}')
        return [*_head(self.name, self.help, "histogram"), *rows, f"{name}_sum {self.sum:.6f}",
                f"{name}_count {total}"]  # fmt: skip


@final
class Metrics:
    """What a server has done. Written by the event loop's thread only."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()  # by path and status
        self.decisions: Counter[str] = Counter()  # by why the race stopped
        self.cancelled = 0
        self.passes = 0.0
        self.seconds = Histogram("answer_seconds", "From the whole upload to the answer.")
        self.waited = Histogram("waiting_seconds", "From the whole upload until its race began.")

    def text(self, gauges: Mapping[str, tuple[str, float]], info: Mapping[str, str]) -> str:
        """gauges: what is so at this moment, name → (help, value). info: labels of a constant 1."""
        labels = ",".join(f'{key}="{_escaped(value)}"' for key, value in info.items())
        rows = [*_head("info", "What is served.", "gauge"), f"{PREFIX}info{{{labels}}} 1"]
        rows += _head("requests_total", "Responses begun, by path and status.", "counter")
        rows += [
            f'{PREFIX}requests_total{{path="{path}",code="{code}"}} {n}'
            for (path, code), n in sorted(self.requests.items())
        ]
        rows += _head("decisions_total", "Images classified, by why the race stopped.", "counter")
        rows += [
            f'{PREFIX}decisions_total{{stop="{stop}"}} {n}' for stop, n in sorted(self.decisions.items())
        ]
        rows += _head("cancelled_total", "Requests whose client went away.", "counter")
        rows.append(f"{PREFIX}cancelled_total {self.cancelled}")
        rows += _head("passes_total", "Whole forward passes of the races that were answered.", "counter")
        rows.append(f"{PREFIX}passes_total {self.passes:.3f}")
        for name, (help, value) in gauges.items():
            rows += [*_head(name, help, "gauge"), f"{PREFIX}{name} {value:g}"]
        return "\n".join([*rows, *self.seconds.lines(), *self.waited.lines(), ""])


def _head(name: str, help: str, kind: str) -> Sequence[str]:
    return (f"# HELP {PREFIX}{name} {help}", f"# TYPE {PREFIX}{name} {kind}")


def _escaped(label: str) -> str:
    return label.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
