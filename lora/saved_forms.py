"""Low-rank changes under the names of the published files, and what the files say about themselves."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from ..core.errors import IncompatibleModelError, some
from ..core.file_kinds import DOMAIN_ADAPTER, MOTION_LORA, FileKind
from .low_rank import LowRank
from .motion_lora import MotionLoRA

PARTS = ("q", "k", "v")
BASES = ("SD 1.5", "SDXL")
TRAINING = "training"
"""The entry of our metadata in which a training run describes itself; it travels with the weights."""

_TARGET = re.compile(r"^(?P<attention>.+\.attention_blocks\.\d+)\.to_(?P<weight>qkv|out\.0)\.weight$")
_ADAPTER = re.compile(
    r"^(?P<stem>(?:(?:down|up)_blocks\.\d+|mid_block)\.attentions\.\d+\.transformer_blocks\.\d+"
    r"\.attn[12]\.processor\.to_(?:q|k|v|out))_lora\.(?P<factor>down|up)\.weight$"
)
_FOURTH_LEVEL = "_blocks.3."
"""Only the UNet of SD 1.5 has four levels."""


def motion_lora_form(lora: MotionLoRA) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a MotionLoRA file, and its metadata."""
    tensors = motion_lora_tensors(lora)
    return tensors, _metadata(MOTION_LORA, tensors, lora.metadata)


def motion_lora_tensors(lora: MotionLoRA) -> dict[str, Tensor]:
    """The changes under the names of the published MotionLoRAs. Inverse of `read_motion_lora`.

    Raises: IncompatibleModelError if a change is of a weight that the published files have no name for.
    Source: guoyww/AnimateDiff, v2_lora_*.ckpt.
    """
    return _named((_motion_lora_stem(change, lora.name), change) for change in lora.changes)


def domain_adapter_form(adapter: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a domain adapter file, and its metadata, from what travels on LORA_MODEL.

    Raises: IncompatibleModelError if the tensors are not those of a domain adapter in the published layout.
    """
    _check_published(adapter)
    said: Mapping[str, Any] = getattr(adapter, "metadata", {})
    return dict(adapter), _metadata(DOMAIN_ADAPTER, adapter, said)


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
    return _named((stems[change.target], change) for change in changes)


def _named(changes: Iterable[tuple[str, LowRank]]) -> dict[str, Tensor]:
    """Both factors of each change by published name; two changes of one weight cannot be told apart by names."""
    tensors: dict[str, Tensor] = {}
    for stem, change in changes:
        factors = {f"{stem}_lora.down.weight": change.down, f"{stem}_lora.up.weight": _scaled_up(change)}
        if tensors.keys() & factors.keys():
            raise IncompatibleModelError(
                f"{stem} is changed twice, and a file holds one change of each weight. Save the LoRAs one by one."
            )
        tensors |= factors
    return tensors


def _scaled_up(change: LowRank) -> Tensor:
    """The factor `up` with alpha / rank inside, since no program looks for alpha in the published layout."""
    scale = 1.0 if change.alpha is None else change.alpha / change.rank
    return change.up if scale == 1.0 else change.up.float() * scale


def _motion_lora_stem(change: LowRank, name: str) -> str:
    target = _TARGET.match(change.target)
    if target and target["weight"] == "out.0" and change.first_row is None:
        return f"{target['attention']}.processor.to_out"
    if target and target["weight"] == "qkv" and change.first_row is not None:
        part, rest = divmod(change.first_row, change.num_rows)
        if part < len(PARTS) and not rest:
            return f"{target['attention']}.processor.to_{PARTS[part]}"
    rows = (
        "all rows" if change.first_row is None else f"rows {change.first_row} to {change.first_row + change.num_rows}"
    )
    raise IncompatibleModelError(
        f"{name}: expected changes of q, k, v and out of the temporal attentions, found one of {change.target} "
        f"({rows}). AnimateDiff's layout has no name for it; train a MotionLoRA on the attentions alone."
    )


def _check_published(tensors: Mapping[str, Tensor]) -> None:
    """Raises: IncompatibleModelError unless the tensors are pairs of factors under a domain adapter's names."""
    matches = {name: _ADAPTER.match(name) for name in tensors}
    foreign = [name for name, match in matches.items() if match is None]
    if foreign or not tensors:
        found = f"{len(foreign)} of {len(tensors)} with other names ({some(foreign[:2])})" if foreign else "none"
        raise IncompatibleModelError(
            "expected the tensors of a domain adapter, such as "
            "down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora.down.weight, "
            f"found {found}. Save a LoRA in another layout with ComfyUI's own node Save LoRA Weights."
        )
    pairs: dict[str, dict[str, Tensor]] = {}
    for name, match in matches.items():
        if match:
            pairs.setdefault(match["stem"], {})[match["factor"]] = tensors[name]
    wrong = [stem for stem, pair in pairs.items() if not _multiply(pair)]
    if wrong:
        found = ", ".join(f"{factor} {list(tensor.shape)}" for factor, tensor in pairs[wrong[0]].items())
        raise IncompatibleModelError(
            f"{len(wrong)} of {len(pairs)} changes are not a down [r, in] and an up [out, r] matrix; "
            f"{wrong[0]} has {found}. Train or load the adapter again."
        )


def _multiply(pair: Mapping[str, Tensor]) -> bool:
    whole = len(pair) == 2 and all(factor.ndim == 2 for factor in pair.values())
    return whole and pair["up"].shape[1] == pair["down"].shape[0]


def _metadata(kind: FileKind, tensors: Mapping[str, Tensor], said: Mapping[str, Any]) -> dict[str, Any]:
    """Kind, base and rank of a LoRA, and what was said of its training."""
    base = said.get("base")
    ranks = [tensor.shape[0] for name, tensor in tensors.items() if name.endswith(".down.weight")]
    described = {
        "kind": kind.name,
        "base": base if base in BASES else _base_of(list(tensors)),
        "rank": max(ranks, default=0),
    }
    return {**described, TRAINING: said[TRAINING]} if TRAINING in said else described


def _base_of(names: Sequence[str]) -> str:
    return BASES[0] if any(_FOURTH_LEVEL in name for name in names) else BASES[1]
