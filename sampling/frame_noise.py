"""The noise that a clip starts from: it belongs to frames, not to clips."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import torch
from torch import Tensor

from ..core.errors import SettingsError
from ..core.seeds import derived_seed
from .frame_seeds import FrameSeeds
from .window_indices import free_noise

Draw = Callable[[int, Sequence[int]], Tensor]
"""A host's noise of a seed and of the frames of these numbers, in their order. Shapes: -> `f c h w`"""


def frame_noise(seed: int, num_frames: int, channels: int, height: int, width: int) -> Tensor:
    """Noise drawn frame by frame: frame 7 of a seed gets the same in a clip of any length, and in ComfyUI.

    Shapes: -> `f c h w`, float32 on the CPU. Units: height and width in latent pixels
    Source: ComfyUI sample.py, `prepare_noise` with `noise_inds`; its generator is the CPU's, on every machine.
    """
    generator = torch.Generator().manual_seed(seed)
    frames = [torch.randn(1, channels, height, width, generator=generator) for _ in range(num_frames)]
    return torch.cat(frames)


@dataclass(frozen=True)
class FrameNoiseSettings:
    """What the frames of a clip have in common in their noise.

    Raises: SettingsError for a kind that there is not, or a number outside its range.
    """

    seed: int = 0
    kind: str = "by frame"
    length: int = 16
    """Frames whose noise repeats, and those of the first window of `freenoise`."""
    overlap: int = 4
    """Frames that a window shares with the next, for `freenoise`."""
    share: float = 0.5
    """Of the variance, how much is common to all frames, for `mixed`."""
    seeds: FrameSeeds = field(default_factory=FrameSeeds)
    """Of frames that have one of their own."""

    def __post_init__(self):
        if self.kind not in KINDS:
            raise SettingsError(f"kind should be one of {', '.join(KINDS)}, found {self.kind}. Choose one of these.")
        if self.length < 1 or self.overlap < 0 or not 0 <= self.share <= 1:
            raise SettingsError(
                "frame noise needs length 1 or more, overlap 0 or more and share 0 to 1; found length "
                f"{self.length}, overlap {self.overlap}, share {self.share:g}. Length 16, overlap 4 suit most modules."
            )
        if self.kind == "freenoise" and self.overlap >= self.length:
            raise SettingsError(
                f"overlap {self.overlap} must be smaller than length {self.length}, or the windows never advance. "
                f"Set both to those of ContextWindow, or overlap to {self.length // 4}."
            )


def clip_noise(settings: FrameNoiseSettings, frames: Sequence[int], draw: Draw) -> Tensor:
    """The noise of the frames of these numbers. Each frame has what a clip of its seed has in its place.

    Shapes: -> `f c h w`, as drawn
    """
    seeds = [settings.seeds.seed_of(frame, settings.seed) for frame in frames]
    first, *others = dict.fromkeys(seeds)
    noise = KINDS[settings.kind](settings, first, frames, draw)
    for seed in others:
        places = [place for place, each in enumerate(seeds) if each == seed]
        noise[places] = KINDS[settings.kind](settings, seed, frames, draw)[places]
    return noise


def _by_frame(_: FrameNoiseSettings, seed: int, frames: Sequence[int], draw: Draw) -> Tensor:
    return draw(seed, frames)


def _constant(_: FrameNoiseSettings, seed: int, frames: Sequence[int], draw: Draw) -> Tensor:
    """One frame's noise in all. It is no frame's own, so that `mixed` adds up parts that know nothing of each other."""
    return draw(derived_seed("common noise", seed), [0] * len(frames))


def _repeated(settings: FrameNoiseSettings, seed: int, frames: Sequence[int], draw: Draw) -> Tensor:
    return draw(seed, [frame % settings.length for frame in frames])


def _freenoise(settings: FrameNoiseSettings, seed: int, frames: Sequence[int], draw: Draw) -> Tensor:
    whole = draw(seed, range(max(frames) + 1))
    return free_noise(whole, settings.length, settings.overlap, seed)[list(frames)]


def _mixed(settings: FrameNoiseSettings, seed: int, frames: Sequence[int], draw: Draw) -> Tensor:
    """A part that all frames share and a part of each frame's own, of variance 1 together.

    Source: arXiv 2305.10474 (PYoCo), mixed noise model; share = α²/(1+α²).
    """
    common = _constant(settings, seed, frames, draw)
    return settings.share**0.5 * common + (1 - settings.share) ** 0.5 * draw(seed, frames)


KINDS: Mapping[str, Callable[[FrameNoiseSettings, int, Sequence[int], Draw], Tensor]] = MappingProxyType(
    {
        "by frame": _by_frame,
        "constant": _constant,
        "repeated": _repeated,
        "freenoise": _freenoise,
        "mixed": _mixed,
    }
)
