"""The ComfyUI that MotionGraft needs, checked once when the nodes load."""

import re

import comfyui_version

from ..core.errors import HostError

MINIMUM = (0, 25, 0)
"""The first with `ModelPatcher.clone(force_deepcopy=)`; pyproject.toml declares the same floor."""


def check_host_version(version: str = comfyui_version.__version__) -> None:
    """Raises: HostError if this ComfyUI is older than the floor."""
    if _numbers(version) < MINIMUM:
        needed = ".".join(map(str, MINIMUM))
        raise HostError(f"MotionGraft needs ComfyUI {needed} or newer, this is {version}. Update ComfyUI.")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])
