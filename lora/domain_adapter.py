"""Domain adapter: a LoRA of the base model's attention that takes on the look of the training videos."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..core.errors import CheckpointError, some
from ..core.file_kinds import DOMAIN_ADAPTER, LORA, MOTION_LORA, classify
from ..core.finite import not_finite
from ..core.tensor_files import TensorFile
from .factors import LayerChanges, alpha_of_peft, read_layer_changes
from .layouts import KOHYA, canonical_name, factor_of, find_layout

_TEMPORAL = "motion_modules"


class DomainAdapter(dict[str, Tensor]):
    """What travels on LORA_MODEL: tensors by the names of their file, and what the file says about itself.

    A plain dictionary to every other node of ComfyUI.
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        metadata: Mapping[str, Any] | None = None,
        header: Mapping[str, str] | None = None,
    ):
        super().__init__(tensors)
        self.metadata: dict[str, Any] = dict(metadata or {})
        self.header: dict[str, str] = dict(header or {})


def read_domain_adapter(file: TensorFile) -> DomainAdapter:
    """The domain adapter that a file holds.

    Raises: CheckpointError if the file is not a LoRA for a base model's UNet, or holds NaN or infinity.
    """
    check_domain_adapter(file)
    return DomainAdapter(file.tensors, file.metadata, file.header)


def check_domain_adapter(file: TensorFile) -> None:
    """Raises: CheckpointError if the file is not a LoRA for a base model's UNet, or holds NaN or infinity.

    Source: arXiv 2307.04725 section 4.1; layout of guoyww/AnimateDiff v3_sd15_adapter.ckpt.
    """
    kind = classify(file.tensors)
    if kind not in (DOMAIN_ADAPTER, LORA) and not (kind is MOTION_LORA and _changes_base(file)):
        raise CheckpointError(f"{file.name}: expected a domain adapter, found {kind.description}. {kind.remedy}")
    broken = not_finite(file.tensors)
    if broken:
        raise CheckpointError(
            f"{file.name}: {len(broken)} of {len(file.tensors)} tensors hold NaN or infinity, first "
            f"{some(broken[:1])}. Every frame would be noise; download the file again."
        )


def read_adapter_changes(adapter: Mapping[str, Tensor], file: str) -> LayerChanges:
    """The change of each layer of the base model, by diffusers' layer name: `….attn1.to_q`.

    Raises: CheckpointError if the names are of no layout that MotionGraft reads by itself, or do not pair up.
    """
    read = read_layer_changes(adapter, getattr(adapter, "header", {}), file)
    own = {layer: change for layer, change in read.changes.items() if _TEMPORAL not in layer}
    return LayerChanges(read.layout, own)


def in_kohya_layout(adapter: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """The adapter under kohya's names, which every host reads; names that MotionGraft does not know stay."""
    layout = find_layout(adapter)
    if layout is None:
        return dict(adapter)
    read = {str(layout.read(key)): tensor for key, tensor in adapter.items() if _TEMPORAL not in key}
    alpha = alpha_of_peft(getattr(adapter, "header", {}), name)
    if alpha is not None:
        layers = {factor_of(key)[0] for key in read}
        read |= {canonical_name(layer, "alpha"): torch.tensor(alpha) for layer in layers}
    return {str(KOHYA.write(key)): tensor for key, tensor in read.items()}


def _changes_base(file: TensorFile) -> bool:
    """Whether a file of motion changes also has some of the base model's own layers."""
    return any(_TEMPORAL not in name for name in file.tensors)
