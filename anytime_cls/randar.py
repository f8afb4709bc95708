"""The any-order autoregressive transformer (RandAR): log p(x | order, class), token by token.

Pang et al., *RandAR: Decoder-only Autoregressive Visual Generation in Random Orders*, CVPR 2025,
https://arxiv.org/abs/2412.01827. The sequence interleaves position tokens and image tokens,

    [class, p_1, x_1, p_2, x_2, ..., p_N, x_N],

attention is causal, and the prediction of x_n is read at p_n, which knows *where* the next token is
but not *what* it is. x_N predicts nothing, so it is never fed.

State dicts use the reference's keys. Inside, two weights are laid out for speed (see `load_reference`).

On a CPU without gradients the layers write over what they read (`Block.overwrite`): fresh memory for every
product costs page faults, and every pass over it a trip to main memory (measured in docs/benchmarks.md).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# logits held at once by the fused log-softmax-gather: 32 MiB in float32, 512 MiB on a GPU, to keep it busy
LOGIT_CHUNK = {"cpu": 1 << 23, "cuda": 1 << 27}
# numbers a thread that several passes are made over in one go: they stay in its cache, and suffice for torch
# to use all threads (it wants 32,768 each)
SLICE = 1 << 17


def _slices(rows: int, width: int) -> Iterator[slice]:
    """Cuts rows of `width` numbers so that each piece is about SLICE numbers a thread."""
    step = max(1, SLICE * torch.get_num_threads() // width)
    return (slice(start, start + step) for start in range(0, rows, step))


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
        """SwiGLU width: 2/3 · 4 · dim, rounded up to `multiple_of`."""
        return -(-int(8 * self.dim / 3) // self.multiple_of) * self.multiple_of

    def to_dict(self) -> dict:
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping) -> Self:
        return cls(**fields)

    def flops(self, prefix: int | None = None) -> float:
        """Multiply-adds × 2 of one pass over the first `prefix` tokens (all N by default)."""
        m = self.n_tokens if prefix is None else prefix
        length = 2 * m  # class, p_1, x_1, ..., p_m
        per_position = 2 * (4 * self.dim**2 + 3 * self.dim * self.hidden_dim)
        attention = 2 * 2 * self.dim * (length + 1) / 2  # causal: half the score matrix
        # the last layer's queries, output projection and SwiGLU run at position tokens only
        saved = (length - m) * (per_position - 2 * 2 * self.dim**2 + attention)
        head = 2 * m * self.dim * self.vocab_size
        return self.n_layer * length * (per_position + attention) - saved + head


class RMSNorm(nn.Module):
    """x / rms(x) · weight, in float32 whatever the dtype."""

    def __init__(self, dim: int, eps: float):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """x [..., dim] → same; into `out` without gradients."""
        y = x.float()
        scale = torch.rsqrt(torch.linalg.vecdot(y, y).unsqueeze(-1) / y.shape[-1] + self.eps)
        if out is None:
            return (y * scale).type_as(x) * self.weight
        return torch.mul(y, scale, out=out).mul_(self.weight)


class Rotary:
    """Turns queries and keys by the angles of their places.

    cos, sin : float32 [B, T, 1, 1, head_dim / 2], or [B, T, 2, 1, head_dim / 2] where a query's angle is not
    its key's. Number i of a head is turned with number i + head_dim / 2.
    """

    def __init__(self, cos: Tensor, sin: Tensor):
        self.cos, self.sin = cos, sin

    def __call__(self, x: Tensor) -> Tensor:
        """x [B, T, 2, H, head_dim]: queries and keys → the same, turned, in float32."""
        a, b = x.chunk(2, dim=-1)
        return torch.cat((a * self.cos - b * self.sin, b * self.cos + a * self.sin), dim=-1)

    def overwrite(self, x: Tensor) -> None:
        """The same in place, a few positions at a time so that all its passes stay in the cache."""
        x, cos, sin = x.flatten(0, 1), self.cos.flatten(0, 1), self.sin.flatten(0, 1)
        half = cos.shape[-1]
        memory = None
        for rows in _slices(len(x), x[0].numel()):
            part, c, s = x[rows], cos[rows], sin[rows]
            if memory is None:
                memory = torch.empty_like(part, dtype=torch.float32, memory_format=torch.contiguous_format)
            y = memory[: len(part)]
            torch.mul(part, torch.cat((c, c), dim=-1), out=y)
            y[..., :half].addcmul_(part[..., half:], s, value=-1)
            y[..., half:].addcmul_(part[..., :half], s)
            part.copy_(y)


class Scratch:
    """Memory that every layer of one forward pass writes over: x is [B, T, dim]."""

    def __init__(self, x: Tensor, config: RandARConfig):
        self.narrow = x.new_empty(x.numel())
        self.wide = x.new_empty(x.numel() // config.dim * max(3 * config.dim, 2 * config.hidden_dim))


class Attention(nn.Module):
    def __init__(self, config: RandARConfig):
        super().__init__()
        self.n_head, self.head_dim = config.n_head, config.head_dim
        self.wqkv = nn.Linear(config.dim, 3 * config.dim, bias=False)
        self.wo = nn.Linear(config.dim, config.dim, bias=False)

    def forward(self, x: Tensor, rotary: Rotary, reads: Tensor | None) -> Tensor:
        """x [B, T, dim] → [B, T, dim], or [B, m, dim] at position tokens when `reads` is their mask."""
        b, t, _ = x.shape
        qkv = self.wqkv(x).view(b, t, 3, self.n_head, self.head_dim)
        qk = rotary(qkv[:, :, :2]).type_as(qkv)
        return self.wo(self.mix(qk[:, :, 0], qk[:, :, 1], qkv[:, :, 2], reads))

    def mix(self, q: Tensor, k: Tensor, v: Tensor, reads: Tensor | None) -> Tensor:
        """Turned queries and keys, and values, each [B, T, H, head_dim] → what wo reads [B, T or m, dim]."""
        if reads is not None:
            q = q[:, 1::2]
        y = causal_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), reads)
        return y.transpose(1, 2).flatten(2)


def causal_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention over [B, H, T, head_dim], causal unless `mask` (True: may look) says otherwise."""
    if q.device.type != "cpu" or not torch.is_grad_enabled():
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
    # written out: its backward is 1.3–1.5× faster than the CPU flash kernel's
    if mask is None:
        mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril()
    scores = (q @ k.transpose(-1, -2)) / math.sqrt(q.shape[-1])
    return scores.masked_fill(~mask, float("-inf")).softmax(dim=-1).to(v.dtype) @ v


class FeedForward(nn.Module):
    """SwiGLU: w2(silu(w1 x) · w3 x); w1 and w3 are one matrix here."""

    def __init__(self, config: RandARConfig):
        super().__init__()
        self.w13 = nn.Linear(config.dim, 2 * config.hidden_dim, bias=False)
        self.w2 = nn.Linear(config.hidden_dim, config.dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.w13(x).chunk(2, dim=-1)
        return self.w2(F.silu(gate) * up)


class Block(nn.Module):
    def __init__(self, config: RandARConfig):
        super().__init__()
        self.attention = Attention(config)
        self.feed_forward = FeedForward(config)
        self.attention_norm = RMSNorm(config.dim, config.norm_eps)
        self.ffn_norm = RMSNorm(config.dim, config.norm_eps)

    def forward(self, x: Tensor, rotary: Rotary, reads: Tensor | None = None) -> Tensor:
        y = self.attention(self.attention_norm(x), rotary, reads)
        x = (x if reads is None else x[:, 1::2]) + y
        return x + self.feed_forward(self.ffn_norm(x))

    def overwrite(self, x: Tensor, rotary: Rotary, reads: Tensor | None, scratch: Scratch) -> Tensor:
        """`forward` without gradients, in the memory of x (contiguous) and the scratch."""
        attention, ffn = self.attention, self.feed_forward
        read = self.attention_norm(x, out=scratch.narrow.view(x.shape)).flatten(0, 1)
        qkv = _product(read, attention.wqkv, scratch.wide)
        qkv = qkv.view(*x.shape[:2], 3, attention.n_head, attention.head_dim)
        rotary.overwrite(qkv[:, :, :2])
        q, k, v = qkv.unbind(2)
        y = attention.mix(q, k, v, reads)
        if reads is not None:
            x = x[:, 1::2].contiguous()
        flat = x.flatten(0, 1)  # shares x's memory: x grows by the products that are added to it
        flat.addmm_(y.flatten(0, 1), attention.wo.weight.t())
        read = self.ffn_norm(flat, out=scratch.narrow[: flat.numel()].view(flat.shape))
        gate, up = _product(read, ffn.w13, scratch.wide).chunk(2, dim=1)
        for rows in _slices(len(gate), ffn.w13.out_features):
            F.silu(gate[rows], inplace=True).mul_(up[rows])
        flat.addmm_(gate, ffn.w2.weight.t())
        return x


def _product(x: Tensor, layer: nn.Linear, memory: Tensor) -> Tensor:
    """layer(x) for x [n, dim], written into the memory."""
    out = memory[: len(x) * layer.out_features].view(len(x), layer.out_features)
    return torch.mm(x, layer.weight.t(), out=out)


def run_layers(
    layers: nn.ModuleList, x: Tensor, rotary: Rotary, reads: Tensor | None, config: RandARConfig
) -> Tensor:
    """x [B, T, dim] through all layers; x may be overwritten. reads: the last layer's (see `Attention`)."""
    overwrite = x.device.type == "cpu" and not torch.is_grad_enabled() and not torch.compiler.is_compiling()
    scratch = Scratch(x, config) if overwrite else None
    for i, layer in enumerate(layers):
        assert isinstance(layer, Block)
        mask = reads if i == len(layers) - 1 else None
        x = layer(x, rotary, mask) if scratch is None else layer.overwrite(x, rotary, mask, scratch)
    return x


def check_config(config: RandARConfig) -> int:
    """Tokens a side of the grid. Raises ValueError for a shape that cannot be built."""
    grid = math.isqrt(config.n_tokens)
    if grid * grid != config.n_tokens:
        raise ValueError(f"n_tokens must be a square, got {config.n_tokens}")
    if config.dim % config.n_head or config.head_dim % 4:
        raise ValueError(f"dim {config.dim} must be n_head {config.n_head} × a multiple of 4")
    return grid


def init_weights(model: nn.Module, output: nn.Linear) -> None:
    """Every matrix normal with sd 0.02, the output head zero, as the reference begins training."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
    nn.init.zeros_(output.weight)


def check_state(expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    """Raises ValueError naming what is missing, surplus or of another shape in weights to be loaded."""
    missing = sorted(expected.keys() - state.keys())
    if missing:
        raise ValueError(f"weights lack {len(missing)} tensors, the first {missing[0]!r}")
    surplus = sorted(key for key in state.keys() - expected.keys() if key.startswith("layers."))
    if surplus:
        raise ValueError(f"weights have more layers than this model: {surplus[0]!r}")
    for key, value in expected.items():
        shape = getattr(state[key], "shape", None)
        if shape != value.shape:
            found = f"shape {tuple(shape)}" if shape is not None else f"type {type(state[key]).__name__}"
            raise ValueError(f"{key} has {found}, this model needs {tuple(value.shape)}")


class RandAR(nn.Module):
    """Class-conditional any-order model: tokens, classes and orders in, log-probabilities out."""

    cos: Tensor
    sin: Tensor

    def __init__(self, config: RandARConfig):
        super().__init__()
        grid = check_config(config)
        self.config = config
        self.cls_embedding = nn.Embedding(config.n_classes + 1, config.dim)
        self.tok_embeddings = nn.Embedding(config.vocab_size, config.dim)
        self.pos_instruct_embeddings = nn.Parameter(torch.randn(1, config.dim) * 0.02)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.norm = RMSNorm(config.dim, config.norm_eps)
        self.output = nn.Linear(config.dim, config.vocab_size, bias=False)
        cos, sin = rotary_table(grid, config.head_dim, config.rope_base)
        self.register_buffer("cos", cos, persistent=False)  # [N + 1, head_dim / 2]; the last row is
        self.register_buffer("sin", sin, persistent=False)  # the class token's, all zero
        init_weights(self, self.output)

    def position_tokens(self) -> Tensor:
        """The learned position vector turned to each of the N places: [N, dim]."""
        cfg = self.config
        pairs = self.pos_instruct_embeddings.view(1, cfg.n_head, cfg.head_dim // 2, 2)
        a, b = pairs.unbind(-1)
        cos, sin = self.cos[:-1, None], self.sin[:-1, None]
        return torch.stack((a * cos - b * sin, b * cos + a * sin), dim=-1).flatten(1)

    def hidden(self, tokens: Tensor, classes: Tensor, orders: Tensor, prefix: int | None = None) -> Tensor:
        """Final states at the position tokens.

        Parameters
        ----------
        tokens : int64 [B, N], token ids in raster order
        classes : int64 [B], 0 .. C (C is the null class)
        orders : int64 [B, N], each row a permutation of 0 .. N−1
        prefix : score only the first `prefix` tokens of each order

        Returns
        -------
        Tensor [B, m, dim], m = prefix or N
        """
        m = self.config.n_tokens if prefix is None else prefix
        if not 1 <= m <= self.config.n_tokens:
            raise ValueError(f"prefix must be 1 to {self.config.n_tokens}, got {prefix}")
        b = tokens.shape[0]
        orders = orders[:, :m]
        images = self.tok_embeddings(tokens.gather(1, orders))  # [B, m, dim]
        positions = self.position_tokens()[orders].type_as(images)
        pairs = torch.stack((positions, images), dim=2).flatten(1, 2)  # p_1, x_1, p_2, x_2, ...
        x = torch.cat((self.cls_embedding(classes)[:, None], pairs[:, :-1]), dim=1)  # [B, 2m, dim]

        # a position token and the image token it announces share an angle; the class token has none
        angle = orders.repeat_interleave(2, dim=1)[:, :-1]
        angle = torch.cat((angle.new_full((b, 1), self.config.n_tokens), angle), dim=1)
        rotary = Rotary(self.cos[angle][:, :, None, None], self.sin[angle][:, :, None, None])
        # nothing reads the last layer's image tokens: its queries are the position tokens alone
        key = torch.arange(2 * m, device=x.device)
        return self.norm(run_layers(self.layers, x, rotary, key[None, :] <= key[1::2, None], self.config))

    def token_log_probs(
        self, tokens: Tensor, classes: Tensor, orders: Tensor, prefix: int | None = None
    ) -> Tensor:
        """log p(x_π(t) | x_π(<t), class) for t = 1 .. m, in nats: float32 [B, m].

        Arguments as for :meth:`hidden`.
        """
        return score_tokens(self.output, self.hidden(tokens, classes, orders, prefix), tokens, orders)

    forward = token_log_probs

    # The reference rotates neighbouring pairs (2i, 2i + 1) of each head. Rotating halves (i, i + D/2)
    # vectorises better and gives the same attention scores when the rows of q and k are reordered so
    # that even ones come first; w1 and w3 are stacked so that SwiGLU is two products, not three.

    def load_reference(self, state: Mapping[str, Tensor]) -> None:
        """Load a state dict with the reference's keys. Raises ValueError naming what is wrong."""
        expected = self.reference_state()
        check_state(expected, state)
        ours = {key: state[key].to(value.dtype) for key, value in expected.items()}
        even_first = self._even_first()
        for i in range(self.config.n_layer):
            ffn = f"layers.{i}.feed_forward."
            ours[ffn + "w13.weight"] = torch.cat((ours.pop(ffn + "w1.weight"), ours.pop(ffn + "w3.weight")))
            key = f"layers.{i}.attention.wqkv.weight"
            ours[key] = ours[key][even_first]
        ours["cls_embedding.weight"] = ours.pop("cls_embedding.embedding_table.weight")
        self.load_state_dict(ours)

    def reference_state(self) -> dict[str, Tensor]:
        """The weights under the reference's keys and layout."""
        state = {k: v.detach() for k, v in self.state_dict().items()}
        back = torch.argsort(self._even_first())
        for i in range(self.config.n_layer):
            ffn = f"layers.{i}.feed_forward."
            w1, w3 = state.pop(ffn + "w13.weight").chunk(2)
            state[ffn + "w1.weight"], state[ffn + "w3.weight"] = w1, w3
            key = f"layers.{i}.attention.wqkv.weight"
            state[key] = state[key][back]
        state["cls_embedding.embedding_table.weight"] = state.pop("cls_embedding.weight")
        return state

    def _even_first(self) -> Tensor:
        """Row order of wqkv that puts each query and key head's even rows before its odd ones."""
        dim, head_dim = self.config.dim, self.config.head_dim
        rows = torch.arange(2 * dim).view(-1, head_dim // 2, 2).transpose(1, 2).reshape(-1)
        return torch.cat((rows, torch.arange(2 * dim, 3 * dim)))


def score_tokens(output: nn.Linear, hidden: Tensor, tokens: Tensor, orders: Tensor) -> Tensor:
    """Log-probabilities of the tokens that the states predict: hidden [B, m, dim] → float32 [B, m], nats.

    The soft-max over the vocabulary is fused with the gather and taken in chunks, so no
    [B, m, vocabulary] tensor ever exists.
    """
    b, m, dim = hidden.shape
    h = hidden.reshape(b * m, dim)
    targets = tokens.gather(1, orders[:, :m]).reshape(-1)
    chunk = max(1, LOGIT_CHUNK.get(h.device.type, 1 << 23) // output.out_features)
    parts = []
    for start in range(0, b * m, chunk):
        logits = output(h[start : start + chunk]).float()
        picked = logits.gather(1, targets[start : start + chunk, None]).squeeze(1)
        parts.append(picked - _logsumexp(logits))
    return torch.cat(parts).view(b, m)


def _logsumexp(logits: Tensor) -> Tensor:
    """log Σ exp over the last dimension of [n, V] → [n]; on a CPU without gradients it spoils the logits."""
    if logits.device.type != "cpu" or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return logits.logsumexp(dim=1)
    out = []
    for rows in _slices(*logits.shape):
        part = logits[rows]
        top = part.amax(dim=1)
        out.append(part.sub_(top[:, None]).exp_().sum(dim=1).log_().add_(top))
    return torch.cat(out)


def rotary_table(grid: int, head_dim: int, base: float) -> tuple[Tensor, Tensor]:
    """2-D rotary angles' cos and sin, each [grid² + 1, head_dim / 2].

    The first half of the pairs turns with the row, the second with the column. The last row is the
    class token's: cos **and** sin are 0, so its query and key vanish, as in the reference.
    """
    half = head_dim // 2
    frequency = 1.0 / base ** (torch.arange(0, half, 2).float() / half)  # [head_dim / 4]
    angle = torch.outer(torch.arange(grid).float(), frequency)  # [grid, head_dim / 4]
    rows = angle[:, None].expand(grid, grid, -1)
    cols = angle[None, :].expand(grid, grid, -1)
    table = torch.cat((rows, cols), dim=-1).flatten(0, 1)
    zero = torch.zeros(1, half)
    return torch.cat((table.cos(), zero)), torch.cat((table.sin(), zero))
