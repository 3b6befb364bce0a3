"""Domain adapter: a LoRA of the base model's attention that takes on the look of the training videos."""

import torch

from ..core.errors import CheckpointError, shown
from ..core.file_kinds import DOMAIN_ADAPTER, LORA, classify
from ..core.tensor_files import TensorFile


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
