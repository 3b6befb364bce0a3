"""How a run trains: every number that a user may set, checked before anything is loaded."""

from dataclasses import dataclass

import torch

from ..core.errors import SettingsError

TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
PRECISIONS = tuple(TYPES)
CHECKPOINTING = ("auto", "on", "off")
RATE_SCHEDULES = ("constant", "cosine")
RESUME = ("new", "auto", "must")


@dataclass(frozen=True)
class TrainingSettings:
    """A checked set of training settings; the defaults are those of the published recipe.

    Raises: SettingsError for a value outside its range.
    Source: guoyww/AnimateDiff configs/training/v1/training.yaml and train.py for rate, decay, clipping and dropout.
    """

    steps: int = 2000
    batch_size: int = 4
    """Clips that go through the model at once."""
    accumulation: int = 1
    """Batches whose gradients are averaged for one step."""
    learning_rate: float = 1e-4
    warmup_steps: int = 0
    """Steps over which the learning rate grows from zero."""
    weight_decay: float = 0.01
    gradient_clip: float = 1.0
    """Largest norm of the gradient; 0 leaves it as it is."""
    precision: str = "bf16"
    checkpointing: str = "auto"
    """Compute activations again in the backward pass instead of keeping them; `auto` decides by free memory."""
    ema: float = 0.0
    """Decay of a moving average of the weights, which then is the result; 0 keeps none."""
    caption_dropout: float = 0.1
    """Share of clips that are trained with an empty caption, so that guidance (cfg) works."""
    min_snr: float = 0.0
    """γ of min-SNR weighting (arXiv 2303.09556), 5 is usual; 0 weighs all timesteps alike, as published."""
    validate_every: int = 100
    """Steps between measurements at fixed noise; 0 never measures."""
    save_every: int = 500
    """Steps between checkpoints; 0 saves at the end alone."""
    seed: int = 0
    resume: str = "auto"
    learning_rate_schedule: str = "constant"
    """`cosine` falls to zero at the last step."""
    held_out: int = 0
    """Clips kept from training for validation; 0 validates on the first clips of the training set."""
    sample_every: int = 500
    """Steps between sample clips; 0 makes none."""
    processes: int = 1
    """Processes that share each step, one for each GPU; each takes `batch_size` clips at once."""

    def __post_init__(self):
        _check_choice("precision", self.precision, PRECISIONS)
        _check_choice("checkpointing", self.checkpointing, CHECKPOINTING)
        _check_choice("resume", self.resume, RESUME)
        _check_choice("learning_rate_schedule", self.learning_rate_schedule, RATE_SCHEDULES)
        for name in ("steps", "batch_size", "accumulation", "processes"):
            _check_range(name, getattr(self, name), 1, None)
        for name in ("warmup_steps", "validate_every", "save_every", "sample_every", "held_out", "seed"):
            _check_range(name, getattr(self, name), 0, None)
        for name in ("learning_rate", "weight_decay", "gradient_clip", "min_snr"):
            _check_range(name, getattr(self, name), 0.0, None)
        _check_range("ema", self.ema, 0.0, 0.99999)
        _check_range("caption_dropout", self.caption_dropout, 0.0, 1.0)

    @property
    def dtype(self) -> torch.dtype:
        """What the base computes in."""
        return TYPES[self.precision]

    @property
    def global_batch(self) -> int:
        """Clips in one step, over all of its processes."""
        return self.batch_size * self.accumulation * self.processes


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise SettingsError(f"{name} should be one of {', '.join(choices)}, found {value}. Choose one of these.")


def _check_range(name: str, value: float, least: float, most: float | None) -> None:
    if not (least <= value and (most is None or value <= most)):  # written so that NaN fails
        limits = f"{least} or more" if most is None else f"from {least} to {most}"
        raise SettingsError(f"{name} should be {limits}, found {value}. Set it to a value in that range.")
