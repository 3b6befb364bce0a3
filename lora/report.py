"""What a LoRA's file is, in words."""

from collections.abc import Iterable, Iterator

from ..core.tensor_files import TensorFile
from .domain_adapter import read_adapter_changes, read_domain_adapter
from .layouts import find_layout
from .low_rank import LowRank, base_of
from .motion_lora import layer_of, read_motion_lora


def describe_motion_lora(file: TensorFile) -> Iterator[str]:
    """What there is to say about a MotionLoRA. Raises: CheckpointError if the file is damaged or not whole."""
    lora = read_motion_lora(file)
    layers = [layer_of(change) for change in lora.changes]
    middle = any(layer.startswith("mid_block.") for layer in layers)
    kinds = "temporal attention"
    if not all(".attention_blocks." in layer for layer in layers):
        kinds += " and feed-forward layers"
    yield f"for {base_of(layers)}, {'with' if middle else 'without'} a middle block"
    yield f"rank {_ranks(lora.changes)}, {len(lora.changes)} changes of {kinds}"
    yield f"layout {lora.layout}"
    if lora.num_base_changes:
        yield f"{lora.num_base_changes} changes of the base model beside them, which Apply Domain Adapter applies"


def describe_domain_adapter(file: TensorFile) -> Iterator[str]:
    """What there is to say about a LoRA of the base model. Raises: CheckpointError if the file is damaged."""
    adapter = read_domain_adapter(file)
    layout = find_layout(adapter)
    if layout is None:
        yield f"{len(adapter)} tensors in a layout that is left to ComfyUI"
        return
    changes = read_adapter_changes(adapter, file.name).changes
    yield f"for {base_of(changes)}"
    yield f"rank {_ranks(changes.values())}, {len(changes)} changes of the base model"
    yield f"layout {layout.name}"


def _ranks(changes: Iterable[LowRank]) -> str:
    return ", ".join(map(str, sorted({change.rank for change in changes})))
