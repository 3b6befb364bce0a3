"""The record of the published files' names and shapes, held against everything public that speaks about them."""

import json
import os
import re
from math import prod

import pytest
import torch
from safetensors import safe_open

from motiongraft.tests.helpers.published_files import (
    POSITION_TABLES,
    RECORD,
    SMALLEST_WIDTH,
    SPARSE_CONTROLS,
    TRAINER_CHECKPOINT,
    generated,
    narrowed,
    published_files,
    random_tensors,
    read_published,
    sd15_unet,
    write_published,
)

UPDATE = "MOTIONGRAFT_UPDATE_RECORD"
NO_DIFFUSERS = "diffusers is not installed (make setup installs it)"

TENSORS = {
    "mm_sd_v15": 560,
    "mm_sd_v15_v2": 588,
    "v3_sd15_mm": 560,
    "mm_sdxl_v10_beta": 420,
    "hsxl_temporal_layers": 420,
    "AnimateLCM_sd15_t2v": 546,
    "lt_long_mm_32_frames": 588,
    "lt_long_mm_16_64_frames": 588,
    "pia": 562,
    TRAINER_CHECKPOINT: 1206,
    "animatediff-motion-adapter-v1-5": 540,
    "animatediff-motion-adapter-v1-5-2": 567,
    "animatediff-motion-adapter-v1-5-3": 540,
    "animatediff-motion-adapter-sdxl-beta": 405,
    "PIA-condition-adapter": 542,
    "v3_sd15_sparsectrl_rgb": 486,
    "v3_sd15_sparsectrl_scribble": 500,
    "animatediff-sparsectrl-rgb": 486,
    "animatediff-sparsectrl-scribble": 500,
    "mm_sd15_v3_sparsectrl_rgb": 486,
    "mm_sd15_v3_sparsectrl_scribble": 500,
    "v2_lora_ZoomIn": 336,
    "motion_director_lora": 400,
    "animatediff-motion-lora-zoom-in": 336,
    "motion_lora_peft": 336,
    "mm_sd15_v2_lora_ZoomIn": 336,
    "motion_lora_kohya": 504,
    "v3_sd15_adapter": 256,
    "v3_sd15_adapter_kohya": 384,
    "v3_sd15_adapter_diffusers": 256,
    "v3_sd15_adapter_peft": 256,
}
"""Source: 28 tensors for each of 20, 21 or 15 modules (588: Kosinkadink/ComfyUI-AnimateDiff-Evolved issue 576), 27 in
diffusers; 686 of the SD 1.5 UNet and 26 for each module from the trainer; in a SparseCtrl encoder 20 for each of 8
modules, 298 of the UNet, 26 of zero convolutions, and 2 that see latents or 16 that see pixels; two factors for each
layer of a LoRA, and kohya's alpha.
"""

WEIGHTS = {
    "mm_sd_v15": 417_137_600,
    "mm_sd_v15_v2": 453_209_280,
    "v3_sd15_mm": 417_137_600,
    "mm_sdxl_v10_beta": 236_779_200,
    "hsxl_temporal_layers": 236_779_200,
    "AnimateLCM_sd15_t2v": 453_209_280,
    "lt_long_mm_32_frames": 453_209_280,
    "lt_long_mm_16_64_frames": 453_209_280,
    "pia": 417_137_600 + 26_240,
    TRAINER_CHECKPOINT: 417_137_600 + 859_520_964,
    "animatediff-motion-adapter-v1-5": 417_137_600,
    "animatediff-motion-adapter-v1-5-2": 453_209_280,
    "animatediff-motion-adapter-v1-5-3": 417_137_600,
    "animatediff-motion-adapter-sdxl-beta": 236_779_200,
    "PIA-condition-adapter": 417_137_600 + 26_240,
    "v3_sd15_sparsectrl_rgb": 496_730_880,
    "v3_sd15_sparsectrl_scribble": 497_802_784,
    "animatediff-sparsectrl-rgb": 496_730_880,
    "animatediff-sparsectrl-scribble": 497_802_784,
    "mm_sd15_v3_sparsectrl_rgb": 496_730_880,
    "mm_sd15_v3_sparsectrl_scribble": 497_802_784,
    "v2_lora_ZoomIn": 19_333_120,
    "motion_director_lora": 33_792_000,
    "animatediff-motion-lora-zoom-in": 19_333_120,
    "motion_lora_peft": 19_333_120,
    "mm_sd15_v2_lora_ZoomIn": 19_333_120,
    "motion_lora_kohya": 19_333_120 + 168,
    "v3_sd15_adapter": 25_509_888,
    "v3_sd15_adapter_kohya": 25_509_888 + 128,
    "v3_sd15_adapter_diffusers": 25_509_888,
    "v3_sd15_adapter_peft": 25_509_888,
}
"""Parameters without position tables.

Source: guoyww/AnimateDiff README: 417 M, 453 M, 238 M with tables, 19 M; MotionLoRA 77.3 MB and domain adapter 97.3 MiB
in float32; 859 520 964 in the UNet of Stable Diffusion 1.5; SparseCtrl: what diffusers builds.
"""

POSITIONS = {
    "mm_sd_v15": 24,
    "mm_sd_v15_v2": 32,
    "v3_sd15_mm": 32,
    "mm_sdxl_v10_beta": 32,
    "hsxl_temporal_layers": 24,
    "lt_long_mm_32_frames": 64,
    "lt_long_mm_16_64_frames": 128,
    "pia": 32,
    "animatediff-motion-adapter-v1-5": 24,
    "animatediff-motion-adapter-v1-5-2": 32,
    "animatediff-motion-adapter-v1-5-3": 32,
    "animatediff-motion-adapter-sdxl-beta": 32,
    "PIA-condition-adapter": 32,
    **dict.fromkeys(SPARSE_CONTROLS, 32),
}
"""Source: temporal_position_encoding_max_len of the configs the files were published with: guoyww/AnimateDiff, branches
main and sdxl; hotshotco/Hotshot-XL; open-mmlab/PIA; Lightricks/LongAnimateDiff, where long-inference.yaml says 64 and
README.md says to make it 128 for the 64-frame model; vladmandic/longanimatediff-32 and -64 say the same.
"""

ADAPTERS = {
    "animatediff-motion-adapter-v1-5": {"motion_max_seq_length": 24, "use_motion_mid_block": False},
    "animatediff-motion-adapter-v1-5-2": {"motion_max_seq_length": 32, "use_motion_mid_block": True},
    "animatediff-motion-adapter-v1-5-3": {"motion_max_seq_length": 32, "use_motion_mid_block": False},
    "animatediff-motion-adapter-sdxl-beta": {
        "motion_max_seq_length": 32,
        "use_motion_mid_block": False,
        "block_out_channels": (320, 640, 1280),
    },
    "PIA-condition-adapter": {
        "motion_max_seq_length": 32,
        "use_motion_mid_block": False,
        "conv_in_channels": 9,
    },
}
"""Source: config.json of guoyww/animatediff-motion-adapter-v1-4 (v1), -v1-5-2, -v1-5-3, openmmlab/PIA-condition-adapter
and a-r-r-o-w/animatediff-motion-adapter-sdxl-beta.
"""

DOMAIN_ADAPTERS = ["v3_sd15_adapter", "v3_sd15_adapter_kohya", "v3_sd15_adapter_diffusers", "v3_sd15_adapter_peft"]

PYTORCH = {"format": "pt"}
FILE_SIZES = [
    ("mm_sd_v15", "F32", PYTORCH, 1_672_020_256),
    ("animatediff-motion-adapter-v1-5-3", "F32", PYTORCH, 1_670_875_648),
    ("animatediff-motion-adapter-sdxl-beta", "F32", PYTORCH, 948_604_184),
    ("animatediff-motion-adapter-sdxl-beta", "F16", PYTORCH, 474_328_896),
    ("mm_sd15_v3_sparsectrl_rgb", "F16", None, 993_974_272),
    ("mm_sd15_v3_sparsectrl_scribble", "F16", None, 996_119_576),
    ("motion_director_lora", "F32", {"model_type": "motion_director", "rank": "64"}, 135_244_472),
    ("mm_sd15_v2_lora_ZoomIn", "F16", None, 38_727_544),
]
"""Published safetensors files of these layouts: what is recorded, type, metadata, bytes.

Source, in order, from Git LFS pointers on huggingface.co: CiaraRowles/TemporalDiff, temporaldiff-v1-animatediff (v1,
trained on); dn6/longanimatediff-motion-adapter-32 (v3's layout); a-r-r-o-w/animatediff-motion-adapter-sdxl-beta, twice;
conrevo/AnimateDiff-A1111, control/, twice, commit abff156; fofr/comfyui, shatterAnimatediff_v10;
tyDiffusion/LoRAs, animatediff-motionlora-2-zoomout-1.5, whose SHA256 is that of conrevo/AnimateDiff-A1111,
lora_v2/mm_sd15_v2_lora_ZoomOut.
"""

GIGABYTES = [
    ("AnimateLCM_sd15_t2v", 1.81),
    ("lt_long_mm_32_frames", 1.82),
    ("lt_long_mm_16_64_frames", 1.83),
    ("pia", 1.67),
    ("v3_sd15_sparsectrl_rgb", 1.99),
    ("v3_sd15_sparsectrl_scribble", 1.99),
]
"""Source: ltdrdata/ComfyUI-Manager, model-list.json; AnimateLCM_sd15_t2v.ckpt has 1 813 041 929 bytes; SparseCtrl of
guoyww/animatediff 1 988 040 333 and 1 992 335 697, of which the position tables are 901 120.
"""

STAY = {1, 3, 4, 5, 9, 16, 24, 32, 64, 96, 128, 256, 768}
"""One, kernel, latent channels, inputs of PIA and SparseCtrl, its convolutions over pixels, positions or ranks, text
width.
"""


def parameters(shapes):
    return sum(map(prod, shapes.values()))


def safetensors_size(shapes, dtype, metadata):
    """Bytes of a safetensors file: the header's length, the header padded to a multiple of 8, the tensors.

    Source: huggingface/safetensors, README, format; tensors of one type are laid out by name.
    """
    header, end = {} if metadata is None else {"__metadata__": metadata}, 0
    for name, shape in sorted(shapes.items()):
        start, end = end, end + prod(shape) * {"F32": 4, "F16": 2}[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    return 8 + -(-len(json.dumps(header, separators=(",", ":"))) // 8) * 8 + end


def plain(stem):
    """One spelling for a layer, whatever dialect names it."""
    for part in ("lora_unet_", "unet.", "processor."):
        stem = stem.replace(part, "")
    return re.sub(r"_0$", "", stem.removesuffix("_lora").replace(".", "_"))


@pytest.fixture(scope="module")
def diffusers():
    return pytest.importorskip("diffusers", reason=NO_DIFFUSERS)


@pytest.mark.parametrize("name", published_files())
def test_record_is_what_the_architecture_gives(name):
    if name in (TRAINER_CHECKPOINT, *SPARSE_CONTROLS):
        pytest.importorskip("diffusers", reason=NO_DIFFUSERS)
    if os.environ.get(UPDATE):
        write_published(name)
    assert list(read_published(name).items()) == list(generated(name).items())


def test_record_holds_these_files_and_no_others():
    assert {path.stem for path in RECORD.iterdir()} == set(published_files()) == TENSORS.keys() == WEIGHTS.keys()


@pytest.mark.parametrize("name", published_files())
def test_numbers_of_tensors_and_weights_are_the_published_ones(name):
    shapes = read_published(name)
    weights = {tensor: shape for tensor, shape in shapes.items() if not tensor.endswith(POSITION_TABLES)}
    assert len(shapes) == TENSORS[name]
    assert parameters(weights) == WEIGHTS[name]


@pytest.mark.parametrize("name", published_files())
def test_positions_are_as_many_as_the_published_config_says(name):
    tables = [shape for tensor, shape in read_published(name).items() if tensor.endswith(POSITION_TABLES)]
    assert {shape[1] for shape in tables} == ({POSITIONS[name]} if name in POSITIONS else set())


@pytest.mark.parametrize(("name", "dtype", "metadata", "size"), FILE_SIZES)
def test_names_and_shapes_make_a_file_of_the_published_size_to_the_byte(name, dtype, metadata, size):
    assert safetensors_size(read_published(name), dtype, metadata) == size


@pytest.mark.parametrize(("name", "gigabytes"), GIGABYTES)
def test_nothing_more_fits_into_the_published_pickle(name, gigabytes):
    assert round(4 * parameters(read_published(name)) / 1e9, 2) == gigabytes


@pytest.mark.parametrize("name", ADAPTERS)
def test_adapters_are_those_that_diffusers_builds(diffusers, name):
    with torch.device("meta"):
        state = diffusers.MotionAdapter(**ADAPTERS[name]).state_dict()
    assert read_published(name) == {tensor: tuple(value.shape) for tensor, value in state.items()}


@pytest.mark.parametrize(
    ("name", "channels"), [("animatediff-sparsectrl-rgb", 4), ("animatediff-sparsectrl-scribble", 3)]
)
def test_sparse_controls_are_those_that_diffusers_builds(diffusers, name, channels):
    with torch.device("meta"):
        model = diffusers.SparseControlNetModel(
            conditioning_channels=channels, use_simplified_condition_embedding=channels == 4
        )
    assert read_published(name) == {tensor: tuple(value.shape) for tensor, value in model.state_dict().items()}


@pytest.mark.parametrize("name", DOMAIN_ADAPTERS)
def test_domain_adapter_changes_exactly_the_attention_of_the_unet(diffusers, name):
    attention = re.compile(r"(.*\.attn[12]\.to_(?:q|k|v|out\.0))\.weight$")
    layers = {plain(match[1]): shape for tensor, shape in sd15_unet().items() if (match := attention.match(tensor))}
    shapes = read_published(name)
    factors = [re.match(r"(.*)\.(?:lora_)?(?:down|A)\.weight$", tensor) for tensor in shapes]
    downs = {plain(match[1]): shapes[match[0]] for match in factors if match}
    factors = [re.match(r"(.*)\.(?:lora_)?(?:up|B)\.weight$", tensor) for tensor in shapes]
    ups = {plain(match[1]): shapes[match[0]] for match in factors if match}
    assert downs == {layer: (128, inputs) for layer, (_, inputs) in layers.items()}
    assert ups == {layer: (outputs, 128) for layer, (outputs, _) in layers.items()}


def test_recordings_of_the_published_code_have_the_same_names(golden):
    motion_modules = [set(read_published(name)) for name in ("mm_sd_v15", "mm_sd_v15_v2")]
    unet = set(read_published(TRAINER_CHECKPOINT))
    for path in golden.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            names = set(file.keys())
        assert {name.removeprefix("mm.") for name in names if name.startswith("mm.")} in motion_modules
        assert {f"module.{name.removeprefix('unet.')}" for name in names if name.startswith("unet.")} <= unet


@pytest.mark.parametrize(
    ("name", "real", "toy"),
    [
        ("attention_blocks.0.to_q.weight", (1280, 1280), (128, 128)),
        ("ff.net.0.proj.weight", (10240, 1280), (1024, 128)),
        ("ff.net.2.weight", (640, 2560), (64, 256)),
        ("norm.bias", (320,), (32,)),
        ("pos_encoder.pe", (1, 32, 320), (1, 32, 32)),
        ("pos_encoder.pe", (1, 64, 640), (1, 64, 64)),
        ("pos_embed.pe", (1, 128, 1280), (1, 128, 128)),
        ("conv_in.weight", (320, 9, 3, 3), (32, 9, 3, 3)),
        ("resnets.0.conv1.weight", (640, 1920, 3, 3), (64, 192, 3, 3)),
        ("processor.to_q_lora.down.weight", (64, 1280), (4, 128)),
        ("processor.to_k_lora.down.weight", (128, 768), (4, 768)),
        ("processor.0_lora.up.weight", (320, 64), (32, 4)),
        ("lora_unet_down_blocks_0_to_q.lora_down.weight", (64, 320), (4, 32)),
        ("lora_unet_down_blocks_0_to_q.lora_up.weight", (320, 64), (32, 4)),
        ("lora_unet_down_blocks_0_to_q.alpha", (), ()),
        ("attn1.to_q.lora_A.weight", (128, 640), (4, 64)),
        ("attn1.to_out.0.lora_B.weight", (640, 128), (64, 4)),
    ],
)
def test_toy_files_have_a_tenth_of_the_width_and_rank_four(name, real, toy):
    assert narrowed({name: real}) == {name: toy}


@pytest.mark.parametrize("name", published_files())
def test_every_size_is_a_width_or_one_of_those_that_stay(name):
    sizes = {size for shape in read_published(name).values() for size in shape}
    assert {size for size in sizes if size % SMALLEST_WIDTH} <= STAY


@pytest.mark.parametrize("name", [name for name in published_files() if "lora" in name or name in DOMAIN_ADAPTERS])
def test_factors_of_toy_loras_multiply(name):
    shapes = [shape for shape in narrowed(read_published(name)).values() if shape]
    assert all({down[0], up[1]} == {4} for down, up in zip(shapes[::2], shapes[1::2], strict=True))


def test_random_tensors_are_finite_and_keep_the_size_of_what_passes_through():
    shapes = narrowed(read_published("pia"))
    tensors = random_tensors(shapes)
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == shapes
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    assert all(tensor.isfinite().all() for tensor in tensors.values())
    for name, tensor in tensors.items():
        if tensor.ndim in (2, 4):
            assert tensor.std().item() == pytest.approx(prod(tensor.shape[1:]) ** -0.5, rel=0.15), name
        elif name.endswith((".norm.weight", "norms.0.weight")):
            assert tensor.mean().item() == pytest.approx(1, abs=0.1), name


def test_random_position_tables_are_sinusoidal_and_alphas_two():
    tables = random_tensors({"a.pos_encoder.pe": (1, 24, 32), "b.pos_encoder.positional_encoding": (1, 24, 32)})
    for table in tables.values():
        assert torch.equal(table[0, 0], torch.tensor([0.0, 1.0]).repeat(16))
        assert torch.equal(table[0, :, 0], torch.arange(24).sin())
    assert random_tensors({"a.alpha": ()})["a.alpha"].item() == 2


def test_random_tensors_follow_from_the_seed():
    shapes = {"a.weight": (3, 5), "a.bias": (3,)}
    once, again, other = random_tensors(shapes, 1), random_tensors(shapes, 1), random_tensors(shapes, 2)
    assert all(torch.equal(once[name], again[name]) for name in shapes)
    assert not any(torch.equal(once[name], other[name]) for name in shapes)
