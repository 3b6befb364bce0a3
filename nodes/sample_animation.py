"""SampleAnimation."""

from typing import Any

from comfy_api.latest import io

from ..host.preview import AnimatedPreview
from ..host.sampling import SAMPLERS, SCHEDULERS, sample_animation
from .sockets import CATEGORY


class SampleAnimation(io.ComfyNode):
    """A sampler that shows the clip while it is made."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SampleAnimation",
            display_name="Sample Animation",
            category=CATEGORY,
            description="Samples a clip and plays it in the node while it is made. Every other sampler works too.",
            search_aliases=["KSampler", "AnimateDiff sampler"],
            inputs=[
                io.Model.Input("model", tooltip="An inflated model."),
                io.Conditioning.Input("positive", tooltip="What the clip should show."),
                io.Conditioning.Input("negative", tooltip="What it should not show."),
                io.Latent.Input("latent", tooltip="A batch of latents: one for each frame (batch_size = frames)."),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="Frame i gets the noise of (seed, i), however long the clip is.",
                ),
                io.Int.Input("steps", default=25, min=1, max=10_000, tooltip="Steps of denoising; 20 to 30 is common."),
                io.Float.Input(
                    "cfg",
                    default=7.5,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="How closely the prompt is followed. 1 takes half the time, without the negative prompt.",
                ),
                io.Combo.Input("sampler_name", options=SAMPLERS, default="ddim", tooltip="How a step is taken."),
                io.Combo.Input(
                    "scheduler", options=SCHEDULERS, default="normal", tooltip="How noise falls from step to step."
                ),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="1 makes the clip from noise; less keeps that much of the latent given.",
                ),
                io.Noise.Input(
                    "noise",
                    optional=True,
                    tooltip="The clip starts from this noise, such as that of Frame Noise; without one, from that of "
                    "seed. Samplers that add noise at each step draw it from seed either way.",
                ),
            ],
            outputs=[io.Latent.Output(display_name="latent", tooltip="The clip; decode it with a VAE.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, model: io.Model.Type, **inputs: Any) -> io.NodeOutput:
        preview = AnimatedPreview(model, cls.hidden.unique_id)
        return io.NodeOutput(sample_animation(model, **inputs, preview=preview))
