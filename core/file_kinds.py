"""What a weight file is, told from its tensor names alone, and which node takes it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class FileKind:
    """A kind of weight file, in the words of an error message."""

    name: str
    description: str
    remedy: str


MOTION_MODULE = FileKind("motion module", "a motion module", "Load it with LoadMotionModule.")
MOTION_LORA = FileKind("motion LoRA", "a MotionLoRA", "Apply it with ApplyMotionLoRA.")
DOMAIN_ADAPTER = FileKind(
    "domain adapter", "a domain adapter or other UNet LoRA", "Apply it with Apply Domain Adapter (folder loras)."
)
LORA = FileKind("LoRA", "a LoRA for the base model", "Apply it with LoraLoader (folder loras).")
CAMERACTRL = FileKind("CameraCtrl", "a CameraCtrl pose encoder", "MotionGraft does not read this kind.")
ANIMATELCM_I2V = FileKind(
    "AnimateLCM-I2V",
    "an AnimateLCM-I2V motion module with its image encoder",
    "MotionGraft does not read this kind; AnimateLCM_sd15_t2v it does.",
)
SPARSECTRL = FileKind(
    "SparseCtrl", "a SparseCtrl encoder", "Load it with Load SparseCtrl (folder controlnet), then Apply ControlNet."
)
CONTROLNET = FileKind("ControlNet", "a ControlNet", "Load it with ControlNetLoader (folder controlnet).")
CHECKPOINT = FileKind("checkpoint", "a whole base model", "Load it with CheckpointLoaderSimple (folder checkpoints).")
UNET = FileKind("UNet", "a base UNet", "Load it with UNETLoader (folder diffusion_models).")
CLIP = FileKind("text encoder", "a text encoder", "Load it with CLIPLoader (folder text_encoders).")
VAE = FileKind("VAE", "a VAE", "Load it with VAELoader (folder vae).")
UNKNOWN = FileKind("unknown", "not a kind of file that MotionGraft knows", "Choose another file.")

_Test = Callable[[str], bool]


def _has(*parts: str) -> _Test:
    return lambda names: any(part in names for part in parts)


_LOW_RANK = _has(
    *("lora_down", "lora_up", "_lora.down", "_lora.up", ".lora_A", ".lora_B", "0_lora", ".lora.down"),
    *(".lora_linear_layer.", ".lora_magnitude_vector", ".hada_w", ".lokr_w", ".dora_scale"),
)
_TEMPORAL = _has("motion_modules", "temporal_attentions")


_CONTROL = _has("control_model.", "controlnet_cond_embedding", "controlnet_blocks", "zero_convs.", "input_hint_block")


def _unet_low_rank(names: str) -> bool:
    return _LOW_RANK(names) and _has(".processor.", "unet.")(names)


# Ordered: the first test that holds names the kind.
_RULES: tuple[tuple[_Test, FileKind], ...] = (
    (_has("controlnet_cond_embedding.weight"), SPARSECTRL),
    (lambda names: _TEMPORAL(names) and _CONTROL(names), SPARSECTRL),
    (_CONTROL, CONTROLNET),
    (_has("qkv_merge"), CAMERACTRL),
    (lambda names: _TEMPORAL(names) and _has("img_encoder.")(names), ANIMATELCM_I2V),
    (lambda names: _TEMPORAL(names) and _LOW_RANK(names), MOTION_LORA),
    (_TEMPORAL, MOTION_MODULE),
    (_unet_low_rank, DOMAIN_ADAPTER),
    (_LOW_RANK, LORA),
    (_has("cond_stage_model.", "first_stage_model.", "conditioner.embedders"), CHECKPOINT),
    (_has("diffusion_model.", "input_blocks.", "down_blocks.", "double_blocks.", "joint_blocks."), UNET),
    (_has("text_model.encoder"), CLIP),
    (_has("decoder.conv_in", "encoder.conv_in"), VAE),
)  # fmt: skip


def classify(names: Iterable[str]) -> FileKind:
    """The kind of file whose tensors have these names.

    Source: tensor names of the published files; motion module, MotionLoRA and SparseCtrl guoyww/AnimateDiff,
    domain adapter and LoRA layouts huggingface/diffusers and comfy/lora.py of ComfyUI.
    """
    joined = "\n".join(names)
    return next((kind for holds, kind in _RULES if holds(joined)), UNKNOWN)
