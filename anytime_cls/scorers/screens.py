"""Screens of any-order models: what every class is worth before the first draw, for a pass or three.

Both rest on the class entering a transformer as one vector, its embedding e_c. *Table*: log p(x | c) as if
tokens were independent given the class. *Gradient*: log p(x | π, e) to first order in e, so that one backward
pass ranks all classes. docs/screening.md has what they are worth.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import final

import numpy as np
import torch
from scipy.special import softmax

from anytime_cls.scorers.base import Array, Encoded, Piece, Screen
from anytime_cls.scorers.shapes import QUARTERS
from anytime_cls.scorers.sigma import Transformer

_ROWS = 512  # positions that are held at once, of the gradient's rows and of the table's


@final
class TableScreen:
    """Σ_i log p(x_i | c), each of the N tokens read first, alone: a look-up and a sum, no pass.

    The table is made at the first estimate, by a pass over one token for every class and place. Raises
    ValueError for a model whose table has more than `TABLE_NUMBERS` numbers.
    """

    def __init__(self, model: Transformer):
        cfg = model.config
        if not has_table(model):
            size = cfg.n_classes * cfg.n_tokens * cfg.vocab_size * 4 / 2**30
            raise ValueError(f"this model's table would take {size:.1f} GiB: use the gradient")
        self._model = model

    @cached_property
    def table(self) -> Array:
        """log p(token | place, class), nats: float32 [N, vocabulary, C]."""
        model, cfg = self._model, self._model.config
        device = model.output.weight.device
        out = np.empty((cfg.n_tokens, cfg.vocab_size, cfg.n_classes), np.float32)
        places = max(1, _ROWS // cfg.n_classes)  # at once: fewer rows would be cut otherwise by more threads
        with torch.inference_mode():
            for first in range(0, cfg.n_tokens, places):
                here = torch.arange(first, min(first + places, cfg.n_tokens), device=device)
                order = here.repeat_interleave(cfg.n_classes)[:, None]
                classes = torch.arange(cfg.n_classes, device=device).repeat(len(here))
                nothing = torch.zeros(1, cfg.n_tokens, dtype=torch.int64, device=device).expand(
                    len(order), -1
                )
                logits = model.output(model.hidden(nothing, classes, order, 1)[:, 0]).float()
                found = logits.log_softmax(dim=1).view(len(here), cfg.n_classes, cfg.vocab_size)
                out[first : first + len(here)] = found.transpose(1, 2).cpu().numpy()
        return out

    def flops(self, classes: int) -> float:
        """The sum over places."""
        return float(self._model.config.n_tokens * classes)

    def estimate(
        self, encoded: Sequence[Encoded], seed: int, contents: Sequence[bytes], classes: Array
    ) -> Array:
        every = np.arange(self._model.config.n_tokens)
        return _float32(np.stack([self._sum(one, every)[classes] for one in encoded]))

    def control(self, pieces: Sequence[Piece], steps: int) -> list[Array]:
        """Σ over the first `steps` places of a piece's order, less what so many hold on average."""
        n = self._model.config.n_tokens
        found = []
        for piece in pieces:
            here = self._sum(piece.encoded, piece.draw.what[0][:steps])
            whole = self._sum(piece.encoded, np.arange(n))
            found.append(_float32((here - steps / n * whole)[piece.classes]))
        return found

    def _sum(self, tokens: Array, places: Array) -> Array:
        """float64 [C]. One image at a time, so that it cannot depend on another."""
        found: Array = self.table[places, tokens[places]].sum(axis=0, dtype=np.float64)
        return found


@final
class GradientScreen:
    """g · e_c with g = ∂ log p(x | π, e)/∂e: all classes for one forward and one backward pass an order.

    Order t is linearised at e = Σ_c w_c e_c, where w = soft-max(η × the estimate of the orders before it):
    the mean class for η = 0, and for η > 0 the exponentiated gradient (Kivinen and Warmuth, *Exponentiated
    gradient versus gradient descent for linear predictors*, Inf. Comput. 1997), which moves to where the
    answer is. Orders are drawn by a key of their own.

    Parameters
    ----------
    orders : how many, at least 1
    steps : tokens of each that are scored; default all N. Where they divide N, orders are stratified
    eta : η ≥ 0, a nat
    """

    def __init__(self, model: Transformer, orders: int = 1, steps: int | None = None, eta: float = 0.0):
        n = model.config.n_tokens
        steps = n if steps is None else steps
        if orders < 1 or not 1 <= steps <= n or eta < 0:
            raise ValueError(
                f"a gradient takes 1 order or more, 1 to {n} of its tokens and an η of 0 or more, "
                f"got {orders}, {steps} and {eta:g}"
            )
        self._model, self._orders, self._steps, self._eta = model, orders, steps, eta
        name = "stratified" if steps < n and n % steps == 0 else "uniform"
        self._draws = model.config.draws(name, steps)

    def flops(self, classes: int) -> float:
        """A backward pass counts as two forward ones, the usual way, though the weights need no gradient."""
        cfg = self._model.config
        return self._orders * (3 * cfg.flops(self._steps) + 4 * classes * cfg.dim)

    def estimate(
        self, encoded: Sequence[Encoded], seed: int, contents: Sequence[bytes], classes: Array
    ) -> Array:
        weight = self._model.cls_embedding.weight.detach()
        embeddings = weight.float().cpu().numpy().astype(np.float64)[classes]
        images = zip(encoded, contents, strict=True)
        return _float32(np.stack([self._one(one, seed, key, embeddings) for one, key in images]))

    def control(self, pieces: Sequence[Piece], steps: int) -> None:
        """None: what of it lies in an order's own tokens is not known without a pass over them."""
        return

    def _one(self, tokens: Array, seed: int, content: bytes, embeddings: Array) -> Array:
        """Of one image, float64 [n]: alone in its batch, so that it cannot depend on another."""
        orders = [self._draws.at(seed, b"screen:" + content, k).what[0] for k in range(self._orders)]
        together = 1 if self._eta > 0 else max(1, _ROWS // self._steps)
        share = self._model.config.n_tokens / self._steps
        total = np.zeros(len(embeddings))
        for start in range(0, len(orders), together):
            point = softmax(self._eta * total / max(1, start)) @ embeddings
            gradient = self._gradient(tokens, np.stack(orders[start : start + together]), point)
            total += share * (gradient @ (embeddings - embeddings.mean(axis=0)).T)
        return total / len(orders)

    def _gradient(self, tokens: Array, orders: Array, point: Array) -> Array:
        """Σ over orders [r, N] of ∂ log p/∂e at e = point: float64 [dim]."""
        weight = self._model.cls_embedding.weight
        # some libraries cut small products by how many threads there are, which shows in the last bits
        alone = _one_thread() if has_table(self._model) else nullcontext()
        with alone, torch.inference_mode(False), torch.enable_grad():
            rows = torch.from_numpy(orders).to(weight.device)
            image = torch.from_numpy(np.asarray(tokens)).to(weight.device).expand(len(orders), -1)
            at = (
                torch.from_numpy(point.astype(np.float32))
                .to(weight)
                .expand(len(orders), -1)
                .contiguous()
                .requires_grad_()
            )
            log_p = self._model.token_log_probs(image, at, rows, self._steps)
            (found,) = torch.autograd.grad(log_p.sum(), at)
        summed: Array = found.float().cpu().numpy().sum(axis=0, dtype=np.float64)
        return summed


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@final
@dataclass(frozen=True)
class SumScreen:
    """Other screens' estimates, each at a weight fitted on held-out images."""

    parts: tuple[tuple[Screen, float], ...]

    def flops(self, classes: int) -> float:
        return sum(screen.flops(classes) for screen, _ in self.parts)

    def estimate(
        self, encoded: Sequence[Encoded], seed: int, contents: Sequence[bytes], classes: Array
    ) -> Array:
        found = [weight * s.estimate(encoded, seed, contents, classes) for s, weight in self.parts]
        return _float32(np.sum(found, axis=0))

    def control(self, pieces: Sequence[Piece], steps: int) -> list[Array] | None:
        """The weighted sum of those that have one; None where none has."""
        known = [(s.control(pieces, steps), weight) for s, weight in self.parts]
        parts = [[weight * one for one in found] for found, weight in known if found is not None]
        return [_float32(np.sum(same, axis=0)) for same in zip(*parts, strict=True)] if parts else None


def has_table(model: Transformer) -> bool:
    """Whether this model's table is small enough to be made unasked."""
    cfg = model.config
    return "table" in cfg.screens


def screens_of(model: Transformer) -> Mapping[str, Screen]:
    """By name: `gradient`, the image in four short orders at the mean class, and `table` where it is small
    enough. (At the same cost four quarters rank classes better than one whole order, docs/screening.md.)"""
    if not model.config.screens:
        return {}
    found: dict[str, Screen] = {"gradient": GradientScreen(model, QUARTERS, model.config.quarter)}
    return {"table": TableScreen(model)} | found if has_table(model) else found


def _float32(x: Array) -> Array:
    """float64 that a trace stores exactly."""
    return x.astype(np.float32).astype(np.float64)
