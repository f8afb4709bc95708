"""Fit a :class:`~anytime_cls.tokenizers.manifold.ManifoldTokenizer`: counts and eigenvectors, no labels."""

from __future__ import annotations

import time

import numpy as np
import scipy.linalg
import torch
import torch.nn.functional as F
from scipy.sparse import csr_matrix
from torch import Tensor

from anytime_cls.tokenizers.manifold import (
    NEAREST,
    WINDOW,
    ManifoldTokenizer,
    mirrored,
    patches_of,
)
from anytime_cls.training.recipe import Report

DICTIONARY_IMAGES = 4000  # patches of so many are whitened and drawn from
COUNTED_IMAGES = 20_000  # words of so many, and of their mirror images, are counted
CLUSTERED = 200_000  # embeddings that the centres are fitted to
RIDGE = 0.1  # of the mean variance of a word, in the eigenproblem and in whitening
ROUNDS = 15  # of k-means


@torch.inference_mode()
def fit_manifold(tokenizer: ManifoldTokenizer, images: Tensor, seed: int, report: Report) -> None:
    """Images uint8 [n, 3, S, S] into a tokenizer's state, a function of them and the seed.

    Of few images patches and places repeat themselves among words and centres; that is no error.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(images), generator=generator)
    fit_dictionary(tokenizer, images[order[:DICTIONARY_IMAGES]], generator)
    counted, words = images[order[:COUNTED_IMAGES]], []
    started, done = time.monotonic(), 0
    for part in counted.split(250):
        words.append(tokenizer.words(part))
        done += len(part)
        report("tokenizer", done, len(counted) + 2, None, done / (time.monotonic() - started))
    seen = torch.cat(words)
    for i, fit in enumerate((fit_embedding, fit_centres)):
        fit(tokenizer, seen, generator)
        report("tokenizer", done + 1 + i, len(counted) + 2, None, done / (time.monotonic() - started))


def fit_dictionary(tokenizer: ManifoldTokenizer, images: Tensor, generator: torch.Generator) -> None:
    """Whitening (ZCA) of patches and of their mirror images, and whitened random patches as words."""
    half = tokenizer.config.words // 2
    parts = [patches_of(part.float()).flatten(0, 1) for part in images.split(250)]
    every = max(1, sum(map(len, parts)) // 150_000)
    patches = torch.cat(
        [part[torch.randperm(len(part), generator=generator)[: -(-len(part) // every)]] for part in parts]
    )
    both = torch.cat((patches, mirrored(patches)))
    tokenizer.mean.copy_(both.mean(0))
    values, vectors = torch.linalg.eigh(torch.cov((both - tokenizer.mean).T.double()))
    tokenizer.whitening.copy_((vectors * (values.clamp(min=0) + RIDGE).rsqrt()) @ vectors.T)
    picked = torch.randperm(len(patches), generator=generator)
    chosen = patches[picked.repeat(-(-half // len(picked)))[:half]]
    tokenizer.dictionary.copy_(F.normalize((chosen - tokenizer.mean) @ tokenizer.whitening, dim=1))


def fit_embedding(tokenizer: ManifoldTokenizer, words: Tensor, generator: torch.Generator) -> None:
    """Directions in which windows vary most for what single patches vary: C_window v = λ (C_patch + ridge) v.

    words: int16 [n, h, w, 3].
    """
    n_words, width = tokenizer.config.words, tokenizer.config.width
    both = (words, tokenizer.mirror(words))
    windows = torch.cat(
        [w.unfold(1, WINDOW, 2).unfold(2, WINDOW, 2).reshape(-1, NEAREST * WINDOW**2) for w in both]
    )
    near, mean = covariance(windows, n_words)
    alone, _ = covariance(torch.cat([w[:, ::2, ::2].reshape(-1, NEAREST) for w in both]), n_words)
    alone += np.eye(n_words) * max(RIDGE * alone.trace() / n_words, 1e-9)
    top = (n_words - width, n_words - 1)
    _, vectors = scipy.linalg.eigh(near, alone, subset_by_index=top)
    vectors = vectors[:, ::-1]
    vectors = vectors * np.sign(vectors[np.abs(vectors).argmax(0), np.arange(width)])
    # the three words of a patch are summed, so each takes a third of what centres the sum
    centred = vectors - (mean @ vectors) / mean.sum()
    tokenizer.embedding.copy_(torch.from_numpy(centred))


def covariance(rows: Tensor, n_words: int, at_once: int = 200_000) -> tuple[np.ndarray, np.ndarray]:
    """Covariance and mean of how often each word is in a row: int16 [n, m] → float64 [V, V], [V]."""
    gram, total = np.zeros((n_words, n_words)), np.zeros(n_words)
    for part in rows.split(at_once):
        n, m = part.shape
        ones = np.ones(n * m, np.float32)
        counts = csr_matrix(
            (ones, part.numpy().astype(np.int32).ravel(), np.arange(0, n * m + 1, m)), (n, n_words)
        )
        gram += (counts.T @ counts).toarray()
        total += np.asarray(counts.sum(0)).ravel()
    mean = total / len(rows)
    return gram / len(rows) - np.outer(mean, mean), mean


def fit_centres(tokenizer: ManifoldTokenizer, words: Tensor, generator: torch.Generator) -> None:
    """k-means of the places' mean embeddings."""
    per_image = tokenizer.n_tokens
    wanted = words[: -(-CLUSTERED // per_image)]
    parts = [tokenizer.latents(part).permute(0, 2, 3, 1).flatten(0, 2) for part in wanted.split(250)]
    points = torch.cat(parts)[:CLUSTERED]
    k = tokenizer.config.vocab_size
    centres = points[
        torch.randperm(len(points), generator=generator).repeat(-(-k // len(points)))[:k]
    ].clone()
    for _ in range(ROUNDS):
        half = centres.square().sum(1) / 2
        nearest = torch.cat([(part @ centres.T - half).argmax(1) for part in points.split(8192)])
        sizes = torch.bincount(nearest, minlength=k)
        sums = torch.zeros_like(centres).index_add_(0, nearest, points)
        filled = sizes > 0
        centres[filled] = sums[filled] / sizes[filled, None]
        lonely = torch.randint(len(points), (int((~filled).sum()),), generator=generator)
        centres[~filled] = points[lonely]
    tokenizer.centres.copy_(centres)
