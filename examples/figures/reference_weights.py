"""Full-size RandAR-L written by its public reference code, loaded by ours: do they give the same log p?

git clone https://github.com/ziqipang/RandAR; pip install einops
python examples/figures/reference_weights.py RandAR FOLDER

The reference code makes a RandAR-L with random weights and saves it as it saves them: its state dict with
torch.save, bare and under "model", and as safetensors. Each is read and compared, and per-token
log-probabilities of two rows (a random order, and raster with the null class) are put side by side. Needs
6 GB of disk and 8 GB of memory, and takes minutes on a CPU.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch

from anytime_cls.models.checkpoints import inspect, read_state
from anytime_cls.models.convert import convert
from anytime_cls.scorers.randar import RandAR
from anytime_cls.scorers.shapes import RandARConfig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkout", type=Path, help="of github.com/ziqipang/RandAR")
    parser.add_argument("folder", type=Path, help="where the files are written")
    arguments = parser.parse_args()
    sys.path.insert(0, str(arguments.checkout))
    from RandAR.model.randar_gpt import RandARTransformer
    from RandAR.util import load_safetensors, save_model_safetensors

    folder = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    shape = {"dim": 1024, "n_layer": 24, "n_head": 16, "vocab_size": 16384}
    reference = RandARTransformer(**shape, block_size=256, num_classes=1000, grad_checkpointing=False)
    torch.nn.init.normal_(reference.output.weight, std=0.02)  # zero when it is new: nothing to compare
    reference.eval()
    print(f"{sum(p.numel() for p in reference.parameters()) / 1e6:.3f} M numbers")

    torch.save(reference.state_dict(), folder / "bare.pt")
    torch.save({"model": reference.state_dict(), "steps": 3}, folder / "wrapped.pt")
    save_model_safetensors(reference, folder / "theirs.safetensors")
    convert(folder / "wrapped.pt", folder / "ours.safetensors")
    own = reference.state_dict()
    for name in ("bare.pt", "wrapped.pt", "theirs.safetensors", "ours.safetensors"):
        began = time.perf_counter()
        checkpoint = inspect(folder / name)
        inspected = time.perf_counter() - began
        state = read_state(checkpoint)
        same = state.keys() == own.keys() and all(torch.equal(state[key], own[key]) for key in own)
        print(f"{name}: {dict(checkpoint.shape)}, told in {inspected:.2f} s, weights equal: {same}")
    print("ours in theirs:", reference.load_state_dict(load_safetensors(folder / "ours.safetensors")))

    generator = torch.Generator().manual_seed(5)
    tokens = torch.randint(0, 16384, (2, 256), generator=generator)
    classes = torch.tensor([207, 1000])
    orders = torch.stack([torch.randperm(256, generator=generator), torch.arange(256)])
    with torch.inference_mode():
        logits, _, _ = reference(tokens, classes, orders, targets=tokens)
        targets = tokens.gather(1, orders)[..., None]
        theirs = logits.log_softmax(dim=-1).gather(-1, targets).squeeze(-1)
        model = RandAR(RandARConfig.from_dict(checkpoint.shape))
        model.load_reference(state)
        ours = model.eval()(tokens, classes, orders)
    difference = (theirs - ours).abs().max().item()
    print(f"log p of an image: {theirs.sum(1).tolist()} (reference), {ours.sum(1).tolist()} (ours)")
    print(f"largest difference of a token's log p: {difference:.2g} nats")


if __name__ == "__main__":
    main()
