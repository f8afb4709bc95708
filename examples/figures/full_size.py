"""What full-size models cost here: random weights in their published formats, one picture, ten classes.

python examples/figures/full_size.py FOLDER --models dit-xl-2,randar-l --draws 2

Every model's files are written to FOLDER (3 GB for DiT-XL/2) and deleted after its run.
`anytime-cls classify` races them in a process of its own, all draws of all classes. Its seconds are those
that it reports, without loading; its peak memory is what the system counted. Needs the package diffusers for
DiT, 8 GB of memory, and minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

from anytime_cls.models.load import build_transformer
from anytime_cls.models.zoo import read_card
from anytime_cls.scorers.shapes import SHAPES
from anytime_cls.tokenizers.vq import LlamaGenTokenizer, VQConfig

PICTURE = Path(__file__).parents[1] / "cat.jpg"
CLASSES = ",".join(str(100 * i) for i in range(10))


def randar_l(folder: Path) -> str:
    """RandAR-L and LlamaGen's tokenizer; what `--model` takes."""
    transformer = build_transformer("randar", SHAPES["randar-l"].to_dict())
    torch.nn.init.normal_(transformer.output.weight, std=0.02)  # type: ignore[union-attr]
    save_file({k: v.contiguous() for k, v in transformer.reference_state().items()}, folder / "l.safetensors")
    save_file(LlamaGenTokenizer(VQConfig()).state_dict(), folder / "tokenizer.safetensors")
    return str(folder / "l.safetensors")


def dit_xl_2(folder: Path) -> str:
    """DiT-XL/2 under its original names, and Stable Diffusion's autoencoder as diffusers writes it."""
    from diffusers import AutoencoderKL

    wide = (128, 256, 512, 512)
    AutoencoderKL(
        block_out_channels=wide,
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        latent_channels=4,
        layers_per_block=2,
    ).save_pretrained(folder / "vae")
    dim, state = 1152, {}

    def put(name: str, *shape: int) -> None:
        state[f"{name}.weight"] = torch.randn(shape) * 0.02
        state[f"{name}.bias"] = torch.zeros(shape[0])

    put("x_embedder.proj", dim, 4, 2, 2)
    put("t_embedder.mlp.0", dim, 256)
    put("t_embedder.mlp.2", dim, dim)
    state["y_embedder.embedding_table.weight"] = torch.randn(1001, dim) * 0.02
    state["pos_embed"] = torch.randn(1, 256, dim)
    for i in range(28):
        put(f"blocks.{i}.attn.qkv", 3 * dim, dim)
        put(f"blocks.{i}.attn.proj", dim, dim)
        put(f"blocks.{i}.mlp.fc1", 4 * dim, dim)
        put(f"blocks.{i}.mlp.fc2", dim, 4 * dim)
        put(f"blocks.{i}.adaLN_modulation.1", 6 * dim, dim)
    put("final_layer.linear", 32, dim)
    put("final_layer.adaLN_modulation.1", 2 * dim, dim)
    save_file(state, folder / "DiT-XL-2-256x256.safetensors")
    return f"dit:{folder / 'DiT-XL-2-256x256.safetensors'}"


MODELS: dict[str, Callable[[Path], str]] = {"dit-xl-2": dit_xl_2, "randar-l": randar_l}


def run(model: str, draws: int, dtype: str) -> dict[str, float]:
    """Seconds of the race, and peak MiB, of one picture in a process of its own."""
    command = [
        sys.executable, "-m", "anytime_cls_cli", "classify", str(PICTURE), "--model", model,
        "--device", "cpu", "--dtype", dtype, "--classes", CLASSES, "--rule", "fixed", "--orders", "uniform",
        "--max-orders", str(draws), "--json", "-q",
    ]  # fmt: skip
    child = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert child.stdout is not None
    said = child.stdout.read()
    _, status, used = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    row = json.loads(said)
    seconds = used.ru_utime + used.ru_stime
    return {"seconds": row["seconds"], "cpu_seconds": seconds, "peak_mib": used.ru_maxrss / 1024}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--draws", type=int, default=2)
    parser.add_argument("--dtype", default="float32")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    for name in arguments.models.split(","):
        folder = arguments.folder / name
        folder.mkdir(parents=True)
        try:
            with torch.inference_mode():
                model = MODELS[name](folder)
            card = read_card(model)
            weights = sum(path.stat().st_size for path in card.files.values())
            found = run(model, arguments.draws, arguments.dtype)
            each = found["seconds"] / arguments.draws / 10
            print(
                f"{name}, {arguments.dtype}, {torch.get_num_threads()} threads: "
                f"{card.shape.flops(card.shape.steps) / 1e9:.1f} GFLOPs a draw and class, "
                f"files {weights / 1e6:.0f} MB, {arguments.draws} draws of 10 classes in "
                f"{found['seconds']:.1f} s ({each:.2f} s each), "
                f"{found['cpu_seconds']:.1f} s of CPU with loading, "
                f"peak {found['peak_mib']:.0f} MiB",
                flush=True,
            )
        finally:
            for path in sorted(folder.rglob("*"), reverse=True):
                path.unlink() if path.is_file() else path.rmdir()
            folder.rmdir()


if __name__ == "__main__":
    main()
