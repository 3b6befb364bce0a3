"""ApplyMotionLoRA."""

from comfy_api.latest import io

from ..host.folders import MOTION_LORAS, file_stamp, list_optional_files
from ..host.loras import apply_motion_lora
from ..host.motion_modules import LoadedMotionModule
from ..host.sources import motion_lora_from
from ..lora.motion_lora import MotionLoRA
from .sockets import CATEGORY, MotionLoRASocket, MotionModuleSocket


class ApplyMotionLoRA(io.ComfyNode):
    """A camera motion for a motion module."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ApplyMotionLoRA",
            display_name="Apply MotionLoRA",
            category=CATEGORY,
            description="Adds a MotionLoRA, such as a camera motion, to a motion module. Several in a row add up.",
            search_aliases=["ADE_AnimateDiffLoRALoader", "Load AnimateDiff LoRA", "camera motion", "zoom", "pan"],
            inputs=[
                MotionModuleSocket.Input(
                    "motion_module", tooltip="The motion module to change; the one given is left alone."
                ),
                io.Combo.Input(
                    "motion_lora",
                    options=list_optional_files(MOTION_LORAS),
                    tooltip="File in models/animatediff_motion_lora, or none if a trained one is connected to `lora`.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-10.0,
                    max=10.0,
                    step=0.01,
                    tooltip="1 as trained, 0 leaves the module as it is, a negative value turns the motion round.",
                ),
                MotionLoRASocket.Input(
                    "lora", optional=True, tooltip="A MotionLoRA trained in this graph; set motion_lora to none."
                ),
                io.String.Input(
                    "layers",
                    default="",
                    multiline=True,
                    optional=True,
                    tooltip="Factors of strength for parts of the module, one `name: factor` a line, such as "
                    "`up_blocks.1: 0.5`, `mid_block: 0` or `to_v: 0`. Where several fit, they multiply. "
                    "Empty: 1 everywhere.",
                ),
                io.String.Input(
                    "schedule",
                    default="",
                    optional=True,
                    tooltip="A factor of strength that changes while sampling, such as `0: 1, 0.5: 0.2`, with straight "
                    "lines between. Shares are those of ComfyUI's start_percent: 0 is the highest noise, 1 none. "
                    "Empty: 1.",
                ),
            ],
            outputs=[MotionModuleSocket.Output(display_name="motion_module", tooltip="Goes to InflateModel.")],
        )

    @classmethod
    def fingerprint_inputs(cls, motion_lora: str, **_: object) -> str:
        return file_stamp(MOTION_LORAS, motion_lora)

    @classmethod
    def execute(
        cls,
        motion_module: LoadedMotionModule,
        motion_lora: str,
        strength: float,
        lora: MotionLoRA | None = None,
        layers: str = "",
        schedule: str = "",
    ) -> io.NodeOutput:
        chosen = motion_lora_from(motion_lora, lora)
        return io.NodeOutput(apply_motion_lora(motion_module, chosen, strength, layers, schedule))
