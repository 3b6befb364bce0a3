"""The file of a case, on the disk."""

from pathlib import Path

from .byte_changes import BYTES
from .case import Case
from .header_changes import config_text, safetensors
from .pickle_changes import pickled
from .small_files import small_tensors
from .tensor_changes import EDITS

CANARY = "canary"
FOLDERS = {
    "diffusers": ("diffusion_pytorch_model.safetensors", "config.json"),
    "peft": ("adapter_model.safetensors", "adapter_config.json"),
}
"""Weights and what describes them."""


def write_case(case: Case, folder: Path) -> Path:
    """The file of a case, or the folder that stands for it. What code in it would leave behind is `folder / CANARY`."""
    content = dict(small_tensors(case.base))
    for change in case.of(*EDITS):
        content = EDITS[change.target](content, change)
    is_pickle = case.form in ("zip", "legacy")
    whole = pickled(content, case, folder / CANARY) if is_pickle else safetensors(content, case)
    for change in case.of("bytes"):
        whole = BYTES[change.what](whole, change.where)
    if case.form not in FOLDERS:
        path = folder / f"{case.base}{'.ckpt' if is_pickle else '.safetensors'}"
        path.write_bytes(whole)
        return path
    weights, description = FOLDERS[case.form]
    described = folder / case.base
    described.mkdir()
    (described / weights).write_bytes(whole)
    (described / description).write_text(config_text(case), encoding="utf-8")
    return described
