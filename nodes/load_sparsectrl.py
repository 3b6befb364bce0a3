"""LoadSparseCtrl."""

from comfy_api.latest import io

from ..host.folders import CONTROLNETS, file_stamp, find_file, list_files
from ..host.sparse_control import load_sparse_control
from .sockets import CATEGORY


class LoadSparseCtrl(io.ComfyNode):
    """Images at some frames of a clip."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MotionGraft_LoadSparseCtrl",
            display_name="Load SparseCtrl",
            category=CATEGORY,
            description="Loads SparseCtrl, by which images or scribbles stand at some frames of a clip and the others "
            "follow: image to video, interpolation, prediction. It goes to Apply ControlNet with the images.",
            search_aliases=[
                "SparseCtrl",
                "ACN_SparseCtrlLoaderAdvanced",
                "sparse control",
                "image to video",
                "keyframe",
            ],
            inputs=[
                io.Combo.Input(
                    "sparsectrl",
                    options=list_files(CONTROLNETS),
                    tooltip="File in models/controlnet, as .safetensors or .ckpt: v3_sd15_sparsectrl_rgb, "
                    "v3_sd15_sparsectrl_scribble, or those of diffusers. An rgb file needs the input vae of Apply "
                    "ControlNet.",
                ),
                io.String.Input(
                    "frames",
                    default="0",
                    tooltip="Where the images at Apply ControlNet stand, a frame for each, in their order: 0, 8, -1. "
                    "The first frame is 0, -1 the last. spread: evenly from the first to the last.",
                ),
                io.Float.Input(
                    "motion_strength",
                    default=1.0,
                    min=0.0,
                    max=10.0,
                    step=0.01,
                    optional=True,
                    tooltip="How much of its own motion layers acts, by which an image reaches other frames: 1 as "
                    "trained, 0 none, so that only the model's motion module carries an image on.",
                ),
            ],
            outputs=[io.ControlNet.Output(display_name="control_net", tooltip="Goes to Apply ControlNet.")],
        )

    @classmethod
    def fingerprint_inputs(cls, sparsectrl: str, **_: object) -> str:
        return file_stamp(CONTROLNETS, sparsectrl)

    @classmethod
    def execute(cls, sparsectrl: str, frames: str, motion_strength: float = 1.0) -> io.NodeOutput:
        return io.NodeOutput(load_sparse_control(find_file(CONTROLNETS, sparsectrl), frames, motion_strength))
