"""The published families of motion modules: what each was trained under, and how a file shows which one it is of."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ..core.dialects import HOTSHOTXL, Dialect

AUTO = "auto"
"""The generation that the file shows."""
SD15, SDXL = 4, 3
"""Levels of the UNet of each base."""


@dataclass(frozen=True)
class Generation:
    """A family of motion modules, and what its weights alone do not say."""

    name: str
    levels: tuple[int, ...]
    """Depths of the UNets that it exists for."""
    base_norms_over_frames: bool = False
    motion_norm_over_frames: bool = False
    beta_schedule: str = "animatediff"
    trained_frames: int = 16
    num_positions: int = 32
    """Length of the position tables that are made for a file that stores none."""


GENERATIONS: Mapping[str, Generation] = MappingProxyType(
    {
        generation.name: generation
        for generation in (
            Generation("v1", (SD15,), base_norms_over_frames=True, num_positions=24),
            Generation("v2", (SD15,)),
            Generation("v3", (SD15,)),
            Generation("sdxl-beta", (SDXL,), motion_norm_over_frames=True, beta_schedule="sdxl-beta"),
            Generation(
                "hotshotxl",
                (SDXL,),
                base_norms_over_frames=True,
                beta_schedule="linear",
                trained_frames=8,
                num_positions=24,
            ),
            Generation("animatelcm", (SD15,), beta_schedule="animatelcm", num_positions=64),
            Generation("pia", (SD15,), base_norms_over_frames=True),
            Generation("diffusers", (SD15, SDXL), motion_norm_over_frames=True),
        )
    }
)
"""Norms, schedule, frames and positions of each.

Source: guoyww/AnimateDiff configs/inference/inference-v1.yaml, -v2.yaml, -v3.yaml and branch `sdxl`;
hotshotco/Hotshot-XL resnet.py, transformer_temporal.py and inference.py; G-U-N/AnimateLCM configs/inference-t2v.yaml
and motion_module.py; open-mmlab/PIA example/config/base.yaml and resnet.py; `diffusers` is what huggingface/diffusers
trains, unet_motion_model.py. HotshotXL's schedule stands in no file of its repository: it is SDXL's own.
"""


@dataclass(frozen=True)
class Traits:
    """What can be seen of a file without knowing its family."""

    dialect: Dialect
    levels: int
    has_middle: bool
    num_positions: int | None
    """None if the file stores no positions."""
    image_channels: int
    """Channels of an image input beside the latent, 0 for none."""
    is_whole_unet: bool
    """The base UNet lies in the same file."""
    file_name: str


@dataclass(frozen=True)
class Classification:
    """The family of a file, why, and what else it may be."""

    generation: str
    evidence: str
    """Ends the sentence "it is …, because …"."""
    doubt: str = ""
    """What the file cannot tell, a whole sentence; empty if there is no doubt."""


def classify(traits: Traits) -> Classification:
    """The family that a file without our metadata is of, by what only that family has.

    Source: the layouts of the published files, as in `GENERATIONS`.
    """
    if traits.image_channels:
        return Classification("pia", "its input convolution takes an image beside the latent")
    if traits.levels == SDXL:
        return _classify_sdxl(traits)
    if traits.has_middle:
        return _classify_with_middle(traits)
    return _classify_without_middle(traits)


def _classify_sdxl(traits: Traits) -> Classification:
    if traits.dialect is HOTSHOTXL:
        return Classification("hotshotxl", "its layers are named temporal_attentions, as HotshotXL's are")
    if traits.num_positions == GENERATIONS["hotshotxl"].num_positions and not traits.has_middle:
        return Classification(
            "hotshotxl", "it has three levels and 24 positions, as HotshotXL alone was published with"
        )
    if traits.num_positions == GENERATIONS["sdxl-beta"].num_positions and not traits.has_middle:
        return Classification("sdxl-beta", "it has three levels and 32 positions, as the SDXL beta was published with")
    return Classification(
        "sdxl-beta",
        f"it has three levels, and {_length(traits)}",
        "No published module is like it, so that its norms and its schedule are taken to be the SDXL beta's.",
    )


def _classify_with_middle(traits: Traits) -> Classification:
    if "lcm" in traits.file_name.lower():
        doubt = "" if traits.num_positions is None else "AnimateLCM itself was published without positions."
        return Classification("animatelcm", f"it has a middle block, {_length(traits)}, and LCM in its name", doubt)
    if traits.is_whole_unet:
        return Classification("v2", _TRAINER.format("a middle block"), _OTHER_NORMS)
    if traits.num_positions is not None:
        return Classification("v2", f"it has a middle block and {_length(traits)}")
    return Classification(
        "v2",
        "it has a middle block and stores no positions",
        "AnimateLCM is like it too, and a name with LCM in it would tell; its schedule is animatelcm.",
    )


def _classify_without_middle(traits: Traits) -> Classification:
    if traits.num_positions == GENERATIONS["v1"].num_positions and not traits.is_whole_unet:
        return Classification("v1", "it has no middle block and 24 positions, as v1 alone was published with")
    if traits.is_whole_unet:
        return Classification("v1", _TRAINER.format("no middle block"), _OTHER_NORMS)
    if traits.num_positions is None:
        return Classification(
            "v1", "AnimateDiff's trainer saves such files, with no middle block or positions", _OTHER_NORMS
        )
    if traits.num_positions == GENERATIONS["v3"].num_positions:
        return Classification("v3", "it has no middle block and 32 positions")
    return Classification("v3", f"it has no middle block and {_length(traits)}", _OTHER_NORMS)


_TRAINER = "it lies in one file with its UNet, as AnimateDiff's trainer saves it, and has {}"
_OTHER_NORMS = (
    "Norms over all frames, as in v1 and in the trainer's own configuration, or frame by frame, as in v2 and v3, "
    "cannot be seen in a file."
)
"""Source: guoyww/AnimateDiff configs/training/v1/training.yaml leaves `use_inflated_groupnorm` at its False."""


def _length(traits: Traits) -> str:
    return "no positions" if traits.num_positions is None else f"{traits.num_positions} positions"
