"""The benchmark of large sets: its simulated set is a cache that training draws from, its page says what that took."""

import json
from pathlib import Path

import pytest

from motiongraft.bench import large_sets
from motiongraft.bench.large_sets import SetCost, as_markdown, simulated_set
from motiongraft.training.cache.cached_clips import open_cached_clips


def test_a_simulated_set_reads_like_a_finished_cache(tmp_path: Path) -> None:
    simulated_set(tmp_path, 10_000, side=2, num_shards=5)
    cached = open_cached_clips(tmp_path)
    assert len(cached) >= 10_000
    first, last = cached.clip(0, 0), cached.clip(0, 9_999)
    assert first.latents.shape == last.latents.shape == (16, 4, 2, 2)
    assert first.text.states.shape == (77, 768)
    assert first.name != last.name


def test_a_million_clips_need_no_more_files_than_ten_thousand(tmp_path: Path) -> None:
    for clips in (10_000, 1_000_000):
        simulated_set(tmp_path / str(clips), clips, side=1, num_shards=2)
    small, large = (sorted(path.name for path in (tmp_path / str(n)).rglob("*")) for n in (10_000, 1_000_000))
    assert small == large
    assert len(open_cached_clips(tmp_path / "1000000")) == 1_000_000


def test_the_command_prints_a_row_for_each_size_and_writes_both_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(large_sets, "SIDE", 1)
    monkeypatch.setattr(large_sets, "simulated_set", lambda folder, clips: simulated_set(folder, clips, 1, 3))
    out = tmp_path / "results" / "large"
    assert large_sets.main(["--sizes", "640", "6400", "--steps", "8", "--batch", "4", "--out", str(out)]) == 0
    page = capsys.readouterr().out
    assert "| 640 |" in page
    assert "| 6,400 |" in page
    written = json.loads(out.with_suffix(".json").read_text())
    assert [one["clips"] for one in written["sets"]] == [640, 6400]
    assert [one["repeated"] for one in written["sets"]] == [0, 0]
    assert out.with_suffix(".md").read_text() in page


def test_the_page_shows_both_halves_of_a_run() -> None:
    cost = SetCost(10_000_000, 11_000_000, 0.5, 66_000_000, (28e-6, 29e-6), (5.5e-3, 5.6e-3), 1_000_000, 0)
    page = as_markdown([cost], "python bench large-set", {"CPU": "one"})
    assert "| 10,000,000 | 11.0 MB | 0.50 s | 66 MB | 28 and 29 µs | 5.50 and 5.60 ms | +1.0 MB | 0 |" in page
