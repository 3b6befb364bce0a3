"""Checks that every relative link in the checkout's Markdown files leads to a file and, after `#`, to a heading.

python docs/check_links.py
"""

import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from urllib.parse import unquote

ROOT = Path(__file__).resolve().parents[1]
SKIPPED = {".venv", ".demo", ".git", "node_modules", ".pytest_cache"}
FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`[^`\n]*`")
LINK = re.compile(
    r"\]\(\s*<?([^)\s>]+)>?(?:\s+[\"'][^)]*)?\)|^\[[^\]]+\]:\s*<?([^\s>]+)>?|(?:src|href)=\"([^\"]+)\"", re.MULTILINE
)
HEADING = re.compile(r"^#{1,6}\s+(.+?)\s*#*$", re.MULTILINE)
OUTSIDE = re.compile(r"^[a-z][a-z0-9+.-]*:|^//", re.IGNORECASE)


def main() -> int:
    """The number of broken links as exit status 0 or 1; each is named on stderr."""
    files = markdown_files(ROOT)
    broken = [f"{path.relative_to(ROOT)}: {problem}" for path in files for problem in broken_links(path)]
    sys.stderr.writelines(f"{line}\n" for line in broken)
    sys.stderr.write(f"{len(files)} Markdown files, {len(broken)} broken links\n")
    return 1 if broken else 0


def markdown_files(root: Path) -> list[Path]:
    """Every Markdown file of the checkout that is ours."""
    return sorted(path for path in root.rglob("*.md") if not SKIPPED & set(path.relative_to(root).parts))


def broken_links(path: Path) -> Iterator[str]:
    """What is wrong with each broken link of one file."""
    for link in links(path.read_text(encoding="utf-8")):
        name, _, anchor = unquote(link).partition("#")
        target = (path.parent / name) if name else path
        if not target.exists():
            yield f"{link}: no such file"
        elif anchor and target.suffix == ".md" and anchor.lower() not in anchors(target):
            yield f"{link}: {target.name} has no heading of that name"


def links(text: str) -> Iterator[str]:
    """The relative links of a Markdown text, code left aside."""
    for match in LINK.finditer(CODE.sub("", FENCE.sub("", text))):
        link = next(filter(None, match.groups()))
        if not OUTSIDE.match(link):
            yield link


@cache
def anchors(path: Path) -> set[str]:
    """The names that GitHub gives to a file's headings."""
    found: set[str] = set()
    for heading in HEADING.findall(FENCE.sub("", path.read_text(encoding="utf-8"))):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        name = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        number = next(n for n in range(len(found) + 1) if (f"{name}-{n}" if n else name) not in found)
        found.add(f"{name}-{number}" if number else name)
    return found


if __name__ == "__main__":
    sys.exit(main())
