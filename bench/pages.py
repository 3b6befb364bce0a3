"""What the pages and result files of all measurements have in common."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

MEGA = 1e6


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def megabytes(size: float | None) -> str:
    """A size in words, None for one that was not measured. Units: bytes."""
    return "not measured" if size is None else f"{size / MEGA:.0f} MB"


def write_results(path: Path, content: dict[str, Any], page: str) -> None:
    """Write `path`.json and `path`.md."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(page, encoding="utf-8")
