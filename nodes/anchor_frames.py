"""AnchorFrames."""

from collections.abc import Mapping
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..host.anchors import anchor_frames
from ..sampling.frame_anchors import FrameAnchors
from ..sampling.keyframes import parse_keyframes
from ..sampling.percent_range import PercentRange
from .sockets import CATEGORY


class AnchorFrames(io.ComfyNode):
    """Frames that are held to images."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MotionGraft_AnchorFrames",
            display_name="Anchor Frames",
            category=CATEGORY,
            description="Holds frames of a clip to images while it is sampled: the first, the last, any. Motion fills "
            "what lies between. With a part of the sampling alone it injects images, and lets them go again.",
            search_aliases=[
                *("image to video", "first frame", "last frame", "image injection", "keyframes", "inbetweening"),
                *("ADE_NoisedImageInjection", "ADE_NoisedImageInjectOptions"),
            ],
            inputs=[
                io.Model.Input("model", tooltip="An inflated model; the one given is left alone."),
                io.Latent.Input("latent", tooltip="The images, from VAE Encode, of the size of the clip."),
                io.String.Input(
                    "frames",
                    default="0",
                    tooltip="Where the images stand, in their order: `0` the first frame, `0, -1` the first and the "
                    "last, `0, 8, 24`, or `spread` for even distances. One image may stand at several frames.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="1 makes these frames the images, 0 changes nothing. It acts at each step and adds up: "
                    "over 20 steps 0.1 moves them about half of the way.",
                ),
                io.Int.Input(
                    "reach",
                    default=0,
                    min=0,
                    max=1000,
                    tooltip="Frames on either side that are pulled too, less with each. 0: these frames alone; 2 to 4 "
                    "soften the way from an image into motion.",
                ),
                io.Float.Input(
                    "start_percent",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    tooltip="Where in the sampling the images begin to hold, 0 at the highest noise.",
                ),
                io.Float.Input(
                    "end_percent",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    tooltip="Where they let go, 1 never. About 0.5 keeps the layout and lets motion have the detail.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Where the images hold: white all the way, black not at all. One mask for all frames, or "
                    "one for each.",
                ),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="Goes to any sampler.")],
        )

    @classmethod
    def execute(
        cls,
        model: io.Model.Type,
        latent: Mapping[str, Any],
        frames: str,
        strength: float,
        reach: int,
        start_percent: float,
        end_percent: float,
        mask: Tensor | None = None,
    ) -> io.NodeOutput:
        anchors = FrameAnchors(parse_keyframes(frames), strength, reach, PercentRange(start_percent, end_percent))
        return io.NodeOutput(anchor_frames(model, latent, anchors, mask))
