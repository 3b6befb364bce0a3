"""Which of ComfyUI's wrappers stands around which: in each kind, the first key is the outermost."""

from typing import Any

from comfy.model_patcher import ModelPatcher


def add_outermost_wrapper(model: ModelPatcher, kind: str, key: str, wrapper: Any) -> None:
    """Add a wrapper to a model clone of the caller's own, in front of all that it has under other keys."""
    model.add_wrapper_with_key(kind, key, wrapper)
    others = model.wrappers[kind]
    model.wrappers[kind] = {key: others.pop(key), **others}
