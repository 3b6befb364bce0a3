"""MotionGraft: AnimateDiff for ComfyUI. Imports nothing until ComfyUI asks for the nodes."""

import logging

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    """The extension object that ComfyUI loads nodes from."""
    try:
        from .nodes import MotionGraftExtension
    except Exception:
        # ComfyUI logs a failed entry point in one line, without its traceback.
        logging.getLogger(__name__).exception("MotionGraft could not load its nodes")
        raise
    return MotionGraftExtension()
