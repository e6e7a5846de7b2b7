"""The user's own columns beside the bars: how they are chosen, and their values as read.

Legend: S symbols of the own files, P past columns, K static ones, M rows of one column.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Annotated, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, ConfigDict, Field, with_config

from stockenh.data import CountOrZero
from stockenh.errors import ConfigError

MISSING: Final = "_missing"  # the end of the name of a column's mask
MOST_CATEGORIES: Final = 1000  # of one static column: an embedding of more learns each from a symbol or two
YEAR_BARS: Final = 260


def _is_name(text: str) -> str:
    if not text.strip() or text != text.strip() or not text.isprintable():
        raise ValueError("is not a column's name")
    return text


Name = Annotated[str, Field(max_length=100), AfterValidator(_is_name)]


@with_config(ConfigDict(extra="forbid", coerce_numbers_to_str=True))
@dataclass(frozen=True)
class ExtraSettings:
    """Which columns of the user's files are inputs too; none by default.

    past:    numeric columns, a value per symbol and row, known at the date of the row
    static:  columns of categories, one for each symbol
    path:    a file or folder with the columns symbol, date and these; None: the files of the bars. Settings
             are equal whatever it is: other data of the same columns lie elsewhere.
    lag:     bars until a value is an input; 0 takes a row's value for known when the bar of its date closes
    max_age: bars after which a value is missing; None: never
    """

    past: Annotated[list[Name], Field(max_length=256)] = field(default_factory=list)
    static: Annotated[list[Name], Field(max_length=32)] = field(default_factory=list)
    path: str | None = field(default=None, compare=False)
    lag: Annotated[CountOrZero, Field(strict=True)] = 1
    max_age: Annotated[CountOrZero, Field(strict=True)] | None = YEAR_BARS

    def __post_init__(self) -> None:
        if self.path is not None and not self:
            raise ConfigError(
                f"data.extra.path={self.path}: name its columns with data.extra.past=[NAME] or "
                f"data.extra.static=[NAME]"
            )
        names = self.names
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(f"data.extra names the column {name!r} twice")

    def __bool__(self) -> bool:
        return bool(self.past or self.static)

    def __str__(self) -> str:
        """As overrides write it, without the path."""
        past, static = (f"[{', '.join(names)}]" for names in (self.past, self.static))
        age = "null" if self.max_age is None else self.max_age
        return f"{{past: {past}, static: {static}, lag: {self.lag}, max_age: {age}}}"

    @property
    def names(self) -> list[str]:
        """All columns."""
        return [*self.past, *self.static]

    @property
    def inputs(self) -> tuple[str, ...]:
        """The 2 P context features: of each past column its value and its mask."""
        return tuple(name for column in self.past for name in (column, column + MISSING))

    def refuse_names(self, taken: Collection[str]) -> None:
        """Raises ConfigError where a column has the name of another input, or of a mask."""
        for name in self.names:
            if name.casefold() in taken:
                raise ConfigError(
                    f"data.extra: {name!r} is the name of an input that every model has; rename the column"
                )
            if name.endswith(MISSING):
                raise ConfigError(
                    f"data.extra: {name!r} ends like the mask of a column ({MISSING}); rename the column"
                )


@dataclass(frozen=True)
class ExtraColumn:
    """The rows of one past column, by symbol and time.

    offsets: (S + 1,) int64; symbol s has the rows offsets[s]:offsets[s + 1]
    time:    (M,) datetime64[s], not decreasing within a symbol
    value:   (M,) float64, NaN where the cell is empty
    """

    offsets: NDArray[np.int64]
    time: NDArray[np.datetime64]
    value: NDArray[np.float64]


@dataclass(frozen=True)
class ExtraColumns:
    """All own columns. past: P; static: K tuples of S categories, "" where a symbol has none."""

    settings: ExtraSettings
    symbols: tuple[str, ...]
    past: tuple[ExtraColumn, ...]
    static: tuple[tuple[str, ...], ...]

    def category(self, symbols: Collection[str]) -> tuple[tuple[str, ...], ...]:
        """The K categories of each of these symbols."""
        place = {name: i for i, name in enumerate(self.symbols)}
        return tuple(
            tuple(of_column[place[name]] if name in place else "" for name in symbols)
            for of_column in self.static
        )

    def digest(self) -> str:
        """Hash of the content, whatever file it came from."""
        h = hashlib.blake2b(repr((self.settings.names, self.symbols, self.static)).encode(), digest_size=16)
        for column in self.past:
            for array in (column.offsets, column.time.astype(np.int64), column.value):
                h.update(np.ascontiguousarray(array).data)
        return h.hexdigest()
