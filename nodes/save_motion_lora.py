"""SaveMotionLoRA."""

from comfy_api.latest import io, ui

from ..host.saving import LAYOUTS, save_motion_lora
from ..lora.motion_lora import MotionLoRA
from .sockets import TRAINING_CATEGORY, MotionLoRASocket


class SaveMotionLoRA(io.ComfyNode):
    """A MotionLoRA as a file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MotionGraft_SaveMotionLoRA",
            display_name="Save MotionLoRA",
            category=TRAINING_CATEGORY,
            description="Saves a trained MotionLoRA into models/animatediff_motion_lora. Refresh the editor (R), and "
            "ApplyMotionLoRA lists it. Other programs for AnimateDiff read the file too.",
            search_aliases=["export MotionLoRA", "save camera motion"],
            inputs=[
                MotionLoRASocket.Input("lora", tooltip="A MotionLoRA trained in this graph."),
                io.String.Input(
                    "filename_prefix",
                    default="my_motion_lora",
                    tooltip="Name of the file, with subfolders if you like (camera/zoom). No file is ever replaced: "
                    "where the name is taken, the new file ends in _2, _3 and so on.",
                ),
                io.Combo.Input(
                    "layout",
                    options=list(LAYOUTS),
                    default="animatediff",
                    tooltip="How the weights are named. animatediff: as in the published files. diffusers: as "
                    "load_lora_weights of diffusers reads them.",
                ),
            ],
            outputs=[],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, lora: MotionLoRA, filename_prefix: str, layout: str) -> io.NodeOutput:
        return io.NodeOutput(ui=ui.PreviewText(str(save_motion_lora(lora, filename_prefix, layout))))
