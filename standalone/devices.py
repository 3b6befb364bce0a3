"""The device and number type that a command runs in."""

import torch

from ..core.errors import SettingsError

AUTO = "auto"
PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def device_called(name: str) -> torch.device:
    """The device of a command line; `auto` is the GPU if there is one.

    Raises: SettingsError for one that this machine does not have.
    """
    if name == AUTO:
        found = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(found)
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise SettingsError(
            f"--device {name} cannot be used ({reason}). Choose cpu, cuda, cuda:1 or mps, whatever this machine has."
        ) from error
    return device


def precision_called(name: str, device: torch.device) -> torch.dtype:
    """The type of a command line; `auto` is fp16 on a GPU, else fp32."""
    if name == AUTO:
        return torch.float32 if device.type == "cpu" else torch.float16
    return PRECISIONS[name]
