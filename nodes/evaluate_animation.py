"""EvaluateAnimation."""

from typing import Any

from comfy_api.latest import io, ui

from ..host.evaluation import evaluate_animation
from .sockets import CATEGORY


class EvaluateAnimation(io.ComfyNode):
    """How well a clip follows, moves and holds together."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MotionGraft_EvaluateAnimation",
            display_name="Evaluate Animation",
            category=CATEGORY,
            description="Measures a clip: how well it fits the prompt and the look of still images, how smooth it is "
            "(the scores of AnimateDiff's paper), and what these cannot see: how much moves, how it flickers, and "
            "whether seams and the end of a loop show.",
            search_aliases=["CLIP score", "metrics", "optical flow", "flicker", "smoothness", "compare animations"],
            inputs=[
                io.Image.Input("images", tooltip="The clip: two frames or more, from VAE Decode."),
                io.String.Input(
                    "prompt",
                    multiline=True,
                    tooltip="What the clip should show. Weights in brackets do not count; CLIP reads 75 tokens.",
                ),
                io.Clip.Input(
                    "clip",
                    tooltip="A CLIP with its text projection, which SD 1.5 checkpoints leave out: model.safetensors of "
                    "openai/clip-vit-large-patch14 through Load CLIP. Or that of SDXL.",
                ),
                io.ClipVision.Input(
                    "clip_vision",
                    tooltip="The other half of the same CLIP: for clip-vit-large-patch14 the same file, for SDXL "
                    "clip_vision_g.",
                ),
                io.Image.Input(
                    "reference_images",
                    optional=True,
                    tooltip="Still images that the base model makes of the prompt without a motion module, any number "
                    "and size, for the domain score. Without them it is NaN.",
                ),
                io.Int.Input(
                    "window_length",
                    default=0,
                    min=0,
                    max=1024,
                    optional=True,
                    tooltip="length of the Context Window that the clip was sampled with: compares the places where "
                    "windows begin or end with the rest. 0: no seams are measured.",
                ),
                io.Int.Input(
                    "window_overlap",
                    default=0,
                    min=0,
                    max=1023,
                    optional=True,
                    tooltip="overlap of that Context Window, less than its length. Only with window_length.",
                ),
                io.Boolean.Input(
                    "closed_loop",
                    default=False,
                    optional=True,
                    tooltip="Also measure the step from the last frame to the first.",
                ),
            ],
            outputs=[
                io.Float.Output(display_name="text", tooltip="Frames with the prompt, up to 100; 25 to 35 is usual."),
                io.Float.Output(display_name="domain", tooltip="Frames with the reference images, up to 100, or NaN."),
                io.Float.Output(
                    display_name="smoothness", tooltip="Each frame with the next, up to 100: a still clip."
                ),
                io.Float.Output(
                    display_name="motion_magnitude",
                    tooltip="Per cent of the frame's diagonal that things move from a frame to the next; 0: a still "
                    "clip.",
                ),
                io.String.Output(display_name="report", tooltip="All measures in words, a fact a line."),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, **inputs: Any) -> io.NodeOutput:
        found = evaluate_animation(**inputs)
        scores = found.measures.scores
        return io.NodeOutput(
            scores.mean_text,
            scores.mean_domain,
            scores.mean_smoothness,
            found.measures.motion,
            found.report,
            ui={**ui.PreviewImage(found.chart, cls=cls).as_dict(), **ui.PreviewText(found.report).as_dict()},
        )
