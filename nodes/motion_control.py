"""MotionControl."""

from comfy_api.latest import io
from torch import Tensor

from ..core.part_factors import parse_part_factors
from ..sampling import motion_control
from ..sampling.frame_values import parse_frame_values
from .sockets import CATEGORY, MotionControlSocket


class MotionControl(io.ComfyNode):
    """How much motion, where and when."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MotionGraft_MotionControl",
            display_name="Motion Control",
            category=CATEGORY,
            description="Says how much motion a motion module adds: by frame, in a masked area, by block, and in a "
            "part of the sampling. Goes to motion_control of Inflate Model. Several in a row multiply.",
            search_aliases=[
                "ADE_MultivalDynamic",
                "ADE_ADKeyframe",
                "scale multival",
                "effect multival",
                "motion scale",
            ],
            inputs=[
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-10.0,
                    max=10.0,
                    step=0.01,
                    tooltip="How much of the motion module's output is added: 1 all, 0 none, so that frames know "
                    "nothing of each other.",
                ),
                io.Float.Input(
                    "attention_scale",
                    default=1.0,
                    min=0.0,
                    max=10.0,
                    step=0.01,
                    tooltip="The amount of motion: how sharply frames attend to each other. 1 as trained; above it "
                    "more moves, below it less. 1.1 to 1.3 is a lot.",
                ),
                io.Float.Input(
                    "start_percent",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    tooltip="Where in the sampling this control begins to act, 0 at the highest noise.",
                ),
                io.Float.Input(
                    "end_percent",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    tooltip="Where in the sampling it ends, 1 without noise. Outside, it changes nothing.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Where this control acts: white all the way, black not at all. One mask for all frames, or "
                    "one for each.",
                ),
                io.String.Input(
                    "per_frame",
                    default="",
                    multiline=True,
                    optional=True,
                    tooltip="Factors of strength by frame: `1, 0.8, 0.6`, one for each, or lines such as `8: 0.5`, "
                    "with straight lines between. Empty: 1 everywhere.",
                ),
                MotionControlSocket.Input(
                    "previous", optional=True, tooltip="A control that acts as well; strengths multiply where both do."
                ),
                io.String.Input(
                    "blocks",
                    default="",
                    multiline=True,
                    optional=True,
                    tooltip="Factors of strength for parts of the motion module, one `name: factor` a line, such as "
                    "`up_blocks.1: 0.5` or `mid_block: 0`. Empty: 1 everywhere.",
                ),
                io.Boolean.Input(
                    "resample",
                    default=False,
                    optional=True,
                    tooltip="Whether masks and a list in per_frame that are not as many as the clip has frames are "
                    "stretched to it. Otherwise they are an error.",
                ),
            ],
            outputs=[MotionControlSocket.Output(display_name="motion_control", tooltip="Goes to InflateModel.")],
        )

    @classmethod
    def execute(
        cls,
        strength: float,
        attention_scale: float,
        start_percent: float,
        end_percent: float,
        mask: Tensor | None = None,
        per_frame: str = "",
        previous: motion_control.MotionControl | None = None,
        blocks: str = "",
        resample: bool = False,
    ) -> io.NodeOutput:
        frames, parts = parse_frame_values(per_frame, "per_frame"), parse_part_factors(blocks, "blocks")
        masks = None if mask is None else motion_control.as_masks(mask)
        control = motion_control.MotionControl(
            strength, attention_scale, start_percent, end_percent, masks, frames, parts, previous, resample
        )
        return io.NodeOutput(control)
