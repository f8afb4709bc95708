"""DiT's and SiT's weights in diffusers' modules, as the original code computes with them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from anytime_cls.models.card import ModelError
from anytime_cls.models.checkpoints import entries, read_tensors
from anytime_cls.models.others.dit import STEM, WRAPPERS, Parts, is_repa, names_of, vae_config
from anytime_cls.scorers.diffusion import Ddpm, LatentDiffusion, SiTPath, Straight
from anytime_cls.scorers.others import LatentConfig
from anytime_cls.tokenizers.base import with_noise

# diffusers counts 127 steps between the 128 frequencies of a time, the original code 128; its norms add 1e-6
FREQUENCY_SHIFT, EPSILON = 0, 1e-6
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}  # in old VAE files


@final
class Transformer:
    """diffusers' DiTTransformer2DModel as a `scorers.diffusion.Network`: computes in its weights' dtype."""

    def __init__(self, model: nn.Module):
        self.model = model
        self._dtype = next(model.parameters()).dtype

    def __call__(self, noisy: Tensor, told: Tensor, classes: Tensor, /) -> Tensor:
        found = self.model(noisy.to(self._dtype), timestep=told, class_labels=classes, return_dict=False)
        made: Tensor = found[0]
        return made


@final
class Autoencoder:
    """The mean of diffusers' AutoencoderKL as a `scorers.diffusion.Encoder`, in float32."""

    pixel_range = (-1.0, 1.0)

    def __init__(self, model: Any, scale: float, latent_shape: tuple[int, int, int]):
        self.model, self.scale, self.latent_shape = model, scale, latent_shape

    def encode(self, pixels: Tensor, noise: float = 0.0, normal: Tensor | None = None) -> Tensor:
        """Pixels [B, 3, S, S] → latents [B, D, h, w], scaled as the transformer reads them, then noisy."""
        mean: Tensor = self.model.encode(pixels).latent_dist.mean
        return with_noise(mean * self.scale, noise, normal)


def load(kind: str, found: Parts, device: str, dtype: str) -> LatentDiffusion:
    """The scorer of these files. Raises ModelError."""
    try:
        from diffusers import AutoencoderKL, DiTTransformer2DModel  # noqa: F401 (it imports what is asked for)
        from diffusers.utils.logging import set_verbosity_error
    except Exception as error:  # whatever a broken installation manages to raise
        raise ModelError(f"the package diffusers cannot be imported ({_line(error)})") from None
    set_verbosity_error()
    model, path = _transformer(kind, found)
    shape = found.shape
    where = torch.device(device)
    if where.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False  # latents are an image's identity: keep the encoder exact
    network = model.to(where, getattr(torch, dtype)).eval().requires_grad_(False)
    vae = _vae(found.vae).to(where).eval().requires_grad_(False)
    encoder = Autoencoder(vae, vae_config(found.vae).scaling_factor, (shape.channels, shape.size, shape.size))
    return LatentDiffusion(
        Transformer(network), encoder, path, shape, device=device, dtype=dtype, positions=shape.positions
    )


def _transformer(kind: str, found: Parts) -> tuple[nn.Module, Ddpm | SiTPath | Straight]:
    """The network with its weights, and the path that it was trained on."""
    if found.transformer.is_dir():
        model, file = build(found.shape), _weights(found.transformer)
        keys = {name: name for name in entries(file).tensors if name != "pos_embed.pos_embed"}
        _fill(model, file, read_tensors(file, keys))
        return model, Ddpm()
    file = found.transformer
    tensors = entries(file, WRAPPERS).tensors
    model = build(found.shape, one_clock=True)
    state = read_tensors(file, names_of(file, tensors), WRAPPERS)
    try:
        ours = renamed(state, found.shape)
    except KeyError as error:
        raise ModelError(f"{file}: no tensor {error.args[0]!r} in it") from None
    _fill(model, file, ours)
    if kind == "dit":
        return model, Ddpm()
    return model, Straight() if is_repa(tensors) else SiTPath()


def build(shape: LatentConfig, one_clock: bool = False) -> nn.Module:
    """diffusers' network of a shape, computing as the original does. Its weights are whatever memory held.

    one_clock : all blocks share the embeddings of time and class, as the original's do; diffusers gives each
    block its own.
    """
    from diffusers import DiTTransformer2DModel

    from anytime_cls.models.load import no_init

    with no_init():
        model: Any = DiTTransformer2DModel(
            num_attention_heads=shape.n_head,
            attention_head_dim=shape.dim // shape.n_head,
            in_channels=shape.channels,
            out_channels=shape.predicted,
            num_layers=shape.n_layer,
            sample_size=shape.size,
            patch_size=shape.patch,
            num_embeds_ada_norm=shape.n_classes,
            norm_eps=EPSILON,
        )
    clock = model.transformer_blocks[0].norm1.emb
    for block in model.transformer_blocks:
        if one_clock:
            block.norm1.emb = clock
        block.norm1.emb.time_proj.downscale_freq_shift = FREQUENCY_SHIFT
    made: nn.Module = model
    return made


def renamed(state: Mapping[str, Tensor], shape: LatentConfig) -> dict[str, Tensor]:
    """Tensors under the original's names as diffusers' module has them. Raises KeyError for one missing."""
    found: dict[str, Tensor] = {}

    def put(ours: str, theirs: str) -> None:
        for part in ("weight", "bias"):
            found[f"{ours}.{part}"] = state[f"{theirs}.{part}"]

    put("pos_embed.proj", "x_embedder.proj")
    put("proj_out_1", "final_layer.adaLN_modulation.1")
    put("proj_out_2", "final_layer.linear")
    for i in range(shape.n_layer):
        ours, theirs = f"transformer_blocks.{i}", f"blocks.{i}"
        put(f"{ours}.norm1.emb.timestep_embedder.linear_1", "t_embedder.mlp.0")
        put(f"{ours}.norm1.emb.timestep_embedder.linear_2", "t_embedder.mlp.2")
        classes = "class_embedder.embedding_table.weight"
        found[f"{ours}.norm1.emb.{classes}"] = state["y_embedder.embedding_table.weight"]
        put(f"{ours}.norm1.linear", f"{theirs}.adaLN_modulation.1")
        put(f"{ours}.attn1.to_out.0", f"{theirs}.attn.proj")
        put(f"{ours}.ff.net.0.proj", f"{theirs}.mlp.fc1")
        put(f"{ours}.ff.net.2", f"{theirs}.mlp.fc2")
        for part in ("weight", "bias"):
            for letter, rows in zip("qkv", state[f"{theirs}.attn.qkv.{part}"].chunk(3), strict=True):
                found[f"{ours}.attn1.to_{letter}.{part}"] = rows
    found["pos_embed.pos_embed"] = state["pos_embed"]
    return found


def _fill(model: Any, file: Path, state: dict[str, Tensor]) -> None:
    """Weights into the network, in place. Raises ModelError for what does not fit."""
    places = state.pop("pos_embed.pos_embed", None)
    try:
        model.load_state_dict(state, assign=True)  # what the file is mapped to, not a copy of it
        if places is not None:
            model.pos_embed.pos_embed.copy_(places)
    except (RuntimeError, KeyError) as error:
        raise ModelError(f"{file}: its weights are no DiT's of this shape ({_line(error)})") from None


def _vae(folder: Path) -> nn.Module:
    """The autoencoder's encoder. Raises ModelError."""
    import json

    from diffusers import AutoencoderKL

    file = _weights(folder)
    state = read_tensors(file, {_new_name(key): key for key in entries(file).tensors})
    for name in [name for name in state if ".attentions." in name and state[name].ndim == 4]:
        state[name] = state[name][:, :, 0, 0]  # 1 × 1 convolutions in old files
    try:
        config = json.loads((folder / "config.json").read_bytes())
        model: Any = AutoencoderKL.from_config(config)
        model.load_state_dict(state)
    except (RuntimeError, ValueError, TypeError) as error:
        raise ModelError(f"{file}: no autoencoder of its config.json ({_line(error)})") from None
    del model.decoder
    made: nn.Module = model
    return made


def _new_name(key: str) -> str:
    parts = key.split(".")
    return ".".join(OLD_ATTENTION.get(part, part) if "attentions" in parts else part for part in parts)


def _weights(folder: Path) -> Path:
    names = [folder / f"{STEM}{suffix}" for suffix in (".safetensors", ".bin")]
    return next(name for name in names if name.is_file())


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
