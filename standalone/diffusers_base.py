"""A base model of the diffusers library: from a single-file checkpoint, a diffusers folder, or a UNet that exists."""

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

from ..core.errors import CheckpointError
from ..core.file_kinds import classify
from ..core.tensor_files import read_tensor_file
from ..sampling.beta_schedules import BETA_SCHEDULES, BETAS, SQUARE_ROOTS, BetaSchedule
from ..training.denoiser import NOISE, VELOCITY
from ..training.draws import NUM_TIMESTEPS
from ..training.noise_schedule import signal_shares
from ..training.stages import BaseShape
from .ldm_names import diffusers_unet_name
from .unet_topology import SD15, SDXL, check_whole, family_of, not_a_base, topology_of

LATENT_SCALES = {SD15: 0.18215, SDXL: 0.13025}
"""Source: CompVis/stable-diffusion v1-inference.yaml and stabilityai sd_xl_base.yaml, `scale_factor`."""
PREFIX = "model.diffusion_model."
V_PREDICTION, ZERO_TERMINAL = "v_pred", "ztsnr"
"""Tensors by whose presence a checkpoint says how it was trained. Source: ComfyUI supported_models.py, `SDXL`."""
FOREIGN_NOISE = ("edm_mean", "edm_vpred.sigma_max")
PLAIN_TYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
SMALLEST_SHARE = 4.8973451890853435e-08
"""What ComfyUI keeps of a signal share of zero (model_sampling.py, `rescale_zero_terminal_snr_sigmas`)."""
NOTHING = 1e-6
"""A share of the signal that only a schedule with zero terminal SNR goes below."""
SPACINGS = {"scaled_linear": SQUARE_ROOTS, "linear": BETAS}
"""Diffusers' names for schedules whose betas, or their square roots, grow evenly."""
PREDICTIONS = {"epsilon": NOISE, "v_prediction": VELOCITY}
WEIGHTS = "diffusion_pytorch_model"


@dataclass(frozen=True)
class DiffusersBase:
    """A frozen base model. Its UNet may be shared: whoever hooks into it takes an `own_unet` first."""

    unet: UNet2DConditionModel
    shape: BaseShape
    alphas: Tensor
    """ᾱ of its own noise schedule, by timestep. Shapes: `t`, float64"""
    predicts: str
    """`noise` or `velocity`."""
    latent_scale: float
    """By what latents of its VAE are multiplied."""

    @property
    def text_width(self) -> int:
        return int(self.unet.config["cross_attention_dim"])

    @property
    def pooled_width(self) -> int | None:
        """Of SDXL's pooled text, None for a base without."""
        return pooled_width(self.unet)

    def on(self, shares: Tensor) -> Tensor:
        """A motion module's noise schedule as this base runs it: stretched if the base has zero terminal SNR.

        Shapes: `t` -> `t`, float64
        """
        return with_zero_terminal_share(shares) if self.alphas[-1] < NOTHING else shares


def load_base(path: Path) -> DiffusersBase:
    """The base model in a single-file checkpoint or a diffusers folder. Never touches a network.

    Raises: CheckpointError if it is damaged, or neither SD 1.5 nor SDXL.
    """
    path = Path(path)
    if path.is_dir():
        return _load_folder(path)
    if not path.is_file():
        raise CheckpointError(
            f"expected a checkpoint or a diffusers folder at {path}, found nothing. Give the path of one."
        )
    return _load_file(path)


def base_of(
    unet: UNet2DConditionModel, alphas: Tensor | None = None, predicts: str = NOISE, latent_scale: float = 0.18215
) -> DiffusersBase:
    """A base around a UNet that exists, of any size. Its weights are shared, and nothing of it is changed.

    `alphas` are Stable Diffusion's own unless given.
    """
    has_label = unet.config["addition_embed_type"] == "text_time"
    shape = BaseShape(SDXL if has_label else SD15, tuple(unet.config["block_out_channels"]))
    shares = signal_shares(BETA_SCHEDULES["linear"]) if alphas is None else alphas.double().cpu()
    return DiffusersBase(own_unet(unet), shape, shares, predicts, latent_scale)


def own_unet(
    unet: UNet2DConditionModel, device: torch.device | None = None, dtype: torch.dtype | None = None
) -> UNet2DConditionModel:
    """A frozen UNet of one's own, to hook into. It shares the weights that are on the device and of the type already.

    Hooks and modes belong to its layers alone, and nobody else sees them.
    """
    memo: dict[int, Any] = {
        id(weight): nn.Parameter(weight.detach().to(device, dtype), requires_grad=False) for weight in unet.parameters()
    }
    memo |= {id(buffer): buffer.detach().to(device) for buffer in unet.buffers()}
    return copy.deepcopy(unet, memo).eval()


def pooled_width(unet: UNet2DConditionModel) -> int | None:
    """The width of the pooled text that a UNet is told, None for one that is told none."""
    if unet.config["addition_embed_type"] != "text_time":
        return None
    return int(unet.config["projection_class_embeddings_input_dim"] - 6 * unet.config["addition_time_embed_dim"])


def unet_tensors(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """The UNet of a single-file checkpoint under diffusers' names.

    Raises: CheckpointError if there is none, or it has names that no UNet of SD 1.5 or SDXL has.
    """
    prefix = PREFIX if any(key.startswith(PREFIX) for key in tensors) else ""
    own = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
    if not prefix and "input_blocks.0.0.weight" not in own:
        raise CheckpointError(not_a_base(name, classify(tensors).description))
    named = {key: diffusers_unet_name(key) for key in own}
    if prefix and (foreign := [key for key, theirs in named.items() if theirs is None]):
        raise CheckpointError(not_a_base(name, f"a UNet of another design ({foreign[0]})"))
    return {theirs: own[key] for key, theirs in named.items() if theirs is not None}


def _load_file(path: Path) -> DiffusersBase:
    file = read_tensor_file(path)
    if odd := [key for key in FOREIGN_NOISE if key in file.tensors]:
        raise CheckpointError(not_a_base(file.name, f"one that was trained under another noise ({odd[0]})"))
    tensors = unet_tensors(file.tensors, file.name)
    _check_types(tensors, file.name)
    topology = topology_of(tensors, file.metadata.get("num_heads"), file.name)
    with torch.device("meta"):
        unet = UNet2DConditionModel(**topology.config())
    check_whole(unet.state_dict(), tensors, file.name)
    unet.load_state_dict(tensors, assign=True)
    shares = signal_shares(BETA_SCHEDULES["linear"])
    return DiffusersBase(
        unet.requires_grad_(False).eval(),
        BaseShape(topology.family, topology.channels),
        with_zero_terminal_share(shares) if ZERO_TERMINAL in file.tensors else shares,
        VELOCITY if V_PREDICTION in file.tensors else NOISE,
        LATENT_SCALES[topology.family],
    )


def _check_types(tensors: Mapping[str, Tensor], name: str) -> None:
    odd = {str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values() if tensor.dtype not in PLAIN_TYPES}
    if odd:
        raise CheckpointError(
            f"{name}: expected weights in fp32, fp16 or bf16, found {', '.join(sorted(odd))}. "
            "Get the checkpoint without quantisation."
        )


def _load_folder(folder: Path) -> DiffusersBase:
    place = folder / "unet" if (folder / "unet").is_dir() else folder
    config = _json(place / "config.json", folder)
    if config.get("_class_name") != "UNet2DConditionModel":
        raise CheckpointError(not_a_base(folder.name, f"a folder of {config.get('_class_name') or 'something else'}"))
    family = _family_of_config(config, folder.name)
    try:
        unet = UNet2DConditionModel.from_pretrained(place, local_files_only=True, variant=_variant(place))
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(
            f"{folder.name}: expected a whole UNet in {place}, which diffusers could not load ({reason}). "
            "Get the folder again."
        ) from error
    schedule = _json(folder / "scheduler" / "scheduler_config.json", folder) if place != folder else {}
    autoencoder = folder / "vae" / "config.json"
    scale = _json(autoencoder, folder).get("scaling_factor") if autoencoder.is_file() else None
    return DiffusersBase(
        unet.requires_grad_(False).eval(),
        BaseShape(family, tuple(config["block_out_channels"])),
        _scheduler_shares(schedule, folder.name),
        _prediction(schedule, folder.name),
        scale or LATENT_SCALES[family],
    )


def _family_of_config(config: Mapping[str, Any], name: str) -> str:
    has_label = config.get("addition_embed_type") == "text_time"
    is_linear = bool(config.get("use_linear_projection"))
    return family_of(
        len(config.get("block_out_channels", ())), has_label, is_linear, int(config.get("in_channels", 4)), name
    )


def _variant(place: Path) -> str | None:
    """`fp16` where a folder has its weights under that name alone."""
    plain = any(
        (place / f"{WEIGHTS}{suffix}").is_file() for suffix in (".safetensors", ".bin", ".safetensors.index.json")
    )
    return None if plain or not list(place.glob(f"{WEIGHTS}.fp16.*")) else "fp16"


def _json(path: Path, folder: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{folder.name}: expected a diffusers folder with {path.relative_to(folder)}, which is missing or no JSON. "
            "Give the folder that holds model_index.json, or a single-file checkpoint."
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a JSON object. Get the folder again.")
    return content


def _prediction(schedule: Mapping[str, Any], name: str) -> str:
    said = schedule.get("prediction_type", "epsilon")
    if said not in PREDICTIONS:
        raise CheckpointError(not_a_base(name, f"one that predicts {said}"))
    return PREDICTIONS[said]


def _scheduler_shares(schedule: Mapping[str, Any], name: str) -> Tensor:
    """ᾱ as a folder's scheduler has it; of a bare UNet, Stable Diffusion's own. Shapes: -> `t`, float64"""
    spacing = SPACINGS.get(schedule.get("beta_schedule", "scaled_linear"))
    steps = schedule.get("num_train_timesteps", NUM_TIMESTEPS)
    if spacing is None or steps != NUM_TIMESTEPS or schedule.get("trained_betas"):
        raise CheckpointError(not_a_base(name, f"the noise schedule {schedule.get('beta_schedule')} of {steps} steps"))
    usual = BETA_SCHEDULES["linear"]
    first, last = schedule.get("beta_start", usual.first), schedule.get("beta_end", usual.last)
    shares = signal_shares(BetaSchedule(spacing, first, last))
    return with_zero_terminal_share(shares) if schedule.get("rescale_betas_zero_snr") else shares


def with_zero_terminal_share(shares: Tensor) -> Tensor:
    """The schedule stretched so that nothing of the signal is left at its last timestep.

    Shapes: `t` -> `t`, float64
    Source: arXiv 2305.08891 algorithm 1.
    """
    roots = shares.sqrt()
    stretched = (roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])
    return (stretched**2).clamp(min=SMALLEST_SHARE)
