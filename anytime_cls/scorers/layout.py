"""Weights of Llama blocks under the keys of RandAR's and LlamaGen's code, and as they are laid out here.

The reference rotates neighbouring pairs (2i, 2i + 1) of each head. Rotating halves (i, i + D/2) vectorises
better and gives the same attention scores when the rows of q and k are reordered so that even ones come
first; w1 and w3 are stacked so that SwiGLU is two products, not three.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from anytime_cls.scorers.shapes import RandARConfig
from anytime_cls.scorers.transformer import check_state


def from_reference(
    expected: Mapping[str, Tensor], state: Mapping[str, Tensor], config: RandARConfig
) -> dict[str, Tensor]:
    """A state dict with the reference's keys as ours is.

    expected : the keys, shapes and dtypes that the network has there (`to_reference`). Raises ValueError
    naming what is wrong with the state.
    """
    check_state(expected, state)
    ours = {key: state[key].to(value.dtype) for key, value in expected.items()}
    even_first = _even_first(config)
    for i in range(config.n_layer):
        ffn = f"layers.{i}.feed_forward."
        ours[ffn + "w13.weight"] = torch.cat((ours.pop(ffn + "w1.weight"), ours.pop(ffn + "w3.weight")))
        key = f"layers.{i}.attention.wqkv.weight"
        ours[key] = ours[key][even_first]
    ours["cls_embedding.weight"] = ours.pop("cls_embedding.embedding_table.weight")
    return ours


def to_reference(ours: Mapping[str, Tensor], config: RandARConfig) -> dict[str, Tensor]:
    """The other way."""
    state = {k: v.detach() for k, v in ours.items()}
    back = torch.argsort(_even_first(config))
    for i in range(config.n_layer):
        ffn = f"layers.{i}.feed_forward."
        w1, w3 = state.pop(ffn + "w13.weight").chunk(2)
        state[ffn + "w1.weight"], state[ffn + "w3.weight"] = w1, w3
        key = f"layers.{i}.attention.wqkv.weight"
        state[key] = state[key][back]
    state["cls_embedding.embedding_table.weight"] = state.pop("cls_embedding.weight")
    return state


def _even_first(config: RandARConfig) -> Tensor:
    """Row order of wqkv that puts each query and key head's even rows before its odd ones."""
    dim, head_dim = config.dim, config.head_dim
    rows = torch.arange(2 * dim).view(-1, head_dim // 2, 2).transpose(1, 2).reshape(-1)
    return torch.cat((rows, torch.arange(2 * dim, 3 * dim)))
