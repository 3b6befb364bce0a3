"""InflateModel."""

from comfy_api.latest import io

from ..host.inflate import inflate_model
from ..host.motion_modules import LoadedMotionModule
from ..sampling.beta_schedules import AUTO, OPTIONS
from ..sampling.motion_control import MotionControl
from .sockets import CATEGORY, MotionControlSocket, MotionModuleSocket


class InflateModel(io.ComfyNode):
    """A still-image model that takes a batch as a clip."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InflateModel",
            display_name="Inflate Model",
            category=CATEGORY,
            description="Splices a motion module into an SD 1.5 or SDXL model: a batch of latents becomes the frames "
            "of one clip. Works with every sampler; LoRA, ControlNet and IP-Adapter go before or after it.",
            search_aliases=[
                "ADE_UseEvolvedSampling",
                "ADE_ApplyAnimateDiffModel",
                "Use Evolved Sampling",
                "AnimateDiff",
            ],
            inputs=[
                io.Model.Input("model", tooltip="SD 1.5 or SDXL, personalised or plain; the one given is left alone."),
                MotionModuleSocket.Input("motion_module", tooltip="A motion module made for this base model."),
                io.Combo.Input(
                    "beta_schedule",
                    options=list(OPTIONS),
                    default=AUTO,
                    tooltip="Noise schedule. auto: the one that the motion module was trained on; use existing: the "
                    "model's own. A ModelSampling node placed after this one has the last word.",
                ),
                MotionControlSocket.Input(
                    "motion_control",
                    optional=True,
                    tooltip="How much motion, by frame, area, block and step. Without one: all of it.",
                ),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="Goes to ContextWindow or to any sampler.")],
        )

    @classmethod
    def execute(
        cls,
        model: io.Model.Type,
        motion_module: LoadedMotionModule,
        beta_schedule: str,
        motion_control: MotionControl | None = None,
    ) -> io.NodeOutput:
        return io.NodeOutput(inflate_model(model, motion_module, beta_schedule, motion_control))
