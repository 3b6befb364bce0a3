"""Low-rank changes under the names of the published files or of diffusers, and what the files say about themselves."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from ..core.errors import IncompatibleModelError, some
from ..core.file_kinds import DOMAIN_ADAPTER, MOTION_LORA, FileKind
from ..core.training_record import TRAINING
from .domain_adapter import read_adapter_changes
from .layouts import ANIMATEDIFF, PEFT, Layout, canonical_name, find_layout
from .low_rank import LowRank, base_of
from .motion_lora import MotionLoRA, layer_of

LAYOUTS: Mapping[str, Layout] = {layout.name: layout for layout in (ANIMATEDIFF, PEFT)}
"""The layouts that files are written in, by name."""
BASES = ("SD 1.5", "SDXL")
_NO_LAYERS = (".to_qkv", ".bias", "]")
"""Ends of names of what is no whole layer of a file."""
Form = tuple[dict[str, Tensor], dict[str, Any]]


def motion_lora_form(lora: MotionLoRA, layout: str = ANIMATEDIFF.name) -> Form:
    """The tensors of a MotionLoRA file, and its metadata. Raises: as `motion_lora_tensors` does."""
    tensors = motion_lora_tensors(lora, layout)
    return tensors, _metadata(MOTION_LORA, lora.changes, lora.metadata)


def motion_lora_tensors(lora: MotionLoRA, layout: str = ANIMATEDIFF.name) -> dict[str, Tensor]:
    """The changes under the names of a layout. Inverse of `read_motion_lora`.

    Raises: IncompatibleModelError if a change is of a layer that the layout has no name for.
    Source: guoyww/AnimateDiff, v2_lora_*.ckpt; huggingface/diffusers loaders/lora_pipeline.py.
    """
    return _written(((layer_of(change), change) for change in lora.changes), LAYOUTS[layout], lora.name)


def domain_adapter_form(adapter: Mapping[str, Tensor], layout: str = ANIMATEDIFF.name) -> Form:
    """The tensors of a domain adapter file, and its metadata, from what travels on LORA_MODEL or lies in a file.

    Raises: IncompatibleModelError if the tensors are not those of a LoRA of a UNet's layers in a layout that we read.
    """
    if find_layout(adapter) is None:
        foreign = [name for name in adapter if find_layout([name]) is None]
        raise IncompatibleModelError(
            "expected the tensors of a domain adapter under the names of AnimateDiff, diffusers or kohya, found "
            f"{len(foreign) or 'names of several layouts'} of {len(adapter)} with other names "
            f"({some((foreign or list(adapter))[:2])}). Save such a LoRA with ComfyUI's own node Save LoRA Weights."
        )
    read = read_adapter_changes(adapter, "the LoRA")
    if not read.changes:
        raise IncompatibleModelError("expected the tensors of a domain adapter, found none. Train or load one.")
    said: Mapping[str, Any] = getattr(adapter, "metadata", {})
    tensors = _written(read.changes.items(), LAYOUTS[layout], "the LoRA")
    return tensors, _metadata(DOMAIN_ADAPTER, read.changes.values(), said)


def domain_adapter_tensors(changes: Iterable[LowRank], names: Mapping[str, str]) -> dict[str, Tensor]:
    """The changes of a UNet's weights under the names of the published domain adapter.

    `names` holds the UNet's own weight name for each published stem: `….attn1.processor.to_q` and so on.
    Raises: IncompatibleModelError if a change is of a weight without such a stem.
    Source: guoyww/AnimateDiff, v3_sd15_adapter.ckpt; the names are those of diffusers' attention processors.
    """
    stems = {weight: stem for stem, weight in names.items()}
    changes = list(changes)
    unnamed = [change.target for change in changes if change.target not in stems or change.first_row is not None]
    if unnamed:
        raise IncompatibleModelError(
            f"{len(unnamed)} of {len(changes)} changes are not of an attention weight of the base model "
            f"({some(unnamed[:2])}). A domain adapter changes to_q, to_k, to_v and to_out of the spatial "
            "transformers alone; train it on these."
        )
    layers = ((_layer_of_stem(stems[change.target]), change) for change in changes)
    return _written(layers, ANIMATEDIFF, "the domain adapter")


def _layer_of_stem(stem: str) -> str:
    layer = stem.replace(".processor.", ".")
    return f"{layer}.0" if layer.endswith(".to_out") else layer


def _written(changes: Iterable[tuple[str, LowRank]], layout: Layout, name: str) -> dict[str, Tensor]:
    """Both factors of each change by name; two changes of one layer cannot be told apart by names."""
    tensors: dict[str, Tensor] = {}
    for layer, change in changes:
        down, up = (_name(layer, factor, layout, name) for factor in ("down", "up"))
        if tensors.keys() & {down, up}:
            raise IncompatibleModelError(
                f"{layer} is changed twice, and a file holds one change of each weight. Save the LoRAs one by one."
            )
        factors = {down: change.down, up: _scaled_up(change)}
        tensors |= {key: each[..., None, None] for key, each in factors.items()} if change.is_convolution else factors
    return tensors


def _name(layer: str, factor: str, layout: Layout, name: str) -> str:
    written = layout.write(canonical_name(layer, factor))
    if written is None or layer.endswith(_NO_LAYERS):
        raise IncompatibleModelError(
            f"{name} changes {layer}, and {layout.program}'s layout has no name for such a change. "
            f"{'Save it in the layout diffusers.' if layout is ANIMATEDIFF else 'Train it on whole layers.'}"
        )
    return written


def _scaled_up(change: LowRank) -> Tensor:
    """The factor `up` with alpha / rank inside, since no program looks for alpha in the published layout."""
    return change.up if change.scale == 1.0 else change.up.float() * change.scale


def _metadata(kind: FileKind, changes: Iterable[LowRank], said: Mapping[str, Any]) -> dict[str, Any]:
    """Kind, base and rank of a LoRA, and what was said of its training."""
    changes = list(changes)
    base = said.get("base")
    described = {
        "kind": kind.name,
        "base": base if base in BASES else base_of(change.target for change in changes) or "unknown",
        "rank": max((change.rank for change in changes), default=0),
    }
    return {**described, TRAINING: said[TRAINING]} if TRAINING in said else described
