"""The code blocks of the documentation, as a reader sees them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.integration.harness import ROOT

if TYPE_CHECKING:
    from pathlib import Path

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]

_FENCE = re.compile(r"^( *)```([\w-]*)[^\n]*\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_NAME = re.compile(r"# (\S+\.(?:py|toml|ini|yml))\n")


@dataclass(frozen=True)
class Block:
    """One fenced block."""

    page: Path
    line: int
    """Of its first line of code, from 1."""
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def file(self) -> str | None:
        """The file that it is, by the comment in its first line: `# shop/receivers.py`."""
        name = _NAME.match(self.text)
        return name.group(1) if name else None


def blocks(page: Path, *languages: str) -> list[Block]:
    """Those of `page` in their order; of these languages, or all."""
    text = page.read_text()
    found = []
    for match in _FENCE.finditer(text):
        indent, language, code = match.groups()
        line = text.count("\n", 0, match.start(3)) + 1
        found.append(Block(page, line, language, re.sub(f"^{indent}", "", code, flags=re.MULTILINE)))
    return [block for block in found if not languages or block.language in languages]
