"""One self-contained HTML page of results: tabs of sentences, tables and pictures, all from data.

Nothing on the page is loaded from elsewhere, and its policy lets no script run but its own. Every text is
escaped by the template; pictures are drawn here as SVG, never taken from a folder.
"""

from __future__ import annotations

import base64
import hashlib
import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import stockenh
from stockenh.errors import printable
from stockenh.report.table import Grid
from stockenh.storage.files import write_atomic

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

PAGE = "report.html"
LONG = 25  # rows above which a table can be filtered
TEMPLATES = Path(__file__).parent

Draw = Callable[[Path], object]


@dataclass(frozen=True)
class Verdict:
    """A sentence that stands first. tone: good, bad or open, which colours its edge."""

    kind: ClassVar[str] = "verdict"
    text: str
    tone: str = "open"


@dataclass(frozen=True)
class Words:
    """Sentences under a heading, a paragraph each."""

    kind: ClassVar[str] = "words"
    lines: Sequence[str]
    heading: str = ""


@dataclass(frozen=True)
class Code:
    """Text as it is: a command or a config."""

    kind: ClassVar[str] = "code"
    text: str
    heading: str = ""


@dataclass(frozen=True)
class Picture:
    """A figure that is drawn into a file. name: of the PNG; draw: writes the path that it is given."""

    kind: ClassVar[str] = "picture"
    name: str
    alt: str
    draw: Draw

    @property
    def svg(self) -> Markup:
        """The figure as an element of the page."""
        from markupsafe import Markup

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "picture.svg"
            self.draw(path)
            return Markup(as_element(path.read_text(), self.name))


@dataclass(frozen=True)
class Tile:
    """A small picture of one symbol. paths: (class of the page's style, SVG path data)."""

    name: str
    lines: Sequence[str]
    paths: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Tiles:
    """Small pictures side by side. note: what they show; size: of each in the units of its paths."""

    kind: ClassVar[str] = "tiles"
    heading: str
    note: str
    size: tuple[int, int]
    tiles: Sequence[Tile]


@dataclass(frozen=True)
class Table:
    """A grid that sorts by a click on a heading."""

    kind: ClassVar[str] = "table"
    grid: Grid

    @property
    def is_long(self) -> bool:
        """Whether it gets a field to filter its rows."""
        return sum(1 for block in self.grid.blocks for _ in block) > LONG


Block = Verdict | Words | Code | Picture | Tiles | Table


@dataclass(frozen=True)
class Tab:
    """What is shown together."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Page:
    """A title, facts below it, and tabs; those without blocks are left out."""

    title: str
    facts: Sequence[tuple[str, str]]
    tabs: Sequence[Tab]


def write_page(page: Page, path: Path) -> Path:
    """Writes the page whole or not at all; returns its path. Raises DiskError."""
    write_atomic(path, render(page).encode())
    return path


def render(page: Page) -> str:
    """The page as HTML."""
    template = _environment().get_template("page.html")
    script = (TEMPLATES / "page.js").read_text()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return template.render(
        page=page,
        tabs=[tab for tab in page.tabs if tab.blocks],
        style=(TEMPLATES / "page.css").read_text(),
        script=script,
        script_digest=digest,
        version=stockenh.__version__,
    )


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: printable(value) if type(value) is str else value,
    )
    return made


_IDS = re.compile(r'((?:\bid=")|(?:xlink:href="#)|(?:url\(#))')


def as_element(svg: str, name: str) -> str:
    """A file of matplotlib's as an element: without prolog and style sheet, its ids apart from others'."""
    body = re.sub(
        r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>", "", svg[svg.index("<svg") :], flags=re.S
    )
    return _IDS.sub(rf"\g<1>{name}-", body)
