"""Weight files that lie in a folder with their description: those of diffusers, and of PEFT."""

import json
import re
from pathlib import Path
from typing import Any, cast

from .errors import CheckpointError, shown

SAFETENSORS = ".safetensors"
PICKLE_SUFFIXES = {".ckpt", ".pt", ".pth", ".bin"}
DIFFUSERS_STEM, CONFIG = "diffusion_pytorch_model", "config.json"
"""Source: huggingface/diffusers utils/constants.py."""
PEFT_STEM, PEFT_CONFIG = "adapter_model", "adapter_config.json"
"""Source: huggingface/peft utils/constants.py."""
PEFT_HEADER = "lora_adapter_metadata"
"""Where diffusers puts PEFT's description, in the file itself. Source: huggingface/diffusers loaders/lora_base.py."""
_SHARD = re.compile(r"-\d+-of-\d+")


def has_common_name(path: Path) -> bool:
    """Whether a file has the name that all of its kind have, so that its folder tells it from others."""
    return path.stem.startswith((DIFFUSERS_STEM, PEFT_STEM))


def weights_in(folder: Path) -> Path:
    """The weights of a folder of diffusers, safetensors first, the plain name before variants such as `.fp16`.

    Raises: CheckpointError if there are none, or they are cut into several files.
    """
    suffixes = {SAFETENSORS, *PICKLE_SUFFIXES}
    found = sorted(path for path in folder.iterdir() if has_common_name(path) and path.suffix in suffixes)
    if not found:
        raise CheckpointError(
            f"{folder.name}: expected a folder of diffusers with {DIFFUSERS_STEM}{SAFETENSORS}, found none in it. "
            "Choose the weight file itself."
        )
    if any(_SHARD.search(path.stem) for path in found):
        raise CheckpointError(
            f"{folder.name}: expected one weight file, found {len(found)} that hold parts of it, such as "
            f"{shown(found[0].name)}. Save it in one file: save_pretrained with a larger max_shard_size."
        )
    return min(found, key=lambda path: (path.suffix != SAFETENSORS, len(path.name)))


def config_beside(path: Path) -> dict[str, Any]:
    """diffusers' description of a weight file that it wrote; empty for all other files."""
    is_described = path.stem.startswith(DIFFUSERS_STEM) and path.with_name(CONFIG).is_file()
    parsed: Any = _parsed(path.with_name(CONFIG), "how many heads the weights have") if is_described else {}
    return cast(dict[str, Any], parsed) if isinstance(parsed, dict) else {}


def header_beside(path: Path) -> dict[str, str]:
    """PEFT's description of a LoRA that it wrote, as diffusers would have put it into the file; empty for others."""
    config = path.with_name(PEFT_CONFIG)
    if not (path.stem.startswith(PEFT_STEM) and config.is_file()):
        return {}
    return {PEFT_HEADER: json.dumps(_parsed(config, "how the factors are scaled"))}


def _parsed(config: Path, says: str) -> Any:
    try:
        return json.loads(config.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{config.parent.name}/{config.name} cannot be read ({shown(str(error))}). Get it again; it says {says}."
        ) from error
