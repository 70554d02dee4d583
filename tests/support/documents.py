"""The pages that a user reads, and the blocks of code in them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = (
    "README.md",
    *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md") if not path.is_symlink()),
)

_BLOCK = re.compile(
    r"(?:^<!-- runs elsewhere: (?P<why>.*?) -->\n)?^```(?P<language>\w+)\n(?P<code>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)


class Block(NamedTuple):
    """A block of code of a page.

    Attributes:
        language: `sh`, `python`, `sql`, `yaml`, ...
        code: its lines.
        elsewhere: what it needs that a test does not have; None where it runs.
    """

    language: str
    code: str
    elsewhere: str | None


def blocks(page: str) -> Iterator[Block]:
    """The blocks of a page, in its order.

    Args:
        page: its path below the root of the project.
    """
    for found in _BLOCK.finditer((ROOT / page).read_text("utf-8")):
        yield Block(found["language"], found["code"], found["why"])
