"""The autoencoder of a base model: from latents to pictures."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from torch import Tensor

from ..core.errors import CheckpointError
from ..core.tensor_files import read_tensor_file
from .unet_topology import check_whole

PREFIX = "first_stage_model."
TINY_DECODER = "taesd_decoder."
_LEVEL = re.compile(r"^(encoder\.down|decoder\.up)\.(\d+)\.(block\.\d+\.(.+)|(?:down|up)sample\.(conv\..+))$")
_MIDDLE = re.compile(r"^(encoder|decoder)\.mid\.(?:block_([12])|attn_(1))\.(.+)$")
_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
_TINY = re.compile(r"^taesd_(encoder|decoder)\.(\d+)\.(.+)$")


@dataclass(frozen=True)
class Autoencoder:
    """An autoencoder that takes latents in the size that the base model was trained on."""

    module: Any
    latent_scale: float
    """By what its own latents are multiplied for the model; 1 for the tiny ones, which know the model's."""

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Pictures of a clip, one frame at a time: all at once would need more memory than sampling does.

        Shapes: `f c h w` -> `f h w 3`, uint8 on the CPU
        """
        device = next(self.module.parameters()).device
        frames = [self._picture(frame[None].float().to(device)) for frame in latents]
        return torch.cat(frames)

    def _picture(self, latent: Tensor) -> Tensor:
        picture = self.module.decode(latent / self.latent_scale, return_dict=False)[0]
        return ((picture + 1) * 127.5).round().clamp(0, 255).to("cpu", torch.uint8).permute(0, 2, 3, 1)


def load_autoencoder(path: Path, latent_scale: float, device: torch.device) -> Autoencoder:
    """The autoencoder of a single-file checkpoint or diffusers folder, in float32.

    `latent_scale` is the base's. Raises: CheckpointError if there is none, or one of another design.
    """
    module: Any = _from_folder(path) if path.is_dir() else _from_file(path)
    module.float().to(device).requires_grad_(False).eval()
    return Autoencoder(module, 1.0 if isinstance(module, AutoencoderTiny) else latent_scale)


def kl_name(name: str, levels: int) -> str | None:
    """Diffusers' name of a weight of a single-file autoencoder, None for one that it has no use for.

    Source: CompVis/latent-diffusion model.py `Encoder`, `Decoder`; huggingface/diffusers AutoencoderKL.
    """
    if name.startswith(("quant_conv.", "post_quant_conv.")):
        return name
    if level := _LEVEL.match(name):
        return _of_level(level[1], int(level[2]), name, levels)
    if middle := _MIDDLE.match(name):
        return _of_middle(middle)
    coder, _, rest = name.partition(".")
    if coder in ("encoder", "decoder") and rest.startswith(("conv_in.", "conv_out.", "norm_out.")):
        return f"{coder}.{rest.replace('norm_out', 'conv_norm_out')}"
    return None


def _of_level(part: str, level: int, name: str, levels: int) -> str:
    """The decoder counts its levels from the outermost, diffusers from the innermost."""
    is_down = part == "encoder.down"
    block = f"encoder.down_blocks.{level}" if is_down else f"decoder.up_blocks.{levels - 1 - level}"
    kind, _, rest = name.removeprefix(f"{part}.{level}.").partition(".")
    if kind == "block":
        return f"{block}.resnets.{rest.replace('nin_shortcut', 'conv_shortcut')}"
    return f"{block}.{'downsamplers' if is_down else 'upsamplers'}.0.{rest}"


def _of_middle(match: re.Match[str]) -> str:
    coder, block, _, rest = match.groups()
    if block:
        return f"{coder}.mid_block.resnets.{int(block) - 1}.{rest}"
    layer, _, kind = rest.rpartition(".")
    return f"{coder}.mid_block.attentions.0.{_ATTENTION[layer]}.{kind}"


def tiny_name(name: str) -> str | None:
    """Diffusers' name of a weight of TAESD, whose decoder starts with a layer that diffusers does not count.

    Source: madebyollin/taesd taesd.py; huggingface/diffusers AutoencoderTiny.
    """
    match = _TINY.match(name)
    if match is None:
        return None
    index = int(match[2]) - (match[1] == "decoder")
    return f"{match[1]}.layers.{index}.{match[3]}"


def kl_config(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The arguments of AutoencoderKL for weights under diffusers' names."""
    levels = len({key.split(".")[2] for key in tensors if key.startswith("encoder.down_blocks.")})
    widths = [tensors[f"encoder.down_blocks.{level}.resnets.0.conv1.weight"].shape[0] for level in range(levels)]
    layers = {key.split(".")[4] for key in tensors if key.startswith("encoder.down_blocks.0.resnets.")}
    return {
        "block_out_channels": tuple(widths),
        "layers_per_block": len(layers),
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        "latent_channels": tensors["decoder.conv_in.weight"].shape[1],
    }


def _from_file(path: Path) -> Any:
    file = read_tensor_file(path)
    own = {key.removeprefix(PREFIX): tensor for key, tensor in file.tensors.items() if key.startswith(PREFIX)}
    if not own:
        raise CheckpointError(
            f"{path.name}: expected a whole checkpoint with its VAE, found none. "
            "Choose a checkpoint that holds UNet, text encoder and VAE, or a diffusers folder."
        )
    if any(key.startswith(TINY_DECODER) for key in own):
        tensors = {name: tensor for key, tensor in own.items() if (name := tiny_name(key))}
        return _loaded(AutoencoderTiny(), tensors, path)
    levels = len({match[2] for key in own if (match := _LEVEL.match(key)) and match[1] == "encoder.down"})
    tensors = {name: tensor for key, tensor in own.items() if (name := kl_name(key, levels))}
    tensors = {key: tensor.flatten(1) if _is_linear(key, tensor) else tensor for key, tensor in tensors.items()}
    return _loaded(AutoencoderKL(**kl_config(tensors)), tensors, path)


def _is_linear(key: str, tensor: Tensor) -> bool:
    """Attention was published as convolutions of one pixel."""
    return ".attentions." in key and tensor.ndim == 4


def _loaded(module: Any, tensors: Mapping[str, Tensor], path: Path) -> Any:
    check_whole(module.state_dict(), tensors, f"{path.name}, its VAE")
    module.load_state_dict(tensors)
    return module


def _from_folder(folder: Path) -> Any:
    place = folder / "vae"
    config = place / "config.json"
    is_tiny = config.is_file() and "AutoencoderTiny" in config.read_text(encoding="utf-8")
    plain = list(place.glob("diffusion_pytorch_model.safetensors")) or not list(place.glob("*.fp16.*"))
    try:
        return (AutoencoderTiny if is_tiny else AutoencoderKL).from_pretrained(
            place, local_files_only=True, variant=None if plain else "fp16"
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{folder.name}: expected its VAE in vae/, which could not be loaded "
            f"({str(error).strip().splitlines()[0]}). Get the whole diffusers folder."
        ) from error
