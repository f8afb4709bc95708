"""Which device and dtype a scorer runs on and in."""

from __future__ import annotations

import torch

from anytime_cls.plan.options import dtype_name

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_device(name: str = "auto") -> torch.device:
    """`auto` takes CUDA, then MPS, then the CPU. Raises ValueError for a device that is not there."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError):
        raise ValueError(
            f"device {name!r} is not available here: use auto, cpu, cuda, cuda:N or mps"
        ) from None
    return device


def choose_dtype(name: str) -> torch.dtype:
    """`float32`, `bfloat16` or `float16`, or fp32, bf16, fp16."""
    return DTYPES[dtype_name(name)]
