"""What motion costs in a sampling step: time and memory, beside ComfyUI alone and beside AnimateDiff-Evolved."""
