"""Data: from files to batches. Here: types of settings, whose bounds hold wherever they are used.

Nothing here imports torch: the config schema uses these types too.
"""

from __future__ import annotations

import re
from datetime import date
from typing import Annotated

from pydantic import AfterValidator, Field

from stockenh.errors import ConfigError


def _is_date(text: str) -> str:
    try:
        date.fromisoformat(text)
    except ValueError:
        raise ValueError("is not a date: write 2024-01-31") from None
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", text):
        raise ValueError("is not a date: write 2024-01-31")
    return text


def increasing(bars: list[int]) -> list[int]:
    """The bars themselves. Raises ValueError unless they are increasing numbers from 1."""
    if not bars or min(bars) < 1 or sorted(set(bars)) != bars:
        raise ValueError("must be increasing numbers of bars from 1, for example [3, 5, 10]")
    return bars


Date = Annotated[str, AfterValidator(_is_date)]
# Bounds that no real machine or data reach: a larger value is a slip, and would end in a lack of memory.
Count = Annotated[int, Field(ge=1, le=10**9)]
CountOrZero = Annotated[int, Field(ge=0, le=10**9)]
Width = Annotated[int, Field(ge=1, le=2**16)]  # of a layer
Repeats = Annotated[int, Field(ge=1, le=10**6)]  # of a measurement or an integral
Few = Annotated[int, Field(ge=1, le=1024)]  # layers, heads, processes
Horizons = Annotated[  # bars ahead
    list[Annotated[int, Field(le=10**6)]], Field(max_length=100), AfterValidator(increasing)
]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(gt=0, lt=1)]
ShareOrZero = Annotated[float, Field(ge=0, lt=1)]
Exact = Annotated[float, Field(strict=True, allow_inf_nan=False)]  # in JSON: a finite number, not text
Seed = Annotated[int, Field(ge=0, lt=2**32)]

# Keys of a data source that make a model's inputs and outputs, besides its embedding.
INPUT_KEYS = ("horizons", "lookback", "timeframes", "market", "extra")


def require_memory(needed: int, what: str) -> None:
    """Raises ConfigError where so many bytes are more than this machine has; what: that needs them."""
    import psutil

    memory = psutil.virtual_memory().total
    if needed > memory:
        raise ConfigError(
            f"{what} needs about {needed / 2**30:,.0f} GiB of memory, and this machine has "
            f"{memory / 2**30:,.0f} GiB"
        )
