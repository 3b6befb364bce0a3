"""Context windows: ComfyUI's own, with ControlNet hints that follow the window."""

import copy
from collections.abc import Sequence
from typing import Any
from weakref import WeakValueDictionary

import comfy.context_windows
from comfy.context_windows import (
    ContextFuseMethod,
    ContextSchedule,
    ContextSchedules,
    IndexListContextHandler,
    IndexListContextWindow,
)
from comfy.controlnet import ControlBase
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ..sampling.context_windows import ContextWindowSettings, followed_by, settings_at
from ..sampling.window_indices import COMPOSITE, completed, free_noise, fuse_weights, window_indices
from .noise_schedule import percent_of, step_of

SCHEDULES = {
    "uniform": ContextSchedules.UNIFORM_STANDARD,
    "static": ContextSchedules.STATIC_STANDARD,
    "looped": ContextSchedules.UNIFORM_LOOPED,
    "batched": ContextSchedules.BATCHED,
}
"""ComfyUI's names for its own schedules; the others are ours."""
WINDOW_NODE = "ContextWindow"
"""The node that sets them, for messages."""
WINDOWS = "motiongraft.windows"
"""The key of our wrappers. They do nothing where another node's windows replaced ours."""
_HOSTS_PLAN = "ContextWindows_prepare_sampling"
_HOSTS_NOISE = "ContextWindows_sampler_sample"


class MotionContextHandler(IndexListContextHandler):
    """ComfyUI's window handler over the frames of a batch, with ControlNet hints sliced like the latents.

    Its settings may change over the sampling: `spans` are in the order in which they hold.
    """

    def __init__(self, spans: Sequence[ContextWindowSettings]):
        first = spans[0]
        super().__init__(
            context_schedule=_schedule(first),
            fuse_method=_fuse_method(first),
            dim=0,
            freenoise=first.freenoise,
            causal_window_fix=False,
        )
        self.spans = tuple(spans)
        self._use(first)
        self.share = 0.0
        """Of the sampling that is done, by noise level: not every sampler's steps are known."""
        self._window: IndexListContextWindow | None = None
        # Weak: ComfyUI cleans up the controls that it knows, and the handler outlives the run. The conditioning of
        # the window that runs holds the slices as long as they are needed.
        self._sliced_controls: WeakValueDictionary[int, ControlBase] = WeakValueDictionary()

    @property
    def most_frames(self) -> int:
        """Frames in the longest window of the sampling."""
        return max(settings.length for settings in self.spans)

    def should_use_context(
        self, model: Any, conds: Any, x_in: Tensor, timestep: Tensor, model_options: dict[str, Any]
    ) -> bool:
        """Whether the clip is longer than the windows of this step, which are settled here."""
        if len(self.spans) > 1 or any(settings.schedule == COMPOSITE for settings in self.spans):
            self.share = percent_of(model.model_sampling, float(timestep[0]))
        self._use(settings_at(self.spans, self.share))
        return super().should_use_context(model, conds, x_in, timestep, model_options)

    def set_step(self, timestep: Tensor, model_options: dict[str, Any]) -> None:
        """Note the step, from the noise level alone: nothing of an earlier step or run counts."""
        self._step = step_of(timestep, model_options["transformer_options"].get("sample_sigmas"))

    def get_resized_cond(self, cond_in: Any, x_in: Tensor, window: IndexListContextWindow, device: Any = None) -> Any:
        """The conditioning of one window; cond and uncond share each sliced control, so that they batch."""
        if window is not self._window:
            self._window = window
            self._sliced_controls.clear()
        return super().get_resized_cond(cond_in, x_in, window, device)

    def prepare_control_objects(self, control: ControlBase, device: Any = None) -> ControlBase:
        """The control for the current window, the caller's own left alone."""
        if self._window is None:
            return control
        sliced = self._sliced_controls.get(id(control))
        if sliced is None:
            sliced = self._sliced_controls[id(control)] = slice_control(control, self._window.index_list)
        return sliced

    def _use(self, settings: ContextWindowSettings) -> None:
        self.context_schedule, self.fuse_method = _schedule(settings), _fuse_method(settings)
        self.context_length, self.context_overlap = settings.length, settings.overlap
        self.context_stride, self.closed_loop = settings.stride, settings.closed_loop


def slice_control(control: ControlBase, frames: list[int]) -> ControlBase:
    """A shallow copy of a control chain whose hints are those of the given frames.

    A hint with fewer images than frames repeats, as without windows. Controls of other extensions slice their own
    hints: they read the frames from `ad_params`.
    """
    sliced = copy.copy(control)
    if type(control).__module__.startswith("comfy."):
        sliced.cond_hint = None
        sliced.cond_hint_original = _frames_of(control.cond_hint_original, frames)
        sliced.extra_concat_orig = [_frames_of(extra, frames) for extra in control.extra_concat_orig]
    # Whatever their class: each holds the controls before it, on its own device.
    clones = getattr(control, "multigpu_clones", {}).items()
    sliced.multigpu_clones = {device: slice_control(clone, frames) for device, clone in clones}
    if control.previous_controlnet is not None:
        sliced.previous_controlnet = slice_control(control.previous_controlnet, frames)
    return sliced


def set_context_window(model: ModelPatcher, settings: ContextWindowSettings) -> ModelPatcher:
    """A clone of the model that samples long clips in overlapping windows.

    Raises: SettingsError if they start later in the sampling, and the model has none before them.
    """
    windowed = model.clone()
    present = windowed.model_options.get("context_handler")
    earlier = present.spans if isinstance(present, MotionContextHandler) else ()
    spans = followed_by(earlier, settings)
    windowed.model_options["context_handler"] = MotionContextHandler(spans)
    # Those of ComfyUI's own Context Windows, which these replace, must not run too.
    windowed.remove_wrappers_with_key(WrappersMP.PREPARE_SAMPLING, _HOSTS_PLAN)
    windowed.remove_wrappers_with_key(WrappersMP.SAMPLER_SAMPLE, _HOSTS_NOISE)
    for kind, wrapper in (
        (WrappersMP.PREPARE_SAMPLING, _plan_for_one_window),
        (WrappersMP.SAMPLER_SAMPLE, _free_noise),
    ):
        windowed.remove_wrappers_with_key(kind, WINDOWS)
        windowed.add_wrapper_with_key(kind, WINDOWS, wrapper)
    return windowed


def window_lengths(model_options: dict[str, Any]) -> tuple[int, ...]:
    """The lengths of a model's context windows over the sampling, ComfyUI's own too; none without any."""
    handler = model_options.get("context_handler")
    if isinstance(handler, MotionContextHandler):
        return tuple(settings.length for settings in handler.spans)
    length = getattr(handler, "context_length", None)
    return () if length is None else (length,)


def _plan_for_one_window(
    executor: Any, model: ModelPatcher, noise_shape: Any, conds: Any, *args: Any, **kwargs: Any
) -> Any:
    """PREPARE_SAMPLING wrapper: the memory that ComfyUI plans for is that of the longest window."""
    handler = model.model_options.get("context_handler")
    if isinstance(handler, MotionContextHandler):
        noise_shape = [min(noise_shape[0], handler.most_frames), *noise_shape[1:]]
    return executor(model, noise_shape, conds, *args, **kwargs)


def _free_noise(
    executor: Any,
    guider: Any,
    sigmas: Tensor,
    extra_args: dict[str, Any],
    callback: Any,
    noise: Tensor,
    *args: Any,
    **kwargs: Any,
) -> Tensor:
    """SAMPLER_SAMPLE wrapper: noise is drawn once, so it is that of the first windows of the sampling."""
    handler = extra_args["model_options"].get("context_handler")
    first = handler.spans[0] if isinstance(handler, MotionContextHandler) else None
    if first is not None and first.freenoise:
        noise = free_noise(noise, first.length, first.overlap, extra_args.get("seed") or 0)
    return executor(guider, sigmas, extra_args, callback, noise, *args, **kwargs)


def _schedule(settings: ContextWindowSettings) -> ContextSchedule:
    """ComfyUI's schedule of this name, its windows made such that a motion module can take them, or one of ours.

    ComfyUI 0.33 and older give strided windows that run out of a clip shorter than their span, and a last batch that
    may be a single frame.
    """
    if settings.schedule in SCHEDULES:
        theirs = comfy.context_windows.get_matching_context_schedule(SCHEDULES[settings.schedule])

        def whole(num_frames: int, handler: IndexListContextHandler, options: dict[str, Any]) -> list[list[int]]:
            length = min(settings.length, num_frames)
            return completed(theirs.func(num_frames, handler, options), length, num_frames)

        return ContextSchedule(theirs.name, whole)

    def windows(num_frames: int, handler: "MotionContextHandler", _: dict[str, Any]) -> list[list[int]]:
        return window_indices(settings, num_frames, handler._step, handler.share)

    return ContextSchedule(settings.schedule, windows)


def _fuse_method(settings: ContextWindowSettings) -> ContextFuseMethod:
    """The host's ramps need an overlap to ramp over; without one they are flat."""
    if settings.fuse == "gaussian":
        return ContextFuseMethod(
            settings.fuse, lambda length, **_: fuse_weights(settings, range(length), length).tolist()
        )
    no_overlap = settings.overlap == 0 or settings.schedule == "batched"
    name = "flat" if settings.fuse == "overlap-linear" and no_overlap else settings.fuse
    return comfy.context_windows.get_matching_fuse_method(name)


def _frames_of(hint: Tensor | None, frames: list[int]) -> Tensor | None:
    if hint is None or hint.shape[0] == 1:
        return hint
    return hint[[frame % hint.shape[0] for frame in frames]]
