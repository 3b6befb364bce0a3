"""Domain adapter: a LoRA of the base model's attention that takes on the look of the training videos."""

from ..core.errors import CheckpointError
from ..core.file_kinds import DOMAIN_ADAPTER, LORA, classify
from ..core.tensor_files import TensorFile


def check_domain_adapter(file: TensorFile) -> None:
    """Raises: CheckpointError if the file is not a LoRA for a base model's UNet.

    Source: arXiv 2307.04725 section 4.1; layout of guoyww/AnimateDiff v3_sd15_adapter.ckpt.
    """
    kind = classify(file.tensors)
    if kind not in (DOMAIN_ADAPTER, LORA):
        raise CheckpointError(f"{file.name}: expected a domain adapter, found {kind.description}. {kind.remedy}")
