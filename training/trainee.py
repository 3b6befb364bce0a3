"""What a stage trains, and what becomes of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from ..core.errors import RunError

DOMAIN_ADAPTER = "domain adapter"
MOTION_MODULE = "motion module"
MOTION_LORA = "motion LoRA"


@dataclass(frozen=True)
class Trainee:
    """The trainable weights of a stage, already in place inside the denoiser."""

    stage: str
    module: nn.Module
    """Holds the trainable weights in float32, and nothing else that takes a gradient."""
    shares: Tensor
    """ᾱ by timestep of the noise schedule of this stage. Shapes: `t`, float64"""
    publish: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
    """From weights under the module's own names to tensors in the published layout."""
    metadata: Mapping[str, Any] = field(default_factory=lambda: {})
    single_frames: bool = False
    """Train on one frame of each clip instead of the clip."""

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """Every weight that moves, by name."""
        return {name: weight for name, weight in self.module.named_parameters() if weight.requires_grad}

    def check(self) -> None:
        """Raises: RunError if nothing would be trained, or a weight cannot be."""
        if not self.parameters:
            raise RunError(f"the {self.stage} has no weights to train. Report this, with the base model's name.")
        frozen = [name for name, weight in self.parameters.items() if weight.is_inference()]
        if frozen:
            raise RunError(
                f"{frozen[0]} was made for inference, and no gradient can reach it. Report this: "
                "the weights of a run must be its own."
            )
