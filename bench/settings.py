"""What one measurement runs: which variants, on clips of which size."""

from dataclasses import dataclass
from pathlib import Path

from ..core.errors import SettingsError

PLAIN = "plain"
OURS = "motiongraft"
THEIRS = "ade"
GENERATIONS = {"sd15": ("v3", "v2", "v1"), "sdxl": ("sdxl-beta",)}
"""Base models, and the generations of motion modules for each; the first is measured unless --variants says more."""
PIXELS_PER_LATENT = 8
SIZE_STEP = 64
"""A UNet of SD 1.5 halves the latent three times."""
WIDTH = 320
"""Channels of the first level in SD 1.5 and SDXL."""
WIDTH_STEP = 32
"""Groups of every GroupNorm."""


@dataclass(frozen=True)
class Settings:
    """The options of the command line that decide what is computed."""

    variants: tuple[str, ...]
    """`plain` is ComfyUI without motion, `motiongraft-v3` an inflated model, `ade-v3` AnimateDiff-Evolved."""
    size: int
    """Width and height of a frame. Units: pixels."""
    base: str = "sd15"
    width: int = WIDTH
    """Channels of the UNet's first level."""
    frames: int = 16
    repeats: int = 5
    ade: Path | None = None
    """A checkout of AnimateDiff-Evolved."""

    def __post_init__(self) -> None:
        known = [PLAIN, *(f"{engine}-{name}" for engine in (OURS, THEIRS) for name in GENERATIONS[self.base])]
        unknown = [name for name in self.variants if name not in known]
        _check(not unknown, f"--variants out of {', '.join(known)} for {self.base}", ", ".join(unknown))
        _check(PLAIN in self.variants, f"{PLAIN} among the variants, to compare with", ", ".join(self.variants))
        _check(self.width > 0 and self.width % WIDTH_STEP == 0, f"--width in steps of {WIDTH_STEP}", self.width)
        _check(self.size > 0 and self.size % SIZE_STEP == 0, f"--size in steps of {SIZE_STEP} pixels", self.size)
        _check(min(self.frames, self.repeats) > 0, "--frames and --repeats above 0", (self.frames, self.repeats))
        with_ade = any(name.startswith(THEIRS) for name in self.variants)
        _check(not with_ade or self.ade is not None, f"--ade PATH for a variant of {THEIRS}", "none")
        _check(not with_ade or self.width == WIDTH, f"--width {WIDTH} with {THEIRS}, which knows no other", self.width)

    @property
    def latent_size(self) -> int:
        """Width and height of a latent frame. Units: latent pixels."""
        return self.size // PIXELS_PER_LATENT


def default_variants(base: str, with_ade: bool) -> tuple[str, ...]:
    """The plain model and its newest motion module, in AnimateDiff-Evolved too where there is a checkout of it."""
    newest = GENERATIONS[base][0]
    return (PLAIN, f"{OURS}-{newest}", *([f"{THEIRS}-{newest}"] if with_ade else []))


def _check(holds: bool, expected: str, found: object) -> None:
    if not holds:
        raise SettingsError(f"expected {expected}, found {found}. Change the command line; --help lists the options.")
