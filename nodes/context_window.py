"""ContextWindow."""

from typing import Any

from comfy_api.latest import io

from ..host.windows import set_context_window
from ..sampling.context_windows import FUSE_METHODS, SCHEDULES, ContextWindowSettings
from .sockets import CATEGORY


class ContextWindow(io.ComfyNode):
    """Long clips in overlapping pieces."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ContextWindow",
            display_name="Context Window",
            category=CATEGORY,
            description="Samples a clip of any length in overlapping windows of frames, in the memory of one window. "
            "A clip that is no longer than a window runs whole, as without this node.",
            search_aliases=["ADE_StandardUniformContextOptions", "Context Options", "long animation", "loop"],
            inputs=[
                io.Model.Input("model", tooltip="An inflated model; the one given is left alone."),
                io.Int.Input(
                    "length",
                    default=16,
                    min=2,
                    max=1024,
                    tooltip="Frames in a window, best the number that the motion module was trained on (16).",
                ),
                io.Int.Input(
                    "overlap",
                    default=4,
                    min=0,
                    max=1023,
                    tooltip="Frames shared by neighbouring windows. More is smoother and slower; less than length.",
                ),
                io.Int.Input(
                    "stride",
                    default=1,
                    min=1,
                    max=10,
                    tooltip="1: neighbouring frames only. n: also windows over every 2nd to 2^(n-1)th frame, for slow "
                    "motion across the clip. For schedules uniform, looped and composite.",
                ),
                io.Combo.Input(
                    "schedule",
                    options=list(SCHEDULES),
                    default="uniform",
                    tooltip="uniform: windows move from step to step, which hides seams. static: the same windows at "
                    "every step. looped: windows run over the end. batched: no overlap. composite: frames from all "
                    "over the clip in the first tenth of the sampling, so that it becomes one scene, then uniform.",
                ),
                io.Combo.Input(
                    "fuse",
                    options=list(FUSE_METHODS),
                    default="pyramid",
                    tooltip="How much each window counts where several overlap. pyramid: most in its middle; flat: all "
                    "the same; overlap-linear: ramps in the overlap; relative: by distance to its middle; gaussian: a "
                    "bell around its middle.",
                ),
                io.Boolean.Input(
                    "closed_loop", default=False, tooltip="The last frame meets the first. Needs schedule looped."
                ),
                io.Boolean.Input(
                    "freenoise",
                    default=True,
                    tooltip="Later windows reuse the first window's noise, shuffled, so that a long clip "
                    "stays one scene.",
                ),
                io.Float.Input(
                    "start_percent",
                    default=0.0,
                    min=0.0,
                    max=0.999,
                    step=0.001,
                    optional=True,
                    tooltip="Where in the sampling these windows take over from those of the ContextWindow before this "
                    "one. 0: from the beginning, in its place.",
                ),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="Goes to any sampler.")],
        )

    @classmethod
    def execute(cls, model: io.Model.Type, **settings: Any) -> io.NodeOutput:
        return io.NodeOutput(set_context_window(model, ContextWindowSettings(**settings)))
