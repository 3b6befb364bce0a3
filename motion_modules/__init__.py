"""Floor 1: the temporal transformer of AnimateDiff and the files it comes in. Torch only."""
