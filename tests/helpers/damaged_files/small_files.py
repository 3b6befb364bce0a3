"""The published files with one level of width 32, and what stands beside their tensors."""

import re
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor

from motiongraft.core.file_kinds import MOTION_LORA, MOTION_MODULE, SPARSECTRL, classify
from motiongraft.core.tensor_files import TensorFile
from motiongraft.lora.domain_adapter import read_domain_adapter
from motiongraft.lora.motion_lora import read_motion_lora
from motiongraft.lora.saved_forms import domain_adapter_form, motion_lora_form
from motiongraft.motion_modules.load import read_motion_file
from motiongraft.tests.helpers.published_files import Shapes, narrowed, random_tensors, read_published

NARROW, NARROW_MIDDLE = 10, 40
"""What 320 and 1280 are divided by."""
KEPT = ("conv_in.", "controlnet_cond_embedding.", "input_hint_block.")
"""Beside levels and middle: the input, and what sees the images of SparseCtrl."""


@cache
def small_tensors(base: str) -> dict[str, Tensor]:
    """A published file's first level alone, with one layer on the way down and two on the way up, and its middle."""
    shapes = read_published(base)
    top = 3 if any(re.search(r"up_blocks[._]3", name) for name in shapes) else 2
    small: Shapes = {}
    for name, shape in shapes.items():
        found = re.search(rf"(down_blocks[._]0|up_blocks[._]{top}|mid_block)[._]\D*(\d)", name)
        if found and int(found[2]) <= found[1].startswith("up"):
            narrow = NARROW_MIDDLE if found[1] == "mid_block" else NARROW
            small[re.sub(r"(up_blocks[._])\d", r"\g<1>0", name)] = narrowed({name: shape}, narrow)[name]
        elif name.removeprefix("module.").startswith(KEPT):
            small |= narrowed({name: shape}, NARROW)
    return random_tensors(small)


@cache
def small_metadata(base: str) -> dict[str, Any]:
    """What MotionGraft writes about it."""
    file = TensorFile(Path(base), small_tensors(base))
    kind = classify(file.tensors)
    if kind is MOTION_MODULE:
        return {"kind": kind.name, "spec": asdict(read_motion_file(file).spec)}
    if kind is MOTION_LORA:
        return motion_lora_form(read_motion_lora(file), "diffusers")[1]
    if kind is SPARSECTRL:
        return {}
    return domain_adapter_form(read_domain_adapter(file))[1]


def small_config() -> dict[str, Any]:
    """What diffusers writes beside a module, and PEFT beside a LoRA."""
    of_diffusers = {"motion_num_attention_heads": 8, "motion_norm_num_groups": 32, "motion_max_seq_length": 32}
    return {**of_diffusers, "r": 4, "lora_alpha": 4, "use_rslora": False, "alpha_pattern": {}}
