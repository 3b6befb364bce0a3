"""FreeInit."""

from typing import Any

from comfy_api.latest import io

from ..host.free_init import set_free_init
from ..sampling.free_init import FILTERS, FreeInitSettings
from .sockets import CATEGORY


class FreeInit(io.ComfyNode):
    """The same clip several times, each time from a better beginning."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MotionGraft_FreeInit",
            display_name="FreeInit",
            category=CATEGORY,
            description="Samples a clip several times; each time starts from what all frames of the last one have in "
            "common, and from fresh noise for the details, so that frames agree more. Takes as many times as long.",
            search_aliases=["ADE_IterationOptsFreeInit", "iteration options", "temporal consistency", "flicker"],
            inputs=[
                io.Model.Input("model", tooltip="An inflated model; the one given is left alone."),
                io.Int.Input(
                    "iterations",
                    default=3,
                    min=1,
                    max=100,
                    tooltip="How often the clip is sampled, each time with all steps. 1: once, as without this node.",
                ),
                io.Combo.Input(
                    "filter",
                    options=list(FILTERS),
                    default="butterworth",
                    tooltip="What counts as common to the frames, by frequency. butterworth: all up to the stops, "
                    "falling off as order says; gaussian: falls off evenly; ideal: cuts off, and keeps more.",
                ),
                io.Int.Input(
                    "order",
                    default=4,
                    min=1,
                    max=100,
                    tooltip="How steeply butterworth falls off at the stops, 1 the least. No effect on other filters.",
                ),
                io.Float.Input(
                    "spatial_stop",
                    default=0.25,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Up to which frequency within a frame the last clip is kept. More keeps more of its layout "
                    "and details; 0 keeps nothing, 1 the most.",
                ),
                io.Float.Input(
                    "temporal_stop",
                    default=0.25,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Up to which frequency over the frames it is kept. More keeps more of its motion; 0 keeps "
                    "nothing, 1 the most.",
                ),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="Goes to any sampler.")],
        )

    @classmethod
    def execute(cls, model: io.Model.Type, **settings: Any) -> io.NodeOutput:
        return io.NodeOutput(set_free_init(model, FreeInitSettings(**settings)))
