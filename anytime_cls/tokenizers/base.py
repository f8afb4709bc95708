"""What every tokenizer does: pixels in, token ids out."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Tokenizer(Protocol):
    """What the engine asks of a tokenizer: FSQTokenizer, LlamaGenTokenizer or MaskGITTokenizer.

    pixel_range: black and white as `encode` expects them; image_size: pixels a side; token ids are
    0 … vocab_size − 1, n_tokens of them an image. latent_shape: [D, h, w] of what is quantised.
    """

    @property
    def pixel_range(self) -> tuple[float, float]: ...
    @property
    def image_size(self) -> int: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def n_tokens(self) -> int: ...
    @property
    def latent_shape(self) -> tuple[int, int, int]: ...
    def features(self, pixels: Tensor) -> Tensor:
        """The latents themselves, before noise and quantisation: pixels [B, 3, S, S] → float32
        [B, *latent_shape]."""

    def encode(self, pixels: Tensor, noise: float = 0.0, normal: Tensor | None = None) -> Tensor:
        """Pixels [B, 3, S, S] in `pixel_range` → token ids [B, n_tokens] int64 in raster order.

        noise, normal: latent noise, as `with_noise` takes them.
        """


def with_noise(latents: Tensor, noise: float, normal: Tensor | None) -> Tensor:
    """Latent noise: (1 − noise) · latents + noise · normal, before anything is quantised; same shape.

    The option `t` of the paper's classifier, which draws `normal` anew for every order (and only for
    LlamaGen's tokenizer: there the latents are the output of `quant_conv`, not yet scaled to unit length).

    noise: t in [0, 1]; 0 returns the latents themselves. normal: standard normals of the latents' shape; the
    caller draws them, so that they are the same on every device. Raises ValueError for anything else.
    """
    if not 0 <= noise <= 1:
        raise ValueError(f"latent noise must lie between 0 and 1, not {noise:g}")
    if noise == 0:
        return latents
    if normal is None or normal.shape != latents.shape:
        found = "none" if normal is None else f"of shape {list(normal.shape)}"
        raise ValueError(f"latent noise needs normals of shape {list(latents.shape)}, not {found}")
    return (1 - noise) * latents + normal.to(latents) * noise
