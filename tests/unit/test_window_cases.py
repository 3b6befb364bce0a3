"""The table of windows that the editor's timeline is held to: what it lists is what is sampled.

Write it anew with MOTIONGRAFT_UPDATE_RECORD=1; `tests/web/window_indices.test.mjs` reads it.
"""

import itertools
import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from motiongraft.sampling.context_windows import ContextWindowSettings
from motiongraft.sampling.window_indices import frame_shares, window_indices
from motiongraft.tests.helpers.window_pairs import ALLOWED

TABLE = Path(__file__).resolve().parents[1] / "data" / "window_cases.json"
LATE = 0.5
"""A share of the sampling at which `composite` no longer shuffles."""
DIGITS = 5


def cases() -> Iterator[dict[str, Any]]:
    """Every schedule and way to fuse, at lengths, strides and steps of all kinds."""
    clips = [(8, 3, 2, 21, 1), (8, 0, 1, 17, 0), (5, 4, 3, 23, 3), (6, 1, 1, 6, 0)]
    for schedule, fuse in ALLOWED:
        for closed_loop, clip in itertools.product((False, True), clips):
            if schedule == "looped" or not closed_loop:
                yield case(schedule, fuse, closed_loop, *clip)


def case(
    schedule: str, fuse: str, closed_loop: bool, length: int, overlap: int, stride: int, frames: int, step: int
) -> dict[str, Any]:
    settings = ContextWindowSettings(length, overlap, stride, schedule, fuse, closed_loop)
    windows = window_indices(settings, frames, step, LATE)
    shares = [[round(float(share), DIGITS) for share in each] for each in frame_shares(settings, windows, frames)]
    told = {name: value for name, value in asdict(settings).items() if name not in ("freenoise", "start_percent")}
    return {"settings": told, "frames": frames, "step": step, "windows": windows, "shares": shares}


def test_the_table_lists_what_is_sampled() -> None:
    found = list(cases())
    if os.environ.get("MOTIONGRAFT_UPDATE_RECORD"):
        lines = ",\n".join(json.dumps(each, separators=(",", ":")) for each in found)
        TABLE.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    listed = json.loads(TABLE.read_text(encoding="utf-8"))
    assert [without_shares(each) for each in listed] == [without_shares(each) for each in found]
    for one, other in zip(listed, found, strict=True):
        for shares, expected in zip(one["shares"], other["shares"], strict=True):
            assert shares == pytest.approx(expected, abs=2 * 10**-DIGITS)


def without_shares(each: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in each.items() if name != "shares"}
