"""Queue a workflow on a running ComfyUI, from any program. Standard library only; may be copied out as it is."""
