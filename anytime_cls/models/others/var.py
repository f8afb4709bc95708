"""VAR by name or file: the card, from tensors' shapes; its weights and those of its tokenizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from anytime_cls.models import hub
from anytime_cls.models.card import WEIGHTS, ModelCard, ModelError
from anytime_cls.models.checkpoints import Entry, entries, plain_names, read_tensors
from anytime_cls.models.others.common import card_of, source_of, split
from anytime_cls.models.others.names import PUBLISHED, VAR_VAE, cached_weights
from anytime_cls.scorers.others import ScaleConfig

if TYPE_CHECKING:
    from torch import Tensor

    from anytime_cls.scorers.next_scale import NextScale
    from anytime_cls.tokenizers.multiscale import MultiScaleTokenizer

PUBLISHED_SIDES = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)  # of 256 pixels, 680 codes
STRIDE = 16  # pixels a side of one place of the last scale
BUFFERS = ("lvl_1L", "attn_bias_for_masking")  # and every block's zero_k_bias: no weights


@dataclass(frozen=True)
class _VAR:
    """The method of these models (`scorers.base.Method`)."""

    def card(self, source: str, labels: Sequence[str] | None = None) -> ModelCard:
        """source: a name of `PUBLISHED`, or a file, and ",sides=1-2-..." where its scales are others."""
        path, tokenizer, shape = _parts(source)
        size = shape.sides[-1] * STRIDE
        return card_of("var", source, shape.n_classes, size, shape, [[path], [tokenizer]])

    def load(self, card: ModelCard, device: str, dtype: str) -> NextScale:
        """Its weights on a device; the tokenizer stays in float32. Raises ModelError."""
        import torch

        from anytime_cls.models.load import no_init
        from anytime_cls.scorers.next_scale import VAR, NextScale

        path, _, shape = _parts(source_of(card))
        where = torch.device(device)
        if where.type == "cuda":
            torch.backends.cudnn.allow_tf32 = False  # codes are roundings: keep the encoder exact
        with no_init():
            model = VAR(shape)
        try:
            model.load_state_dict(_state(path))
        except RuntimeError as error:
            raise ModelError(f"{path}: no VAR of this shape ({' '.join(str(error).split())[:200]})") from None
        tokenizer = load_tokenizer(card.weights(WEIGHTS[1]), shape)
        model.to(where, getattr(torch, dtype)).eval().requires_grad_(False)
        return NextScale(model, tokenizer.to(where))


var = _VAR()


def _parts(source: str) -> tuple[Path, Path, ScaleConfig]:
    """The weights, the tokenizer's, and the shape that a source means. Raises ModelError."""
    name, options = split(source, "var", ("sides",))
    path = cached_weights(name) if name in PUBLISHED else Path(name)
    sides: tuple[int, ...] = PUBLISHED_SIDES
    if "sides" in options:
        try:
            sides = tuple(int(side) for side in options["sides"].split("-"))
        except ValueError:
            raise ModelError(
                f"var:{source}: expected sides=1-2-3-..., places a side of every scale"
            ) from None
    shape = _shape(path, entries(path).tensors, sides)
    beside = [
        path.parent / file for file in (Path(VAR_VAE.path).name, "tokenizer.pth", "tokenizer.safetensors")
    ]
    found = next((file for file in beside if file.is_file()), None) or hub.cached(VAR_VAE)
    if found is None:
        raise ModelError(
            f"{path}: its tokenizer {Path(VAR_VAE.path).name} is neither beside it nor in the hub's cache: "
            "run 'anytime-cls models pull var-vae', or put it there"
        )
    return path, found, shape


def _shape(path: Path, tensors: Mapping[str, Entry], sides: tuple[int, ...]) -> ScaleConfig:
    """What the tensors show. Raises ModelError."""
    plain = plain_names(path, tensors)
    known = {name: tensors[key].shape for name, key in plain.items()}
    if any(name.startswith("shared_ada_lin.") for name in known):
        raise ModelError(f"{path}: its blocks share one modulation, as VAR-d36's do: not supported")
    try:
        _, n_head, _, _ = known["blocks.0.attn.scale_mul_1H11"]
        dim, code_dim = known["word_embed.weight"]
        rows, _ = known["class_emb.weight"]
        vocab_size, _ = known["head.weight"]
        (scales, _), (_, positions, _) = known["lvl_embed.weight"], known["pos_1LC"]
    except KeyError as error:
        raise ModelError(f"{path}: no VAR's weights: no tensor {error.args[0]!r} in it") from None
    except ValueError:
        raise ModelError(f"{path}: its tensors have impossible shapes for a VAR") from None
    n_layer = len({name.split(".")[1] for name in known if name.startswith("blocks.")})
    rising = list(sides) == sorted(set(sides)) and sides[0] == 1
    if not rising or len(sides) != scales or sum(side**2 for side in sides) != positions:
        raise ModelError(
            f"{path}: {scales} scales of {positions} codes, not those of {'-'.join(map(str, sides))}: "
            f"name them, var:{path},sides=1-2-3-..."
        )
    if dim % n_head or n_layer > 256 or rows < 3:
        raise ModelError(f"{path}: its tensors have impossible shapes for a VAR")
    return ScaleConfig(dim, n_layer, n_head, vocab_size, code_dim, sides, rows - 1)


def _state(path: Path) -> dict[str, Tensor]:
    plain = plain_names(path, entries(path).tensors)
    kept = {
        name: key for name, key in plain.items() if name not in BUFFERS and not name.endswith("zero_k_bias")
    }
    return read_tensors(path, kept)


def load_tokenizer(path: Path, shape: ScaleConfig) -> MultiScaleTokenizer:
    """VAR's tokenizer with a file's weights: on the CPU, float32, frozen. Raises ModelError."""
    from anytime_cls.models.load import no_init
    from anytime_cls.tokenizers.multiscale import MultiScaleTokenizer, renamed
    from anytime_cls.tokenizers.vq import VQConfig

    ours = ("encoder.", "quant_conv.", "quantize.embedding.", "quantize.quant_resi.")
    names = {
        name: key for name, key in plain_names(path, entries(path).tensors).items() if name.startswith(ours)
    }
    state = renamed(read_tensors(path, names))
    try:
        levels = len({name.split(".")[2] for name in state if name.startswith("encoder.conv_blocks.")})
        config = VQConfig(
            image_size=shape.sides[-1] * STRIDE,
            widths=tuple(len(state[f"encoder.conv_blocks.{i}.res.0.conv2.weight"]) for i in range(levels)),
            blocks=len(
                {name.split(".")[4] for name in state if name.startswith("encoder.conv_blocks.0.res.")}
            ),
            z_channels=len(state["encoder.conv_out.weight"]),
            vocab_size=len(state["embedding.weight"]),
            code_dim=state["embedding.weight"].shape[1],
            l2_norm=False,
        )
        n_phi = len([name for name in state if name.startswith("phi.") and name.endswith(".weight")])
        if config.stride != STRIDE or n_phi < 1 or config.vocab_size > shape.vocab_size:
            raise ValueError(f"stride {config.stride}, {n_phi} φ, {config.vocab_size} codes")
        if config.code_dim != shape.code_dim:
            raise ValueError(f"codes of {config.code_dim} numbers, the transformer reads {shape.code_dim}")
        with no_init():
            made = MultiScaleTokenizer(config, shape.sides, n_phi)
        made.load_state_dict({name: value.float() for name, value in state.items()})
    except (KeyError, ValueError, IndexError, RuntimeError) as error:
        raise ModelError(f"{path}: no tokenizer of VAR's ({' '.join(str(error).split())[:200]})") from None
    return made.eval().requires_grad_(False)
