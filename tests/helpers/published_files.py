"""The tensor names and shapes of the published motion files, and small random files that bear these names.

Generated from the published architecture, without our own rooms, so that it can check them. `tests/data/published/`
is the record; `tests/unit/test_published_files.py` compares the two, and writes it anew with
MOTIONGRAFT_UPDATE_RECORD=1. Only names and shapes: nothing here holds anybody's weights.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from motiongraft.tests.tiny_sd_pack.motion_weights import position_table

Shape = tuple[int, ...]
Shapes = dict[str, Shape]
Named = Iterator[tuple[str, Shape]]

RECORD = Path(__file__).resolve().parents[1] / "data" / "published"
SD15_WIDTHS = (320, 640, 1280, 1280)
SDXL_WIDTHS = (320, 640, 1280)
TEXT_WIDTH = 768
SMALLEST_WIDTH = 320
"""Every real width is a multiple of it; no rank, number of positions, kernel or text width is."""
TOY_RANK = 4
ALPHA = 2.0
POSITION_TABLES = (".pe", ".positional_encoding")
SD15_UNET = {
    "block_out_channels": SD15_WIDTHS,
    "layers_per_block": 2,
    "cross_attention_dim": TEXT_WIDTH,
    "attention_head_dim": 8,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
}
"""Source: stable-diffusion-v1-5, unet/config.json."""


COMPVIS = (
    (r"(resnets\.\d)\.norm1\.", r"\1.in_layers.0."),
    (r"(resnets\.\d)\.conv1\.", r"\1.in_layers.2."),
    (r"(resnets\.\d)\.time_emb_proj\.", r"\1.emb_layers.1."),
    (r"(resnets\.\d)\.norm2\.", r"\1.out_layers.0."),
    (r"(resnets\.\d)\.conv2\.", r"\1.out_layers.3."),
    (r"(resnets\.\d)\.conv_shortcut\.", r"\1.skip_connection."),
    (r"^mid_block\.resnets\.0\.", "middle_block.0."),
    (r"^mid_block\.attentions\.0\.", "middle_block.1."),
    (r"^mid_block\.resnets\.1\.", "middle_block.2."),
    (r"^conv_in\.", "input_blocks.0.0."),
    (r"^time_embedding\.linear_1\.", "time_embed.0."),
    (r"^time_embedding\.linear_2\.", "time_embed.2."),
    (r"^controlnet_down_blocks\.(\d+)\.", r"zero_convs.\1.0."),
    (r"^controlnet_mid_block\.", "middle_block_out.0."),
    (r"^controlnet_cond_embedding\.", "input_hint_block.0."),
)
"""diffusers' names of layers in those of CompVis and lllyasviel/ControlNet, but for the number of a block."""


@dataclass(frozen=True)
class PublishedFile:
    """Where a file is published, and what gives its names and shapes."""

    source: str
    generate: Callable[[], Shapes]


@dataclass(frozen=True)
class Layer:
    """A linear layer that a LoRA changes."""

    name: str
    inputs: int
    outputs: int


def official_module(
    widths: tuple[int, ...],
    positions: int | None,
    middle: bool = False,
    transformer: str = "motion_modules.{}.temporal_transformer",
    table: str = "pe",
) -> Shapes:
    """A motion module as AnimateDiff's own code names it.

    Source: guoyww/AnimateDiff, animatediff/models/motion_module.py and unet_blocks.py. Tables are stored by the code
    before July 2024 (786a99c), which wrote the published files.
    """
    shapes: Shapes = {}
    for site, width in _sites(widths, middle, transformer):
        shapes.update(_temporal_transformer(site, width, None if positions is None else (table, positions)))
    return shapes


def hotshot_module() -> Shapes:
    """HotshotXL's temporal layers.

    Source: hotshotco/Hotshot-XL, hotshot_xl/models/transformer_temporal.py: same transformer, other attribute names,
    24 positions.
    """
    return official_module(SDXL_WIDTHS, 24, transformer="temporal_attentions.{}", table="positional_encoding")


def pia() -> Shapes:
    """PIA: a motion module of v3's shape, and a first convolution for latent, mask and reference latent.

    Source: open-mmlab/PIA, train.py. At 1.67 GB (ltdrdata/ComfyUI-Manager) pia.ckpt has room for no more of the UNet.
    """
    return {**official_module(SD15_WIDTHS, 32), **dict(_convolution("conv_in", 9, SMALLEST_WIDTH))}


def trainer_checkpoint() -> Shapes:
    """What the official trainer saves: the whole inflated UNet, as DistributedDataParallel names it.

    Source: guoyww/AnimateDiff, train.py line 416 and configs/training/v1/training.yaml: no middle block, and position
    tables are not part of the state.
    """
    whole = {**sd15_unet(), **official_module(SD15_WIDTHS, None)}
    return {f"module.{name}": shape for name, shape in whole.items()}


def sd15_unet() -> Shapes:
    """The UNet of Stable Diffusion 1.5 in diffusers' names. Needs diffusers."""
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    with torch.device("meta"):
        state = UNet2DConditionModel(**SD15_UNET).state_dict()
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def sparse_control(rgb: bool) -> Shapes:
    """A SparseCtrl encoder: the down path and middle of SD 1.5 with zero convolutions, and motion in the down path.

    Source: guoyww/AnimateDiff, animatediff/models/sparse_controlnet.py; configs/inference/sparsectrl/
    latent_condition.yaml (rgb) and image_condition.yaml (scribble). Needs diffusers.
    """
    shapes = _sparse_spatial(rgb)
    for site, width in _down_sites("motion_modules.{}.temporal_transformer"):
        shapes.update(_temporal_transformer(site, width, ("pe", 32), attentions=1))
    return shapes


def sparse_control_model(rgb: bool) -> Shapes:
    """The same as diffusers saves it. Source: huggingface/diffusers, models/controlnets/controlnet_sparsectrl.py."""
    shapes = _sparse_spatial(rgb)
    for site, width in _down_sites("motion_modules.{}"):
        shapes.update(_adapter_transformer(site, width, 32, attentions=1))
    return shapes


def webui_sparse_control(rgb: bool) -> Shapes:
    """The same for Stable Diffusion WebUI: the ControlNet in the names of CompVis, motion in those of AnimateDiff.

    Source: the sizes of conrevo/AnimateDiff-A1111, control/, which these names give to the byte.
    """
    return {webui_name(name): shape for name, shape in sparse_control(rgb).items()}


def webui_name(name: str) -> str:
    """WebUI's name of a tensor by AnimateDiff's."""
    if ".motion_modules." in name:
        return name
    for pattern, replacement in COMPVIS:
        name = re.sub(pattern, replacement, name)
    place = re.match(r"down_blocks\.(\d)\.(resnets|attentions)\.(\d)\.", name)
    if place:
        block, layer = 1 + 3 * int(place[1]) + int(place[3]), int(place[2] == "attentions")
        return f"input_blocks.{block}.{layer}.{name[place.end() :]}"
    end = re.match(r"down_blocks\.(\d)\.downsamplers\.0\.conv\.", name)
    return f"input_blocks.{3 + 3 * int(end[1])}.0.op.{name[end.end() :]}" if end else name


def _sparse_spatial(rgb: bool) -> Shapes:
    copied = ("conv_in.", "time_embedding.", "down_blocks.", "mid_block.")
    shapes = {name: shape for name, shape in sd15_unet().items() if name.startswith(copied)}
    condition = "controlnet_cond_embedding"
    if rgb:
        shapes.update(_convolution(condition, 4 + 1, SMALLEST_WIDTH))
    else:
        widths = (16, 16, 32, 32, 96, 96, 256)
        shapes.update(_convolution(f"{condition}.conv_in", 3 + 1, widths[0]))
        for index, (inputs, outputs) in enumerate(pairwise(widths)):
            shapes.update(_convolution(f"{condition}.blocks.{index}", inputs, outputs))
        shapes.update(_convolution(f"{condition}.conv_out", widths[-1], SMALLEST_WIDTH))
    behind = (320, 320, 320, 320, 640, 640, 640, 1280, 1280, 1280, 1280, 1280)
    for name, width in [(f"controlnet_down_blocks.{index}", width) for index, width in enumerate(behind)]:
        shapes.update(_convolution(name, width, width, kernel=1))
    shapes.update(_convolution("controlnet_mid_block", SD15_WIDTHS[-1], SD15_WIDTHS[-1], kernel=1))
    return shapes


def _down_sites(transformer: str) -> list[tuple[str, int]]:
    return [site for site in _sites(SD15_WIDTHS, False, transformer) if site[0].startswith("down_blocks.")]


def motion_adapter(widths: tuple[int, ...], positions: int, middle: bool = False, inputs: int | None = None) -> Shapes:
    """A motion module as diffusers saves it; one position table serves both attentions.

    Source: huggingface/diffusers, models/unets/unet_motion_model.py, MotionAdapter.
    """
    shapes: Shapes = dict(_convolution("conv_in", inputs, widths[0])) if inputs else {}
    for site, width in _sites(widths, middle, "motion_modules.{}"):
        shapes.update(_adapter_transformer(site, width, positions))
    return shapes


def _sites(widths: tuple[int, ...], middle: bool, transformer: str) -> Iterator[tuple[str, int]]:
    """Where motion modules sit: two for each level on the way down, three on the way up."""
    for blocks, levels, count in (("down_blocks", widths, 2), ("up_blocks", widths[::-1], 3)):
        for level, width in enumerate(levels):
            for index in range(count):
                yield f"{blocks}.{level}.{transformer.format(index)}", width
    if middle:
        yield f"mid_block.{transformer.format(0)}", widths[-1]


def _temporal_transformer(name: str, width: int, table: tuple[str, int] | None, attentions: int = 2) -> Named:
    block = f"{name}.transformer_blocks.0"
    yield from _norm(f"{name}.norm", width)
    yield from _linear(f"{name}.proj_in", width, width)
    for index in range(attentions):
        yield from _attention(f"{block}.attention_blocks.{index}", width)
        if table:
            yield f"{block}.attention_blocks.{index}.pos_encoder.{table[0]}", (1, table[1], width)
    for index in range(attentions):
        yield from _norm(f"{block}.norms.{index}", width)
    yield from _feed_forward(f"{block}.ff", width)
    yield from _norm(f"{block}.ff_norm", width)
    yield from _linear(f"{name}.proj_out", width, width)


def _adapter_transformer(name: str, width: int, positions: int, attentions: int = 2) -> Named:
    block = f"{name}.transformer_blocks.0"
    yield from _norm(f"{name}.norm", width)
    yield from _linear(f"{name}.proj_in", width, width)
    yield f"{block}.pos_embed.pe", (1, positions, width)
    for index in range(1, attentions + 1):
        yield from _norm(f"{block}.norm{index}", width)
        yield from _attention(f"{block}.attn{index}", width)
    yield from _norm(f"{block}.norm3", width)
    yield from _feed_forward(f"{block}.ff", width)
    yield from _linear(f"{name}.proj_out", width, width)


def _attention(name: str, width: int) -> Named:
    for projection in ("to_q", "to_k", "to_v"):
        yield f"{name}.{projection}.weight", (width, width)
    yield from _linear(f"{name}.to_out.0", width, width)


def _feed_forward(name: str, width: int) -> Named:
    """GEGLU: values and gates come out of one matrix."""
    yield from _linear(f"{name}.net.0.proj", width, 8 * width)
    yield from _linear(f"{name}.net.2", 4 * width, width)


def _linear(name: str, inputs: int, outputs: int) -> Named:
    yield f"{name}.weight", (outputs, inputs)
    yield f"{name}.bias", (outputs,)


def _norm(name: str, width: int) -> Named:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


def _convolution(name: str, inputs: int, outputs: int, kernel: int = 3) -> Named:
    yield f"{name}.weight", (outputs, inputs, kernel, kernel)
    yield f"{name}.bias", (outputs,)


def temporal_layers(middle: bool) -> list[Layer]:
    """The projections of all temporal attentions of an SD 1.5 module, in AnimateDiff's names."""
    return [
        layer
        for site, width in _sites(SD15_WIDTHS, middle, "motion_modules.{}.temporal_transformer")
        for index in (0, 1)
        for layer in _projections(f"{site}.transformer_blocks.0.attention_blocks.{index}", width, width)
    ]


def adapter_layers(middle: bool) -> list[Layer]:
    """The same layers in diffusers' names."""
    return [
        layer
        for site, width in _sites(SD15_WIDTHS, middle, "motion_modules.{}")
        for index in (1, 2)
        for layer in _projections(f"{site}.transformer_blocks.0.attn{index}", width, width)
    ]


def motion_director_layers() -> list[Layer]:
    """Every linear layer inside the temporal transformer blocks of a v3 module.

    Source: kijai/ComfyUI-ADMotionDirector, animatediff/utils/lora.py, target TemporalTransformerBlock.
    """
    layers = temporal_layers(middle=False)
    for site, width in _sites(SD15_WIDTHS, False, "motion_modules.{}.temporal_transformer"):
        feed_forward = f"{site}.transformer_blocks.0.ff.net"
        layers += [Layer(f"{feed_forward}.0.proj", width, 8 * width), Layer(f"{feed_forward}.2", 4 * width, width)]
    return layers


def spatial_layers() -> list[Layer]:
    """The projections of all spatial attentions of the SD 1.5 UNet: to itself, and to the text."""
    return [
        layer
        for site, width in _spatial_sites(SD15_WIDTHS)
        for index, context in ((1, width), (2, TEXT_WIDTH))
        for layer in _projections(f"{site}.transformer_blocks.0.attn{index}", width, context)
    ]


def processor_lora(layers: list[Layer], rank: int, prefix: str = "") -> Shapes:
    """A LoRA in the names of diffusers' attention processors, which the published files have too.

    Source: guoyww/AnimateDiff, animatediff/utils/convert_lora_safetensor_to_diffusers.py, load_diffusers_lora, which
    reads v2_lora_*.ckpt and v3_sd15_adapter.ckpt. `to_out_lora` is of `to_out.0`; there is no alpha.
    """
    shapes: Shapes = {}
    for layer in layers:
        attention, _, projection = layer.name.removesuffix(".0").rpartition(".")
        stem = f"{prefix}{attention}.processor.{projection}_lora"
        shapes.update(_factors(f"{stem}.down.weight", f"{stem}.up.weight", layer, rank))
    return shapes


def motion_director_lora(layers: list[Layer], rank: int) -> Shapes:
    """MotionDirector's MotionLoRA: `processor` stands before the last part of the layer's name, whatever it is.

    Source: kijai/ComfyUI-ADMotionDirector, animatediff/utils/lora.py, convert_to_motion_lora_key.
    """
    shapes: Shapes = {}
    for layer in layers:
        parent, _, last = layer.name.rpartition(".")
        stem = f"{parent}.processor.{last}_lora"
        shapes.update(_factors(f"{stem}.down.weight", f"{stem}.up.weight", layer, rank))
    return shapes


def peft_lora(layers: list[Layer], rank: int) -> Shapes:
    """A LoRA as diffusers saves it with PEFT.

    Source: huggingface/diffusers, loaders/lora_pipeline.py, save_lora_weights: `unet.` and PEFT's own names.
    """
    shapes: Shapes = {}
    for layer in layers:
        stem = f"unet.{layer.name}"
        shapes.update(_factors(f"{stem}.lora_A.weight", f"{stem}.lora_B.weight", layer, rank))
    return shapes


def webui_lora(layers: list[Layer], rank: int, prefix: str = "") -> Shapes:
    """A LoRA in the names that Stable Diffusion WebUI gives to a motion module's layers: dots become underscores.

    Source: continue-revolution/sd-webui-animatediff, scripts/animatediff_mm.py, _set_layer_mapping: no prefix.
    """
    shapes: Shapes = {}
    for layer in layers:
        stem = _underscored(layer, prefix)
        shapes.update(_factors(f"{stem}.lora_down.weight", f"{stem}.lora_up.weight", layer, rank))
    return shapes


def kohya_lora(layers: list[Layer], rank: int) -> Shapes:
    """A LoRA in the names of kohya's trainer: a prefix, and an alpha for each layer.

    Source: kohya-ss/sd-scripts, networks/lora.py.
    """
    prefix = "lora_unet_"
    alphas: Shapes = {f"{_underscored(layer, prefix)}.alpha": () for layer in layers}
    return {**webui_lora(layers, rank, prefix), **alphas}


def _spatial_sites(widths: tuple[int, ...]) -> Iterator[tuple[str, int]]:
    """Where SD 1.5 has spatial transformers: not in the lowest level of either side."""
    for level, width in enumerate(widths[:-1]):
        for index in (0, 1):
            yield f"down_blocks.{level}.attentions.{index}", width
    yield "mid_block.attentions.0", widths[-1]
    for level, width in enumerate(widths[-2::-1], start=1):
        for index in (0, 1, 2):
            yield f"up_blocks.{level}.attentions.{index}", width


def _projections(attention: str, width: int, context: int) -> list[Layer]:
    inputs = {"to_q": width, "to_k": context, "to_v": context, "to_out.0": width}
    return [Layer(f"{attention}.{projection}", size, width) for projection, size in inputs.items()]


def _underscored(layer: Layer, prefix: str) -> str:
    return prefix + layer.name.replace(".", "_")


def _factors(down: str, up: str, layer: Layer, rank: int) -> Named:
    yield down, (rank, layer.inputs)
    yield up, (layer.outputs, rank)


TRAINER_CHECKPOINT = "official_trainer_checkpoint"
SPARSE_CONTROLS = {
    "v3_sd15_sparsectrl_rgb": "rgb",
    "v3_sd15_sparsectrl_scribble": "scribble",
    "animatediff-sparsectrl-rgb": "rgb",
    "animatediff-sparsectrl-scribble": "scribble",
    "mm_sd15_v3_sparsectrl_rgb": "rgb",
    "mm_sd15_v3_sparsectrl_scribble": "scribble",
}
"""The SparseCtrl encoders among the files, and what each sees."""

FILES = {
    "mm_sd_v15": PublishedFile(
        "guoyww/animatediff, mm_sd_v15.ckpt",
        lambda: official_module(SD15_WIDTHS, 24),
    ),
    "mm_sd_v15_v2": PublishedFile(
        "guoyww/animatediff, mm_sd_v15_v2.ckpt",
        lambda: official_module(SD15_WIDTHS, 32, middle=True),
    ),
    "v3_sd15_mm": PublishedFile(
        "guoyww/animatediff, v3_sd15_mm.ckpt",
        lambda: official_module(SD15_WIDTHS, 32),
    ),
    "mm_sdxl_v10_beta": PublishedFile(
        "guoyww/animatediff, mm_sdxl_v10_beta.ckpt",
        lambda: official_module(SDXL_WIDTHS, 32),
    ),
    "hsxl_temporal_layers": PublishedFile("hotshotco/Hotshot-XL, hsxl_temporal_layers.safetensors", hotshot_module),
    "AnimateLCM_sd15_t2v": PublishedFile(
        "wangfuyun/AnimateLCM, AnimateLCM_sd15_t2v.ckpt; no positions (Kosinkadink/ComfyUI-AnimateDiff-Evolved)",
        lambda: official_module(SD15_WIDTHS, None, middle=True),
    ),
    "lt_long_mm_32_frames": PublishedFile(
        "Lightricks/LongAnimateDiff, lt_long_mm_32_frames.ckpt; 64 positions (configs/long-inference.yaml)",
        lambda: official_module(SD15_WIDTHS, 64, middle=True),
    ),
    "lt_long_mm_16_64_frames": PublishedFile(
        "Lightricks/LongAnimateDiff, lt_long_mm_16_64_frames.ckpt; 128 positions (README.md)",
        lambda: official_module(SD15_WIDTHS, 128, middle=True),
    ),
    "pia": PublishedFile("Leoxing/PIA, pia.ckpt", pia),
    TRAINER_CHECKPOINT: PublishedFile("guoyww/AnimateDiff, train.py, checkpoint.ckpt", trainer_checkpoint),
    "animatediff-motion-adapter-v1-5": PublishedFile(
        "guoyww/animatediff-motion-adapter-v1-5, diffusion_pytorch_model.safetensors",
        lambda: motion_adapter(SD15_WIDTHS, 24),
    ),
    "animatediff-motion-adapter-v1-5-2": PublishedFile(
        "guoyww/animatediff-motion-adapter-v1-5-2, diffusion_pytorch_model.safetensors",
        lambda: motion_adapter(SD15_WIDTHS, 32, middle=True),
    ),
    "animatediff-motion-adapter-v1-5-3": PublishedFile(
        "guoyww/animatediff-motion-adapter-v1-5-3, diffusion_pytorch_model.safetensors",
        lambda: motion_adapter(SD15_WIDTHS, 32),
    ),
    "animatediff-motion-adapter-sdxl-beta": PublishedFile(
        "guoyww/animatediff-motion-adapter-sdxl-beta, diffusion_pytorch_model.safetensors",
        lambda: motion_adapter(SDXL_WIDTHS, 32),
    ),
    "PIA-condition-adapter": PublishedFile(
        "openmmlab/PIA-condition-adapter, diffusion_pytorch_model.safetensors",
        lambda: motion_adapter(SD15_WIDTHS, 32, inputs=9),
    ),
    "v3_sd15_sparsectrl_rgb": PublishedFile(
        "guoyww/animatediff, v3_sd15_sparsectrl_rgb.ckpt", lambda: sparse_control(rgb=True)
    ),
    "v3_sd15_sparsectrl_scribble": PublishedFile(
        "guoyww/animatediff, v3_sd15_sparsectrl_scribble.ckpt", lambda: sparse_control(rgb=False)
    ),
    "animatediff-sparsectrl-rgb": PublishedFile(
        "guoyww/animatediff-sparsectrl-rgb, diffusion_pytorch_model.safetensors",
        lambda: sparse_control_model(rgb=True),
    ),
    "animatediff-sparsectrl-scribble": PublishedFile(
        "guoyww/animatediff-sparsectrl-scribble, diffusion_pytorch_model.safetensors",
        lambda: sparse_control_model(rgb=False),
    ),
    "mm_sd15_v3_sparsectrl_rgb": PublishedFile(
        "conrevo/AnimateDiff-A1111, control/mm_sd15_v3_sparsectrl_rgb.safetensors",
        lambda: webui_sparse_control(rgb=True),
    ),
    "mm_sd15_v3_sparsectrl_scribble": PublishedFile(
        "conrevo/AnimateDiff-A1111, control/mm_sd15_v3_sparsectrl_scribble.safetensors",
        lambda: webui_sparse_control(rgb=False),
    ),
    "v2_lora_ZoomIn": PublishedFile(
        "guoyww/animatediff, v2_lora_ZoomIn.ckpt",
        lambda: processor_lora(temporal_layers(middle=True), 64),
    ),
    "motion_director_lora": PublishedFile(
        "kijai/ComfyUI-ADMotionDirector, a MotionLoRA of v3 at its preferred quality",
        lambda: motion_director_lora(motion_director_layers(), 64),
    ),
    "animatediff-motion-lora-zoom-in": PublishedFile(
        "guoyww/animatediff-motion-lora-zoom-in, diffusion_pytorch_model.safetensors",
        lambda: processor_lora(adapter_layers(middle=True), 64, prefix="unet."),
    ),
    "motion_lora_peft": PublishedFile(
        "huggingface/diffusers, the MotionLoRA of v2 saved with PEFT",
        lambda: peft_lora(adapter_layers(middle=True), 64),
    ),
    "mm_sd15_v2_lora_ZoomIn": PublishedFile(
        "conrevo/AnimateDiff-A1111, lora_v2/mm_sd15_v2_lora_ZoomIn.safetensors",
        lambda: webui_lora(temporal_layers(middle=True), 64),
    ),
    "motion_lora_kohya": PublishedFile(
        "the MotionLoRA of v2 in the names of kohya-ss/sd-scripts",
        lambda: kohya_lora(temporal_layers(middle=True), 64),
    ),
    "v3_sd15_adapter": PublishedFile(
        "guoyww/animatediff, v3_sd15_adapter.ckpt",
        lambda: processor_lora(spatial_layers(), 128),
    ),
    "v3_sd15_adapter_kohya": PublishedFile(
        "v3_sd15_adapter in the names of kohya-ss/sd-scripts",
        lambda: kohya_lora(spatial_layers(), 128),
    ),
    "v3_sd15_adapter_diffusers": PublishedFile(
        "v3_sd15_adapter in the names of huggingface/diffusers before PEFT",
        lambda: processor_lora(spatial_layers(), 128, prefix="unet."),
    ),
    "v3_sd15_adapter_peft": PublishedFile(
        "v3_sd15_adapter in the names of huggingface/diffusers with PEFT",
        lambda: peft_lora(spatial_layers(), 128),
    ),
}


def published_files() -> list[str]:
    """The names of all files of the record."""
    return list(FILES)


def generated(name: str) -> Shapes:
    """The shape of each tensor of a file as the architecture gives it, by name, in order."""
    return FILES[name].generate()


def read_published(name: str) -> Shapes:
    """The recorded shape of each tensor of a file, by its name, in order."""
    lines = _record(name).read_text(encoding="utf-8").splitlines()[1:]
    return {tensor: _shape(sizes) for tensor, sizes in (line.split("\t") for line in lines)}


def write_published(name: str) -> None:
    """Record what the architecture gives now."""
    lines = [f"# {FILES[name].source}"]
    lines += [f"{tensor}\t{','.join(map(str, shape))}" for tensor, shape in generated(name).items()]
    RECORD.mkdir(parents=True, exist_ok=True)
    _record(name).write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")


def _record(name: str) -> Path:
    return RECORD / f"{name}.tsv"


def _shape(sizes: str) -> Shape:
    return tuple(int(size) for size in sizes.split(",") if size)


_RANK_FIRST = re.compile(r"lora[._](?:down|A)\.weight$")
_RANK_LAST = re.compile(r"lora[._](?:up|B)\.weight$")


def narrowed(shapes: Mapping[str, Shape], divide_by: int = 10) -> Shapes:
    """The shapes at toy width: 320 becomes 32, 10240 becomes 1024, and the rank of a LoRA becomes 4.

    Positions, kernels, latent channels and the width of the text stay. 32 is the least that 32 groups can norm.
    """
    return {name: _narrow(name, shape, divide_by) for name, shape in shapes.items()}


def random_tensors(shapes: Mapping[str, Shape], seed: int = 0) -> dict[str, Tensor]:
    """A random float32 tensor for each name: norms near one, weights that keep the size of what passes through."""
    generator = torch.Generator().manual_seed(seed)
    return {name: _random_tensor(name, shape, generator) for name, shape in shapes.items()}


def _narrow(name: str, shape: Shape, divide_by: int) -> Shape:
    sizes = [size if size % SMALLEST_WIDTH else size // divide_by for size in shape]
    if _RANK_FIRST.search(name):
        sizes[0] = TOY_RANK
    if _RANK_LAST.search(name):
        sizes[1] = TOY_RANK
    return tuple(sizes)


def _random_tensor(name: str, shape: Shape, generator: torch.Generator) -> Tensor:
    if name.endswith(POSITION_TABLES):
        return position_table(shape[1], shape[2])
    if name.endswith(".alpha"):
        return torch.full(shape, ALPHA)
    noise = torch.randn(shape, generator=generator)
    if len(shape) > 1:
        return noise * prod(shape[1:]) ** -0.5
    return 1 + 0.1 * noise if name.endswith(".weight") else 0.1 * noise
