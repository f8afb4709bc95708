"""DiT and SiT by name, folder or file: the card, from configurations and tensors' shapes. No torch.

Peebles & Xie, *Scalable Diffusion Models with Transformers*, ICCV 2023, https://arxiv.org/abs/2212.09748;
Ma et al., *SiT*, ECCV 2024, https://arxiv.org/abs/2401.08740; Yu et al., *REPA*, ICLR 2025,
https://arxiv.org/abs/2410.06940, whose networks are SiT's with another clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from anytime_cls.models import hub
from anytime_cls.models.card import ModelCard, ModelError
from anytime_cls.models.checkpoints import Entry, entries, plain_names
from anytime_cls.models.others.common import card_of, require, source_of
from anytime_cls.models.others.names import PUBLISHED, VAE, cached_weights
from anytime_cls.scorers.others import LatentConfig

if TYPE_CHECKING:
    from anytime_cls.scorers.diffusion import LatentDiffusion

WRAPPERS = ("ema", "model", "module", "state_dict")  # training keeps an average, which is what is published
T = TypeVar("T")
STEM = "diffusion_pytorch_model"  # of files that diffusers writes


class TransformerFile(msgspec.Struct):
    """`transformer/config.json` of a pipeline that diffusers wrote, as far as it is read."""

    num_attention_heads: int
    attention_head_dim: int
    in_channels: int
    num_layers: int
    sample_size: int
    patch_size: int
    num_embeds_ada_norm: int
    out_channels: int | None = None

    def shape(self) -> LatentConfig:
        return LatentConfig(
            dim=self.num_attention_heads * self.attention_head_dim,
            n_layer=self.num_layers,
            n_head=self.num_attention_heads,
            patch=self.patch_size,
            size=self.sample_size,
            channels=self.in_channels,
            predicted=self.out_channels or self.in_channels,
            n_classes=self.num_embeds_ada_norm,
        )


class VAEFile(msgspec.Struct):
    """`vae/config.json`, likewise."""

    block_out_channels: list[int]
    latent_channels: int
    scaling_factor: float = 0.18215

    @property
    def stride(self) -> int:
        """Pixels a side of one place."""
        return int(2 ** (len(self.block_out_channels) - 1))


@dataclass(frozen=True)
class Parts:
    """Where a model's files are. transformer: a folder of diffusers', or a file with the original names."""

    transformer: Path
    vae: Path
    shape: LatentConfig

    @property
    def files(self) -> tuple[list[Path], list[Path]]:
        """What scores, and what encodes."""
        scores = _of_folder(self.transformer) if self.transformer.is_dir() else [self.transformer]
        return scores, _of_folder(self.vae)


@dataclass(frozen=True)
class _Latent:
    """The method of these models (`scorers.base.Method`)."""

    kind: str  # "dit" or "sit"

    def card(self, source: str, labels: Sequence[str] | None = None) -> ModelCard:
        """source: a name of `PUBLISHED`, a folder of diffusers', or a file of weights. Raises ModelError."""
        what = source if source in PUBLISHED else f"{self.kind}:{source}"
        require("diffusers", what)
        found = parts(self.kind, source)
        vae = vae_config(found.vae)
        if vae.latent_channels != found.shape.channels:
            raise ModelError(
                f"{found.vae}: gives latents of {vae.latent_channels} channels, {found.transformer} reads "
                f"{found.shape.channels}"
            )
        shape = found.shape
        return card_of(self.kind, source, shape.n_classes, shape.size * vae.stride, shape, found.files)

    def load(self, card: ModelCard, device: str, dtype: str) -> LatentDiffusion:
        """Its weights on a device; the autoencoder stays in float32. Raises ModelError."""
        from anytime_cls.models.others.dit_load import load

        return load(self.kind, parts(self.kind, source_of(card)), device, dtype)


dit, sit = _Latent("dit"), _Latent("sit")


def parts(kind: str, source: str) -> Parts:
    """The files that a source means, all of which are there. Raises ModelError."""
    if source in PUBLISHED:
        weights = cached_weights(source)
        return Parts(weights, cached_vae(source), _folder_shape(weights))
    path = Path(source)
    if path.is_dir():
        if kind != "dit":
            raise ModelError(f"{path}: diffusers has no SiT: name a file of weights, sit:FILE")
        transformer = path / "transformer" if (path / "transformer").is_dir() else path
        shape = _folder_shape(transformer)
    else:
        transformer, shape = path, file_shape(path, entries(path, WRAPPERS).tensors)
    return Parts(transformer, vae_beside(path), shape)


def vae_beside(path: Path) -> Path:
    """The autoencoder of a pipeline, or the one beside a file, or else the hub cache's. Raises ModelError."""
    for folder in (path / "vae", path.parent / "vae"):
        if (folder / "config.json").is_file():
            return folder
    return cached_vae(str(path))


def cached_vae(wanted_by: str) -> Path:
    """The folder of sd-vae-ft-ema in the hub's cache. Raises ModelError, saying how to get it."""
    config = hub.cached(VAE.config)
    if config is None or not any((config.parent / name).is_file() for name in VAE.weights):
        raise ModelError(
            f"{wanted_by}: its autoencoder is neither in a folder vae beside it nor in the hub's cache: "
            "run 'anytime-cls models pull sd-vae-ft-ema', or put it there"
        )
    return config.parent


def vae_config(folder: Path) -> VAEFile:
    """What an autoencoder's configuration says. Raises ModelError."""
    return _config(folder, VAEFile)


def _config(folder: Path, kind: type[T]) -> T:
    path = folder / "config.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except OSError as error:
        raise ModelError(
            f"{path}: {error.strerror or error}; expected a folder that diffusers wrote"
        ) from None
    except msgspec.DecodeError as error:
        raise ModelError(f"{path}: not what diffusers writes ({error})") from None


def _folder_shape(folder: Path) -> LatentConfig:
    return _checked(folder, _config(folder, TransformerFile).shape())


def _of_folder(folder: Path) -> list[Path]:
    """A folder's configuration and weights. Raises ModelError where there are none."""
    for suffix in (".safetensors", ".bin"):
        weights = folder / f"{STEM}{suffix}"
        if weights.is_file():
            return [folder / "config.json", weights]
    raise ModelError(f"{folder}: no {STEM}.safetensors or .bin in it")


def names_of(path: Path, tensors: Mapping[str, Any]) -> dict[str, str]:
    """The original's names → the file's. REPA's older files number the blocks behind its projectors anew."""
    plain = plain_names(path, tensors)
    first = {int(name.split(".")[1]) for name in plain if name.startswith("blocks.")}
    found = {}
    for name, key in plain.items():
        parts = name.split(".")
        if parts[0] == "decoder_blocks":
            parts[:2] = ["blocks", str(int(parts[1]) + len(first))]
        if parts[0] != "projectors":
            found[".".join(parts)] = key
    return found


def is_repa(tensors: Mapping[str, Any]) -> bool:
    """Whether REPA trained it: by the projectors that only training used."""
    return any(name.startswith("projectors.") for name in tensors)


def file_shape(path: Path, tensors: Mapping[str, Entry]) -> LatentConfig:
    """The shape that a file's tensors show, under the original names. Raises ModelError.

    Heads are in no tensor's shape: they are 64 wide, but 72 in XL (dim 1152), as published.
    """
    keys = names_of(path, tensors)
    try:
        dim, channels, patch, _ = tensors[keys["x_embedder.proj.weight"]].shape
        _, positions, _ = tensors[keys["pos_embed"]].shape
        rows, _ = tensors[keys["y_embedder.embedding_table.weight"]].shape
        outputs, _ = tensors[keys["final_layer.linear.weight"]].shape
    except KeyError as error:
        raise ModelError(
            f"{path}: neither DiT's nor SiT's weights: no tensor {error.args[0]!r} in it"
        ) from None
    except ValueError:
        raise ModelError(f"{path}: its tensors have impossible shapes for a DiT or a SiT") from None
    if any(".q_norm." in name for name in keys):
        raise ModelError(f"{path}: its queries are normalised, which no published DiT's or SiT's are")
    n_layer = len({name.split(".")[1] for name in keys if name.startswith("blocks.")})
    head = 72 if dim == 1152 else 64
    side = round(positions**0.5)
    if side * side != positions or dim % head or not n_layer or not patch or outputs % (patch * patch):
        raise ModelError(f"{path}: its tensors have impossible shapes for a DiT or a SiT")
    shape = LatentConfig(
        dim, n_layer, dim // head, patch, side * patch, channels, outputs // patch**2, n_classes=rows - 1
    )
    return _checked(path, shape)


def _checked(path: Path, shape: LatentConfig) -> LatentConfig:
    sizes = (shape.dim, shape.n_layer, shape.n_head, shape.patch, shape.size, shape.channels, shape.n_classes)
    sensible = min(sizes) > 0 and shape.size % shape.patch == 0 and shape.n_layer <= 256
    if not sensible or shape.predicted not in (shape.channels, 2 * shape.channels) or shape.size > 1 << 12:
        raise ModelError(f"{path}: {shape} is no shape of a DiT or a SiT")
    return shape
