"""Replay: races over recorded log-likelihoods, without the model.

    with Trace.open("full.h5") as trace:
        curves = full_curves(trace, fitted=known_of(trace, "cifar10"))

`curves.full.full_curves` runs any rule at any setting over a trace of rule `fixed`, which has every class on
every order; `models.known.known_of` says what was fitted; `curves.live` is what a trace of any rule says of
itself. Races are `races.run`, which shares its decisions with the live race. Traces are read in stacks, so
memory is what the results take: 24 bytes an image and run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from anytime_cls.draws.orders import distinct_orders
from anytime_cls.plan.written import pull_of
from anytime_cls.race.decision import SCREENED, UNRANKED
from anytime_cls.race.fitted import Design, Fitted
from anytime_cls.traces.cost import draw_cost, full_passes, pass_cost, screens_of
from anytime_cls.traces.read import Trace
from anytime_cls.traces.schema import ReplayError, TraceError

Array = np.ndarray
STACK = 1 << 19  # scores in a stack: races take about ten times its 4 MiB


def ranks(means: Array, prediction: Array, label: Array) -> Array:
    """Rank of the true label, the answer first and the others by mean (ties by index): uint16 [I].

    `UNRANKED` for a label of −1.
    """
    known = label >= 0
    true = np.where(known, label, 0)[:, None]
    own = np.take_along_axis(means, true, axis=1)
    classes = np.arange(means.shape[1])
    ahead = (means > own) | ((means == own) & (classes < true))
    ahead &= classes != prediction[:, None]
    rank = np.where(prediction == true[:, 0], 0, 1 + ahead.sum(axis=1))
    return np.where(known, rank, UNRANKED).astype(np.uint16)


class Source:
    """A full trace as stacks of pulls, and what its attributes say of cost.

    Raises ReplayError for a trace that is not full, naming the command that records one.
    """

    def __init__(self, trace: Trace):
        attrs = trace.attrs
        name = attrs.get("order_sampler", "uniform")
        self.trace, self.sampler_name, self.block, self.crops = trace, name, pull_of(attrs), trace.crops
        if "k_max" not in attrs or attrs.get("rule") != "fixed" or "budget" in attrs:
            why = f"rule {attrs.get('rule')!r}" + (" and a budget" if "budget" in attrs else "")
            raise ReplayError(
                f"{trace.path} was recorded with {why}, so not every class has every order; a full trace "
                "is recorded by 'anytime-cls sweep DATASET --rule fixed -o FULL.h5'"
            )
        distinct = None if trace.varies else distinct_orders(name)  # one order seen in many views is many
        self.k_max = min(attrs["k_max"], distinct or attrs["k_max"])  # orders
        self.n_classes = len(trace.labels)
        self.tokens = int(attrs["tokens"])  # of an image
        self.pass_tokens = trace.pass_tokens  # of these, scored by a pass
        self.good = trace.images["error"] == ""
        if not self.good.any():
            raise ReplayError(f"{trace.path} has no image that was scored")
        self.full_cost = full_passes(attrs, self.n_classes) * self.k_max / attrs["k_max"]  # passes an image
        spent = float(trace.images["token_fraction"][self.good].sum()) * self.full_cost
        measured = float(trace.images["seconds"][self.good].sum())
        self.seconds_a_pass = measured / spent if spent else 0.0

    @property
    def batch(self) -> int:
        """Images in a stack."""
        found: int = max(1, STACK // (self.n_classes * self.k_max))
        return found

    @property
    def screens(self) -> list[str]:
        """Screens whose estimates were recorded."""
        return screens_of(self.trace.attrs)

    @property
    def prefixes(self) -> list[int]:
        """Prefixes recorded besides whole passes, in tokens."""
        return [int(prefix) for prefix in self.trace.attrs.get("prefixes", [])]

    def cost(self, prefix: int | None = None) -> float:
        """A pass over a prefix (default: the trace's own) in whole passes."""
        return pass_cost(self.trace.attrs, prefix)

    def spent(self, prefix: int | None, pulls: Array, scores: Array) -> Array:
        """Compute of races in whole passes: [I]. pulls: that they used; scores: of classes, in these."""
        shared, each = draw_cost(self.trace.attrs, prefix)
        found: Array = scores * self.block * each + pulls * (self.block * shared)
        return found

    def named(self, prefix: int | None = None) -> dict[str, Any]:
        """How files name its draws over `prefix` tokens (default: the trace's), without what is usual."""
        m = self.design_prefix(prefix)
        crops = {} if self.crops == "center" else {"crops": self.crops}
        return {"order_sampler": self.sampler_name} | ({} if m is None else {"prefix": m}) | crops

    def kept(self, fit: dict[str, Any], prefix: int | None = None) -> dict[str, Any]:
        """What was fitted to its draws, as `model.json` holds it: at the top for whole orders of the centre
        crop, whatever they are drawn by, else one of `designs`."""
        own = self.named(prefix)
        return fit if own.keys() == {"order_sampler"} else {"designs": [{"prefix": self.tokens} | own | fit]}

    def design_prefix(self, prefix: int | None = None) -> int | None:
        """How files name passes over `prefix` tokens (default: the trace's): None for whole ones."""
        m = prefix or self.pass_tokens
        return None if m == self.tokens else m

    def design(self, steps: int | None = None, k_max: int | None = None) -> Design:
        """Races on the first `steps` tokens of so many of its orders (default: all that the trace has)."""
        steps, k_max = steps or self.pass_tokens, k_max or self.k_max
        return Design(self.sampler_name, steps, k_max, self.n_classes, self.crops)

    def temperature(self, fitted: Fitted, steps: int) -> float:
        """The temperature of this design, if it was fitted; else the one the trace was recorded with."""
        own = float(self.trace.attrs.get("temperature", 1.0))
        whole = steps == self.tokens and self.crops == "center"
        known = None if whole else fitted.of(self.sampler_name, steps, self.crops).temperature
        return own if known is None else known

    def stage_stacks(self, source: int | str) -> Iterator[Array]:
        """What a stage estimates, [i, C], image for image as in `stacks`: log-likelihoods of order 0 at a
        recorded prefix, or a recorded screen's estimate."""
        prefix, number = self._stage(source)

        def stacks() -> Iterator[Array]:
            at = 0
            for stack in self._matrices(prefix, number + 1):
                good = self.good[at : at + len(stack)]
                at += len(stack)
                if good.any():
                    yield stack[good, number]

        return stacks()

    def estimates_of(self, image: int, source: int | str) -> Array:
        """The same of one image: [1, C]."""
        prefix, number = self._stage(source)
        return self.trace.matrix(image, number + 1, prefix)[[number]]

    def _stage(self, source: int | str) -> tuple[int, int]:
        """Where a trace has it: tokens and order; a screen's estimate is at no token."""
        if isinstance(source, int):
            return source, 0
        if source not in self.screens:
            raise ReplayError(
                f"{self.trace.path} has no screen {source!r} (it has {', '.join(self.screens) or 'none'}): "
                f"'anytime-cls sweep DATASET --rule fixed --record-screens {source} -o FULL.h5' records it"
            )
        return SCREENED, self.screens.index(source)

    def stacks(self, prefix: int | None = None) -> Iterator[tuple[Array, Array]]:
        """(which images, their pulls [i, K / block, C] in nats), leaving out images that failed."""
        at = 0
        for stack in self._matrices(prefix, self.k_max):
            images = np.arange(at, at + len(stack))
            at += len(stack)
            good = self.good[images]
            images, stack = images[good], stack[good]
            if len(images) and self.block > 1:  # as Races.pulls: bounds hold for means of whole blocks
                shape = (len(stack), self.k_max // self.block, self.block, self.n_classes)
                stack = stack.reshape(shape).mean(axis=2)
            if len(images):
                yield images, stack

    def stacks_with_stages(
        self, prefix: int | None, sources: Iterable[int | str]
    ) -> Iterator[tuple[Array, Array, dict[int | str, Array]]]:
        """As `stacks`, with what stages estimate, each [i, C]."""
        stages = {source: self.stage_stacks(source) for source in sources}
        for images, pulls in self.stacks(prefix):
            yield images, pulls, {source: next(stacks) for source, stacks in stages.items()}

    def _matrices(self, prefix: int | None, k_max: int) -> Iterator[Array]:
        if prefix not in (None, SCREENED, self.pass_tokens, *self.prefixes):
            there = ", ".join(map(str, self.prefixes)) or "none"
            raise ReplayError(
                f"{self.trace.path} has no prefix of {prefix} tokens (it has {there}): record it with "
                f"'anytime-cls sweep DATASET --rule fixed --record-prefixes {prefix} -o FULL.h5'"
            )
        try:
            yield from self.trace.full_matrix(self.batch, prefix, k_max)
        except TraceError as error:
            raise ReplayError(f"{error}; 'anytime-cls sweep DATASET --rule fixed -o FULL.h5' records a "
                              "full trace") from None  # fmt: skip


def run_fixed(pulls: Array) -> Array:
    """The paper's answer, argmax over all pulls: [I, K, C] → int [I]."""
    found: Array = pulls.mean(axis=1).argmax(axis=1)
    return found
