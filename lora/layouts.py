"""How programs name the factors of a LoRA: one table, with the way to one canonical name and back.

The canonical name of a factor is `<layer>.lora_down.weight`, `<layer>.lora_up.weight` or `<layer>.alpha`, where the
layer has its official name: AnimateDiff's for a temporal layer, diffusers' for a layer of the base model.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ..core.dialects import DIALECTS, DIFFUSERS, strip_prefixes
from ..core.errors import CheckpointError, shown, some

_CANONICAL = re.compile(r"^(?P<layer>.+?)\.(?:lora_(?P<factor>down|up)\.weight|(?P<alpha>alpha))$")
_PROCESSOR = re.compile(
    r"^(?P<parent>.+)\.processor\.(?P<leaf>to_[qkv]|to_out|0|2|proj)_lora\.(?P<factor>down|up)\.weight$"
)
_PEFT = re.compile(r"^(?P<layer>.+)\.lora_(?P<factor>A|B)(?:\.\w+)?\.weight$")
_LINEAR_LAYER = re.compile(r"^(?P<layer>.+?)\.(?:lora|lora_linear_layer)\.(?P<factor>down|up)\.weight$")
_ATTENTION = re.compile(r"\.(?:attention_blocks\.\d+|attn[12])\.(?:to_[qkv]|to_out\.0)$")
_KOHYA = re.compile(r"^(?:lora_unet_)?(?P<layer>\w+)(?P<rest>\.(?:lora_(?:down|up)\.weight|alpha))$")
_WORDS = re.compile(
    r"(?:^|_)(down_blocks|up_blocks|mid_block|motion_modules|attentions|temporal_transformer|transformer_blocks"
    r"|attention_blocks|attn\d+|to_q|to_k|to_v|to_out|ff|net|proj_in|proj_out|proj|\d+)(?=_|$)"
)
"""The words that kohya's names are made of, which have underscores in them and between them."""
_BLOCK = re.compile(r"^(?:down_blocks|up_blocks|mid_block)\.\S")
_PEFT_FACTORS = {"A": "down", "B": "up"}


@dataclass(frozen=True)
class Layout:
    """One program's names for the factors of a LoRA."""

    name: str
    program: str
    """Whose names these are, in the words of a message."""
    read: Callable[[str], str | None]
    """The canonical name of a factor; None for a name of another layout."""
    write: Callable[[str], str | None]
    """The name of a canonical factor; None if this layout has none for it."""


def factor_of(canonical: str) -> tuple[str, str]:
    """The layer and the factor (`down`, `up` or `alpha`) that a canonical name says."""
    found = _CANONICAL.match(canonical)
    assert found is not None
    return found["layer"], found["factor"] or found["alpha"]


def canonical_name(layer: str, factor: str) -> str:
    """The canonical name of a layer's `down`, `up` or `alpha`."""
    return f"{layer}.alpha" if factor == "alpha" else f"{layer}.lora_{factor}.weight"


def official_layer(layer: str) -> str:
    """A layer's official name, from its name in any dialect and behind any prefix."""
    layer = strip_prefixes(layer)
    dialect = next((dialect for dialect in DIALECTS if dialect.mark.search(layer)), None)
    layer = layer if dialect is None else dialect.to_official(layer)
    return f"{layer}.0" if layer.endswith(".to_out") else layer


def _canonical_of(layer: str, factor: str) -> str | None:
    """The canonical name of a factor, from its layer's name in any dialect; None if that is in no block of a UNet."""
    official = official_layer(layer)
    return canonical_name(official, factor) if _BLOCK.match(official) else None


def _read_processor(name: str, is_ours: Callable[[str], bool]) -> str | None:
    found = _PROCESSOR.match(name)
    if found is None or not is_ours(name):
        return None
    return _canonical_of(f"{found['parent']}.{found['leaf']}", found["factor"])


def _is_temporal_of_diffusers(name: str) -> bool:
    return DIFFUSERS.mark.search(name) is not None


def _read_animatediff(name: str) -> str | None:
    read = _read_processor(name, lambda name: not _is_temporal_of_diffusers(name))
    return read if read and _ATTENTION.search(factor_of(read)[0]) and ".to_out.processor." not in name else None


def _write_animatediff(canonical: str) -> str | None:
    layer, factor = factor_of(canonical)
    if factor == "alpha" or not _ATTENTION.search(layer):
        return None
    parent, leaf = layer.removesuffix(".0").rsplit(".", 1)
    return f"{parent}.processor.{leaf}_lora.{factor}.weight"


def _read_motiondirector(name: str) -> str | None:
    return _read_processor(name, lambda name: not _is_temporal_of_diffusers(name) and ".processor.to_out_" not in name)


def _write_motiondirector(canonical: str) -> str | None:
    layer, factor = factor_of(canonical)
    parent, leaf = layer.rsplit(".", 1)
    return None if factor == "alpha" else f"{parent}.processor.{leaf}_lora.{factor}.weight"


def _read_old_diffusers(name: str) -> str | None:
    read = _read_processor(name, lambda name: True)
    found = _LINEAR_LAYER.match(name)
    if found is not None:
        return _canonical_of(found["layer"], found["factor"])
    return read if read and (name.startswith("unet.") or _is_temporal_of_diffusers(name)) else None


def _write_old_diffusers(canonical: str) -> str | None:
    written = _write_animatediff(canonical)
    return None if written is None else f"unet.{DIFFUSERS.from_official(written)}"


def _read_peft(name: str) -> str | None:
    found = _PEFT.match(name)
    return found and _canonical_of(found["layer"], _PEFT_FACTORS[found["factor"]])


def _write_peft(canonical: str) -> str | None:
    layer, factor = factor_of(canonical)
    letter = {word: letter for letter, word in _PEFT_FACTORS.items()}.get(factor)
    return letter and f"unet.{DIFFUSERS.from_official(f'{layer}.')}lora_{letter}.weight"


def _read_kohya(name: str) -> str | None:
    found = _KOHYA.match(name)
    if found is not None:
        words = _WORDS.findall(found["layer"])
        dotted = ".".join(words)
        return official_layer(dotted) + found["rest"] if dotted.replace(".", "_") == found["layer"] else None
    found = _CANONICAL.match(name)
    return found and _canonical_of(found["layer"], found["factor"] or found["alpha"])


def _write_kohya(canonical: str) -> str:
    layer, factor = factor_of(canonical)
    return f"lora_unet_{canonical_name(layer.replace('.', '_'), factor)}"


ANIMATEDIFF = Layout("animatediff", "AnimateDiff", _read_animatediff, _write_animatediff)
MOTIONDIRECTOR = Layout("motiondirector", "MotionDirector", _read_motiondirector, _write_motiondirector)
OLD_DIFFUSERS = Layout("old-diffusers", "an older diffusers", _read_old_diffusers, _write_old_diffusers)
PEFT = Layout("diffusers", "diffusers and PEFT", _read_peft, _write_peft)
KOHYA = Layout("kohya", "kohya and A1111", _read_kohya, _write_kohya)

LAYOUTS = (OLD_DIFFUSERS, ANIMATEDIFF, MOTIONDIRECTOR, PEFT, KOHYA)
"""A name that two layouts share goes to the first that reads the whole file.

Source: guoyww/AnimateDiff v2_lora_*.ckpt and v3_sd15_adapter.ckpt; ExponentialML/AnimateDiff-MotionDirector;
huggingface/diffusers loaders/unet.py; kohya-ss/sd-scripts networks/lora.py.
"""


def find_layout(names: Iterable[str]) -> Layout | None:
    """The one layout that names everything in a file, if there is one."""
    names = list(names)
    return next((layout for layout in LAYOUTS if all(layout.read(name) for name in names)), None)


def layout_of(names: Iterable[str], file: str) -> Layout:
    """The one layout that names everything in a file.

    Raises: CheckpointError naming the first tensor that no layout knows, or two that are of different layouts.
    """
    names = list(names)
    whole = find_layout(names)
    if whole is not None:
        return whole
    unknown = [name for name in names if not any(layout.read(name) for layout in LAYOUTS)]
    if unknown:
        raise CheckpointError(
            f"{file}: expected low-rank factors in the layout of AnimateDiff, MotionDirector, diffusers or kohya, "
            f"found {len(unknown)} tensors with other names ({some(unknown[:2])}). Convert the file to one of these."
        )
    raise CheckpointError(
        f"{file}: expected the names of one program, found those of several: {_two_layouts(names)}. "
        "Two files were mixed; get the original."
    )


def _two_layouts(names: list[str]) -> str:
    first = next(layout for layout in LAYOUTS if layout.read(names[0]))
    other = next(name for name in names if not first.read(name))
    return f"{shown(names[0])} and {shown(other)}"
