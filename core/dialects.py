"""How programs name the layers of a motion module: one table, with the way to AnimateDiff's own names and back.

A dialect maps names and nothing else. LoRA files name the same layers, so `lora/` reads this table too.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from .errors import CheckpointError, shown

PREFIXES = ("module.", "unet.", "motion_module.", "base_model.model.")
"""What trainers and converters put in front of every name.

Source: `module.` is DistributedDataParallel's, guoyww/AnimateDiff train.py; `unet.` is of diffusers' pipelines;
`base_model.model.` is of the library PEFT.
"""
POSITION_TABLE = ".pos_encoder.pe"
NUMBER = "[0-9]{1,9}"
"""A number in a name that is counted with. What is longer numbers nothing, and Python does not read 4,301 digits."""


@dataclass(frozen=True)
class Dialect:
    """One program's names for the layers of a motion module."""

    name: str
    program: str
    """Whose names these are, in the words of a message."""
    mark: re.Pattern[str]
    """What a name of this dialect, and of no other, contains."""
    to_official: Callable[[str], str]
    from_official: Callable[[str], str]
    shares_positions: bool = False
    """Both attentions of a transformer have one position table, where AnimateDiff stores one for each."""


_ALL_PREFIXES = re.compile(f"(?:{'|'.join(map(re.escape, PREFIXES))})*")


def strip_prefixes(name: str) -> str:
    """The name without what trainers put in front of it, however often."""
    return _ALL_PREFIXES.sub("", name, count=1)


def _unchanged(name: str) -> str:
    return name


_HOTSHOTXL_LAYER = re.compile(r"\.temporal_attentions\.(\d+)\.")
_OFFICIAL_LAYER = re.compile(r"\.motion_modules\.(\d+)\.temporal_transformer\.")
_DIFFUSERS_LAYER = re.compile(r"\.motion_modules\.(\d+)\.(?!temporal_transformer\.)")


def _from_hotshotxl(name: str) -> str:
    name = _HOTSHOTXL_LAYER.sub(r".motion_modules.\1.temporal_transformer.", name)
    return name.replace(".pos_encoder.positional_encoding", POSITION_TABLE)


def _to_hotshotxl(name: str) -> str:
    name = _OFFICIAL_LAYER.sub(r".temporal_attentions.\1.", name)
    return name.replace(POSITION_TABLE, ".pos_encoder.positional_encoding")


def _from_diffusers(name: str) -> str:
    name = _DIFFUSERS_LAYER.sub(r".motion_modules.\1.temporal_transformer.", name)
    name = re.sub(rf"\.attn({NUMBER})\.", lambda found: f".attention_blocks.{int(found[1]) - 1}.", name)
    name = re.sub(r"\.norm([12])\.", lambda found: f".norms.{int(found[1]) - 1}.", name)
    return name.replace(".norm3.", ".ff_norm.").replace(".pos_embed.pe", f".attention_blocks.0{POSITION_TABLE}")


def _to_diffusers(name: str) -> str:
    name = _OFFICIAL_LAYER.sub(r".motion_modules.\1.", name)
    name = re.sub(r"\.attention_blocks\.\d+\.pos_encoder\.pe$", ".pos_embed.pe", name)
    name = re.sub(rf"\.attention_blocks\.({NUMBER})\.", lambda found: f".attn{int(found[1]) + 1}.", name)
    name = re.sub(rf"\.norms\.({NUMBER})\.", lambda found: f".norm{int(found[1]) + 1}.", name)
    return name.replace(".ff_norm.", ".norm3.")


ANIMATEDIFF = Dialect("animatediff", "AnimateDiff", _OFFICIAL_LAYER, _unchanged, _unchanged)
HOTSHOTXL = Dialect("hotshotxl", "HotshotXL", _HOTSHOTXL_LAYER, _from_hotshotxl, _to_hotshotxl)
DIFFUSERS = Dialect("diffusers", "diffusers", _DIFFUSERS_LAYER, _from_diffusers, _to_diffusers, shares_positions=True)

DIALECTS = (ANIMATEDIFF, HOTSHOTXL, DIFFUSERS)
"""Source: guoyww/AnimateDiff motion_module.py; hotshotco/Hotshot-XL transformer_temporal.py; huggingface/diffusers
unet_motion_model.py.
"""


def dialect_of(names: Iterable[str], file: str) -> Dialect | None:
    """The dialect of a file's temporal layers, None if it has no layer that any dialect names.

    Raises: CheckpointError if the names are of more than one.
    """
    firsts: dict[str, tuple[Dialect, str]] = {}
    for name in names:
        for dialect in DIALECTS:
            if dialect.name not in firsts and dialect.mark.search(name):
                firsts[dialect.name] = (dialect, name)
    if len(firsts) > 1:
        found = " and ".join(f"{dialect.program}'s ({shown(name)})" for dialect, name in firsts.values())
        raise CheckpointError(
            f"{file}: expected the names of one program, found {found}. Two files were mixed; get the original."
        )
    return next((dialect for dialect, _ in firsts.values()), None)


def official_names(names: Iterable[str], dialect: Dialect, file: str) -> dict[str, str]:
    """The file's names by the official ones, without what a trainer put in front.

    Raises: CheckpointError if two names of the file are one official name.
    """
    renamed: dict[str, str] = {}
    for name in names:
        official = dialect.to_official(strip_prefixes(name))
        if official in renamed:
            raise CheckpointError(
                f"{file}: {shown(renamed[official])} and {shown(name)} are two names of one tensor, {shown(official)}. "
                "The file holds two modules or was edited; get the original."
            )
        renamed[official] = name
    return renamed
