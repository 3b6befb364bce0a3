"""What a training step costs: time, memory and arithmetic, beside a plain training loop on diffusers."""
