"""Augmented views of the training images as token ids: crops after padding, and mirror images."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from anytime_cls.tokenizers.base import Tokenizer
from anytime_cls.tokenizers.manifold import ManifoldTokenizer
from anytime_cls.training.distort import crops
from anytime_cls.training.loop import _mix
from anytime_cls.training.nets import augment, to_range
from anytime_cls.training.recipe import Recipe, Report

MARGIN = 4  # patches (8 pixels) around a picture, half on either side, that its crops are moved by
KEPT = 1 << 26, 1 << 31  # bytes of views that are kept, or else four; on a GPU
PART = 250  # images at a time


def views_of(
    tokenizer: Tokenizer, images: Tensor, recipe: Recipe, device: torch.device, report: Report
) -> Callable[[int], Tensor]:
    """Images uint8 [n, 3, S, S] → a function: number of a view → its token ids int32 [n, N].

    A view is a function of (seed, number) alone, and the last that were asked for are kept. Of a
    manifold tokenizer pictures are coded once: a shifted or mirrored picture's words are its own, moved.
    """
    words = _words(tokenizer, images, report) if isinstance(tokenizer, ManifoldTokenizer) else None
    zoomed = recipe.tokens == "selfsupervised"  # every other view: such tokens were made to withstand it
    kept: dict[int, Tensor] = {}

    @torch.inference_mode()
    def view(number: int) -> Tensor:
        if number not in kept:
            where = images.device if words is None else torch.device("cpu")
            generator = torch.Generator(where).manual_seed(_mix(recipe.seed, 3, number))
            if words is None:
                change = _zoomed if zoomed and number % 2 else augment
                found = tokens_of(tokenizer, images, device, lambda part: change(part, generator))
            else:
                assert isinstance(tokenizer, ManifoldTokenizer)
                found = torch.cat([_moved(tokenizer, part, generator) for part in words.split(PART)])
            while len(kept) >= max(4, KEPT[device.type == "cuda"] // max(1, found.nbytes)):
                kept.pop(next(iter(kept)))
            kept[number] = found
        return kept[number]

    return view


@torch.inference_mode()
def tokens_of(
    tokenizer: Tokenizer,
    images: Tensor,
    device: torch.device,
    change: Callable[[Tensor], Tensor] = lambda part: part,
) -> Tensor:
    """Token ids int32 [n, N] of images uint8 [n, 3, S, S], each part of them changed first.

    A manifold tokenizer's are made where it is, on the CPU.
    """
    device = torch.device("cpu") if isinstance(tokenizer, ManifoldTokenizer) else device
    size = 500 if device.type == "cpu" else 5000
    parts = (to_range(change(part), tokenizer.pixel_range).to(device) for part in images.split(size))
    return torch.cat([tokenizer.encode(part).to(images.device).int() for part in parts])


def _zoomed(images: Tensor, generator: torch.Generator) -> Tensor:
    """Crops of half the area or more, half mirrored: uint8 [B, 3, S, S] → float in 0 … 255, same shape."""
    return crops(images.float(), generator, smallest=0.5)


@torch.inference_mode()
def _words(tokenizer: ManifoldTokenizer, images: Tensor, report: Report) -> Tensor:
    """The words of every picture and of its margin: int16 [n, S/2 + MARGIN, S/2 + MARGIN, 3]."""
    found: list[Tensor] = []
    started = time.monotonic()
    for part in images.split(PART):
        found.append(tokenizer.words(part, MARGIN))
        done = sum(map(len, found))
        report("views", done, len(images), None, done / (time.monotonic() - started))
    return torch.cat(found)


def _moved(tokenizer: ManifoldTokenizer, words: Tensor, generator: torch.Generator) -> Tensor:
    """Tokens int32 [b, N] of crops at random shifts, half of them mirrored: words as `_words` gives them."""
    b, side = len(words), words.shape[1] - MARGIN
    shifts = torch.randint(0, MARGIN + 1, (2, b), generator=generator)
    rows, cols = shifts[:, :, None] + torch.arange(side)
    crops = words[torch.arange(b)[:, None, None], rows[:, :, None], cols[:, None, :]]
    flip = torch.rand(b, generator=generator) < 0.5
    crops[flip] = tokenizer.mirror(crops[flip])
    return tokenizer.nearest(tokenizer.latents(crops)).int()
