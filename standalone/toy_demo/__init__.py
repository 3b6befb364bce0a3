"""The demo without ComfyUI: trains a toy base and all three stages in minutes, and shows what came of it."""
