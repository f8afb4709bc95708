"""Cards and weights of the methods that any-order ones are compared with (docs/methods.md).

No torch until something is loaded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

from anytime_cls.models.card import WEIGHTS, ModelCard, ModelError
from anytime_cls.models.zoo import read_card
from anytime_cls.scorers.base import Scorer
from anytime_cls.scorers.peers import DiscriminativeConfig, DiTConfig, HeadConfig, MaskedConfig
from anytime_cls.scorers.shapes import LAYOUTS, RandARConfig

if TYPE_CHECKING:
    from torch import nn

    from anytime_cls.tokenizers.base import Tokenizer

FITTED = ("priors", "temperature", "designs", "calibrated", "prices", "race", "screens", "metrics")


@final
@dataclass(frozen=True)
class InFolder:
    """A method whose models are folders, as `train --method` writes them."""

    kind: str

    def card(self, source: str, labels: Sequence[str] | None = None) -> ModelCard:
        """As the model is named. labels: such a model knows its own."""
        return read_card(source)

    def load(self, card: ModelCard, device: str, dtype: str) -> Scorer:
        """Its weights on a device. Raises ModelError."""
        from anytime_cls.scorers.diffusion import LatentDiffusion, Straight
        from anytime_cls.scorers.dit import LOSS, DiT, Latents
        from anytime_cls.scorers.reader import Discriminative, Head, Reader

        net, tokenizer = _loaded(card, device, dtype)
        if isinstance(net, DiT):
            encoder, weighting = Latents(tokenizer, net), card.fields["weighting"]
            net.to(dtype=_dtype(dtype))
            return LatentDiffusion(net, encoder, Straight(), net.config, weighting, LOSS, device, dtype)
        assert isinstance(net, Discriminative | Head)
        net.to(dtype=_dtype(dtype))
        return Reader(net, tokenizer)


def _dtype(name: str) -> Any:
    import torch

    return getattr(torch, name)


def _loaded(card: ModelCard, device: str, dtype: str) -> tuple[nn.Module, Tokenizer]:
    """The net and the tokenizer in float32, in eval mode on a device."""
    import torch

    from anytime_cls.models.load import check_claim, load_tokenizer, read_weights

    where = torch.device(device)
    if where.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False  # token ids are roundings: keep the encoder exact
    try:
        tokenizer = load_tokenizer(card)
        state = read_weights(card, WEIGHTS[0])
        check_claim(_numbers(card.shape), state)
        net = _built(card.shape)
        net.load_state_dict({key: value.float() for key, value in state.items()})
    except ModelError:
        raise
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        why = " ".join(str(error).split())[:300]
        raise ModelError(f"{card.path}: weights do not fit model.json ({why})") from None
    _check_tokenizer(card, tokenizer)
    return net.to(where).eval().requires_grad_(False), tokenizer.to(where).eval()


def _built(shape: Any) -> nn.Module:
    from anytime_cls.scorers.dit import DiT
    from anytime_cls.scorers.reader import Discriminative, Head

    match shape:
        case DiTConfig():
            return DiT(shape)
        case HeadConfig():
            return Head(shape)
        case DiscriminativeConfig():
            return Discriminative(shape)
    raise TypeError(f"no network of shape {type(shape).__name__}")


def _numbers(shape: Any) -> int:
    """Numbers that such a network has at least."""
    match shape:
        case DiTConfig():
            return shape.n_layer * 18 * shape.dim**2 + (shape.n_classes + shape.channels) * shape.dim
        case HeadConfig():
            return shape.width * (18 * shape.width + shape.vocab_size + shape.n_classes)
    layer = 4 * shape.dim**2 + 3 * shape.dim * shape.blocks.hidden_dim
    return int(shape.n_layer * layer + (shape.vocab_size + shape.n_classes) * shape.dim)


def _check_tokenizer(card: ModelCard, tokenizer: Tokenizer) -> None:
    shape: Any = card.shape
    if isinstance(shape, DiTConfig):
        given, read = tokenizer.latent_shape, (shape.channels, shape.grid, shape.grid)
        fits, what = given == read, "latents"
    else:
        given = (tokenizer.n_tokens, tokenizer.vocab_size, 0)
        read, what = (shape.n_tokens, shape.vocab_size, 0), "tokens, codes"
        fits = given[0] == read[0] and given[1] <= read[1]
    if not fits:
        raise ModelError(f"{card.path}: the tokenizer gives {what} {given}, the network reads {read}")


@final
class MaskedDiffusion:
    """An any-order model's weights, evaluated as masked diffusion: `masked:MODEL`."""

    def card(self, source: str, labels: Sequence[str] | None = None) -> ModelCard:
        """The model's, with draws and costs of its own and nothing that was fitted to races over orders.

        Raises ModelError for a model that is no any-order one.
        """
        base = read_card(source)
        if base.method not in LAYOUTS:
            raise ModelError(f"masked:{source}: {base.name} is no any-order model")
        assert isinstance(base.shape, RandARConfig)
        shas = {
            name: hashlib.sha256(f"masked:{sha}".encode()).hexdigest() for name, sha in base.sha256.items()
        }
        fields = {key: value for key, value in base.fields.items() if key not in FITTED}
        fields |= {"name": f"masked:{source}", "layout": "masked", "sha256": shas}
        shape = MaskedConfig(base.shape)
        return ModelCard(fields["name"], base.path, fields, base.files, base.notes, own_shape=shape)

    def load(self, card: ModelCard, device: str, dtype: str) -> Scorer:
        """The base model's weights on a device. Raises ModelError."""
        import torch

        from anytime_cls.models.load import load_model
        from anytime_cls.scorers.masked import Masked

        where = torch.device(device)
        if where.type == "cuda":
            torch.backends.cudnn.allow_tf32 = False
        base = read_card(card.name.partition(":")[2])
        return Masked(*load_model(base, where, getattr(torch, dtype)))


discriminative, head, diffusion = InFolder("discriminative"), InFolder("head"), InFolder("diffusion")
masked = MaskedDiffusion()
