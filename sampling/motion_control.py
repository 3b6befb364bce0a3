"""How much of a motion module's output is added, and how sharp its attention is: by frame, area, block and step."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.errors import SettingsError
from ..core.part_factors import PartFactors
from .frame_values import FrameValues, stretch
from .percent_range import PercentRange


@dataclass(frozen=True, eq=False)
class MotionControl:
    """One control, and those before it. Where several act, their strengths and their attention scales multiply.

    At its defaults it changes nothing. Outside its part of the sampling it changes nothing either.
    Raises: SettingsError for a part of the sampling that is none.
    """

    strength: float = 1.0
    attention_scale: float = 1.0
    start_percent: float = 0.0
    end_percent: float = 1.0
    mask: Tensor | None = None
    """Where it acts: 1 all the way, 0 not at all. Shapes: `f h w`, or `1 h w` for all frames"""
    per_frame: FrameValues | None = None
    """Factors of strength by frame."""
    blocks: PartFactors = field(default_factory=PartFactors)
    """Factors of strength by part of the motion module."""
    previous: "MotionControl | None" = None
    resample: bool = False
    """Whether masks and values of another number than the clip has frames are stretched to it, or refused."""

    def __post_init__(self):
        _ = self.part  # refuses one that is none

    def chain(self) -> Iterator["MotionControl"]:
        """This control and all before it."""
        yield self
        if self.previous is not None:
            yield from self.previous.chain()

    @property
    def part(self) -> PercentRange:
        """Of the sampling, in which it acts."""
        return PercentRange(self.start_percent, self.end_percent)

    def acts_at(self, percent: float) -> bool:
        """Whether a share of the sampling lies in its part."""
        return self.part.holds(percent)

    @property
    def acts_always(self) -> bool:
        """Whether its part of the sampling is all of it."""
        return self.part.is_whole

    @property
    def is_neutral(self) -> bool:
        """Whether it changes nothing, whatever its mask and its part of the sampling."""
        return self.strength == self.attention_scale == 1 and self.per_frame is None and not self.blocks.factors

    def check_clip(self, num_frames: int) -> None:
        """Raises: SettingsError if the values or masks of this control or one before are not those of such a clip."""
        for control in self.chain():
            control.strengths(num_frames)
            if control.mask is not None and not control.resample:
                check_number_of_masks(control.mask, num_frames)

    def strengths(self, num_frames: int) -> list[float]:
        """The strength of each frame of a clip, blocks apart. Raises: SettingsError for values of another number."""
        if self.per_frame is None:
            return [self.strength] * num_frames
        return [self.strength * value for value in self.per_frame.for_frames(num_frames, "per_frame", self.resample)]

    def mask_at(self, frames: Sequence[int], num_frames: int, size: Sequence[int]) -> Tensor | None:
        """The mask of some frames of a clip, at the size of its latents. Shapes: -> `f 1 h w`"""
        if self.mask is None:
            return None
        if not self.resample or self.mask.shape[0] in (1, num_frames):
            return latent_mask(self.mask, frames, size)
        between = stretch(self.mask.shape[0], num_frames, frames)
        before, after = (latent_mask(self.mask, each, size) for each in (between.before, between.after))
        return torch.lerp(before, after, between.way.to(before)[:, None, None, None])


@dataclass(frozen=True, eq=False)
class ControlledFrames:
    """A control as the frames of one call see it: at one share of the sampling, in one window."""

    control: MotionControl
    factors: Tensor
    """Strength by frame, blocks apart. Shapes: `f`"""
    mask: Tensor | None
    """Shapes: `(b f) 1 h w`, at the size of the latents"""
    scaled: dict[tuple[int, ...], Tensor] = field(default_factory=lambda: {})
    """The mask at the sizes of features that were asked for."""

    def strength_at(self, name: str, x: Tensor) -> Tensor | float:
        """The strength of the transformer of this name, on features of a call.

        Shapes: x `(b f) c h w` -> `(b f) 1 h w` or `(b f) 1 1 1`, or one number where all frames have it
        """
        by_frame = self.factors * self.control.blocks.of(name)
        if self.mask is None and bool((by_frame == by_frame[0]).all()):
            return float(by_frame[0])
        return self._inside_mask(by_frame.repeat(len(x) // len(by_frame)).to(x)[:, None, None, None], x)

    def attention_scale_at(self, x: Tensor) -> Tensor | float:
        """The attention scale on features of a call. Shapes: as for `strength_at`"""
        scale = self.control.attention_scale
        return scale if self.mask is None or scale == 1 else self._inside_mask(scale, x)

    def _inside_mask(self, value: Tensor | float, x: Tensor) -> Tensor | float:
        """A factor where the mask is white, 1 where it is black."""
        if self.mask is None:
            return value
        size = tuple(x.shape[-2:])
        if size not in self.scaled:
            self.scaled[size] = F.interpolate(self.mask, size=size, mode="area").to(x)
        return 1 + self.scaled[size] * (value - 1)


def as_masks(mask: Tensor) -> Tensor:
    """A mask as ComfyUI's nodes give it, one or many. Shapes: `h w`, `f h w` or `f 1 h w` -> `f h w`

    Raises: SettingsError for a tensor of another form.
    """
    if mask.ndim not in (2, 3) and not (mask.ndim == 4 and mask.shape[1] == 1):
        raise SettingsError(
            f"mask: expected frames×height×width, found {'×'.join(map(str, mask.shape))}. Connect a mask; an image "
            "becomes one through Convert Image to Mask."
        )
    return mask.reshape(-1, *mask.shape[-2:])


def check_number_of_masks(mask: Tensor, num_frames: int) -> None:
    """Raises: SettingsError unless there is one mask, or one for each frame of the clip. Shapes: mask `f h w`"""
    if mask.shape[0] not in (1, num_frames):
        raise SettingsError(
            f"mask: expected one for all frames or one for each of the {num_frames}, found {mask.shape[0]}. "
            "Give as many."
        )


def factors_of(control: MotionControl, frames: Sequence[int], num_frames: int) -> Tensor:
    """The strength of each frame of a window, in a clip of so many. Shapes: -> `f`"""
    strengths = control.strengths(num_frames)
    return torch.tensor([strengths[frame] for frame in frames])


def latent_mask(mask: Tensor, frames: Sequence[int], size: Sequence[int]) -> Tensor:
    """The masks of a window's frames at the size of the latents. Shapes: `f h w` or `1 h w` -> `f' 1 h w`"""
    own = mask if mask.shape[0] == 1 else mask[list(frames)]
    scaled = F.interpolate(own[:, None].float(), size=tuple(size), mode="area").clamp(0, 1)
    return scaled.expand(len(frames), -1, -1, -1)


def strength_of(controls: Sequence[ControlledFrames], name: str, x: Tensor) -> Tensor | float:
    """The product of all strengths at a transformer. Shapes: as for `ControlledFrames.strength_at`"""
    return _product(control.strength_at(name, x) for control in controls)


def attention_scale_of(controls: Sequence[ControlledFrames], x: Tensor) -> Tensor | float:
    """The product of all attention scales. Shapes: as for `ControlledFrames.strength_at`"""
    return _product(control.attention_scale_at(x) for control in controls)


def _product(values: Iterable[Tensor | float]) -> Tensor | float:
    product: Tensor | float = 1.0
    for value in values:
        product = product * value
    return product
