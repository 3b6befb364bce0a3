"""CameraMotionClips."""

from comfy_api.latest import io

from ..training.data.camera_motion import LEAST_AMOUNT, MOST_AMOUNT, MOTIONS, with_camera_motion
from ..training.data.clips import TrainingClips
from .sockets import TRAINING_CATEGORY, TrainingClipsSocket


class CameraMotionClips(io.ComfyNode):
    """The data of a MotionLoRA for one camera motion. arXiv 2307.04725, section 4.3."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MotionGraft_CameraMotionClips",
            display_name="Camera Motion Clips",
            category=TRAINING_CATEGORY,
            description="Lets a camera move through every clip at a constant rate, to train a MotionLoRA for that "
            "motion. Works best with videos in which the camera stands still. Captions stay as they are, mirroring is "
            "switched off.",
            search_aliases=["zoom", "pan", "tilt", "roll", "camera augmentation", "MotionLoRA data"],
            inputs=[
                TrainingClipsSocket.Input("clips", tooltip="From Load Training Clips; the ones given are left alone."),
                io.Combo.Input(
                    "motion",
                    options=list(MOTIONS),
                    default="zoom in",
                    tooltip="What the camera does: zoom in makes things larger, pan right lets them pass to the left, "
                    "tilt up lets them sink. For roll it is the picture that turns clockwise or anticlockwise.",
                ),
                io.Float.Input(
                    "amount",
                    default=0.25,
                    min=LEAST_AMOUNT,
                    max=MOST_AMOUNT,
                    step=0.01,
                    tooltip="How far in a clip. Zoom: 0.25 ends 1.25 times as large (or small); pan and tilt: in frame "
                    "widths or heights; roll: in quarter turns, 0.25 is 22.5°. More crops more; 0.01 hardly moves.",
                ),
            ],
            outputs=[
                TrainingClipsSocket.Output(display_name="clips", tooltip="Goes to Cache Training Clips."),
            ],
        )

    @classmethod
    def execute(cls, clips: TrainingClips, motion: str, amount: float) -> io.NodeOutput:
        return io.NodeOutput(with_camera_motion(clips, motion, amount))
