"""ApplyDomainAdapter."""

from collections.abc import Mapping

from comfy_api.latest import io
from torch import Tensor

from ..host.folders import LORAS, file_stamp, list_optional_files
from ..host.loras import apply_domain_adapter
from ..host.sources import domain_adapter_from
from .sockets import CATEGORY


class ApplyDomainAdapter(io.ComfyNode):
    """The look of the training videos, added or left out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MotionGraft_ApplyDomainAdapter",
            display_name="Apply Domain Adapter",
            category=CATEGORY,
            description="Adds the domain adapter that a v3 motion module was trained beside: a LoRA of the base model "
            "that carries the look of the training videos. Optional; works before and after InflateModel.",
            search_aliases=["v3_sd15_adapter", "AnimateDiff adapter", "domain adapter LoRA"],
            inputs=[
                io.Model.Input("model", tooltip="The model to change; the one given is left alone."),
                io.Combo.Input(
                    "domain_adapter",
                    options=list_optional_files(LORAS),
                    tooltip="File in models/loras, such as v3_sd15_adapter, or none if one is connected to `lora`.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-10.0,
                    max=10.0,
                    step=0.01,
                    tooltip="The paper's α: 1 as trained, 0 removes the adapter and with it the look of the videos.",
                ),
                io.LoraModel.Input(
                    "lora", optional=True, tooltip="An adapter trained in this graph; set domain_adapter to none."
                ),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="The model with the adapter.")],
        )

    @classmethod
    def fingerprint_inputs(cls, domain_adapter: str, **_: object) -> str:
        return file_stamp(LORAS, domain_adapter)

    @classmethod
    def execute(
        cls, model: io.Model.Type, domain_adapter: str, strength: float, lora: Mapping[str, Tensor] | None = None
    ) -> io.NodeOutput:
        return io.NodeOutput(apply_domain_adapter(model, domain_adapter_from(domain_adapter, lora), strength))
