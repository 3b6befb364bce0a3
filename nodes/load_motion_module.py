"""LoadMotionModule."""

from comfy_api.latest import io

from ..host.folders import MOTION_MODULES, file_stamp, find_file, list_files
from ..host.motion_modules import load_motion_module
from ..motion_modules.generations import AUTO, GENERATIONS
from .sockets import CATEGORY, MotionModuleSocket


class LoadMotionModule(io.ComfyNode):
    """A motion module from a file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoadMotionModule",
            display_name="Load Motion Module",
            category=CATEGORY,
            description="Loads a motion module: the temporal attention of AnimateDiff, by which a still-image model "
            "moves.",
            search_aliases=["AnimateDiff Loader", "Load AnimateDiff Model", "ADE_LoadAnimateDiffModel", "motion model"],
            inputs=[
                io.Combo.Input(
                    "motion_module",
                    options=list_files(MOTION_MODULES),
                    tooltip="File in models/animatediff_models, as .safetensors or .ckpt: AnimateDiff v1, v2, v3, SDXL "
                    "beta, LongAnimateDiff, HotshotXL, AnimateLCM, PIA, diffusers' MotionAdapter, or what "
                    "AnimateDiff's trainer saved.",
                ),
                io.Combo.Input(
                    "generation",
                    options=[AUTO, *GENERATIONS],
                    default=AUTO,
                    optional=True,
                    tooltip="What the module was trained as: it decides over which frames norms are taken, and the "
                    "noise schedule. auto: what the file shows; ComfyUI's log says why, and what it cannot tell. "
                    "Choose one by hand for a module that somebody trained and saved without a word about it.",
                ),
            ],
            outputs=[MotionModuleSocket.Output(display_name="motion_module", tooltip="Goes to InflateModel.")],
        )

    @classmethod
    def fingerprint_inputs(cls, motion_module: str, **_: object) -> str:
        return file_stamp(MOTION_MODULES, motion_module)

    @classmethod
    def execute(cls, motion_module: str, generation: str = AUTO) -> io.NodeOutput:
        return io.NodeOutput(load_motion_module(find_file(MOTION_MODULES, motion_module), generation))
