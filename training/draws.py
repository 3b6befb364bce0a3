"""What a step trains on, as a pure function of the seed and the step: a stopped run goes on with the same draws.

No generator is carried from step to step. Everything random about the clip at a position in the run comes from
(seed, position), so that neither the size of a micro-batch nor the number of processes changes it.
"""

import random
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.seeds import derived_seed

NUM_TIMESTEPS = 1000
FEISTEL_ROUNDS = 6


@dataclass(frozen=True)
class Draw:
    """One clip of one step."""

    bucket: int
    number: int
    """Of the clip in its bucket."""
    timestep: int
    """One for the whole clip. Source: arXiv 2307.04725 equation 6; guoyww/AnimateDiff train.py."""
    is_mirrored: bool
    is_captioned: bool
    """False: the caption is replaced by the empty one."""
    frame: float
    """Where in the clip a stage of single frames takes its frame, from 0 up to 1."""
    noise_seed: int


def noise_of(seed: int, shape: tuple[int, ...]) -> Tensor:
    """Independent noise for each frame of a clip, drawn on the CPU so that every device gets the same.

    Shapes: -> shape, float32
    Source: arXiv 2307.04725 equation 6, noise of the shape of the whole clip.
    """
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed & (2**63 - 1)))


def shuffled(number: int, count: int, *key: object) -> int:
    """Where a shuffle of 0 to count - 1 that belongs to the key puts a number; no list is made, however many there are.

    Source: a Feistel network over the next power of four, walked until it lands inside (Black and Rogaway 2002,
    "Ciphers with Arbitrary Finite Domains", sections 3 and 4).
    """
    half = max(1, (max(count - 1, 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    while True:
        left, right = number >> half, number & mask
        for turn in range(FEISTEL_ROUNDS):
            left, right = right, left ^ (derived_seed(key, turn, right) & mask)
        number = (left << half) | right
        if number < count:
            return number


def bucket_of(steps: tuple[int, ...], slot: int) -> tuple[int, int]:
    """Which bucket has a slot, and which of its own steps that is, where buckets of so many steps are spread evenly.

    Source: the first bucket against all others as a line is drawn in pixels (Bresenham 1965), then the next.
    """
    bucket = 0
    while bucket < len(steps) - 1:
        total = sum(steps[bucket:])
        earlier = slot * steps[bucket] // total
        if (slot + 1) * steps[bucket] // total > earlier:
            return bucket, earlier
        slot, bucket = slot - earlier, bucket + 1
    return bucket, slot


def clip_of(counts: tuple[int, ...], seed: int, step: int, index: int, batch: int) -> tuple[int, int]:
    """Bucket and number of the clip at an index of a step's batch; all clips of a step share a bucket.

    Each bucket is an endless row of shuffles of its clips, from which its steps take one batch after the other: none
    is repeated before all have been, and none is lost. In a period each bucket has as many steps as it fills batches.
    """
    steps = tuple(-(-count // batch) for count in counts)
    period, slot = divmod(step, sum(steps))
    bucket, earlier = bucket_of(steps, slot)
    place = (period * steps[bucket] + earlier) * batch + index
    epoch, number = divmod(place, counts[bucket])
    return bucket, shuffled(number, counts[bucket], seed, "clip", bucket, epoch)


def draw(
    counts: tuple[int, ...], seed: int, step: int, index: int, batch: int, caption_dropout: float, flip: bool
) -> Draw:
    """Everything random about one clip of one step.

    Units: index counts the clips of the step, over all of its processes; batch is how many it has.
    """
    bucket, number = clip_of(counts, seed, step, index, batch)
    position = step * batch + index
    chance = random.Random(derived_seed(seed, "draw", position))
    return Draw(
        bucket,
        number,
        timestep=chance.randrange(NUM_TIMESTEPS),
        is_captioned=chance.random() >= caption_dropout,
        is_mirrored=chance.random() < 0.5 and flip,
        frame=chance.random(),
        noise_seed=derived_seed(seed, "noise", position),
    )
