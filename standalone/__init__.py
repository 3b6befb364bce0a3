"""Floor 3: the same work without the editor: a headless ComfyUI, the demo, the command line."""
