"""How many frames a conditioning has states for, checked before a clip is sampled."""

from typing import Any

from torch import Tensor

from ..core.errors import SettingsError

NUM_FRAMES = "motiongraft.num_frames"
"""In a conditioning of PromptTravel: its number of frames. ComfyUI would repeat or cut the states in silence."""


def check_prompt_frames(executor: Any, noise: Tensor, *args: Any, **kwargs: Any) -> Any:
    """OUTER_SAMPLE wrapper: refuse prompts for another number of frames before anything is loaded.

    Shapes: noise `f c h w`
    Raises: SettingsError if a conditioning of PromptTravel has states for more or fewer frames than the clip has.
    """
    for conditionings in executor.class_obj.conds.values():
        for conditioning in conditionings:
            _check_frames(conditioning.get(NUM_FRAMES), noise.shape[0])
    return executor(noise, *args, **kwargs)


def _check_frames(travelled: int | None, num_frames: int) -> None:
    if travelled not in (None, num_frames):
        raise SettingsError(
            f"the prompts of Prompt Travel are for {travelled} frames, and the clip has {num_frames}. "
            f"Set num_frames of Prompt Travel to {num_frames}, or batch_size of the latent to {travelled}."
        )
