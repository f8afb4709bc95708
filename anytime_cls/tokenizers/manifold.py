"""A tokenizer fitted in closed form, without labels and without gradients: the sparse manifold transform.

Chen, Yun, Ma, Olshausen & LeCun, *Minimalistic Unsupervised Representation Learning with the Sparse
Manifold Transform*, ICLR 2023, https://arxiv.org/abs/2209.15261. A whitened patch of 6 × 6 pixels is coded
by its three nearest words of a dictionary of patches; words that occur near each other get near embeddings
(spectral, of their co-occurrence); embeddings of 4 × 4 patches are averaged, and the mean's nearest centre
is the token.
`anytime_cls.training.manifold` fits one.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anytime_cls.tokenizers.base import with_noise
from anytime_cls.tokenizers.vq import nearest_code

PATCH = 6  # pixels a side
STRIDE = 2  # pixels between patches; a token's places are two patches apart
WINDOW = 4  # patches a side that a token averages, so that it sees 12 × 12 pixels
NEAREST = 3  # words that code a patch
NOISE_FLOOR = 10.0  # added to a patch's variance, in squared grey levels: flat patches stay flat


@dataclass(frozen=True)
class ManifoldConfig:
    """Shape of a :class:`ManifoldTokenizer`; stored in a model's JSON."""

    image_size: int = 32  # pixels a side, a multiple of 4
    words: int = 2048  # of the dictionary: the second half are mirror images of the first
    width: int = 128  # of a word's embedding
    vocab_size: int = 1024

    @property
    def grid(self) -> int:
        """Tokens a side."""
        return self.image_size // (2 * STRIDE)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> ManifoldConfig:
        return cls(**{key: int(fields[key]) for key in ("image_size", "words", "width", "vocab_size")})


def patches_of(pixels: Tensor, margin: int = 0) -> Tensor:
    """Contrast-normalised patches: float [B, 3, S, S] in 0 … 255 → [B, P, 3 · 6 · 6], P = (S/2 + margin)².

    The picture is reflected at its sides, by margin / 2 patches more than its own patches need.
    """
    around = (PATCH - STRIDE) // 2 + margin * STRIDE // 2
    patches = F.unfold(F.pad(pixels, (around,) * 4, mode="reflect"), PATCH, stride=STRIDE).mT
    patches = patches - patches.mean(-1, keepdim=True)
    normalised: Tensor = patches / (patches.square().mean(-1, keepdim=True) + NOISE_FLOOR).sqrt()
    return normalised


def mirrored(patches: Tensor) -> Tensor:
    """Patches [..., 3 · 6 · 6] as a mirror shows them."""
    turned: Tensor = patches.unflatten(-1, (3, PATCH, PATCH)).flip(-1).flatten(-3)
    return turned


@final
class ManifoldTokenizer(nn.Module):
    """Pixels [B, 3, S, S] in [0, 255] → token ids [B, (S/4)²]."""

    pixel_range = (0.0, 255.0)
    mean: Tensor  # [3 · 6 · 6], of all patches
    whitening: Tensor  # [3 · 6 · 6, 3 · 6 · 6]
    dictionary: Tensor  # [words / 2, 3 · 6 · 6], unit length
    embedding: Tensor  # [words, width]
    centres: Tensor  # [vocab_size, width]

    def __init__(self, config: ManifoldConfig):
        super().__init__()
        self.config = config
        n = 3 * PATCH**2
        self.register_buffer("mean", torch.zeros(n))
        self.register_buffer("whitening", torch.eye(n))
        self.register_buffer("dictionary", torch.zeros(config.words // 2, n))
        self.register_buffer("embedding", torch.zeros(config.words, config.width))
        self.register_buffer("centres", torch.zeros(config.vocab_size, config.width))

    @property
    def image_size(self) -> int:
        return self.config.image_size

    @property
    def vocab_size(self) -> int:
        return self.config.vocab_size

    @property
    def n_tokens(self) -> int:
        return self.config.grid**2

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """[width, g, g] of what the centres are nearest to."""
        return self.config.width, self.config.grid, self.config.grid

    def words(self, pixels: Tensor, margin: int = 0) -> Tensor:
        """The nearest words of every patch: pixels [B, 3, S, S] → int16 [B, h, h, 3], h = S/2 + margin."""
        both = torch.cat((self.dictionary, mirrored(self.dictionary))).T
        found = []
        for picture in pixels.float().round().split(1):  # one at a time: rounding cannot depend on a batch
            patches = F.normalize((patches_of(picture, margin)[0] - self.mean) @ self.whitening, dim=1)
            found.append((patches @ both).topk(NEAREST, dim=1).indices.short())
        side = pixels.shape[-1] // STRIDE + margin
        return torch.stack(found).view(len(pixels), side, side, NEAREST)

    def mirror(self, words: Tensor) -> Tensor:
        """`words` of the mirrored pictures, from those of the pictures: int16 [B, h, w, 3] → same."""
        half = self.config.words // 2
        return torch.where(words < half, words + half, words - half).flip(2)

    def latents(self, words: Tensor) -> Tensor:
        """Mean embeddings of unit length, a place: int16 [B, S/2, S/2, 3] → [B, width, g, g]."""
        b, side = len(words), words.shape[1]
        embedded = F.embedding_bag(words.reshape(-1, NEAREST).int(), self.embedding, mode="sum")
        maps = F.normalize(embedded, dim=1).view(b, side, side, -1).permute(0, 3, 1, 2)
        around = (WINDOW - 2) // 2
        pooled = F.avg_pool2d(F.pad(maps, (around,) * 4, mode="replicate"), WINDOW, stride=2)
        return F.normalize(pooled, dim=1)

    def features(self, pixels: Tensor) -> Tensor:
        """Mean embeddings of unit length, a place: pixels [B, 3, S, S] → float32 [B, width, g, g]."""
        return self.latents(self.words(pixels))

    def nearest(self, latents: Tensor) -> Tensor:
        """Token ids in raster order: [B, width, g, g] → int64 [B, g²]."""
        rows = latents.permute(0, 2, 3, 1).flatten(0, 2)
        return nearest_code(rows, self.centres).view(len(latents), -1)

    @torch.no_grad()
    def encode(self, pixels: Tensor, noise: float = 0.0, normal: Tensor | None = None) -> Tensor:
        """Token ids in raster order: pixels [B, 3, S, S] → [B, g²] int64. noise, normal: see `with_noise`."""
        return self.nearest(with_noise(self.features(pixels), noise, normal))
