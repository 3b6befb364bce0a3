"""ConditionOnImage."""

from collections.abc import Mapping
from typing import Any

from comfy_api.latest import io

from ..host.image_input import condition_on_image
from ..host.motion_modules import LoadedMotionModule
from ..sampling.image_affinity import AFFINITIES
from .sockets import CATEGORY, MotionModuleSocket


class ConditionOnImage(io.ComfyNode):
    """An image for a motion module of PIA."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MotionGraft_ConditionOnImage",
            display_name="Condition On Image",
            category=CATEGORY,
            description="Gives a motion module of PIA (pia.ckpt) the image that it animates. It stands between "
            "Load Motion Module and Inflate Model.",
            search_aliases=["PIA", "ADE_ApplyAnimateDiffModelWithPIA", "ADE_InputPIA_PaperPresets", "image to video"],
            inputs=[
                MotionModuleSocket.Input("motion_module", tooltip="pia.ckpt; the one given is left alone."),
                io.Latent.Input("latent", tooltip="The image, from VAE Encode, of the size of the clip."),
                io.Combo.Input(
                    "affinity",
                    options=list(AFFINITIES),
                    default="small motion",
                    tooltip="How far the frames may go from the image. loop: the end comes back to the beginning. "
                    "new style: for an image in another style than the base model's.",
                ),
                io.Int.Input(
                    "frame",
                    default=0,
                    min=0,
                    max=10_000,
                    tooltip="Where in the clip the image stands, 0 the first frame.",
                ),
            ],
            outputs=[MotionModuleSocket.Output(display_name="motion_module", tooltip="Goes to InflateModel.")],
        )

    @classmethod
    def execute(
        cls, motion_module: LoadedMotionModule, latent: Mapping[str, Any], affinity: str, frame: int
    ) -> io.NodeOutput:
        return io.NodeOutput(condition_on_image(motion_module, latent, affinity, frame))
