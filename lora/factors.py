"""From the tensors of a LoRA file to the change of each layer, or to an error that names what does not pair up."""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor

from ..core.diffusers_folders import PEFT_HEADER
from ..core.errors import CheckpointError, shown, some
from ..core.finite import is_computable, not_finite
from .layouts import Layout, factor_of, layout_of
from .low_rank import LowRank

_OTHER_DESIGNS = {"dora_scale": "DoRA", ".lora_magnitude_vector": "DoRA", "hada_w": "LoHa", "lokr_w": "LoKr"}
Factors = dict[str, Tensor]


@dataclass(frozen=True)
class LayerChanges:
    """The low-rank change of each layer that a file changes, by official layer name, and how the file names them."""

    layout: Layout
    changes: Mapping[str, LowRank]


def read_layer_changes(tensors: Mapping[str, Tensor], header: Mapping[str, str], file: str) -> LayerChanges:
    """The changes in a LoRA of any known layout. Their targets are layers: which weight that is, the caller knows.

    Raises: CheckpointError if the names are of no layout or of several, if factors do not pair up, or one is not
    finite.
    """
    _check_design(tensors, file)
    layout = layout_of(tensors, file)
    broken = not_finite(tensors)
    if broken:
        raise CheckpointError(
            f"{file}: {len(broken)} of {len(tensors)} tensors hold NaN or infinity ({some(broken[:2])}). "
            "Every frame would be noise; get the file again."
        )
    alpha = alpha_of_peft(header, file)
    layers = _by_layer(tensors, layout, file)
    return LayerChanges(layout, {layer: _change(layer, found, alpha, file) for layer, found in layers.items()})


def _check_design(tensors: Mapping[str, Tensor], file: str) -> None:
    for name in tensors:
        design = next((design for part, design in _OTHER_DESIGNS.items() if part in name), None)
        if design:
            raise CheckpointError(
                f"{file}: expected pairs of low-rank factors, found a {design} ({some([name])}). "
                "MotionGraft does not read this kind; save it as a plain LoRA."
            )


def _by_layer(tensors: Mapping[str, Tensor], layout: Layout, file: str) -> dict[str, Factors]:
    layers: dict[str, Factors] = {}
    sources: dict[tuple[str, str], str] = {}
    for name, tensor in tensors.items():
        layer, factor = factor_of(cast(str, layout.read(name)))
        if (layer, factor) in sources:
            raise CheckpointError(
                f"{file}: {some([sources[layer, factor], name])} are two names of one factor of {shown(layer)}. "
                "The file holds two LoRAs or was edited; get the original."
            )
        sources[layer, factor] = name
        layers.setdefault(layer, {})[factor] = tensor
    return layers


def _change(layer: str, found: Factors, alpha: float | None, file: str) -> LowRank:
    if found.keys() == {"alpha"}:
        raise CheckpointError(f"{file}: {shown(layer)} has an alpha and no factors. The file is damaged; get it again.")
    is_convolution = _is_convolution(found)
    if is_convolution:
        found = {name: tensor.flatten(1) if tensor.ndim == 4 else tensor for name, tensor in found.items()}
    if not _multiply(found):
        shapes = ", ".join(f"{factor} {list(tensor.shape)}" for factor, tensor in found.items())
        raise CheckpointError(
            f"{file}: {shown(layer)} should have down [r, in] and up [out, r], found {shapes}. "
            "The file is damaged; download it again."
        )
    own = found.get("alpha")
    alpha = alpha if own is None or own.is_meta else float(own)
    return LowRank(layer, found["up"], found["down"], alpha, is_convolution=is_convolution)


def _is_convolution(found: Factors) -> bool:
    """Whether the factors are convolutions of one pixel, as those of SD 1.5's `proj_in` are."""
    factors = [found[name] for name in ("up", "down") if name in found]
    return len(factors) == 2 and all(factor.ndim == 4 and factor.shape[2:] == (1, 1) for factor in factors)


def _multiply(found: Factors) -> bool:
    """Whether these are the two matrices of one change, and an alpha if any."""
    if not {"up", "down"} <= found.keys() or not ("alpha" not in found or _is_number(found["alpha"])):
        return False
    up, down = found["up"], found["down"]
    are_matrices = all(factor.ndim == 2 and is_computable(factor) and 0 not in factor.shape for factor in (up, down))
    return are_matrices and up.shape[1] == down.shape[0]


def _is_number(tensor: Tensor) -> bool:
    is_whole = not (tensor.is_floating_point() or tensor.is_complex())
    return tensor.numel() == 1 and (is_whole or is_computable(tensor))


def alpha_of_peft(header: Mapping[str, str], file: str) -> float | None:
    """The alpha that PEFT or diffusers wrote beside the factors, for all layers alike; None if they wrote none.

    Raises: CheckpointError if they describe a LoRA whose factors are scaled otherwise.
    """
    try:
        said: Any = json.loads(header.get(PEFT_HEADER, "{}"))
    except (ValueError, RecursionError):
        said = {}
    entries = cast(dict[str, Any], said) if isinstance(said, dict) else {}
    settings = {key.removeprefix("unet."): value for key, value in entries.items()}
    unusual = [key for key in ("use_dora", "use_rslora", "alpha_pattern") if settings.get(key)]
    if unusual:
        raise CheckpointError(
            f"{file}: its factors are scaled by {some(unusual)}, which MotionGraft does not read. "
            "Save it as a LoRA with one alpha for all layers."
        )
    alpha = settings.get("lora_alpha")
    if not isinstance(alpha, int | float):
        return None
    if not abs(alpha) <= sys.float_info.max:
        raise CheckpointError(
            f"{file}: expected a finite lora_alpha in its {PEFT_HEADER}, found {shown(str(alpha))}. "
            "Every frame would be noise; get the file again."
        )
    return float(alpha)
