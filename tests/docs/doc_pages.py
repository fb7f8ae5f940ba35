"""Code blocks, inline code, links and headings of the project's Markdown files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"(?:(?<=\n\n)|\A)(?: {4}.*\n|\n(?= {4}))+")
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A code block: its page, language (empty where none is said) and text."""

    page: Path
    language: str
    text: str

    def __str__(self) -> str:
        return f"{name(self.page)}: {self.text.strip().splitlines()[0][:60] if self.text.strip() else ''}"


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> Iterator[Block]:
    """Fenced blocks, then indented ones; those of list items are text."""
    text = page.read_text("utf-8")
    for match in _FENCE.finditer(text):
        indent = len(match[1])
        yield Block(page, match[2], "\n".join(line[indent:] for line in match[3].splitlines()) + "\n")
    for match in _INDENTED.finditer(_FENCE.sub("", text)):
        yield Block(page, "", "\n".join(line[4:] for line in match[0].splitlines()) + "\n")


def prose(page: Path) -> str:
    """A page without its blocks and comments."""
    return _INDENTED.sub("", _COMMENT.sub("", _FENCE.sub("", page.read_text("utf-8"))))


def inline(page: Path) -> list[str]:
    """Inline code."""
    return [" ".join(code.split()) for code in re.findall(r"(?<!`)`([^`]+)`(?!`)", prose(page))]


def links(page: Path) -> list[str]:
    """Targets of links and images."""
    return re.findall(r"\]\(([^)\s]+)\)", prose(page))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and MkDocs make them."""
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", page.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def shell_lines(block: Block) -> Iterator[str]:
    """The commands of a shell block: of a console, what stands after `$`; continued lines are joined."""
    text = block.text.replace("\\\n", " ")
    prompted = [line[2:] for line in text.splitlines() if line.startswith("$ ")]
    yield from prompted or text.splitlines()
