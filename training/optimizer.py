"""AdamW, its learning rate as a function of the step, and a moving average of the weights."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import swa_utils

from .settings import TrainingSettings

BETAS = (0.9, 0.999)
EPSILON = 1e-8
"""Source: guoyww/AnimateDiff train.py, `adam_beta1`, `adam_beta2`, `adam_epsilon`."""
FUSED_DEVICES = ("cpu", "cuda", "mps", "xpu")
"""Source: torch.optim.AdamW, `fused`."""
MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def make_optimizer(parameters: Iterable[nn.Parameter], settings: TrainingSettings) -> torch.optim.AdamW:
    """AdamW over the trainable weights; one kernel for all of them where the device has one."""
    weights = list(parameters)
    fused = all(weight.device.type in FUSED_DEVICES for weight in weights)
    return torch.optim.AdamW(weights, settings.learning_rate, BETAS, EPSILON, settings.weight_decay, fused=fused)


def learning_rate_at(step: int, settings: TrainingSettings) -> float:
    """The learning rate of a step, counted from 0: warm-up, then constant or half a cosine down to zero."""
    warm = min(1.0, (step + 1) / settings.warmup_steps) if settings.warmup_steps else 1.0
    if settings.learning_rate_schedule == "constant" or step < settings.warmup_steps:
        return settings.learning_rate * warm
    progress = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    return settings.learning_rate * (1 + math.cos(math.pi * progress)) / 2


def optimizer_tensors(optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """The optimizer's moments by weight, for a checkpoint."""
    return {
        f"{moment}:{name}": optimizer.state[weight][moment]
        for name, weight in parameters.items()
        for moment in MOMENTS
        if moment in optimizer.state[weight]
    }


def restore_optimizer(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]
) -> None:
    """Give an optimizer the moments of a checkpoint; a weight without any keeps none."""
    state: dict[int, Any] = {}
    for index, name in enumerate(parameters):
        moments = {moment: tensors[f"{moment}:{name}"] for moment in MOMENTS if f"{moment}:{name}" in tensors}
        if moments:
            state[index] = moments
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


class MovingAverage:
    """An exponential moving average of the weights, quick at first, so that it forgets where training started.

    Source: TensorFlow's tf.train.ExponentialMovingAverage, `num_updates`: the decay is min(d, (1+n)/(10+n)).
    """

    def __init__(self, decay: float, parameters: Mapping[str, nn.Parameter]):
        self.decay = decay
        self.weights = {name: weight.detach().clone() for name, weight in parameters.items()}

    def update(self, parameters: Mapping[str, nn.Parameter], step: int) -> None:
        """Move towards the weights after a step."""
        decay = min(self.decay, (1 + step) / (10 + step))
        current = [parameters[name].detach() for name in self.weights]
        cast(Any, swa_utils).get_ema_multi_avg_fn(decay)(list(self.weights.values()), current, step)
