"""How many frames a motion module can take at once, checked before anything is sampled."""

import logging

from ..core.errors import SettingsError

log = logging.getLogger(__name__)

TRAINED_FRAMES = 16
"""Of every published module but HotshotXL."""


def check_clip_length(
    num_frames: int,
    window: int | None,
    num_positions: int,
    trained_frames: int,
    name: str,
    node: str = "ContextWindow",
) -> None:
    """Refuse what cannot move or has no positions; warn where motion will be poor.

    Units: frames; window is the length of the windows that `node` sets, None without one; trained_frames 0 asks for no
    warning.
    Raises: SettingsError for one frame, or more frames at once than the module has positions.
    """
    usual = trained_frames or TRAINED_FRAMES
    if num_frames == 1:
        raise SettingsError(
            "expected a clip of several frames, found 1. One frame cannot move: set batch_size of Empty Latent Image "
            f"to the number of frames, for example {usual}."
        )
    at_once = num_frames if window is None else min(num_frames, window)
    if at_once > num_positions:
        raise SettingsError(_too_long(num_frames, window, num_positions, usual, name, node))
    if at_once < trained_frames:
        log.warning(
            "%s was trained on clips of %d frames and gets %d at once: expect weak or broken motion. "
            "Raise batch_size or the window's length to %d.",
            name,
            trained_frames,
            at_once,
            trained_frames,
        )


def _too_long(num_frames: int, window: int | None, num_positions: int, usual: int, name: str, node: str) -> str:
    if window is not None and num_frames > window:
        return (
            f"the windows of {node} are {window} frames long, {name} has positions for {num_positions}. "
            f"Set the length of {node} to {num_positions} or less."
        )
    return (
        f"{num_frames} frames at once, and {name} has positions for {num_positions}. "
        f"Add a ContextWindow node with length {min(usual, num_positions)} between InflateModel and the "
        "sampler."
    )
