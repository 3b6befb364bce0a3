"""FrameNoise."""

from typing import Any

from comfy_api.latest import io

from ..host.clip_noise import ClipNoise
from ..sampling.frame_noise import KINDS, FrameNoiseSettings
from ..sampling.frame_seeds import LARGEST_SEED, parse_frame_seeds
from .sockets import CATEGORY


class FrameNoise(io.ComfyNode):
    """What the frames of a clip have in common in their noise."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MotionGraft_FrameNoise",
            display_name="Frame Noise",
            category=CATEGORY,
            description="The noise that a clip starts from: each frame its own, or with something in common. Goes to "
            "noise of Sample Animation, or of SamplerCustomAdvanced.",
            search_aliases=[
                "ADE_AnimateDiffSamplingSettings",
                "ADE_NoiseLayerAdd",
                "noise type",
                "seed override",
                "FreeNoise",
                "PYoCo",
                "RandomNoise",
            ],
            inputs=[
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=LARGEST_SEED,
                    control_after_generate=True,
                    tooltip="Of kind by frame, frame i gets the noise of (seed, i), however long the clip is. Samplers "
                    "other than Sample Animation also draw from it what they add at each step.",
                ),
                io.Combo.Input(
                    "kind",
                    options=list(KINDS),
                    default="by frame",
                    tooltip="by frame: each frame its own, as without this node. constant: the same for all. repeated: "
                    "that of the first length frames again and again. freenoise: that of the first window, shuffled in "
                    "each later one. mixed: part common, part each frame's own. Context Window with freenoise on "
                    "replaces the noise behind its first window: turn it off there for all other kinds, and for seeds.",
                ),
                io.Int.Input(
                    "length",
                    default=16,
                    min=1,
                    max=1024,
                    tooltip="Frames after which repeated begins again; the window of freenoise, as in Context Window. "
                    "No effect on other kinds.",
                ),
                io.Int.Input(
                    "overlap",
                    default=4,
                    min=0,
                    max=1023,
                    tooltip="Frames shared by neighbouring windows of freenoise, as in Context Window; less than "
                    "length. No effect on other kinds.",
                ),
                io.Float.Input(
                    "share",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="How much of the noise of mixed is common to all frames, by variance: 0 is by frame, 1 is "
                    "constant. No effect on other kinds.",
                ),
                io.String.Input(
                    "seeds",
                    default="",
                    multiline=True,
                    optional=True,
                    tooltip="Seeds of single frames or ranges, lines such as `5: 42` or `0-7: 42`: such a frame gets "
                    "the noise that it has in a clip of that seed. Empty: all frames have seed.",
                ),
            ],
            outputs=[io.Noise.Output(display_name="noise", tooltip="Goes to SampleAnimation or any sampler's noise.")],
        )

    @classmethod
    def execute(cls, seeds: str = "", **settings: Any) -> io.NodeOutput:
        return io.NodeOutput(ClipNoise(FrameNoiseSettings(**settings, seeds=parse_frame_seeds(seeds))))
