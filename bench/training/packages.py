"""What the rival side needs, loaded before anything is measured."""

import importlib
from collections.abc import Iterable

from ...core.errors import SettingsError

PACKAGES = {2: ("diffusers",), 3: ("diffusers", "peft")}
"""By stage; diffusers trains LoRAs through peft."""


def import_packages(stages: Iterable[int]) -> None:
    """Import what these stages need, so that no import counts as a step's memory.

    Raises: SettingsError if a package is missing.
    """
    for stage in stages:
        for package in PACKAGES[stage]:
            try:
                importlib.import_module(package)
            except ImportError as error:
                raise SettingsError(
                    f"expected {package}, beside which stage {stage} is measured, and it cannot be imported ({error}). "
                    f"Install it (pip install {package}), or choose another --stage."
                ) from error
