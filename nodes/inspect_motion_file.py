"""InspectMotionFile."""

from comfy_api.latest import io, ui

from ..host.inspection import inspect_motion_file, list_motion_files, motion_file_stamp
from .sockets import CATEGORY


class InspectMotionFile(io.ComfyNode):
    """What a motion file is."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MotionGraft_InspectMotionFile",
            display_name="Inspect Motion File",
            category=CATEGORY,
            description="Says what a file is: motion module, MotionLoRA, domain adapter or something else; for which "
            "base model, of which generation, how it was trained, which node takes it, and which installed files fit "
            "with it.",
            search_aliases=["motion module info", "MotionLoRA info", "check AnimateDiff file"],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=list_motion_files(),
                    tooltip="A file in models/animatediff_models, models/animatediff_motion_lora or models/loras.",
                )
            ],
            outputs=[io.String.Output(display_name="report", tooltip="What the file is, a fact a line.")],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def fingerprint_inputs(cls, file: str) -> str:
        return motion_file_stamp(file)

    @classmethod
    def execute(cls, file: str) -> io.NodeOutput:
        report = inspect_motion_file(file, cls.hidden.unique_id)
        return io.NodeOutput(report, ui=ui.PreviewText(report))
