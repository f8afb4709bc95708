"""Llama blocks as RandAR has them: RMSNorm, 2-D attention, SwiGLU; the soft-max fused with the gather."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anytime_cls.scorers.shapes import RandARConfig

# logits held at once by the fused log-softmax-gather: 32 MiB in float32, 512 MiB on a GPU, to keep it busy
LOGIT_CHUNK = {"cpu": 1 << 23, "cuda": 1 << 27}
# numbers a thread that several passes are made over in one go: they stay in its cache, and suffice for torch
# to use all threads (it wants 32,768 each)
SLICE = 1 << 17


def _slices(rows: int, width: int) -> Iterator[slice]:
    """Cuts rows of `width` numbers so that each piece is about SLICE numbers a thread."""
    step = max(1, SLICE * torch.get_num_threads() // width)
    return (slice(start, start + step) for start in range(0, rows, step))


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
        found: Tensor = self.wo(self.mix(qk[:, :, 0], qk[:, :, 1], qkv[:, :, 2], reads))
        return found

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
        found: Tensor = self.w2(F.silu(gate) * up)
        return found


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
        found: Tensor = x + self.feed_forward(self.ffn_norm(x))
        return found

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


def class_vectors(table: nn.Embedding, classes: Tensor) -> Tensor:
    """Embeddings [B, dim] of class ids int64 [B]; what is no id is one already, and may want a gradient."""
    return classes if classes.is_floating_point() else table(classes)


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
