"""Model folders: where motion files lie, what they are called, and that nothing else is opened."""

from pathlib import Path, PurePosixPath, PureWindowsPath

import folder_paths

from ..core.errors import CheckpointError

MOTION_MODULES = "animatediff_models"
MOTION_LORAS = "animatediff_motion_lora"
LORAS = "loras"
CONTROLNETS = "controlnet"
NONE = "none"
"""The first entry of a file list beside an optional socket."""


def register_folders() -> None:
    """Tell ComfyUI of the two motion folders; paths that the user configured stay first."""
    for folder in (MOTION_MODULES, MOTION_LORAS):
        folder_paths.add_model_folder_path(folder, str(Path(folder_paths.models_dir) / folder))
        folder_paths.folder_names_and_paths[folder][1].update(folder_paths.supported_pt_extensions)


def list_files(folder: str) -> list[str]:
    """Names of the files in a model folder; for an empty one a single entry that says where files go."""
    return folder_paths.get_filename_list(folder) or [f"(no files: put them into {_target(folder)})"]


def list_optional_files(folder: str) -> list[str]:
    """`none`, then the names of the files in a model folder."""
    return [NONE, *folder_paths.get_filename_list(folder)]


def find_file(folder: str, name: str) -> Path:
    """The path of a listed file, inside one of the folder's directories.

    Raises: CheckpointError if the name leads elsewhere or the file is gone.
    """
    if leads_outside(name):
        raise CheckpointError(
            f"{name!r} leads out of the model folder {folder}. Expected the name of a file inside it; "
            "choose one from the list."
        )
    if name.startswith("(no files"):
        raise CheckpointError(f"There are no files in {_target(folder)}. Put one there and refresh the node.")
    path = folder_paths.get_full_path(folder, name)
    if path is None:
        raise CheckpointError(
            f"{name}: not in {_target(folder)} any more. Put it back, or refresh the node and choose another file."
        )
    return Path(path)


def file_stamp(folder: str, name: str) -> str:
    """A text that changes when the file does, so that a cached node result is not used for a newer file."""
    try:
        stat = find_file(folder, name).stat()
    except (CheckpointError, OSError):
        return name
    return f"{name}:{stat.st_size}:{stat.st_mtime_ns}"


def leads_outside(name: str) -> bool:
    """Whether a name is more than a relative path downwards, on any system."""
    paths = (PurePosixPath(name), PureWindowsPath(name))
    return "\0" in name or any(path.is_absolute() or path.drive or ".." in path.parts for path in paths)


def _target(folder: str) -> str:
    return folder_paths.get_folder_paths(folder)[0]
