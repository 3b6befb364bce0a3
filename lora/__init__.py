"""Floor 1: low-rank changes to attention weights, and the files they come in. Torch only."""
