"""Random crops and colours, on whatever device the pictures are: what two views of a picture differ in."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

# Y, I, Q of linear R, G, B: a turn of the last two is a change of hue
_YIQ = ((0.299, 0.587, 0.114), (0.596, -0.274, -0.322), (0.211, -0.523, 0.312))


def distorted(images: Tensor, generator: torch.Generator, smallest: float = 0.2) -> Tensor:
    """A random crop of `smallest` of the area or more, half of them mirrored, their colours changed.

    images uint8 [B, 3, S, S], on the generator's device → float in [-1, 1], same shape, channels last.
    """
    return colours(crops(images.float() / 255, generator, smallest), generator).mul_(2).sub_(1)


def crops(pixels: Tensor, generator: torch.Generator, smallest: float = 0.2) -> Tensor:
    """Random resized crops, half of them mirrored: float [B, 3, S, S] → same shape, channels last."""
    b = len(pixels)

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(b, generator=generator, device=pixels.device) * (high - low) + low

    area, ratio = uniform(smallest, 1), uniform(math.log(3 / 4), math.log(4 / 3)).exp()
    width = (area * ratio).sqrt().clamp(max=1)  # of the picture's; coordinates run from -1 to 1
    height = (area / ratio).sqrt().clamp(max=1)
    x, y = uniform(-1, 1) * (1 - width), uniform(-1, 1) * (1 - height)
    mirror = torch.where(uniform(0, 1) < 0.5, -1.0, 1.0)
    zero = torch.zeros_like(x)
    affine = torch.stack([width * mirror, zero, x, zero, height, y], dim=1).view(b, 2, 3)
    grid = F.affine_grid(affine, list(pixels.shape), align_corners=False)
    pixels = pixels.contiguous(memory_format=torch.channels_last)
    return F.grid_sample(pixels, grid, padding_mode="reflection", align_corners=False)


def colours(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Of 80 % of the pictures brightness, contrast, saturation and hue change; 20 % lose their colours.

    float [B, 3, S, S] in [0, 1] → same. All but contrast is one 3 × 3 matrix a picture.
    """
    b, device = len(pixels), pixels.device

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(b, generator=generator, device=device) * (high - low) + low

    changed = (uniform(0, 1) < 0.8).float()
    bright, contrast, saturation = (1 + changed * uniform(-0.4, 0.4) for _ in range(3))
    angle = changed * uniform(-0.2 * math.pi, 0.2 * math.pi)
    saturation = torch.where(uniform(0, 1) < 0.2, torch.zeros_like(saturation), saturation)
    yiq = torch.tensor(_YIQ, device=device)
    turn = torch.zeros(b, 3, 3, device=device)
    turn[:, 0, 0] = 1
    turn[:, 1, 1] = turn[:, 2, 2] = saturation * angle.cos()
    turn[:, 1, 2], turn[:, 2, 1] = -saturation * angle.sin(), saturation * angle.sin()
    matrix = bright[:, None, None] * (torch.linalg.inv(yiq) @ turn @ yiq)
    mixed = torch.einsum("bij,bjyx->biyx", matrix, pixels)
    grey = (mixed * yiq[0, :, None, None]).sum(1, keepdim=True).mean((2, 3), keepdim=True)
    return (grey + contrast[:, None, None, None] * (mixed - grey)).clamp_(0, 1)
