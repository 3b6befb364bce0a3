"""Which frames each context window holds at a sampling step, and how much each of its frames counts.

Indices and weights alone: a host slices its tensors with the ones and adds up its predictions with the others. They
are those of ComfyUI's context windows, so that a clip sampled in pieces is the same on every host.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, cast

import torch
from torch import Tensor

from .context_windows import ContextWindowSettings

Window = list[int]

COMPOSITE = "composite"
"""The schedule whose first steps are shuffled; after them it is uniform."""
EARLY = 0.1
"""Share of the sampling that is shuffled. Source: s9roll7/animatediff-cli-prompt-travel pipelines/context.py."""
DRAWS = 10_000
"""Different shuffles over a whole sampling."""
BELL_WIDTH = 0.25
"""Standard deviation of the weights of `gaussian`, in lengths of a window: at its ends a frame counts about a sixth."""
SMALLEST_WEIGHT = 1e-37
"""Where a linear ramp ends: no frame of a window weighs nothing. Source: ComfyUI context_windows.py."""


def window_indices(settings: ContextWindowSettings, num_frames: int, step: int, share: float = 0.0) -> list[Window]:
    """The windows of a clip at a step. Together they hold every frame; each holds as many, all distinct.

    Units: step counts the sampler's steps from 0; share is that of the sampling that is done, from 0 to 1. Windows of
    all schedules but static and batched move.
    """
    if num_frames <= settings.length:
        return [list(range(num_frames))]
    if settings.schedule == COMPOSITE and share < EARLY:
        windows = _shuffled(settings, num_frames, share)
    else:
        windows = SCHEDULE_WINDOWS[settings.schedule](settings, num_frames, step)
    return completed(windows, settings.length, num_frames)


def completed(windows: list[Window], length: int, num_frames: int) -> list[Window]:
    """The windows that are whole, of full length and distinct frames, and neighbours over frames that are in none.

    Strided windows run out of a clip that is shorter than their span, and a last batch may be a single frame.
    """
    whole = [window for window in windows if _is_whole(window, length, num_frames)]
    missing = set(range(num_frames)).difference(*whole)
    while missing:
        whole.append(_neighbours(min(*missing, num_frames - length), length))
        missing -= set(whole[-1])
    return whole


def fuse_weights(settings: ContextWindowSettings, window: Sequence[int], num_frames: int) -> Tensor:
    """How much each frame of a window counts where windows overlap, for all methods but `relative`.

    Shapes: -> `f`, float32, all above 0
    """
    length = len(window)
    has_ramp = settings.overlap > 0 and settings.schedule != "batched"
    if settings.fuse == "flat" or (settings.fuse == "overlap-linear" and not has_ramp):
        return torch.ones(length)
    if settings.fuse == "overlap-linear":
        return _ramps(window, settings.overlap, num_frames)
    if settings.fuse == "gaussian":
        return _bell(length)
    return torch.tensor([float(min(place, length - 1 - place) + 1) for place in range(length)])


def relative_weights(window: Sequence[int]) -> Tensor:
    """How near each frame of a window is to the window's middle, for `relative`: these shares add up one by one.

    Shapes: -> `f`, float32, all above 0
    """
    first, last = window[0], window[-1]
    middle, half = (first + last) / 2, (last - first + 1e-2) / 2
    return torch.tensor([max(1e-2, 1 - abs(frame - middle) / half) for frame in window])


def fuse(settings: ContextWindowSettings, windows: Sequence[Window], parts: Sequence[Tensor]) -> Tensor:
    """One clip from what was predicted for each window.

    Shapes: parts `w c h w` each -> `f c h w`
    Source: arXiv 2310.15169 equation 7, the mean of overlapping windows by weights.
    """
    num_frames = 1 + max(frame for window in windows for frame in window)
    total = parts[0].new_zeros(num_frames, *parts[0].shape[1:])
    for window, part, shares in zip(windows, parts, frame_shares(settings, windows, num_frames), strict=True):
        total[window] += part * shares.to(part).view(-1, *[1] * (part.ndim - 1))
    return total


def frame_shares(settings: ContextWindowSettings, windows: Sequence[Window], num_frames: int) -> list[Tensor]:
    """What each window gives to each of its frames. At every frame of the clip the shares add up to one.

    Shapes: -> `w` each, float32, all above 0
    """
    by_window = [
        relative_weights(window) if settings.fuse == "relative" else fuse_weights(settings, window, num_frames)
        for window in windows
    ]
    sums = torch.zeros(num_frames)
    for window, weights in zip(windows, by_window, strict=True):
        sums[window] += weights
    return [weights / sums[window] for window, weights in zip(windows, by_window, strict=True)]


def free_noise(noise: Tensor, length: int, overlap: int, seed: int) -> Tensor:
    """Noise in which every later window holds the first one's, shuffled, so that windows stay one scene.

    Shapes: noise `f c h w` -> the same
    Source: arXiv 2310.15169 section 3.3.1; the order of draws is that of ComfyUI's `apply_freenoise`.
    """
    generator = torch.Generator().manual_seed(seed)
    repeated = noise.clone()
    stride = length - overlap
    for first in range(0, len(noise) - length, stride):
        place = first + length
        count = min(stride, len(noise) - place)
        order = torch.randperm(count, generator=generator) + first
        repeated[place : place + count] = repeated[order]
    return repeated


def _static(settings: ContextWindowSettings, num_frames: int, step: int) -> list[Window]:
    """Evenly spaced windows, the last moved back so that it ends with the clip."""
    last = num_frames - settings.length
    firsts = range(0, last + settings.length - settings.overlap, settings.length - settings.overlap)
    return [_neighbours(min(first, last), settings.length) for first in firsts]


def _batched(settings: ContextWindowSettings, num_frames: int, step: int) -> list[Window]:
    """Windows without overlap; what is left at the end of the clip is a shorter one."""
    return [
        list(range(first, min(first + settings.length, num_frames))) for first in range(0, num_frames, settings.length)
    ]


def _looped(settings: ContextWindowSettings, num_frames: int, step: int) -> list[Window]:
    """Windows that start elsewhere at every step and run over the end of the clip.

    Source: neggles/animatediff-cli pipelines/context.py, `uniform`.
    """
    after = 0 if settings.closed_loop else -settings.overlap
    shift = _halving(step)
    offset = round(num_frames * shift)
    return [
        [(first + place * spacing) % num_frames for place in range(settings.length)]
        for spacing in _spacings(settings, num_frames)
        for first in range(
            int(shift * spacing) + offset, num_frames + offset + after, settings.length * spacing - settings.overlap
        )
    ]


def _uniform(settings: ContextWindowSettings, num_frames: int, step: int) -> list[Window]:
    """The windows of `looped`, those that run over the end moved back into the clip, and each once."""
    waiting = _looped(settings, num_frames, step)
    windows: list[Window] = []
    while waiting:
        window = waiting.pop(0)
        turn = _turn(window)
        if turn is not None:
            first_after = window[turn]
            window = _moved_to_end(window, num_frames)
            following = waiting[0] if waiting else (windows or [window])[0]
            if first_after not in following:
                waiting.insert(0, _neighbours(first_after, settings.length))
        windows.append(window)
    return _each_once(windows)


def _shuffled(settings: ContextWindowSettings, num_frames: int, share: float) -> list[Window]:
    """Frames from all over the clip in each window, others at every step, so that the clip becomes one scene.

    Source: s9roll7/animatediff-cli-prompt-travel pipelines/context.py, `shuffle`; its draws are not repeatable, ours
    belong to the share of the sampling.
    """
    drawn = torch.randperm(num_frames, generator=torch.Generator().manual_seed(round(share * DRAWS)))
    order = cast(list[int], cast(Any, drawn).tolist())
    order += order[: -num_frames % settings.length]
    return [sorted(order[first : first + settings.length]) for first in range(0, len(order), settings.length)]


SCHEDULE_WINDOWS: Mapping[str, Callable[[ContextWindowSettings, int, int], list[Window]]] = MappingProxyType(
    {"uniform": _uniform, "static": _static, "looped": _looped, "batched": _batched, COMPOSITE: _uniform}
)


def _spacings(settings: ContextWindowSettings, num_frames: int) -> Iterator[int]:
    """1, 2, 4, … as often as the stride asks for and the clip is long."""
    most = math.ceil(math.log2(num_frames / settings.length)) + 1
    return (1 << power for power in range(min(settings.stride, most)))


def _halving(step: int) -> float:
    """0, 1/2, 1/4, 3/4, 1/8, …: the step's binary digits behind the point, in reverse (van der Corput's sequence)."""
    digits = f"{step:b}"[::-1]
    return int(digits, 2) / (1 << len(digits))


def _neighbours(first: int, length: int) -> Window:
    return list(range(first, first + length))


def _turn(window: Window) -> int | None:
    """Where a window runs over the end of the clip."""
    return next((place for place in range(1, len(window)) if window[place] < window[place - 1]), None)


def _moved_to_end(window: Window, num_frames: int) -> Window:
    """The same steps between frames, the last on the clip's last frame."""
    from_first = [(frame - window[0]) % num_frames for frame in window]
    shift = num_frames - 1 - from_first[-1]
    return [frame + shift for frame in from_first]


def _each_once(windows: list[Window]) -> list[Window]:
    return [window for place, window in enumerate(windows) if window not in windows[:place]]


def _is_whole(window: Window, length: int, num_frames: int) -> bool:
    return len(set(window)) == length and min(window) >= 0 and max(window) < num_frames


def _bell(length: int) -> Tensor:
    """Weights of a normal distribution around the middle of a window. Shapes: -> `f`"""
    places = torch.arange(length) - (length - 1) / 2
    return torch.exp(-((places / (BELL_WIDTH * length)) ** 2) / 2)


def _ramps(window: Sequence[int], overlap: int, num_frames: int) -> Tensor:
    """Weights that rise over the overlap with the window before and fall over that with the next."""
    weights = torch.ones(len(window))
    if min(window) > 0:
        weights[:overlap] = torch.linspace(SMALLEST_WEIGHT, 1, overlap)
    if max(window) < num_frames - 1:
        weights[-overlap:] = torch.linspace(1, SMALLEST_WEIGHT, overlap)
    return weights
