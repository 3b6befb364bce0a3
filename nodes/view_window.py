"""ViewWindow."""

from typing import Any

from comfy_api.latest import io

from ..host.view_windows import set_view_window
from ..sampling.context_windows import FUSE_METHODS, SCHEDULES, ContextWindowSettings
from .sockets import CATEGORY


class ViewWindow(io.ComfyNode):
    """Long clips whose frames see each other in overlapping pieces."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MotionGraft_ViewWindow",
            display_name="View Window",
            category=CATEGORY,
            description="Samples all frames of a long clip at once, and lets the motion module see them in overlapping "
            "windows. Cheaper than Context Window, since the base model runs once for each frame, but it takes the "
            "memory of all frames. After Context Window the views lie inside its windows.",
            search_aliases=["ADE_StandardUniformViewOptions", "View Options", "FreeNoise", "long animation"],
            inputs=[
                io.Model.Input("model", tooltip="An inflated model; the one given is left alone."),
                io.Int.Input(
                    "length",
                    default=16,
                    min=2,
                    max=1024,
                    tooltip="Frames that see each other, best the number that the motion module was trained on (16). A "
                    "clip that is no longer runs as without this node.",
                ),
                io.Int.Input(
                    "overlap",
                    default=4,
                    min=0,
                    max=1023,
                    tooltip="Frames shared by neighbouring views. More is smoother and a little slower; less than "
                    "length.",
                ),
                io.Int.Input(
                    "stride",
                    default=1,
                    min=1,
                    max=10,
                    tooltip="1: neighbouring frames only. n: also views over every 2nd to 2^(n-1)th frame. For "
                    "schedules uniform, looped and composite.",
                ),
                io.Combo.Input(
                    "schedule",
                    options=list(SCHEDULES),
                    default="static",
                    tooltip="Where the views lie, as in Context Window. static: the same at every step, as in "
                    "FreeNoise. looped: over the end.",
                ),
                io.Combo.Input(
                    "fuse",
                    options=list(FUSE_METHODS),
                    default="pyramid",
                    tooltip="How much each view counts where several overlap, as in Context Window.",
                ),
                io.Boolean.Input(
                    "closed_loop", default=False, tooltip="The last frame sees the first. Needs schedule looped."
                ),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="Goes to any sampler.")],
        )

    @classmethod
    def execute(cls, model: io.Model.Type, **settings: Any) -> io.NodeOutput:
        return io.NodeOutput(set_view_window(model, ContextWindowSettings(**settings)))
