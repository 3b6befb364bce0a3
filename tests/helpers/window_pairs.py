"""Schedules of windows and ways to fuse them, as far as they go together."""

import itertools

from motiongraft.sampling.context_windows import FUSE_METHODS, SCHEDULES

EXCLUDED = [("looped", "relative"), ("composite", "overlap-linear")]
ALLOWED = [pair for pair in itertools.product(SCHEDULES, FUSE_METHODS) if pair not in EXCLUDED]
