"""What one call of an inflated UNet must know: its frames, its modules, and what acts at its step.

It travels in `transformer_options` and ends with the call. Two wrappers make it: the first where the batch is exactly
one clip or one window, the second where the model and the device of the call are known.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ..core.errors import HostError
from ..core.protocols import run_plainly
from ..motion_modules.adjustments import PLAIN, Adjustments
from ..motion_modules.frames import check_whole_clips
from ..motion_modules.spec import Address
from ..sampling.clip_length import check_clip_length
from ..sampling.motion_control import ControlledFrames, attention_scale_of, factors_of, strength_of
from .call_tensors import taken, with_tensors
from .noise_schedule import percent_of
from .scheduled_loras import scheduled_runner
from .view_windows import VIEW_NODE, VIEWS, view_settings, views_of

if TYPE_CHECKING:
    from .splice import Splice

STATE = "motiongraft"
"""Our entry in `transformer_options`: a MotionCall for each splice."""
IMAGE, MASK = "image", "mask."
"""The names of tensors that are sent along with a call; behind the second stands the number of a control."""

TransformerOptions = dict[str, Any]


@dataclass(frozen=True)
class MotionCall:
    """What one call of the UNet must know for one splice."""

    num_frames: int
    frames: tuple[int, ...] = ()
    """Which frames of the clip these are."""
    total_frames: int = 0
    """Of the clip."""
    image: Tensor | None = None
    """What the UNet's input sees beside the latents of this call, cut to the area that it works on."""
    controls: tuple[ControlledFrames, ...] = ()
    """What acts on the module's output at this step."""
    num_leading: int = 0
    """Frames that ComfyUI put in front of the window, which need no position of their own."""
    splice: "Splice | None" = None
    """The splice of the model that runs, None if that model was not inflated."""
    module: Any = None
    """The MotionModule on the device of this call."""
    adjust: Adjustments = PLAIN
    """How the module runs at this step, but for what depends on the place."""
    is_bound: bool = False
    last_features: list[Tensor] = field(default_factory=lambda: [])
    """What the last output block gave, for the output norm over frames."""

    def adjustments_at(self, address: Address, x: Tensor) -> Adjustments:
        """How the transformer at an address runs on these features."""
        if not self.controls:
            return self.adjust
        return replace(
            self.adjust,
            strength=strength_of(self.controls, address.prefix, x),
            attention_scale=attention_scale_of(self.controls, x),
        )

    @property
    def norms_over_frames(self) -> bool:
        return self.splice is not None and self.splice.spec.base_norms_over_frames


def begin_call(
    key: str, executor: Any, model: Any, conds: Any, x_in: Tensor, timestep: Tensor, model_options: dict[str, Any]
) -> Any:
    """CALC_COND_BATCH wrapper: the one place where the batch is exactly one clip or one window."""
    options = model_options["transformer_options"]
    window = options.get("context_window")
    leading = _leading_frames(window)
    indices = _frame_indices(window, leading, x_in.shape[0])
    frames, total = indices["sub_idxs"] or range(x_in.shape[0]), indices["full_length"]
    call = MotionCall(x_in.shape[0], tuple(frames), total, num_leading=len(leading))
    options = {
        **options,
        STATE: {**options.get(STATE, {}), key: call},
        "ad_params": indices,
        "wrappers": _with_output_norm_innermost(options.get("wrappers", {}), key),
    }
    options[VIEWS] = view_settings(model.current_patcher)  # for controls, which run before the model is called
    splice = model.current_patcher.get_attachment(key)
    if splice is not None:
        conds = with_tensors(conds, key, splice.tensors_for(frames, total, x_in.shape[-2:]))
    return executor(model, conds, x_in, timestep, {**model_options, "transformer_options": options})


def bind_modules(
    key: str,
    executor: Any,
    x: Tensor,
    t: Tensor,
    c_concat: Any,
    c_crossattn: Any,
    control: Any,
    transformer_options: TransformerOptions,
    **kwargs: Any,
) -> Any:
    """APPLY_MODEL wrapper: find the splice and the modules of the model that runs, and start with an empty state."""
    calls = transformer_options.get(STATE, {})
    chunks = len(transformer_options.get("cond_or_uncond") or [0])
    frames = x.shape[0] // chunks
    call = calls.get(key) or MotionCall(frames, tuple(range(frames)), frames)
    check_whole_clips(x.shape[0], call.num_frames)
    tensors = taken(kwargs, key)
    patcher = executor.class_obj.current_patcher
    splice = patcher.get_attachment(key)
    modules = patcher.get_additional_models_with_key(key)
    if splice is not None:
        views = view_settings(patcher)
        own_frames = call.num_frames - call.num_leading
        check_clip_length(own_frames, views and views.length, splice.spec.num_positions, 0, splice.name, VIEW_NODE)
        module, *scheduled = (each.model for each in modules)
        if key not in calls:  # called without ComfyUI's sampling around it, for a whole clip
            whole = splice.tensors_for(call.frames, frames, x.shape[-2:])
            tensors = {name: tensor.repeat(chunks, 1, 1, 1) for name, tensor in whole.items()}
        tensors = {name: tensor.to(x.device) for name, tensor in tensors.items()}
        _check_sizes(tensors, x)
        sampling = executor.class_obj.model_sampling
        adjust = Adjustments(views=views_of(views, call.num_frames, call.num_leading, t, sampling, transformer_options))
        call = replace(call, splice=splice, module=module, image=tensors.get(IMAGE), adjust=adjust)
        if scheduled or splice.controls:
            depends_on_step = scheduled or not all(control.acts_always for control in splice.controls)
            percent = percent_of(sampling, float(t.max())) if depends_on_step else 0.0
            call = _at_percent(call, splice, percent, scheduled, tensors)
    options = {**transformer_options, STATE: {**calls, key: replace(call, is_bound=True, last_features=[])}}
    return executor(x, t, c_concat, c_crossattn, control, options, **kwargs)


def call_of(key: str, options: TransformerOptions) -> MotionCall:
    """The state of the running call. Raises: HostError if the UNet was called without ComfyUI's model around it."""
    call = options.get(STATE, {}).get(key)
    if call is None or not call.is_bound:
        raise HostError(
            "an inflated UNet was called around ComfyUI's `apply_model`, so its frames are unknown. "
            "Take the extension that does so out of the graph, or put it before InflateModel."
        )
    return call


def frames_of_call(options: TransformerOptions, num_frames: int) -> MotionCall:
    """A call that knows its frames and no more, of a model that may not be inflated.

    They are those of ComfyUI's window, else those that another extension names, else a whole clip of `num_frames`.
    """
    window = options.get("context_window")
    leading = _leading_frames(window)
    named = options.get("ad_params") if window is None else None
    indices = named or _frame_indices(window, leading, num_frames)
    frames = tuple(indices["sub_idxs"] or range(num_frames))
    return MotionCall(len(frames), frames, indices["full_length"], num_leading=len(leading))


def _at_percent(
    call: MotionCall, splice: "Splice", percent: float, scheduled: list[Any], tensors: Mapping[str, Tensor]
) -> MotionCall:
    """The call with what acts at a share of the sampling: controls, and MotionLoRAs that have a schedule."""
    controls = tuple(
        ControlledFrames(control, factors_of(control, call.frames, call.total_frames), tensors.get(f"{MASK}{index}"))
        for index, control in enumerate(splice.controls)
        if control.acts_at(percent)
    )
    run = scheduled_runner(call.module, scheduled[0], percent) if scheduled else run_plainly
    return replace(call, controls=controls, adjust=replace(call.adjust, run=run))


def _check_sizes(tensors: Mapping[str, Tensor], x: Tensor) -> None:
    """Raises: HostError if the UNet is run on other pieces of the picture than ComfyUI gave out."""
    for tensor in tensors.values():
        if len(tensor) != len(x) or tensor.shape[-2:] != x.shape[-2:]:
            (own_height, own_width), (height, width) = tensor.shape[-2:], x.shape[-2:]
            raise HostError(
                f"a mask or image for {len(tensor)} frames of {own_width * 8}×{own_height * 8} pixels met latents for "
                f"{len(x)} of {width * 8}×{height * 8}: another extension runs the model in tiles. "
                "Take its tiling out, or the mask or image."
            )


def _with_output_norm_innermost(wrappers: dict[str, Any], key: str) -> dict[str, Any]:
    """The wrappers with ours next to the UNet: others may skip the call, or keep and compare what it gives."""
    around_unet = dict(wrappers.get(WrappersMP.DIFFUSION_MODEL, {}))
    if key in around_unet:
        around_unet[key] = around_unet.pop(key)
    return {**wrappers, WrappersMP.DIFFUSION_MODEL: around_unet}


def _leading_frames(window: Any) -> list[int]:
    """The frame that ComfyUI's own Context Windows puts in front of a window, for causal video models."""
    index = getattr(window, "causal_anchor_index", None)
    return [index] if index is not None and index >= 0 else []


def _frame_indices(window: Any, leading: list[int], num_frames: int) -> dict[str, Any]:
    """Which frames this call holds, under the names that IPAdapter-plus and Advanced-ControlNet read."""
    if window is None:
        return {"full_length": num_frames, "context_length": num_frames, "sub_idxs": None}
    indices = leading + list(window.index_list)
    return {"full_length": window.total_frames, "context_length": len(indices), "sub_idxs": indices}
