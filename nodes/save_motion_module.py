"""SaveMotionModule."""

from comfy_api.latest import io, ui

from ..host.motion_modules import LoadedMotionModule
from ..host.saving import DTYPES, LAYOUTS, save_motion_module
from .sockets import TRAINING_CATEGORY, MotionModuleSocket


class SaveMotionModule(io.ComfyNode):
    """A motion module as a file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MotionGraft_SaveMotionModule",
            display_name="Save Motion Module",
            category=TRAINING_CATEGORY,
            description="Saves a motion module into models/animatediff_models, with its MotionLoRAs baked in. Refresh "
            "the editor (R), and LoadMotionModule lists it. Other programs for AnimateDiff read the file too.",
            search_aliases=["export motion module", "merge MotionLoRA", "convert ckpt to safetensors"],
            inputs=[
                MotionModuleSocket.Input(
                    "motion_module",
                    tooltip="A trained motion module, or a loaded one. MotionLoRAs applied to it are added to the "
                    "weights; the one given is left alone.",
                ),
                io.String.Input(
                    "filename_prefix",
                    default="my_motion_module",
                    tooltip="Name of the file, with subfolders if you like (clips/zoom). No file is ever replaced: "
                    "where the name is taken, the new file ends in _2, _3 and so on.",
                ),
                io.Combo.Input(
                    "layout",
                    options=list(LAYOUTS),
                    default="animatediff",
                    tooltip="How the weights are named. animatediff: as in the published files. diffusers: a folder "
                    "with config.json, which MotionAdapter.from_pretrained reads.",
                ),
                io.Combo.Input(
                    "dtype",
                    options=list(DTYPES),
                    default="fp16",
                    tooltip="How exactly the weights are written. fp16: half the size of fp32, as most files are. "
                    "bf16: the same size, larger range, coarser. fp32: to train on; no more exact than the module is "
                    "in memory, which may be fp16 on a GPU.",
                ),
            ],
            outputs=[],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, motion_module: LoadedMotionModule, filename_prefix: str, layout: str, dtype: str) -> io.NodeOutput:
        return io.NodeOutput(ui=ui.PreviewText(str(save_motion_module(motion_module, filename_prefix, layout, dtype))))
