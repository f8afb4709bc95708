"""A card becomes weights on a device."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from anytime_cls.files import replace_file
from anytime_cls.models.card import (
    SCHEMA,
    WEIGHTS,
    ModelCard,
    ModelError,
)
from anytime_cls.models.checkpoints import check_finite, inspect, read_state, write_safetensors
from anytime_cls.models.hashes import file_sha256
from anytime_cls.models.pickles import unpickled
from anytime_cls.models.zoo import EMBEDDED, embedded_names, read_card
from anytime_cls.scorers.any_order import AnyOrder
from anytime_cls.scorers.peers import shape_of
from anytime_cls.scorers.shapes import RandARConfig
from anytime_cls.tokenizers.vq import LlamaGenTokenizer, MaskGITTokenizer, VQConfig

if TYPE_CHECKING:
    from torch.overrides import TorchFunctionMode

    from anytime_cls.scorers.sigma import Transformer
    from anytime_cls.tokenizers.base import Tokenizer
    from anytime_cls.tokenizers.fsq import FSQTokenizer
    from anytime_cls.tokenizers.manifold import ManifoldTokenizer


def load_vq(path: str | Path, image_size: int = 256) -> LlamaGenTokenizer | MaskGITTokenizer:
    """The tokenizer in a published (or likewise named) checkpoint: on the CPU, float32, frozen, eval mode.

    path: .safetensors, or .pt, .pth, .bin, .ckpt as torch.save wrote it (no code in it is ever run); a bare
    state dict, or one under "ema", "model" or "state_dict"; tensors of a decoder or a loss are ignored.
    Which network it is and all its sizes are read off the tensors. Whether LlamaGen's codes are compared by
    direction is in no file: they are, as in the published one.
    image_size: pixels a side, a multiple of 16; sets `n_tokens`, and nothing else.

    Raises ValueError, one line naming file and cause, if the file is missing, truncated, incomplete, of
    another kind, or would run code.
    """
    path = Path(path)
    try:
        tokenizer = _from_state(_read_state(path))
    except ValueError as error:
        advice = (
            "expected vq_ds16_c2i.pt of FoundationVision/LlamaGen or "
            "maskgit-vqgan-imagenet-f16-256.bin of fun-research/TiTok (Hugging Face): download it again"
        )
        raise ValueError(" ".join(f"{path}: {error}; {advice}".split())) from error
    tokenizer.config = replace(tokenizer.config, image_size=image_size)
    return tokenizer


def _read_state(path: Path) -> dict[str, Tensor]:
    """The encoder's and the codebook's tensors in a file, in float32; ValueError says what is wrong."""
    if path.suffix not in (".safetensors", ".pt", ".pth", ".bin", ".ckpt"):
        raise ValueError("not a .safetensors, .pt, .pth, .bin or .ckpt file")
    if not path.is_file():
        raise ValueError("no such file")
    try:
        loaded: Any = load_file(path) if path.suffix == ".safetensors" else unpickled(path)
        for wrapper in ("ema", "model", "state_dict"):
            if isinstance(loaded.get(wrapper), dict):
                loaded = loaded[wrapper]
        ours = ("encoder.", "quant_conv.", "quantize.embedding.")
        loaded = {key: value for key, value in loaded.items() if str(key).startswith(ours)}
        # a tensor of stride 0 may claim a size it does not store, and would take that memory once copied
        if sum(value.numel() for value in loaded.values()) > path.stat().st_size:
            raise ValueError("larger than its file")
        state = {key: value.float().contiguous() for key, value in loaded.items()}
        finite = all(value.isfinite().all().item() for value in state.values())
    except Exception as error:  # whatever a broken or hostile file manages to raise
        raise ValueError("truncated, not weights, or a pickle with code in it (never run)") from error
    if not finite:
        raise ValueError("its weights are not all finite")
    return state


def _from_state(state: dict[str, Tensor]) -> LlamaGenTokenizer | MaskGITTokenizer:
    """The network whose published names these are, with these weights; ValueError if they do not fit."""
    maskgit = any(key.startswith("encoder.down.") for key in state)
    levels, block = ("encoder.down", "block") if maskgit else ("encoder.conv_blocks", "res")
    n_levels = len({key.split(".")[2] for key in state if key.startswith(f"{levels}.")})
    if n_levels == 0:
        raise ValueError("neither LlamaGen's VQ-16 nor MaskGIT's VQGAN encoder is in it")
    try:
        config = VQConfig(
            image_size=2 ** (n_levels - 1),  # one token, valid for any number of levels
            widths=tuple(len(state[f"{levels}.{i}.{block}.0.conv2.weight"]) for i in range(n_levels)),
            blocks=len({key.split(".")[4] for key in state if key.startswith(f"{levels}.0.{block}.")}),
            z_channels=len(state["encoder.conv_out.weight"]),
            vocab_size=state["quantize.embedding.weight"].shape[0],
            code_dim=state["quantize.embedding.weight"].shape[1],
            l2_norm=not maskgit,
        )
        with torch.device("meta"):  # shapes only: a hostile file cannot ask for memory here
            tokenizer = MaskGITTokenizer(config) if maskgit else LlamaGenTokenizer(config)
    except KeyError as error:
        raise ValueError(f"{error.args[0]} is absent") from error
    except (IndexError, TypeError, RuntimeError) as error:
        raise ValueError("its tensors have impossible shapes") from error
    expected = tokenizer.state_dict()
    for key in sorted(expected.keys() | state.keys()):
        found, wanted = (list(d[key].shape) if key in d else "absent" for d in (state, expected))
        if found != wanted:
            raise ValueError(f"{key} is {found} where a {type(tokenizer).__name__} has {wanted}")
    tokenizer.load_state_dict(state, assign=True)
    return tokenizer.eval().requires_grad_(False)


def build_transformer(layout: str, shape: Mapping[str, Any]) -> Transformer:
    """A transformer of one of `LAYOUTS`, or `raster`, with fresh weights. Raises as `shape_of`."""
    from anytime_cls.scorers.randar import RandAR
    from anytime_cls.scorers.shapes import SigmaConfig
    from anytime_cls.scorers.sigma import SigmaGPT

    config = shape_of(layout, shape)
    if not isinstance(config, RandARConfig):
        raise ValueError(f"layout {layout!r} is no autoregressive transformer")
    return SigmaGPT(config) if isinstance(config, SigmaConfig) else RandAR(config)


def load_model(card: ModelCard, device: torch.device, dtype: torch.dtype) -> tuple[Transformer, Tokenizer]:
    """Weights in eval mode on a device; the tokenizer stays in float32, since its ids are roundings.

    Raises ModelError when a file is missing, damaged or not the one `model.json` describes.
    """
    try:
        tokenizer = load_tokenizer(card)
        state = read_state(inspect(card.path)) if card.files else read_weights(card, WEIGHTS[0])
        layout, shape = card.fields.get("layout", "randar"), card.fields["model"]
        if not any(key.startswith(f"layers.{shape['n_layer'] - 1}.") for key in state):
            raise ValueError(f"they have fewer than {shape['n_layer']} layers")
        config = card.shape
        assert isinstance(config, RandARConfig)
        layer = 4 * config.dim**2 + 3 * config.dim * config.hidden_dim
        check_claim(config.n_layer * layer + (config.vocab_size + config.n_classes) * config.dim, state)
        with no_init():
            model = build_transformer(layout, shape)
        model.load_reference(state)
    except ModelError:
        raise
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{card.path}: weights do not fit model.json ({str(error).splitlines()[0]})"
        ) from None
    if tokenizer.n_tokens != model.config.n_tokens or tokenizer.vocab_size > model.config.vocab_size:
        raise ModelError(
            f"{card.path}: the tokenizer gives {tokenizer.n_tokens} tokens of {tokenizer.vocab_size}, "
            f"the transformer reads {model.config.n_tokens} of {model.config.vocab_size}"
        )
    return model.to(device, dtype).eval().requires_grad_(False), tokenizer.to(device).eval()


class _AnyOrder:
    """The method of RandAR's and σ-GPT's models (`scorers.base.Method`)."""

    def card(self, source: str, labels: Sequence[str] | None = None) -> ModelCard:
        """As the model is named. labels: such a model knows its own."""
        return read_card(source)

    def load(self, card: ModelCard, device: str, dtype: str) -> AnyOrder:
        where = torch.device(device)
        if where.type == "cuda":
            torch.backends.cudnn.allow_tf32 = False  # token ids are roundings: keep the encoder exact
        return AnyOrder(*load_model(card, where, getattr(torch, dtype)))


any_order = _AnyOrder()


def load_tokenizer(
    card: ModelCard,
) -> FSQTokenizer | ManifoldTokenizer | LlamaGenTokenizer | MaskGITTokenizer:
    """A model's tokenizer on the CPU, in float32. Raises ModelError, or ValueError if it does not fit."""
    from anytime_cls.models.load import load_vq
    from anytime_cls.tokenizers.fsq import FSQConfig, FSQTokenizer
    from anytime_cls.tokenizers.manifold import ManifoldConfig, ManifoldTokenizer
    from anytime_cls.tokenizers.vq import LlamaGenTokenizer

    fields = card.fields["tokenizer"]
    match fields.get("kind"):
        case "fsq":
            shape, state = FSQConfig.from_dict(fields), read_weights(card, WEIGHTS[1])
            into = (3, *shape.widths)
            of_stages = zip(into, shape.widths, shape.blocks, strict=False)
            check_claim(sum(9 * w * (before + 2 * n * w) for before, w, n in of_stages), state)
            tokenizer = FSQTokenizer(shape)
            tokenizer.load_state_dict(
                {name: v.float() if v.is_floating_point() else v for name, v in state.items()}
            )
            return tokenizer.folded()
        case "manifold":
            sizes, state = ManifoldConfig.from_dict(fields), read_weights(card, WEIGHTS[1])
            check_claim((sizes.words + sizes.vocab_size) * sizes.width, state)
            manifold = ManifoldTokenizer(sizes)
            manifold.load_state_dict(state)
            return manifold.eval()
        case "llamagen" | "maskgit" as kind:
            path = card.weights(WEIGHTS[1]) if card.files else verified(card, WEIGHTS[1])
            try:
                vq = load_vq(path, card.image_size)
            except ValueError as error:
                raise ModelError(str(error)) from None
            if isinstance(vq, LlamaGenTokenizer) != (kind == "llamagen"):
                raise ModelError(f"{path}: holds the other VQ tokenizer, {card.path} says {kind!r}")
            return vq
        case kind:
            raise ModelError(f"{card.path}: unknown tokenizer kind {kind!r}")


def verified(card: ModelCard, name: str) -> Path:
    """A weights file of a model folder, its hash checked."""
    path = _at(card, name)
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise ModelError(f"{path}: not a regular file")
    try:
        digest = file_sha256(path)
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror or error}") from None
    if digest != card.sha256.get(name):
        raise ModelError(
            f"{path}: SHA-256 differs from model.json's: damaged or replaced, install the model again"
        )
    return path


def _at(card: ModelCard, name: str) -> Path:
    """Where a weights file of a model folder is: a file that embedded models share lies in one of them."""
    path = card.path / name
    if path.exists() or card.path.parent != EMBEDDED:
        return path
    beside = (read_card(other) for other in embedded_names())
    same = (other.path / name for other in beside if other.sha256.get(name) == card.sha256.get(name))
    return next((found for found in same if found.is_file()), path)


def read_weights(card: ModelCard, name: str) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = verified(card, name)
    try:
        state = load_file(path)
    except (SafetensorError, ValueError, KeyError) as error:  # KeyError: a type that torch has not
        raise ModelError(f"{path}: not a safetensors file ({error})") from None
    check_finite(path, state)
    return state


def check_claim(numbers: int, state: Mapping[str, Tensor]) -> None:
    """Raises ValueError for a network of more numbers than its weights have, before it asks for their memory.

    (Building it on the meta device would say more, and imports torch's compiler, which takes seconds.)
    """
    there = sum(tensor.numel() for tensor in state.values())
    if numbers > there:
        raise ValueError(f"a network of {numbers:,} numbers or more, of which the file has {there:,}")


def no_init() -> TorchFunctionMode:
    """Modules made in this context keep their memory as it comes: drawing 343 M numbers takes seconds."""
    from torch.overrides import TorchFunctionMode

    class NoInit(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if getattr(func, "__module__", "") == "torch.nn.init":
                return args[0] if args else (kwargs or {})["tensor"]
            return func(*args, **(kwargs or {}))

    return NoInit()


def save_model(
    path: Path,
    fields: dict[str, Any],
    model_state: Mapping[str, torch.Tensor],
    tokenizer_state: Mapping[str, torch.Tensor],
) -> ModelCard:
    """Write a model directory; `fields` gains `schema` and `sha256`."""
    path.mkdir(parents=True, exist_ok=True)
    sha256 = {}
    for name, state in zip(WEIGHTS, (model_state, tokenizer_state), strict=True):
        write_safetensors(path / name, state)
        sha256[name] = file_sha256(path / name)
    fields = {"schema": SCHEMA, **fields, "sha256": sha256}
    replace_file(path / "model.json", (json.dumps(fields, indent=1, ensure_ascii=False) + "\n").encode())
    return read_card(path)
