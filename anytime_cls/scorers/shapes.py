"""The shapes of the any-order transformers: tokens, layers, FLOPs, tensors. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from anytime_cls.draws.orders import OrderSampler

QUARTERS = 4  # orders of the screen `gradient`, each scored for a quarter of an image's tokens
TABLE_NUMBERS = 1 << 28  # of a table of every class, place and token: 1 GiB of float32


def hidden_dim(dim: int, multiple_of: int) -> int:
    """SwiGLU's width: 2/3 · 4 · dim, rounded up to `multiple_of`."""
    return -(-int(8 * dim / 3) // multiple_of) * multiple_of


def expected_shapes(shape: Mapping[str, int], layout: str = "randar") -> dict[str, tuple[int, ...]]:
    """The reference's tensors for a shape (RandARConfig's fields): name → shape. layout: or "llamagen"."""
    dim, hidden = shape["dim"], hidden_dim(shape["dim"], shape["multiple_of"])
    tensors: dict[str, tuple[int, ...]] = {
        "cls_embedding.embedding_table.weight": (shape["n_classes"] + 1, dim),
        "tok_embeddings.weight": (shape["vocab_size"], dim),
        "norm.weight": (dim,),
        "output.weight": (shape["vocab_size"], dim),
    }
    if layout == "randar":
        tensors["pos_instruct_embeddings"] = (1, dim)
    for i in range(shape["n_layer"]):
        tensors |= {
            f"layers.{i}.attention.wqkv.weight": (3 * dim, dim),
            f"layers.{i}.attention.wo.weight": (dim, dim),
            f"layers.{i}.feed_forward.w1.weight": (hidden, dim),
            f"layers.{i}.feed_forward.w2.weight": (dim, hidden),
            f"layers.{i}.feed_forward.w3.weight": (hidden, dim),
            f"layers.{i}.attention_norm.weight": (dim,),
            f"layers.{i}.ffn_norm.weight": (dim,),
        }
    return tensors


@dataclass(frozen=True)
class RandARConfig:
    """Shape of a :class:`RandAR`. L: dim 1024, 24 layers, 16 heads; XL: 1280, 36, 20."""

    dim: int
    n_layer: int
    n_head: int
    vocab_size: int
    n_tokens: int  # N, a square: the token grid is read in raster order
    n_classes: int  # C; row C of the class embedding is the null class
    rope_base: float = 10000.0
    norm_eps: float = 1e-5
    multiple_of: int = 256  # the SwiGLU width is rounded up to a multiple of this

    @property
    def head_dim(self) -> int:
        return self.dim // self.n_head

    @property
    def hidden_dim(self) -> int:
        """SwiGLU width."""
        return hidden_dim(self.dim, self.multiple_of)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        return cls(**fields)

    @property
    def steps(self) -> int:
        """Of a whole draw: an image's tokens."""
        return self.n_tokens

    @property
    def unit(self) -> str:
        return "nats"

    @property
    def joint(self) -> bool:
        return False

    def draws(self, name: str, steps: int) -> OrderSampler:
        """Orders by this sampler whose first `steps` tokens are scored. Raises ValueError."""
        return OrderSampler(name, self.n_tokens, prefix=steps)

    @property
    def quarter(self) -> int:
        """Tokens of an order that the screen `gradient` reads: those of all its orders are the image."""
        return max(1, self.n_tokens // QUARTERS)

    @property
    def screens(self) -> Mapping[str, tuple[float, float]]:
        """`gradient`, and `table` where it is small enough to be made unasked (`scorers.screens`).

        A backward pass counts as two forward ones, the usual way, though the weights need no gradient.
        """
        found = {"gradient": (QUARTERS * 3 * self.flops(self.quarter), QUARTERS * 4.0 * self.dim)}
        small = self.n_classes * self.n_tokens * self.vocab_size <= TABLE_NUMBERS
        return {"table": (0.0, float(self.n_tokens))} | found if small else found

    def flops(self, steps: int | None = None, classes: int = 1) -> float:
        """Multiply-adds × 2 of a pass over the first `steps` tokens (all N by default), for each class."""
        return classes * self._pass(self.n_tokens if steps is None else steps)

    def _pass(self, m: int) -> float:
        length = 2 * m  # class, p_1, x_1, ..., p_m
        per_position = 2 * (4 * self.dim**2 + 3 * self.dim * self.hidden_dim)
        attention = 2 * 2 * self.dim * (length + 1) / 2  # causal: half the score matrix
        # the last layer's queries, output projection and SwiGLU run at position tokens only
        saved = (length - m) * (per_position - 2 * 2 * self.dim**2 + attention)
        head = 2 * m * self.dim * self.vocab_size
        return self.n_layer * length * (per_position + attention) - saved + head


def check_config(config: RandARConfig) -> int:
    """Tokens a side of the grid. Raises ValueError for a shape that cannot be built."""
    grid = math.isqrt(config.n_tokens)
    if grid * grid != config.n_tokens:
        raise ValueError(f"n_tokens must be a square, got {config.n_tokens}")
    if config.dim % config.n_head or config.head_dim % 4:
        raise ValueError(f"dim {config.dim} must be n_head {config.n_head} × a multiple of 4")
    return grid


@dataclass(frozen=True)
class SigmaConfig(RandARConfig):
    """Shape of a :class:`SigmaGPT`; the fields are RandAR's."""

    def _pass(self, m: int) -> float:
        per_position = 2 * (4 * self.dim**2 + 3 * self.dim * self.hidden_dim)
        attention = 2 * 2 * self.dim * (m + 1) / 2  # causal: half the score matrix
        return m * (self.n_layer * (per_position + attention) + 2 * self.dim * self.vocab_size)


LAYOUTS = ("randar", "sigma")  # RandAR's interleaved sequence, or a single stream (sigma.py)


def transformer_config(layout: str, shape: Mapping[str, Any]) -> RandARConfig:
    """The shape (`n_tokens`, `flops`) of a transformer of one of `LAYOUTS`, without its weights.

    Raises ValueError for any other layout, TypeError for fields that such a shape has not.
    """
    match layout:
        case "randar":
            return RandARConfig.from_dict(shape)
        case "sigma":
            return SigmaConfig.from_dict(shape)
    raise ValueError(f"unknown layout {layout!r}: choose from {', '.join(LAYOUTS)}")


SHAPES = {  # the published checkpoints' (LlamaGen's vocabulary)
    "randar-l": RandARConfig(1024, 24, 16, 16384, 256, 1000),
    "randar-xl": RandARConfig(1280, 36, 20, 16384, 256, 1000),
}
