"""SaveDomainAdapter."""

from collections.abc import Mapping

from comfy_api.latest import io, ui
from torch import Tensor

from ..host.saving import LAYOUTS, save_domain_adapter
from .sockets import TRAINING_CATEGORY


class SaveDomainAdapter(io.ComfyNode):
    """A domain adapter as a file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MotionGraft_SaveDomainAdapter",
            display_name="Save Domain Adapter",
            category=TRAINING_CATEGORY,
            description="Saves a trained domain adapter into models/loras. Refresh the editor (R), and Apply Domain "
            "Adapter and ComfyUI's own LoRA loaders list it.",
            search_aliases=["export domain adapter", "save adapter LoRA"],
            inputs=[
                io.LoraModel.Input(
                    "lora",
                    tooltip="A domain adapter trained in this graph. Save the LoRAs of ComfyUI's own Train LoRA with "
                    "its Save LoRA Weights: they change more layers than this layout has names for.",
                ),
                io.String.Input(
                    "filename_prefix",
                    default="my_domain_adapter",
                    tooltip="Name of the file, with subfolders if you like (looks/film). No file is ever replaced: "
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
    def execute(cls, lora: Mapping[str, Tensor], filename_prefix: str, layout: str) -> io.NodeOutput:
        return io.NodeOutput(ui=ui.PreviewText(str(save_domain_adapter(lora, filename_prefix, layout))))
