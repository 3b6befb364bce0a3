"""The benchmark's settings, its layouts of attention, and its page; no ComfyUI needed."""

import json
from dataclasses import replace

import pytest
import torch

from motiongraft.bench.long_clips import VIEWS, WINDOWS, ClipCost, LongClips
from motiongraft.bench.long_clips import as_markdown as long_clips_page
from motiongraft.bench.parts import attend_in_five_dimensions, attend_on_copies
from motiongraft.bench.report import Agreement, Result, VariantResult, as_markdown
from motiongraft.bench.settings import Settings, default_variants
from motiongraft.core.errors import SettingsError
from motiongraft.motion_modules.attention import attend_over_time

PAIR = ("motiongraft-v3", "ade-v3")


@pytest.mark.parametrize("attend", [attend_in_five_dimensions, attend_on_copies])
def test_layouts_that_are_compared_give_the_same(attend):
    qkv = torch.randn(2 * 5, 6, 3 * 32)
    torch.testing.assert_close(attend(qkv, 5, 8), attend_over_time(qkv, 5, 8))


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"variants": ("motiongraft-v3",)}, "plain"),
        ({"variants": ("plain", "motiongraft-v9")}, "motiongraft-v9"),
        ({"variants": ("plain", "ade-v3")}, "--ade"),
        ({"variants": ("plain", "motiongraft-v3"), "base": "sdxl"}, "sdxl-beta"),
        ({"size": 100}, "100"),
        ({"width": 100}, "100"),
        ({"repeats": 0}, "0"),
    ],
)
def test_settings_say_what_does_not_go_together(changes, found):
    with pytest.raises(SettingsError, match=found):
        Settings(**{"variants": ("plain",), "size": 128, **changes})


def test_the_default_compares_with_another_pack_where_there_is_one():
    assert default_variants("sd15", with_ade=False) == ("plain", "motiongraft-v3")
    assert default_variants("sdxl", with_ade=True) == ("plain", "motiongraft-sdxl-beta", "ade-sdxl-beta")


def test_ratios_are_those_of_medians_and_come_first(result):
    page = as_markdown(result)
    assert "| motiongraft-v3 | **1.500** | 1.40 to 1.60 | 15.00 | 14.00 to 16.00 | 2 MB | 1.400 |" in page
    assert page.index("**1.500**") < page.index("1.0e-05") < page.index("python bench")
    assert "busy" not in page


def test_a_busy_machine_is_told(result):
    result.variants["plain"].seconds[0] = 20.0
    assert "busy" in as_markdown(result)


def test_result_files_hold_every_step(result, tmp_path):
    result.write(tmp_path / "results" / "a")
    written = json.loads((tmp_path / "results" / "a.json").read_text())
    assert written["variants"]["motiongraft-v3"]["seconds"] == [14.0, 15.0, 16.0]
    assert (tmp_path / "results" / "a.md").read_text().startswith("# A sampling step")


@pytest.fixture
def long_clips():
    seconds = {WINDOWS: {16: 1.0, 28: 2.0, 40: 3.0}, VIEWS: {16: 1.0, 28: 1.5, 40: 2.0}}
    costs = [
        ClipCost(mode, frames, [taken, 1.5 * taken, taken], taken * 1e9, 1e6 if mode == WINDOWS else None)
        for mode, by_frames in seconds.items()
        for frames, taken in by_frames.items()
    ]
    return LongClips("python bench long-clips", "sd15", {"CPU": "one"}, costs, {"without": [1.0], "neutral": [1.01]})


def test_a_new_frame_costs_a_windows_share_where_growth_is_linear(long_clips):
    assert long_clips.slope == pytest.approx(1.0)
    doubled = [replace(cost, seconds=[cost.frames**2.0]) for cost in long_clips.costs]
    assert replace(long_clips, costs=doubled).slope > 2


def test_the_page_of_long_clips_has_ratios_first(long_clips):
    page = long_clips_page(long_clips)
    assert "| 40 | **3.00** | **0.67** | 0.667 | 1 MB | not measured | 3.00 (3.00 to 4.50) |" in page
    assert "takes 1.00 of what a window takes" in page
    assert "1.010 of a step without" in page
    assert page.index("**3.00**") < page.index("python bench")


@pytest.fixture
def result():
    return Result(
        command="python bench",
        clip="sd15",
        machine={"CPU": "one"},
        versions={"torch": "2"},
        variants={
            "plain": VariantResult([10.0, 10.0, 10.0], 1e6, 1e12),
            "motiongraft-v3": VariantResult([14.0, 15.0, 16.0], 2e6, 1.4e12),
        },
        agreements=[Agreement(PAIR, 1e-5, 80.0)],
    )
