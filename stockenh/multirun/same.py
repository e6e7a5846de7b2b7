"""Whether what is asked for is the multirun that a folder holds already."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

# Settings that change nothing of what a run finds.
IMMATERIAL = (
    "device",
    "threads",
    "cache_dir",
    "tta.",
    "export.",
    "explain.",
    "train.checkpoint_minutes",
    "train.resident",
)
SHOWN = 4  # differences that are told


def differences(
    known: Mapping[str, Any], now: Mapping[str, Any], said: Callable[[Any], str] = str
) -> list[str]:
    """`optimizer.lr: 0.0001, was 0.001` for each dotted key that differs; said: how a value is written."""

    def of(values: Mapping[str, Any], key: str) -> str:
        return said(values[key]) if key in values else "nothing"

    keys = [key for key in {**known, **now} if known.get(key) != now.get(key)]
    return [f"{key}: {of(now, key)}, was {of(known, key)}" for key in keys]


def told(found: Sequence[str]) -> str:
    """The first of some differences, and how many more there are."""
    more = f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return f"({'; '.join(found[:SHOWN])}{more})"
