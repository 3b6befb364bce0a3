"""A set of toy weight files where ComfyUI looks for models."""

from pathlib import Path

from .checkpoints import (
    SDXL_CHANNELS,
    write_controlnet,
    write_domain_adapter,
    write_motion_lora,
    write_motion_module,
    write_sparse_control,
    write_tiny_sd15,
    write_tiny_sdxl,
)

SD15_CHECKPOINT = "tiny_sd15.safetensors"
SDXL_CHECKPOINT = "tiny_sdxl.safetensors"
MOTION_MODULE_V1 = "tiny_v1.safetensors"
MOTION_MODULE_V2 = "tiny_v2.safetensors"
MOTION_MODULE_V3 = "tiny_v3.safetensors"
MOTION_MODULE_SDXL = "tiny_sdxl_motion.safetensors"
MOTION_LORA = "tiny_motion_lora.safetensors"
DOMAIN_ADAPTER = "tiny_domain_adapter.safetensors"
CONTROLNET = "tiny_controlnet.safetensors"
SPARSECTRL = "tiny_sparsectrl_rgb.safetensors"


def write_model_folders(base_directory: Path) -> None:
    """One file of every kind below `base_directory`/models: a few seconds, about 130 MB."""
    models = base_directory / "models"
    write_tiny_sd15(models / "checkpoints" / SD15_CHECKPOINT)
    write_tiny_sdxl(models / "checkpoints" / SDXL_CHECKPOINT)
    write_motion_module(models / "animatediff_models" / MOTION_MODULE_V1, seed=1, positions=24)
    write_motion_module(models / "animatediff_models" / MOTION_MODULE_V2, seed=2, middle=True)
    write_motion_module(models / "animatediff_models" / MOTION_MODULE_V3, seed=3)
    write_motion_module(models / "animatediff_models" / MOTION_MODULE_SDXL, SDXL_CHANNELS, seed=4)
    write_motion_lora(models / "animatediff_motion_lora" / MOTION_LORA, seed=5, middle=True)
    write_domain_adapter(models / "loras" / DOMAIN_ADAPTER, seed=6)
    write_controlnet(models / "controlnet" / CONTROLNET, seed=7)
    write_sparse_control(models / "controlnet" / SPARSECTRL, seed=8)
