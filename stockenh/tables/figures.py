"""Figures as tables show them; what is undefined is `n/a`."""

from __future__ import annotations

import re


def interval(low: float | None, high: float | None) -> str:
    """`49.1-57.2`, or `n/a`."""
    return "n/a" if low is None or high is None else f"{100 * low:.1f}-{100 * high:.1f}"


def percent(value: float | None, digits: int = 1) -> str:
    """`51.3%`, or `n/a`."""
    return "n/a" if value is None else f"{100 * value:.{digits}f}%"


def number(value: float | None, digits: int = 4) -> str:
    """`0.6931`, or `n/a`."""
    return "n/a" if value is None else f"{value:.{digits}f}"


def folded(text: str, width: int) -> str:
    """The text in lines of at most so many characters, broken behind / . _ - or a space where it has one."""
    lines = [""]
    for piece in re.findall(r"[^/._\- ]*[/._\- ]|[^/._\- ]+", text):
        if len(lines[-1] + piece) > width and lines[-1]:
            lines.append("")
        while len(piece) > width:
            lines[-1], piece = piece[:width], piece[width:]
            lines.append("")
        lines[-1] += piece
    return "\n".join(line.rstrip() for line in lines)


def significant(value: float) -> str:
    """Three digits that count: 0.0123, 1.23, 12.3, 1,234."""
    if value == 0:
        return "0"
    size = abs(value)
    return f"{value:,.0f}" if size >= 100 else f"{value:.3g}"
