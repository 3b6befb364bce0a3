"""Clips on disk: found, checked, cut, resampled, and moved by a camera."""
