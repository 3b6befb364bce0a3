"""Domain adapter: a LoRA of the base model's attention that takes on the look of the training videos."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..core.errors import CheckpointError, shown
from ..core.file_kinds import DOMAIN_ADAPTER, LORA, classify
from ..core.tensor_files import TensorFile


class DomainAdapter(dict[str, Tensor]):
    """What travels on LORA_MODEL: tensors by the names of their file, and what the file says about itself.

    A plain dictionary to every other node of ComfyUI.
    """

    def __init__(self, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any] | None = None):
        super().__init__(tensors)
        self.metadata: dict[str, Any] = dict(metadata or {})


def read_domain_adapter(file: TensorFile) -> DomainAdapter:
    """The domain adapter that a file holds.

    Raises: CheckpointError if the file is not a LoRA for a base model's UNet, or holds NaN or infinity.
    """
    check_domain_adapter(file)
    return DomainAdapter(file.tensors, file.metadata)


def check_domain_adapter(file: TensorFile) -> None:
    """Raises: CheckpointError if the file is not a LoRA for a base model's UNet, or holds NaN or infinity.

    Source: arXiv 2307.04725 section 4.1; layout of guoyww/AnimateDiff v3_sd15_adapter.ckpt.
    """
    kind = classify(file.tensors)
    if kind not in (DOMAIN_ADAPTER, LORA):
        raise CheckpointError(f"{file.name}: expected a domain adapter, found {kind.description}. {kind.remedy}")
    broken = [name for name, tensor in file.tensors.items() if not torch.isfinite(tensor.float()).all()]
    if broken:
        raise CheckpointError(
            f"{file.name}: {len(broken)} of {len(file.tensors)} tensors hold NaN or infinity, first "
            f"{shown(broken[0])}. Every frame would be noise; download the file again."
        )
