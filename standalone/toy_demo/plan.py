"""How much the demo trains: sizes and settings, all in one place."""

from dataclasses import dataclass

from ...training.settings import TrainingSettings

EVEN_WEIGHT = 0.1
"""γ of min-SNR: where it is small, high noise counts as much as low, and it is high noise that decides what moves."""
MEASUREMENTS = 4
"""Validations of a run, beside the one before its first step."""


@dataclass(frozen=True)
class DemoPlan:
    """What the demo trains and shows. Units: clips are counted, widths of the UNet's levels in channels."""

    widths: tuple[int, ...]
    base: TrainingSettings
    adapter: TrainingSettings
    module: TrainingSettings
    motion_lora: TrainingSettings
    num_videos: int
    num_camera_clips: int
    adapter_rank: int
    motion_lora_rank: int
    sample_steps: int
    num_measured: int
    """Clips that each measure is a mean of, captions in turn."""


def demo_plan(seed: int) -> DemoPlan:
    """The demo of some four minutes on two cores."""
    return DemoPlan(
        widths=(32, 64, 64, 64),
        base=_settings(seed, steps=400, batch_size=24, learning_rate=3.5e-3, ema=0.98, min_snr=EVEN_WEIGHT),
        adapter=_settings(seed, steps=100, batch_size=24, learning_rate=4e-3, min_snr=EVEN_WEIGHT),
        module=_settings(seed, steps=400, batch_size=4, learning_rate=5e-3, ema=0.98, min_snr=EVEN_WEIGHT),
        motion_lora=_settings(seed, steps=80, batch_size=4, learning_rate=4e-3, min_snr=EVEN_WEIGHT),
        num_videos=128,
        num_camera_clips=48,
        adapter_rank=8,
        motion_lora_rank=8,
        sample_steps=12,
        num_measured=16,
    )


def tiny_plan(seed: int) -> DemoPlan:
    """The same in seconds: enough to see that every part works, and next to nothing learned."""
    return DemoPlan(
        widths=(32, 32, 32, 32),
        base=_settings(seed, steps=16, batch_size=8, learning_rate=4e-3, measurements=1),
        adapter=_settings(seed, steps=6, batch_size=8, learning_rate=1e-2, measurements=1),
        module=_settings(seed, steps=4, batch_size=2, learning_rate=4e-3, measurements=1),
        motion_lora=_settings(seed, steps=2, batch_size=1, learning_rate=1e-2, measurements=1),
        num_videos=10,
        num_camera_clips=4,
        adapter_rank=2,
        motion_lora_rank=2,
        sample_steps=2,
        num_measured=4,
    )


def _settings(
    seed: int,
    steps: int,
    batch_size: int,
    learning_rate: float,
    ema: float = 0.0,
    min_snr: float = 0.0,
    measurements: int = MEASUREMENTS,
) -> TrainingSettings:
    return TrainingSettings(
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        warmup_steps=min(20, steps // 4),
        learning_rate_schedule="cosine",
        precision="fp32",
        checkpointing="off",
        validate_every=max(1, steps // measurements),
        save_every=max(1, steps // 2),
        sample_every=0,
        held_out=2,
        seed=seed,
        ema=ema,
        min_snr=min_snr,
    )
