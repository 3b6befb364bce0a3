"""Model folders of one test alone, in a real ComfyUI."""

from pathlib import Path
from typing import Any

import pytest

NAMES = ("animatediff_models", "animatediff_motion_lora", "loras")


def empty_model_folders(host: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Where ComfyUI looks for each kind of file until the test ends; none of the folders exists yet."""
    paths = host.module("folder_paths")
    monkeypatch.setattr(paths, "filename_list_cache", {})
    for name in NAMES:
        entry = ([str(folder / name)], set(paths.supported_pt_extensions))
        monkeypatch.setitem(paths.folder_names_and_paths, name, entry)
    return {name: folder / name for name in NAMES}
