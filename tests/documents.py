"""The documents as tests read them: code blocks, headings, links and paragraphs of Markdown."""

import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from tests.servers import ROOT

README = ROOT / "README.md"
README_ZH = ROOT / "README.zh.md"
GUIDES = sorted((ROOT / "docs").glob("*.md"))
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *GUIDES]

_FENCED = re.compile(r"^```(\w*) *([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_INLINE_CODE = re.compile(r"`([^`\n]*)`")
_LINK = re.compile(r"\[([^\]]*)\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(.*?) *$", re.MULTILINE)
# What a block of lines begins with that is no paragraph: heading, table, list, quotation.
_NO_PARAGRAPH = re.compile(r"#|\||[-*] |\d+\. |>")


class Block(NamedTuple):
    """A code block; `mark` is what stands behind the language."""

    language: str
    mark: str
    code: str
    line: int


def blocks_of(document: Path) -> list[Block]:
    """The code blocks of a document, in their order."""
    text = document.read_text(encoding="utf-8")
    return [
        Block(match[1], match[2], match[3], text.count("\n", 0, match.start()) + 1)
        for match in _FENCED.finditer(text)
    ]


def links_of(document: Path) -> list[str]:
    """Where the links of a document lead."""
    return [target for _, target in _LINK.findall(_INLINE_CODE.sub("code", _prose(document)))]


def anchors_of(document: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    anchors, seen = set(), Counter()
    for heading in _HEADING.findall(_prose(document)):
        text = _LINK.sub(r"\1", heading).lower()
        anchor = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
        anchors.add(f"{anchor}-{seen[anchor]}" if seen[anchor] else anchor)
        seen[anchor] += 1
    return anchors


def paragraphs_of(document: Path) -> list[str]:
    """The paragraphs of a document: no code, headings, lists and tables."""
    parts = re.split(r"\n\s*\n", _LINK.sub(r"\1", _prose(document)))
    return [
        part.strip() for part in parts if part.strip() and not _NO_PARAGRAPH.match(part.strip())
    ]


def name_of(document: Path) -> str:
    """A document's path in the checkout."""
    return str(document.relative_to(ROOT))


def _prose(document: Path) -> str:
    return _FENCED.sub("", document.read_text(encoding="utf-8"))
