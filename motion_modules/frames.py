"""The clips inside a batch of frames."""

from collections.abc import Callable

from torch import Tensor

from ..core.errors import ShapeError


def norm_over_frames(norm: Callable[[Tensor], Tensor], x: Tensor, num_frames: int) -> Tensor:
    """A GroupNorm whose statistics are taken over all frames of each clip instead of each frame by itself.

    Shapes: x `(b f) c h w` -> `(b f) c h w`, with f = num_frames
    Source: guoyww/AnimateDiff unet.py and resnet.py with `use_inflated_groupnorm: false`.
    """
    clips = x.view(-1, num_frames, *x.shape[1:]).transpose(1, 2)
    return norm(clips).transpose(1, 2).flatten(0, 1)


def check_whole_clips(batch: int, num_frames: int) -> None:
    """Raises: ShapeError if a batch cannot be whole clips of so many frames."""
    if num_frames < 1 or batch % num_frames:
        raise ShapeError(
            f"expected a batch of whole clips of {num_frames} frames, found {batch} frames. "
            "Another extension may have changed the batch; take it out of the graph to see."
        )
