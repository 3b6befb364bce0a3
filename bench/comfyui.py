"""ComfyUI inside this process, without its server. Import this first: it decides the device."""

import importlib
import logging
import sys

import torch

from ..standalone.host_location import find_host


def open_comfyui(pytorch_attention: bool) -> None:
    """Make ComfyUI's modules importable, on the GPU if torch sees one.

    Raises: HostError if there is no ComfyUI.
    """
    sys.path.insert(0, str(find_host()))
    arguments = importlib.import_module("comfy.cli_args").args
    arguments.cpu = not torch.cuda.is_available()
    arguments.use_pytorch_cross_attention = pytorch_attention
    logging.getLogger().setLevel(logging.WARNING)
