"""Floor 2: windows, noise schedules, clip lengths and previews, for any host."""
