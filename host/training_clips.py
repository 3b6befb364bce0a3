"""Training clips from a folder of ComfyUI's input directory, with progress in the editor."""

from comfy.model_management import throw_exception_if_processing_interrupted
from comfy.utils import ProgressBar

from ..training.data.clip_check import find_training_clips
from ..training.data.clip_settings import ClipSettings
from ..training.data.clips import TrainingClips
from .input_folders import find_input_folder


def load_training_clips(folder_name: str, settings: ClipSettings) -> tuple[TrainingClips, str]:
    """The checked clips of an input folder, and the report on them; can be interrupted between two files.

    Raises: TrainingDataError as `find_training_clips`, or if the folder is not in the input directory.
    """
    progress = ProgressBar(1)

    def on_clip(done: int, total: int) -> None:
        throw_exception_if_processing_interrupted()
        progress.update_absolute(done, total)

    return find_training_clips(find_input_folder(folder_name), settings, on_clip)
