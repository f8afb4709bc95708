"""Pixels → token ids by the vector-quantised (VQ) encoders that public RandAR models were trained on.

Encoder and codebook only; there is no decoder, since nothing is ever generated. Modules carry the names of
the published state dicts:

- LlamaGen VQ-16: Sun et al., *Autoregressive Model Beats Diffusion: Llama for Scalable Image Generation*,
  2024, https://arxiv.org/abs/2406.06525; `vq_ds16_c2i.pt` of FoundationVision/LlamaGen on Hugging Face.
- MaskGIT VQGAN: Chang et al., *MaskGIT: Masked Generative Image Transformer*, CVPR 2022,
  https://arxiv.org/abs/2202.04200; `maskgit-vqgan-imagenet-f16-256.bin` of fun-research/TiTok.

A token id is an argmin over the codebook, so the arithmetic is float32 throughout. A GPU's reduced-precision
convolutions (TF32, PyTorch's default) may change ids whose two best codes are close.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anytime_cls.tokenizers.base import with_noise


@dataclass(frozen=True)
class VQConfig:
    """Shape of a VQ tokenizer; the defaults are LlamaGen's published ones (`MASKGIT` holds the other's)."""

    image_size: int = 256  # pixels a side
    widths: tuple[int, ...] = (128, 128, 256, 256, 512)  # channels of each level; all but the last halve
    blocks: int = 2  # residual blocks of each level
    z_channels: int = 256  # LlamaGen: channels of the encoder's output, projected to code_dim
    vocab_size: int = 16384  # codes in the codebook
    code_dim: int = 8  # numbers in a code; MaskGIT's encoder gives as many
    l2_norm: bool = True  # compare directions: codes and features are scaled to unit length

    def __post_init__(self) -> None:
        if min(*self.widths, self.blocks, self.z_channels, self.vocab_size, self.code_dim) < 1:
            raise ValueError(f"sizes must be positive: {self}")
        if self.image_size < 1 or self.image_size % self.stride:
            raise ValueError(f"image_size {self.image_size}: must be a positive multiple of {self.stride}")

    @property
    def stride(self) -> int:
        """Pixels a side of one token."""
        return 1 << (len(self.widths) - 1)


MASKGIT = VQConfig(vocab_size=1024, code_dim=256, l2_norm=False)


def _norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, width, eps=1e-6)


class ResidualBlock(nn.Module):
    """Norm, SiLU, 3×3 convolution, twice, plus a shortcut: [B, n_in, H, W] → [B, n_out, H, W].

    MaskGIT's public PyTorch port has no biases and, where the width changes, feeds the shortcut with the
    block's own output instead of its input. The published weights belong to that network, so it stays so.
    """

    def __init__(self, n_in: int, n_out: int, maskgit: bool):
        super().__init__()
        self.norm1 = _norm(n_in)
        self.conv1 = nn.Conv2d(n_in, n_out, 3, padding=1, bias=not maskgit)
        self.norm2 = _norm(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, padding=1, bias=not maskgit)
        self.maskgit = maskgit
        self.changes_width = n_in != n_out
        if self.changes_width:
            self.nin_shortcut = nn.Conv2d(n_out if maskgit else n_in, n_out, 1, bias=not maskgit)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        if self.changes_width:
            x = self.nin_shortcut(h if self.maskgit else x)
        found: Tensor = x + h
        return found


def _residual_blocks(n_in: int, n_out: int, n_blocks: int, maskgit: bool) -> nn.ModuleList:
    return nn.ModuleList(ResidualBlock(n_out if i else n_in, n_out, maskgit) for i in range(n_blocks))


class AttentionBlock(nn.Module):
    """One-head attention among all places of the map, plus its input: [B, width, H, W] → same."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = _norm(width)
        self.q = nn.Conv2d(width, width, 1)
        self.k = nn.Conv2d(width, width, 1)
        self.v = nn.Conv2d(width, width, 1)
        self.proj_out = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (conv(h).flatten(2).mT for conv in (self.q, self.k, self.v))  # [B, HW, width]
        h = F.scaled_dot_product_attention(q, k, v)
        found: Tensor = x + self.proj_out(h.mT.reshape(x.shape))
        return found


class Level(nn.Module):
    """Residual blocks, on LlamaGen's last level each followed by attention; all levels but the last halve."""

    def __init__(self, n_in: int, n_out: int, n_blocks: int, last: bool, maskgit: bool):
        super().__init__()
        self.blocks_name = "block" if maskgit else "res"
        self.add_module(self.blocks_name, _residual_blocks(n_in, n_out, n_blocks, maskgit))
        attends = n_blocks if last and not maskgit else 0
        self.attn = nn.ModuleList(AttentionBlock(n_out) for _ in range(attends))
        # LlamaGen pads to the right and below only, as taming-transformers does
        pad, conv = nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(n_out, n_out, 3, stride=2)
        halve = nn.AvgPool2d(2) if maskgit else nn.Sequential(OrderedDict(pad=pad, conv=conv))
        self.downsample = nn.Identity() if last else halve

    def forward(self, x: Tensor) -> Tensor:
        for i, block in enumerate(self.get_submodule(self.blocks_name).children()):
            x = self.attn[i](block(x)) if self.attn else block(x)
        found: Tensor = self.downsample(x)
        return found


class Encoder(nn.Module):
    """Pixels [B, 3, H, W] → [B, z_channels or, for MaskGIT, code_dim, H/16, W/16] (for five levels)."""

    def __init__(self, config: VQConfig, maskgit: bool):
        super().__init__()
        widths, width = config.widths, config.widths[-1]
        self.conv_in = nn.Conv2d(3, widths[0], 3, padding=1, bias=not maskgit)
        self.levels_name = "down" if maskgit else "conv_blocks"
        levels = nn.ModuleList()
        for i, n_out in enumerate(widths):
            n_in, last = widths[max(i - 1, 0)], i == len(widths) - 1
            levels.append(Level(n_in, n_out, config.blocks, last, maskgit))
        self.add_module(self.levels_name, levels)
        self.mid = _residual_blocks(width, width, config.blocks if maskgit else 2, maskgit)
        if not maskgit:
            self.mid.insert(1, AttentionBlock(width))
        self.norm_out = _norm(width)
        n_out, kernel = (config.code_dim, 1) if maskgit else (config.z_channels, 3)
        self.conv_out = nn.Conv2d(width, n_out, kernel, padding=kernel // 2)

    def forward(self, pixels: Tensor) -> Tensor:
        h = self.conv_in(pixels)
        for block in (*self.get_submodule(self.levels_name).children(), *self.mid):
            h = block(h)
        found: Tensor = self.conv_out(F.silu(self.norm_out(h)))
        return found


def nearest_code(z: Tensor, codes: Tensor, rows: int = 1024) -> Tensor:
    """Index of the code nearest to each feature (squared distance): z [M, D], codes [V, D] → [M] int64.

    Distances are taken `rows` features at a time: memory is rows · V numbers however many features there are.
    The constant |z|² stays in, as in the reference, so that near-ties are rounded as they are there.
    """
    codes_sq = codes.square().sum(1)
    nearest = []
    for part in z.split(rows):
        part_sq = part.square().sum(1, keepdim=True)
        nearest.append(torch.addmm(part_sq + codes_sq, part, codes.T, alpha=-2).argmin(1))
    return torch.cat(nearest)


class _VQTokenizer(nn.Module):
    """What the two tokenizers share: an encoder, a codebook and the nearest-code search."""

    pixel_range: tuple[float, float]
    maskgit: ClassVar[bool]

    def __init__(self, config: VQConfig):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config, self.maskgit)
        self.quantize = nn.ModuleDict({"embedding": nn.Embedding(config.vocab_size, config.code_dim)})

    @property
    def image_size(self) -> int:
        return self.config.image_size

    @property
    def vocab_size(self) -> int:
        return self.config.vocab_size

    @property
    def n_tokens(self) -> int:
        return (self.config.image_size // self.config.stride) ** 2

    def features(self, pixels: Tensor) -> Tensor:
        """What is quantised, before any scaling: pixels [B, 3, H, W] → [B, code_dim, H/16, W/16]."""
        found: Tensor = self.encoder(pixels)
        return found

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """[code_dim, h, w] of :meth:`features` for a picture of `image_size`."""
        side = self.config.image_size // self.config.stride
        return self.config.code_dim, side, side

    @torch.no_grad()
    def encode(self, pixels: Tensor, noise: float = 0.0, normal: Tensor | None = None) -> Tensor:
        """Token ids in raster order: pixels [B, 3, H, W] in `pixel_range` → int64 [B, (H/16)·(W/16)].

        Sides are multiples of 16, whatever `image_size` is. noise, normal [B, code_dim, H/16, W/16]: latent
        noise (`with_noise`) on :meth:`features`. Raises ValueError for another shape or integers.
        """
        stride = self.config.stride
        sides_fit = pixels.ndim == 4 and all(n > 0 and n % stride == 0 for n in pixels.shape[2:])
        if not (sides_fit and pixels.shape[1] == 3 and pixels.is_floating_point()):
            wanted = f"[B, 3, H, W] floating point in {self.pixel_range}, H and W multiples of {stride}"
            raise ValueError(f"pixels are {tuple(pixels.shape)} {pixels.dtype}, not {wanted}")
        z = with_noise(self.features(pixels.float()), noise, normal).permute(0, 2, 3, 1)  # [B, h, w, D]
        rows, codes = z.flatten(0, 2), self.get_parameter("quantize.embedding.weight").detach()
        if self.config.l2_norm:
            rows, codes = F.normalize(rows, dim=1), F.normalize(codes, dim=1)
        return nearest_code(rows, codes).view(len(z), z.shape[1] * z.shape[2])


class LlamaGenTokenizer(_VQTokenizer):
    """LlamaGen's VQ-16: pixels in [-1, 1] → ids of 16,384 codes of 8 numbers (published sizes).

    Architecture: tokenizer/tokenizer_image/vq_model.py of github.com/FoundationVision/LlamaGen (MIT).
    """

    pixel_range = (-1.0, 1.0)
    maskgit = False

    def __init__(self, config: VQConfig):
        super().__init__(config)
        self.quant_conv = nn.Conv2d(config.z_channels, config.code_dim, 1)

    def features(self, pixels: Tensor) -> Tensor:
        found: Tensor = self.quant_conv(self.encoder(pixels))
        return found


class MaskGITTokenizer(_VQTokenizer):
    """MaskGIT's VQGAN: pixels in [0, 1] → ids of 1,024 codes of 256 numbers (published sizes).

    Architecture: RandAR/model/maskgit_tokenizer.py of github.com/ziqipang/RandAR (MIT), a port of
    google-research/maskgit (Apache 2.0).
    """

    pixel_range = (0.0, 1.0)
    maskgit = True
