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

TEXT_ENCODERS = ("lora_te", "text_encoder")
"""How the names begin that a LoRA has for text encoders; they are the host's to read."""
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
    """The adapter under kohya's names, which every host reads; names that MotionGraft does not know stay.

    Raises: CheckpointError if two of its tensors are one factor.
    """
    layout = find_layout([key for key in adapter if not key.startswith(TEXT_ENCODERS)])
    if layout is None:
        return dict(adapter)
    read = {key: layout.read(key) for key in adapter if _TEMPORAL not in key}
    renamed: dict[str, Tensor] = {}
    for key, canonical in read.items():
        ours = key if canonical is None else str(KOHYA.write(canonical))
        if ours in renamed:
            raise CheckpointError(f"{name}: {some([key])} names a factor that it has already. Get the original file.")
        renamed[ours] = adapter[key]
    alpha = alpha_of_peft(getattr(adapter, "header", {}), name)
    for layer in {factor_of(canonical)[0] for canonical in read.values() if canonical} if alpha is not None else ():
        renamed.setdefault(str(KOHYA.write(canonical_name(layer, "alpha"))), torch.tensor(alpha))
    return renamed


def _changes_base(file: TensorFile) -> bool:
    """Whether a file of motion changes also has some of the base model's own layers."""
    return any(_TEMPORAL not in name for name in file.tensors)
