"""Clip sizes: the one asked for, or for each clip the one of about the same area that is nearest to its aspect."""

import math

COARSE_STEP, FINE_STEP = 64, 8
COARSE_FROM_AREA = 256 * 256
"""From this area on, sizes are multiples of the coarse step: few buckets, each with many clips."""
AREA_TOLERANCE = 0.15
"""How far the area of a bucket may be from the one asked for."""
LEAST_SIDE, MOST_SIDE = 64, 4096


def bucket_size(width: int, height: int, aspect: float) -> tuple[int, int]:
    """Width and height of the bucket for a clip of this aspect (width / height).

    Units: pixels
    """
    sizes = [(width, height), *_sizes_like(width * height)]
    return min(
        sizes, key=lambda size: (_log_distance(size[0] / size[1], aspect), abs(size[0] * size[1] - width * height))
    )


def _sizes_like(area: int) -> list[tuple[int, int]]:
    step = COARSE_STEP if area >= COARSE_FROM_AREA else FINE_STEP
    sides = range(LEAST_SIDE, MOST_SIDE + 1, step)
    sizes = [(width, side * step) for width in sides for side in _around(area / width / step)]
    return [
        (width, height)
        for width, height in sizes
        if LEAST_SIDE <= height <= MOST_SIDE and abs(width * height / area - 1) <= AREA_TOLERANCE
    ]


def _around(value: float) -> tuple[int, int]:
    return math.floor(value), math.ceil(value)


def _log_distance(aspect: float, other: float) -> float:
    return round(abs(math.log(aspect / other)), 9)
