"""Teaches ComfyUI two toy models, so that CheckpointLoaderSimple loads the checkpoints written by `checkpoints.py`.

A custom node pack without nodes. Importing it imports nothing; reading NODE_CLASS_MAPPINGS, as ComfyUI does once
after the import, registers the models.
"""


def __getattr__(name: str) -> dict[str, type]:
    if name != "NODE_CLASS_MAPPINGS":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .models import register

    register()
    return {}
