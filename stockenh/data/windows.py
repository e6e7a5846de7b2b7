"""Windows: an index of window ends over one array of bars, never a copy of the bars per window.

Legend: N bars of all series, n windows, T bars in a window, F context features, H horizons, B batch.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stockenh.data.bars import CLOSE, Bars
from stockenh.data.prices import Augment, BarPrices, Prices, StoredPrices, normalise, refuse_noise

# No price moves by a billionth: a smaller return is rounding of an adjusted close that did not move.
SMALLEST_RETURN = 1e-9


@dataclass(frozen=True)
class Windows(ABC):
    """What is known of every window, labelled or not.

    symbols: distinct names; symbol: (n,) index into them; asof: (n,) datetime64[s] of the window's last bar
    context: (n, F) raw features at the last bar; context_names: F names
    y_ret: (n, H) simple return over the next `horizons` bars, NaN where those bars don't exist
    best_prob: (n, H) probability at the window's end that this return will be above 0; None where nobody
        knows it, which is everywhere but in a generated market. No model is shown it.
    """

    symbols: tuple[str, ...]
    symbol: NDArray[np.int32]
    asof: NDArray[np.datetime64]
    context: NDArray[np.float32]
    context_names: tuple[str, ...]
    y_ret: NDArray[np.float32]
    horizons: tuple[int, ...]
    lookback: int
    best_prob: NDArray[np.float64] | None = field(default=None, kw_only=True)

    # what holds one entry for each window
    _of_each: ClassVar[tuple[str, ...]] = ("symbol", "asof", "context", "y_ret")

    def __len__(self) -> int:
        return len(self.asof)

    def take(self, rows: NDArray[np.int64]) -> Self:
        """These windows alone, in this order. Their digest stays that of the whole."""
        names = self._of_each if self.best_prob is None else (*self._of_each, "best_prob")
        return replace(self, **{name: getattr(self, name)[rows] for name in names})

    @property
    def labelled(self) -> NDArray[np.bool_]:
        """(n,) whether any horizon has a label."""
        return np.asarray(np.isfinite(self.y_ret).any(axis=1))

    @abstractmethod
    def reach(self, rows: NDArray[np.int64], extra: int) -> NDArray[np.datetime64]:
        """(len(rows),) time of the bar `extra` bars after the last that a label uses, in own bars.

        Where the symbol's bars end before that, the days of the other symbols count on, or business days.
        """

    def between(self, since: str | None, until: str | None) -> NDArray[np.int64]:
        """The windows that end on a day from `since` to `until`, both included; None is open."""
        day = self.asof.astype("datetime64[D]")
        inside = np.ones(len(day), np.bool_)
        if since is not None:
            inside &= day >= np.datetime64(since)
        if until is not None:
            inside &= day <= np.datetime64(until)
        return np.flatnonzero(inside)

    @abstractmethod
    def newest(self) -> tuple[NDArray[np.int64], dict[str, str]]:
        """The windows that end at the newest bar of their symbol, in order of the symbols, and for each
        symbol that has no such window the reason."""

    @abstractmethod
    def prices(self, device: torch.device) -> Prices:
        """The price inputs, resident on a device."""

    @abstractmethod
    def raw_into(self, rows: NDArray[np.int64], out: NDArray[np.float32]) -> None:
        """Gathers the prices of these windows on the host, as they are, into `out` (len(rows), T, 5)."""

    @abstractmethod
    def augmented(self, raw: Tensor, augment: Augment) -> Tensor:
        """What augmentation makes of gathered prices (B, T, 5). Raises ConfigError where they are not raw."""

    @abstractmethod
    def normalised(self, raw: Tensor) -> Tensor:
        """The price input (B, T, 5) of gathered prices."""

    @property
    @abstractmethod
    def price_bytes(self) -> int:
        """What `prices` takes of a device's memory."""

    @abstractmethod
    def digest(self) -> str:
        """Hash of the content that prices and labels come from."""


@dataclass(frozen=True)
class BarWindows(Windows):
    """Windows over bars: `end` (n,) is the row of each window's last bar."""

    bars: Bars
    end: NDArray[np.int64]
    last: NDArray[np.int64]  # (n,) row of the last bar of the window's series

    _of_each = (*Windows._of_each, "end", "last")

    def reach(self, rows: NDArray[np.int64], extra: int) -> NDArray[np.datetime64]:
        ahead = np.minimum(self.end[rows] + max(self.horizons), self.last[rows]) + extra
        inside = np.minimum(ahead, _last_of_symbol(self.bars, self.end[rows]))
        return _count_on(self.bars.time[inside], ahead - inside, self.bars.time)

    def newest(self) -> tuple[NDArray[np.int64], dict[str, str]]:
        of_symbol = {name: series for series, name in enumerate(self.bars.symbols)}  # the last wins
        window = {int(end): row for row, end in enumerate(self.end)}
        rows, lacking = [], {}
        for name in self.symbols:
            series = of_symbol[name]
            stretch = self.bars.rows(series)
            if (row := window.get(stretch.stop - 1)) is not None:
                rows.append(row)
                continue
            bars, date = stretch.stop - stretch.start, str(self.bars.time[stretch.stop - 1])[:10]
            since = " since its last gap" if self.bars.symbols.count(name) > 1 else ""
            lacking[name] = f"{bars} bars{since} up to {date}, where data.lookback is {self.lookback}"
        return np.array(rows, np.int64), lacking

    def prices(self, device: torch.device) -> Prices:
        return BarPrices(
            torch.from_numpy(self.bars.ohlcv.astype(np.float32)).to(device),
            torch.from_numpy(self.end).to(device),
            self.lookback,
        )

    def raw_into(self, rows: NDArray[np.int64], out: NDArray[np.float32]) -> None:
        steps = np.arange(1 - self.lookback, 1)
        out[:] = np.take(self.bars.ohlcv, self.end[rows, None] + steps, axis=0)

    def augmented(self, raw: Tensor, augment: Augment) -> Tensor:
        return augment(raw)

    def normalised(self, raw: Tensor) -> Tensor:
        return normalise(raw)

    @property
    def price_bytes(self) -> int:
        return 4 * self.bars.ohlcv.size + self.end.nbytes

    def digest(self) -> str:
        return self.bars.digest()


def index_windows(
    bars: Bars,
    context: NDArray[np.float32],
    context_names: Sequence[str],
    horizons: Sequence[int],
    lookback: int,
) -> BarWindows:
    """One window per bar that has `lookback - 1` bars of its own series before it.

    context: (N, F). Windows whose labels lie beyond the series' end are kept, for forecasts.
    """
    series = bars.series_of_row
    place = np.arange(len(bars)) - bars.offsets[series]
    end = np.flatnonzero(place >= lookback - 1)
    last = bars.offsets[series[end] + 1] - 1
    names = tuple(dict.fromkeys(bars.symbols))
    number = {name: i for i, name in enumerate(names)}
    of_series = np.array([number[name] for name in bars.symbols], np.int32)
    return BarWindows(
        symbols=names,
        symbol=of_series[series[end]],
        asof=bars.time[end],
        context=context if len(end) == len(bars) else context[end],
        context_names=tuple(context_names),
        y_ret=_returns(bars.ohlcv[:, CLOSE], end, last, horizons),
        horizons=tuple(horizons),
        lookback=lookback,
        bars=bars,
        end=end,
        last=last,
    )


@dataclass(frozen=True)
class StoredWindows(Windows):
    """Ready samples: `ohlcv_norm` (n, T, 5) normalised prices, `embedding` (n, E) of any origin."""

    ohlcv_norm: NDArray[np.float32]
    embedding: NDArray[np.float32]

    _of_each = (*Windows._of_each, "ohlcv_norm", "embedding")

    def newest(self) -> tuple[NDArray[np.int64], dict[str, str]]:
        order = np.lexsort((self.asof, self.symbol))
        last = np.append(self.symbol[order][1:] != self.symbol[order][:-1], True)
        return np.asarray(order[last]), {}

    def reach(self, rows: NDArray[np.int64], extra: int) -> NDArray[np.datetime64]:
        """A symbol's distinct dates count as its bars: rows that a file lacks only make the reach longer."""
        order = np.lexsort((self.asof, self.symbol))
        symbol, asof = self.symbol[order], self.asof[order]
        fresh = np.ones(len(self), np.bool_)
        fresh[1:] = (symbol[1:] != symbol[:-1]) | (asof[1:] != asof[:-1])
        place = np.empty(len(self), np.int64)
        place[order] = np.cumsum(fresh) - 1
        final = np.searchsorted(symbol[fresh], self.symbol[rows], side="right") - 1
        ahead = place[rows] + max(self.horizons) + extra
        inside = np.minimum(ahead, final)
        return _count_on(asof[fresh][inside], ahead - inside, self.asof)

    def prices(self, device: torch.device) -> Prices:
        return StoredPrices(torch.from_numpy(self.ohlcv_norm).to(device))

    def raw_into(self, rows: NDArray[np.int64], out: NDArray[np.float32]) -> None:
        np.take(self.ohlcv_norm, rows, axis=0, out=out, mode="clip")  # "raise" would buffer it all

    def augmented(self, raw: Tensor, augment: Augment) -> Tensor:
        refuse_noise(augment)
        return raw

    def normalised(self, raw: Tensor) -> Tensor:
        return raw

    @property
    def price_bytes(self) -> int:
        return self.ohlcv_norm.nbytes

    def digest(self) -> str:
        h = hashlib.blake2b("\0".join(self.symbols).encode(), digest_size=16)
        for array in (self.symbol, self.asof.astype(np.int64), self.ohlcv_norm, self.embedding):
            h.update(np.ascontiguousarray(array).data)
        for array in (self.context, self.y_ret):
            h.update(np.ascontiguousarray(array).data)
        return h.hexdigest()


def _last_of_symbol(bars: Bars, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """(len(rows),) the last row of each row's symbol, whose series stand side by side."""
    names = np.array(bars.symbols)
    closes = np.append(names[1:] != names[:-1], True)  # another symbol follows this series
    last = bars.offsets[1:][closes] - 1
    return np.asarray(last[np.searchsorted(last, rows)])


def _count_on(
    time: NDArray[np.datetime64], bars: NDArray[np.int64], times: NDArray[np.datetime64]
) -> NDArray[np.datetime64]:
    """The time `bars` bars after a symbol's last: by all symbols' times or business days, what is later."""
    if not bars.any():
        return time
    calendar = np.unique(times)
    place = np.searchsorted(calendar, time) + bars
    by_others = calendar[np.minimum(place, len(calendar) - 1)]
    by_weekdays = np.busday_offset(time.astype("datetime64[D]"), bars, roll="backward")
    return np.asarray(np.maximum(by_others, by_weekdays.astype("datetime64[s]")))


def _returns(
    close: NDArray[np.float64], end: NDArray[np.int64], last: NDArray[np.int64], horizons: Sequence[int]
) -> NDArray[np.float32]:
    out = np.full((len(end), len(horizons)), np.nan, np.float32)
    for column, h in enumerate(horizons):
        there = end + h <= last
        value = close[end[there] + h] / close[end[there]] - 1
        out[there, column] = np.where(np.abs(value) < SMALLEST_RETURN, 0, value)
    return out


def past_moves(windows: Windows, rows: NDArray[np.int64], bars: int) -> NDArray[np.float64]:
    """(k,) return of close over the `bars` up to each window's last, at most those that the window holds.

    Of ready samples, whose prices came scaled, the change in units of the window's range: its sign is right.
    """
    bars = min(bars, windows.lookback - 1)
    if isinstance(windows, BarWindows):
        close, end = windows.bars.ohlcv[:, CLOSE], windows.end[rows]
        moved = close[end] / close[end - bars] - 1
    else:
        assert isinstance(windows, StoredWindows)
        close = windows.ohlcv_norm[rows, :, CLOSE].astype(np.float64)
        moved = close[:, -1] - close[:, -1 - bars]
    return np.where(np.abs(moved) < SMALLEST_RETURN, 0.0, moved)


def next_returns(windows: BarWindows, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """(k,) return of close from each window's last bar to the next of its series; NaN where there is none."""
    close, end = windows.bars.ohlcv[:, CLOSE], windows.end[rows]
    there = end < windows.last[rows]
    after = np.minimum(end + 1, windows.last[rows])
    return np.where(there, close[after] / close[end] - 1, np.nan)
