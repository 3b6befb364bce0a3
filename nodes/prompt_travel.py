"""PromptTravel."""

from typing import Any

from comfy_api.latest import io

from ..host.prompt_travel import prompt_travel
from ..sampling.prompt_travel import INTERPOLATIONS
from .sockets import CATEGORY

EXAMPLE = "0: a forest in spring\n12-15: a forest in winter, snow"


class PromptTravel(io.ComfyNode):
    """Prompts that change over the clip."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MotionGraft_PromptTravel",
            display_name="Prompt Travel",
            category=CATEGORY,
            description="Prompts that change over the frames of a clip, one `frame: prompt` a line. It takes the place "
            "of CLIP Text Encode, for any sampler, and shows the schedule.",
            search_aliases=["BatchPromptSchedule", "ADE_PromptScheduling", "prompt schedule", "prompt scheduling"],
            inputs=[
                io.Clip.Input("clip", tooltip="The CLIP of the base model."),
                io.String.Input(
                    "prompts",
                    default=EXAMPLE,
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="One `frame: prompt` a line. 8-12: holds over a range, -1 is the last frame, # begins a "
                    "comment. A single line is a constant prompt.",
                ),
                io.Int.Input(
                    "num_frames",
                    default=16,
                    min=1,
                    max=10_000,
                    tooltip="Frames of the clip, as many as the latent has (batch_size). No effect on a single prompt.",
                ),
                io.Combo.Input(
                    "interpolation",
                    options=list(INTERPOLATIONS),
                    default="linear",
                    tooltip="From prompt to prompt. linear: evenly; slerp: evenly, on an arc; hold: not before the "
                    "next one's frame; ease: slowly, fast, slowly.",
                ),
                io.String.Input(
                    "prepend",
                    default="",
                    optional=True,
                    tooltip="Text in front of every prompt, with a comma between. Empty: none.",
                ),
                io.String.Input(
                    "append",
                    default="",
                    optional=True,
                    tooltip="Text behind every prompt, with a comma between. Empty: none.",
                ),
                io.Boolean.Input(
                    "closed_loop",
                    default=False,
                    optional=True,
                    tooltip="true: travels from the last prompt back to the first over the end of the clip. false: "
                    "holds the last one.",
                ),
            ],
            outputs=[io.Conditioning.Output(display_name="conditioning", tooltip="Goes to any sampler, as positive.")],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, clip: io.Clip.Type, **settings: Any) -> io.NodeOutput:
        conditioning, shown = prompt_travel(clip, cls.hidden.unique_id, text=settings.pop("prompts"), **settings)
        return io.NodeOutput(conditioning, ui=shown)
