"""Floor 3: the one door to ComfyUI. Nothing outside this room imports `comfy`."""
