"""One check of a leakage audit, and what the whole of them says."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

PASS, FAIL, WARN, INFO, NOT_APPLICABLE = "pass", "FAIL", "warn", "info", "n/a"


@dataclass(frozen=True)
class Check:
    """A row of the audit.

    finding:  pass, FAIL (a leak), warn, info (a figure without a verdict), n/a
    measured: what was looked at and found, in words; advice: what to do about it
    figures:  the same as plain numbers
    """

    name: str
    finding: str
    measured: str
    advice: str = ""
    figures: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def leaks(checks: Iterable[Check]) -> list[str]:
    """The names of the checks that found one."""
    return [check.name for check in checks if check.finding == FAIL]


def some(names: Iterable[str], most: int = 4) -> str:
    """The first few of many names: `a, b, c and 3 more`."""
    listed = list(names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more
