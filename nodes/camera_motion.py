"""CameraMotion."""

from comfy_api.latest import io

from ..host.camera_presets import PRESETS, apply_camera_motion, camera_motion_stamp
from ..host.motion_modules import LoadedMotionModule
from .sockets import CATEGORY, MotionModuleSocket


class CameraMotion(io.ComfyNode):
    """A published camera motion by its name."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MotionGraft_CameraMotion",
            display_name="Camera Motion",
            category=CATEGORY,
            description="Adds one of AnimateDiff's eight camera motions to a motion module, by name: its MotionLoRA "
            "must be installed. Several in a row add up.",
            search_aliases=["MotionLoRA presets", "zoom", "pan", "tilt", "roll", "camera control"],
            inputs=[
                MotionModuleSocket.Input(
                    "motion_module", tooltip="A v2 or v3 module for SD 1.5; the one given is left alone."
                ),
                io.Combo.Input(
                    "motion",
                    options=list(PRESETS),
                    default="zoom in",
                    tooltip="What the camera does. Needs the file v2_lora_… in models/animatediff_motion_lora.",
                ),
                io.Float.Input(
                    "strength",
                    default=0.8,
                    min=-10.0,
                    max=10.0,
                    step=0.01,
                    tooltip="1 as trained, 0 leaves the module as it is, a negative value turns the motion round.",
                ),
                io.String.Input(
                    "schedule",
                    default="",
                    optional=True,
                    tooltip="A factor of strength that changes while sampling, as in Apply MotionLoRA. Empty: 1.",
                ),
            ],
            outputs=[MotionModuleSocket.Output(display_name="motion_module", tooltip="Goes to InflateModel.")],
        )

    @classmethod
    def fingerprint_inputs(cls, motion: str, **_: object) -> str:
        return camera_motion_stamp(motion)

    @classmethod
    def execute(
        cls, motion_module: LoadedMotionModule, motion: str, strength: float, schedule: str = ""
    ) -> io.NodeOutput:
        return io.NodeOutput(apply_camera_motion(motion_module, motion, strength, schedule))
