"""TrainingSettings."""

from typing import Any

from comfy_api.latest import io

from ..training.settings import CHECKPOINTING, PRECISIONS, RATE_SCHEDULES, RESUME
from ..training.settings import TrainingSettings as Settings
from .sockets import TRAINING_CATEGORY, TrainingSettingsSocket


class TrainingSettings(io.ComfyNode):
    """The numbers of a training run."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MotionGraft_TrainingSettings",
            display_name="Training Settings",
            category=TRAINING_CATEGORY,
            description="The numbers of a training run, for any of the three training nodes. The defaults suit a "
            "MotionLoRA; a motion module wants tens of thousands of steps.",
            search_aliases=["learning rate", "optimizer", "AdamW", "training config"],
            inputs=[
                io.Int.Input("steps", default=2000, min=1, max=10_000_000, tooltip="Steps of training in all."),
                io.Int.Input(
                    "batch_size",
                    default=4,
                    min=1,
                    max=1024,
                    tooltip="Clips in one step that go through the model at once. Taken in parts if memory is short, "
                    "with the same result.",
                ),
                io.Int.Input(
                    "accumulation",
                    default=1,
                    min=1,
                    max=1024,
                    tooltip="Batches whose gradients are averaged for one step. 1: every batch is a step.",
                ),
                io.Float.Input(
                    "learning_rate",
                    default=1e-4,
                    min=0.0,
                    max=1.0,
                    step=1e-6,
                    round=False,
                    tooltip="How far a step goes; 0.0001 is the published one. Lower it if the loss jumps.",
                ),
                io.Int.Input(
                    "warmup_steps", default=0, min=0, max=1_000_000, tooltip="Steps over which the learning rate grows."
                ),
                io.Float.Input(
                    "weight_decay",
                    default=0.01,
                    min=0.0,
                    max=10.0,
                    step=0.001,
                    tooltip="How strongly weights are drawn to zero; 0 does not.",
                ),
                io.Float.Input(
                    "gradient_clip",
                    default=1.0,
                    min=0.0,
                    max=1000.0,
                    step=0.1,
                    tooltip="Largest norm of a gradient; 0 leaves every gradient as it is.",
                ),
                io.Combo.Input(
                    "precision",
                    options=list(PRECISIONS),
                    default="bf16",
                    tooltip="What the base computes in. The trained weights are always kept in fp32. fp16 for GPUs "
                    "without bf16, fp32 for exactness.",
                ),
                io.Combo.Input(
                    "checkpointing",
                    options=list(CHECKPOINTING),
                    default="auto",
                    tooltip="on: activations are computed twice instead of kept, a third slower in a fraction of the "
                    "memory, with the same result. auto: on if memory is short.",
                ),
                io.Float.Input(
                    "ema",
                    default=0.0,
                    min=0.0,
                    max=0.99999,
                    step=0.0001,
                    round=False,
                    tooltip="Decay of a moving average of the weights, which becomes the result. 0: none; 0.999 suits "
                    "motion modules.",
                ),
                io.Float.Input(
                    "caption_dropout",
                    default=0.1,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Share of clips trained without their caption, which guidance (cfg) needs. 0: none.",
                ),
                io.Float.Input(
                    "min_snr",
                    default=0.0,
                    min=0.0,
                    max=100.0,
                    step=0.5,
                    tooltip="γ of min-SNR weighting, 5 is usual. 0: all noise levels count alike, as published.",
                ),
                io.Int.Input(
                    "validate_every",
                    default=100,
                    min=0,
                    max=1_000_000,
                    tooltip="Steps between measurements at fixed noise, the only loss that shows progress. 0: never.",
                ),
                io.Int.Input(
                    "save_every",
                    default=500,
                    min=0,
                    max=1_000_000,
                    tooltip="Steps between checkpoints, of which the last two and the best are kept. 0: at the end.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    # The editor would choose another seed after each run, and so start every run anew.
                    control_after_generate=io.ControlAfterGenerate.fixed,
                    tooltip="Chooses noise, noise levels and the order of clips. The same seed gives the same run.",
                ),
                io.Combo.Input(
                    "resume",
                    options=list(RESUME),
                    default="auto",
                    tooltip="auto: go on with a run of this name and these settings, else start one. new: always start "
                    "one. must: go on with the newest run of this name, or fail.",
                ),
                io.Combo.Input(
                    "learning_rate_schedule",
                    options=list(RATE_SCHEDULES),
                    default="constant",
                    tooltip="What the learning rate does after the warm-up: constant, or fall to zero as a cosine.",
                ),
                io.Int.Input(
                    "held_out",
                    default=0,
                    min=0,
                    max=1000,
                    tooltip="Clips kept from training, to validate on. 0: validate on the first clips trained on.",
                ),
                io.Int.Input(
                    "sample_every",
                    default=500,
                    min=0,
                    max=1_000_000,
                    tooltip="Steps between sample clips, shown in the node and kept in the run's folder. 0: none.",
                ),
                io.Int.Input(
                    "processes",
                    default=1,
                    min=1,
                    max=64,
                    tooltip="GPUs that share each step, every one with batch_size clips: 2 with batch_size 4 train as "
                    "1 with batch_size 8. 1: train inside ComfyUI. More need the package diffusers.",
                ),
            ],
            outputs=[TrainingSettingsSocket.Output(display_name="settings", tooltip="Goes to a training node.")],
        )

    @classmethod
    def execute(cls, **settings: Any) -> io.NodeOutput:
        return io.NodeOutput(Settings(**settings))
