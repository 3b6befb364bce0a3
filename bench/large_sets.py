"""`python bench large-set`: what a cached set of ten million clips costs to open, and a step's clips to draw and read.

The set is simulated: its index names as many shards as a real one would have, over and over the same few, which are
real. Draws and reads are the ones of training.
"""

import argparse
import os
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from ..core.errors import MotionError
from ..core.tensor_files import write_tensor_file
from ..training.batches import TrainingData
from ..training.cache.cache_index import (
    ENTRIES,
    INDEX,
    LATENTS,
    TEXT,
    BucketIndex,
    CacheIndex,
    ClipEntry,
    entries_name,
    entries_path,
    entries_text,
    write_index,
)
from ..training.cache.cache_plan import CLIPS_PER_SHARD
from ..training.cache.cached_clips import PLAIN, STATES, CachedClips, open_cached_clips
from ..training.settings import TrainingSettings
from . import pages
from .machine import CHECKOUT, describe_machine, git_commit
from .memory import own_bytes

SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
FRAMES, CHANNELS, SIDE = 16, 4, 32
"""Of a clip's latents: 16 frames of 256×256 pixels."""
TOKENS, TEXT_WIDTH = 77, 768
NUM_SHARDS = 160
"""Different names; more than the cache keeps open, so that shards are opened again and again as in a large set."""
NUM_FILES = 4
"""Different files behind the names of latent shards."""
LEGEND = (
    "Open: reading the index, and what stays in memory of it. Draw and read: medians for a clip in the first and the "
    "second half of a run. Memory grows: from the middle of the run to its end, mapped files not counted. Repeated: "
    f"clips drawn twice before all were drawn once. The index is whole; behind its shards stand {NUM_SHARDS} names of "
    f"{NUM_FILES} real files with {CLIPS_PER_SHARD} clips each, in the page cache: a disk adds its own time."
)
MEGA, MICRO, MILLI = 1e6, 1e-6, 1e-3


@dataclass(frozen=True)
class SetCost:
    """One size of set. Units: seconds, bytes; medians over the steps of the first and of the second half of a run."""

    clips: int
    index_bytes: int
    open_seconds: float
    open_bytes: int
    """Growth of the process's own memory by opening the set."""
    draw_seconds: tuple[float, float]
    """A clip: which one, and everything random about it."""
    read_seconds: tuple[float, float]
    """A clip: its latents and text, from a shard that is open or is opened for it."""
    run_bytes: int
    """Growth of the process's own memory from the middle of the run to its end."""
    repeated: int
    """Clips that came a second time before all had come once."""


def main(arguments: Sequence[str]) -> int:
    """The exit status of the measurement; its page goes to the standard output."""
    options = _parser().parse_args(arguments)
    try:
        with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
            costs = [_cost(Path(folder), size, options.steps, options.batch) for size in options.sizes]
    except MotionError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    command = f"python bench large-set {shlex.join(arguments)}".strip()
    page = as_markdown(costs, command, _machine())
    if options.out:
        write_results(options.out, costs, page, command, _machine())
    print(page)  # noqa: T201 - the command's answer
    return 0


def as_markdown(costs: Sequence[SetCost], command: str, machine: dict[str, str]) -> str:
    """The page: a row for each size, then how it was measured."""
    head = ["clips", "index", "open", "memory of it", "draw a clip", "read a clip", "memory grows", "repeated"]
    table = pages.table(head, list(map(_row, costs)))
    about = pages.table(["machine", ""], list(machine.items()))
    return f"# Drawing from large sets\n\n{table}\n\n{LEGEND}\n\n{about}\n\n`{command}`\n"


def write_results(path: Path, costs: Sequence[SetCost], page: str, command: str, machine: dict[str, str]) -> None:
    """Write `path`.json and `path`.md."""
    content = {"command": command, "machine": machine, "sets": [asdict(cost) for cost in costs]}
    pages.write_results(path, content, page)


def simulated_set(folder: Path, clips: int, side: int = SIDE, num_shards: int = NUM_SHARDS) -> None:
    """A finished cache whose index names so many clips. Units: side in latent pixels"""
    names = [f"shard-{number}" for number in range(num_shards)]
    for kind in (LATENTS, ENTRIES, TEXT):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    shape = (FRAMES, CHANNELS, side, side)
    for number, name in enumerate(names):
        _latent_shard(folder / LATENTS, number, name, names, shape)
    tensors = {STATES: torch.randn(CLIPS_PER_SHARD, TOKENS, TEXT_WIDTH).half()}
    write_tensor_file(folder / TEXT / "text.safetensors", tensors, {})
    entries = [_entries(folder, number, side) for number in range(num_shards)]
    count = -(-clips // CLIPS_PER_SHARD)
    shards = tuple((names[place % num_shards], entries[place % num_shards]) for place in range(count))
    bucket = BucketIndex(*shape, count=clips, clips_per_shard=CLIPS_PER_SHARD, shards=shards)
    last = bucket.rows_in(count - 1)
    if last < CLIPS_PER_SHARD:  # the files behind it are full, as all others
        bucket = replace(bucket, count=clips + CLIPS_PER_SHARD - last)
    write_index(
        folder, CacheIndex("simulated", "vae", "clip", 4, None, False, TEXT_WIDTH, None, ("text", 0), (bucket,))
    )


def _latent_shard(folder: Path, number: int, name: str, names: Sequence[str], shape: tuple[int, ...]) -> None:
    path = folder / f"{name}.safetensors"
    if number < NUM_FILES:
        latents = torch.randn(CLIPS_PER_SHARD, *shape, generator=torch.Generator().manual_seed(number)).half()
        write_tensor_file(path, {PLAIN: latents}, {})
    elif not path.exists():
        os.link(folder / f"{names[number % NUM_FILES]}.safetensors", path)


def _entries(folder: Path, number: int, side: int) -> str:
    """The file of a shard's entries, and its name."""
    entries = [
        ClipEntry(
            f"videos/{number:06}/{row:04}.mp4",
            f"a caption of some ten words, the {row}th of shard {number}",
            f"{number:032x}{row:032x}",
            f"{row:064x}",
            side * 8,
            side * 8,
            None,
            ("text", row),
        )
        for row in range(CLIPS_PER_SHARD)
    ]
    text = entries_text(entries)
    name = entries_name(text)
    entries_path(folder, name).write_text(text, encoding="utf-8")
    return name


def _cost(folder: Path, clips: int, steps: int, batch: int) -> SetCost:
    simulated_set(folder, clips)
    before, started = own_bytes(), time.perf_counter()
    cached = open_cached_clips(folder)
    opened, grown = time.perf_counter() - started, own_bytes() - before
    data = TrainingData(cached, TrainingSettings(batch_size=batch, held_out=4), single_frames=False)
    first = list(_steps(data, cached, range(steps // 2)))
    middle = own_bytes()
    second = list(_steps(data, cached, range(steps // 2, steps)))
    run_bytes = own_bytes() - middle
    draws, reads = (_medians(first, second, kind, batch) for kind in (0, 1))
    index_bytes = (folder / INDEX).stat().st_size
    return SetCost(clips, index_bytes, opened, grown, draws, reads, run_bytes, _repeated(data, steps))


def _steps(data: TrainingData, cached: CachedClips, steps: range) -> Iterator[tuple[float, float]]:
    """Seconds to draw and to read the clips of each step."""
    for step in steps:
        started = time.perf_counter()
        draws = data.draws(step)
        drawn = time.perf_counter()
        for each in draws:
            cached.clip(each.bucket, each.number, each.is_mirrored)
        yield drawn - started, time.perf_counter() - drawn


def _medians(
    first: Sequence[tuple[float, float]], second: Sequence[tuple[float, float]], kind: int, batch: int
) -> tuple[float, float]:
    """Units: seconds a clip"""
    halves = [statistics.median(times[kind] for times in half) / batch for half in (first, second)]
    return halves[0], halves[1]


def _repeated(data: TrainingData, steps: int) -> int:
    """Clips drawn a second time before all had come once."""
    numbers = [(each.bucket, each.number) for step in range(steps) for each in data.draws(step)]
    numbers = numbers[: sum(data.counts)]
    return len(numbers) - len(set(numbers))


def _row(cost: SetCost) -> list[str]:
    return [
        f"{cost.clips:,}",
        f"{cost.index_bytes / MEGA:.1f} MB",
        f"{cost.open_seconds:.2f} s",
        f"{cost.open_bytes / MEGA:.0f} MB",
        " and ".join(f"{value / MICRO:.0f}" for value in cost.draw_seconds) + " µs",
        " and ".join(f"{value / MILLI:.2f}" for value in cost.read_seconds) + " ms",
        f"{cost.run_bytes / MEGA:+.1f} MB",
        str(cost.repeated),
    ]


def _machine() -> dict[str, str]:
    commit = git_commit(CHECKOUT) or "no commit"
    return {**describe_machine(), "torch": torch.__version__, "MotionGraft": commit}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python bench large-set", description="Draw and read clips of simulated sets."
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), help="clips in each simulated set")
    parser.add_argument("--steps", type=int, default=400, help="training steps whose clips are drawn and read")
    parser.add_argument("--batch", type=int, default=16, help="clips of a step")
    parser.add_argument("--scratch", type=Path, help="where the sets are written; 40 MB")
    parser.add_argument("--out", type=Path, help="write FILE.json and FILE.md")
    return parser
