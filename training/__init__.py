"""Floor 2: clips and their caches, losses, the training loop and its checkpoints, for any host."""
