"""The link checker finds what is broken and nothing else."""

from pathlib import Path

import pytest

from motiongraft.docs.check_links import broken_links

PAGE = """
# A page: `code` & more
[file](other.md) [heading](#a-page-code--more) [there](other.md#second) [picture](<a b.png> "title")
[web](https://example.org/x.md) <a href="other.md">html</a>
`[not a link](nowhere.md)`
```
[nor this](nowhere.md)
```
[reference]: other.md
"""


@pytest.fixture
def page(tmp_path: Path) -> Path:
    (tmp_path / "other.md").write_text("# First\n## Second\n")
    (tmp_path / "a b.png").touch()
    (tmp_path / "page.md").write_text(PAGE)
    return tmp_path / "page.md"


def test_whole_links_pass(page: Path) -> None:
    assert list(broken_links(page)) == []


@pytest.mark.parametrize("link", ["[x](nowhere.md)", "[x](other.md#third)", "[x](#gone)", "[x]: nowhere.md"])
def test_broken_links_are_named(page: Path, link: str) -> None:
    page.write_text(f"{PAGE}\n{link}\n")
    assert len(list(broken_links(page))) == 1
