"""Floor 0: errors, protocols, safe tensor files. Knows neither models nor hosts."""
