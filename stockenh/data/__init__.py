"""Data: from files to batches. Here: types of settings, whose bounds hold wherever they are used.

Nothing here imports torch: the config schema uses these types too.
"""

from __future__ import annotations

import re
from datetime import date
from typing import Annotated

from pydantic import AfterValidator, Field


def _is_date(text: str) -> str:
    try:
        date.fromisoformat(text)
    except ValueError:
        raise ValueError("is not a date: write 2024-01-31") from None
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", text):
        raise ValueError("is not a date: write 2024-01-31")
    return text


Date = Annotated[str, AfterValidator(_is_date)]
Count = Annotated[int, Field(ge=1)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(gt=0, lt=1)]
ShareOrZero = Annotated[float, Field(ge=0, lt=1)]
Exact = Annotated[float, Field(strict=True, allow_inf_nan=False)]  # in JSON: a finite number, not text
Seed = Annotated[int, Field(ge=0, lt=2**32)]
