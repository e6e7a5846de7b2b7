"""Windows: an index of window ends over one array of bars, never a copy of the bars per window.

Legend: N bars of all series, n windows, T bars in a window, F context features, H horizons, B batch.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray

from stockenh.data.bars import CLOSE, OPEN, Bars
from stockenh.data.extra import ExtraColumns
from stockenh.data.prices import BarPrices, Prices, StoredPrices

# No price moves by a billionth: a smaller return is rounding of an unchanged adjusted close.
SMALLEST_RETURN = 1e-9


@dataclass(frozen=True)
class Windows(ABC):
    """All windows of a data set, labelled or not.

    symbols: distinct names; symbol: (n,) index into them; asof: (n,) datetime64[s] of the window's last bar
    context: (n, F) raw features at the last bar; context_names: F names
    y_ret: (n, H) the target over the next `horizons` bars, NaN where there is none: the simple return, or
        what `stockenh.data.targets` made of it
    best_prob: (n, H) true probability at the window's end that this return will be above 0, known only in a
        generated market, else None. It is not an input of any model.
    best_score: (n, H) what the best forecast ranks the symbols of a day by, known only in a generated panel
    y_dir: (n, H) above 0 where the direction is up, below 0 where it is down, else 0; None: the same as y_ret
    raw_ret: (n, H) simple returns, NaN where those bars don't exist; None: the same as y_ret
    weight: (n, H) what a label weighs in training; None: 1
    extra: the user's own columns, whose past ones are the last context features
    static_names, static: names of those with categories, and of each the category of every symbol, "" if
        unknown
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
    best_score: NDArray[np.float64] | None = field(default=None, kw_only=True)
    y_dir: NDArray[np.float32] | None = field(default=None, kw_only=True)
    raw_ret: NDArray[np.float32] | None = field(default=None, kw_only=True)
    weight: NDArray[np.float32] | None = field(default=None, kw_only=True)
    extra: ExtraColumns | None = field(default=None, kw_only=True)
    static_names: tuple[str, ...] = field(default=(), kw_only=True)
    static: tuple[tuple[str, ...], ...] = field(default=(), kw_only=True)

    # the fields with one entry per window
    _per_window: ClassVar[tuple[str, ...]] = ("symbol", "asof", "context", "y_ret")
    _per_window_or_none: ClassVar[tuple[str, ...]] = (
        "best_prob", "best_score", "y_dir", "raw_ret", "weight",
    )  # fmt: skip

    def __len__(self) -> int:
        return len(self.asof)

    def take(self, rows: NDArray[np.int64]) -> Self:
        """Only these windows, in this order; the digest stays that of all windows."""
        known = [name for name in self._per_window_or_none if getattr(self, name) is not None]
        return replace(self, **{name: getattr(self, name)[rows] for name in (*self._per_window, *known)})

    @property
    def input_names(self) -> tuple[str, ...]:
        """Of the context features and the categories."""
        return (*self.context_names, *self.static_names)

    @property
    def own_names(self) -> tuple[str, ...]:
        """Of the inputs that are the user's columns."""
        return () if self.extra is None else (*self.extra.settings.inputs, *self.static_names)

    @property
    def direction(self) -> NDArray[np.float32]:
        """(n, H) whose sign is the direction, NaN where there is no label."""
        return self.y_ret if self.y_dir is None else self.y_dir

    @property
    def returns(self) -> NDArray[np.float32]:
        """(n, H) simple returns, whatever the target."""
        return self.y_ret if self.raw_ret is None else self.raw_ret

    @property
    def labelled(self) -> NDArray[np.bool_]:
        """(n,) whether there is a return at any horizon: the split is the same for all targets."""
        return np.asarray(np.isfinite(self.returns).any(axis=1))

    @abstractmethod
    def reach(self, rows: NDArray[np.int64], extra: int) -> NDArray[np.datetime64]:
        """(len(rows),) time of the bar `extra` bars after the last label's, counted in the symbol's own bars.

        After the symbol's last bar, the days of the other symbols count, or business days.
        """

    @abstractmethod
    def positions(self) -> NDArray[np.int64]:
        """(n,) numbers of the windows' last bars: 1 from a bar to the next of its symbol, and so far between
        symbols that no labels of two of them overlap."""

    def between(self, since: str | None, until: str | None) -> NDArray[np.int64]:
        """The windows that end between the days `since` and `until`, both included; None is open."""
        day = self.asof.astype("datetime64[D]")
        inside = np.ones(len(day), np.bool_)
        if since is not None:
            inside &= day >= np.datetime64(since)
        if until is not None:
            inside &= day <= np.datetime64(until)
        return np.flatnonzero(inside)

    @abstractmethod
    def newest(self) -> tuple[NDArray[np.int64], dict[str, str]]:
        """The windows that end at their symbol's newest bar, by symbol, and why other symbols have none."""

    @abstractmethod
    def prices(self, device: torch.device) -> Prices:
        """The price windows, stored on a device."""

    @abstractmethod
    def gather_prices(self, rows: NDArray[np.int64], out: NDArray[np.float32]) -> None:
        """Copies the stored prices of these windows on the host into `out` (len(rows), T, 5)."""

    @property
    @abstractmethod
    def price_bytes(self) -> int:
        """Bytes that `prices` takes on a device."""

    @abstractmethod
    def digest(self) -> str:
        """Hash of the content that inputs and labels come from."""

    def price_digest(self) -> str:
        """Hash of the content that prices come from."""
        return self.digest()


@dataclass(frozen=True)
class BarWindows(Windows):
    """Windows over bars: `end` (n,) is the row of each window's last bar."""

    bars: Bars
    end: NDArray[np.int64]
    last: NDArray[np.int64]  # (n,) row of the last bar of the window's series

    _per_window = (*Windows._per_window, "end", "last")

    def reach(self, rows: NDArray[np.int64], extra: int) -> NDArray[np.datetime64]:
        ahead = np.minimum(self.end[rows] + max(self.horizons), self.last[rows]) + extra
        inside = np.minimum(ahead, _last_of_symbol(self.bars, self.end[rows]))
        return _extend(self.bars.time[inside], ahead - inside, self.bars.time)

    def positions(self) -> NDArray[np.int64]:
        return self.end

    def newest(self) -> tuple[NDArray[np.int64], dict[str, str]]:
        last_series = {name: series for series, name in enumerate(self.bars.symbols)}
        window = {int(end): row for row, end in enumerate(self.end)}
        rows, missing = [], {}
        for name in self.symbols:
            stretch = self.bars.rows(last_series[name])
            if (row := window.get(stretch.stop - 1)) is not None:
                rows.append(row)
                continue
            bars, date = stretch.stop - stretch.start, str(self.bars.time[stretch.stop - 1])[:10]
            since = " since its last gap" if self.bars.symbols.count(name) > 1 else ""
            missing[name] = f"{bars} bars{since} up to {date}, where data.lookback is {self.lookback}"
        return np.array(rows, np.int64), missing

    def prices(self, device: torch.device) -> Prices:
        return BarPrices(
            torch.from_numpy(self.bars.ohlcv.astype(np.float32)).to(device),
            torch.from_numpy(self.end).to(device),
            self.lookback,
        )

    def gather_prices(self, rows: NDArray[np.int64], out: NDArray[np.float32]) -> None:
        steps = np.arange(1 - self.lookback, 1)
        out[:] = np.take(self.bars.ohlcv, self.end[rows, None] + steps, axis=0)

    @property
    def price_bytes(self) -> int:
        return 4 * self.bars.ohlcv.size + self.end.nbytes

    def digest(self) -> str:
        if self.extra is None:
            return self.bars.digest()
        both = f"{self.bars.digest()}{self.extra.digest()}"
        return hashlib.blake2b(both.encode(), digest_size=16).hexdigest()

    def price_digest(self) -> str:
        return self.bars.digest()


def window_ends(bars: Bars, lookback: int) -> NDArray[np.int64]:
    """(n,) rows of the last bars of all windows of `lookback` bars."""
    of_series = [np.arange(begin + lookback - 1, end) for begin, end in pairwise(bars.offsets.tolist())]
    return np.concatenate([np.empty(0, np.int64), *of_series])


def keep_windows(features: NDArray[np.float32], bars: Bars, lookback: int) -> NDArray[np.float32]:
    """(n, F) the rows of the last bars of all windows, of features (N, F) of all bars.

    The features are overwritten, so that no second array of their size is needed.
    """
    count = 0
    for begin, end in pairwise(bars.offsets.tolist()):
        rows = features[min(begin + lookback - 1, end) : end]
        features[count : count + len(rows)] = rows
        count += len(rows)
    return features[:count]


def index_windows(
    bars: Bars,
    context: NDArray[np.float32],
    context_names: Sequence[str],
    horizons: Sequence[int],
    lookback: int,
) -> BarWindows:
    """One window per bar that has `lookback - 1` bars of its own series before it.

    context: (n, F), or (N, F) of all bars. Windows whose labels lie beyond the series' end are kept for
    forecasts.
    """
    end = window_ends(bars, lookback)
    count = np.maximum(np.diff(bars.offsets) - lookback + 1, 0)  # of the windows of each series
    last = np.repeat(bars.offsets[1:] - 1, count)
    names = tuple(dict.fromkeys(bars.symbols))
    number = {name: i for i, name in enumerate(names)}
    symbol = np.array([number[name] for name in bars.symbols], np.int32)
    return BarWindows(
        symbols=names,
        symbol=np.repeat(symbol, count),
        asof=bars.time[end],
        context=context if len(context) == len(end) else context[end],
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

    _per_window = (*Windows._per_window, "ohlcv_norm", "embedding")

    def newest(self) -> tuple[NDArray[np.int64], dict[str, str]]:
        order = np.lexsort((self.asof, self.symbol))
        last = np.append(self.symbol[order][1:] != self.symbol[order][:-1], True)
        return np.asarray(order[last]), {}

    def reach(self, rows: NDArray[np.int64], extra: int) -> NDArray[np.datetime64]:
        """A symbol's distinct dates count as its bars; rows missing from the file make the reach longer."""
        order, fresh, position = self._dates()
        symbol, asof = self.symbol[order], self.asof[order]
        final = np.searchsorted(symbol[fresh], self.symbol[rows], side="right") - 1
        ahead = position[rows] + max(self.horizons) + extra
        inside = np.minimum(ahead, final)
        return _extend(asof[fresh][inside], ahead - inside, self.asof)

    def positions(self) -> NDArray[np.int64]:
        return self._dates()[2] + max(self.horizons) * self.symbol.astype(np.int64)

    def _dates(self) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64]]:
        """The order by symbol and date, which of these begin a date, and the number of each window's date."""
        order = np.lexsort((self.asof, self.symbol))
        symbol, asof = self.symbol[order], self.asof[order]
        fresh = np.ones(len(self), np.bool_)
        fresh[1:] = (symbol[1:] != symbol[:-1]) | (asof[1:] != asof[:-1])
        position = np.empty(len(self), np.int64)
        position[order] = np.cumsum(fresh) - 1
        return order, fresh, position

    def prices(self, device: torch.device) -> Prices:
        return StoredPrices(torch.from_numpy(self.ohlcv_norm).to(device))

    def gather_prices(self, rows: NDArray[np.int64], out: NDArray[np.float32]) -> None:
        np.take(self.ohlcv_norm, rows, axis=0, out=out, mode="clip")  # "raise" would buffer a copy

    @property
    def price_bytes(self) -> int:
        return self.ohlcv_norm.nbytes

    def digest(self) -> str:
        h = hashlib.blake2b("\0".join(self.symbols).encode(), digest_size=16)
        inputs = (self.symbol, self.asof.astype(np.int64), self.ohlcv_norm, self.embedding, self.context)
        for array in (*inputs, self.returns):
            h.update(np.ascontiguousarray(array).data)
        return h.hexdigest()


def _last_of_symbol(bars: Bars, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """(len(rows),) the last row of each row's symbol, whose series are adjacent."""
    names = np.array(bars.symbols)
    closes = np.append(names[1:] != names[:-1], True)  # another symbol follows this series
    last = bars.offsets[1:][closes] - 1
    return np.asarray(last[np.searchsorted(last, rows)])


def _extend(
    time: NDArray[np.datetime64], bars: NDArray[np.int64], times: NDArray[np.datetime64]
) -> NDArray[np.datetime64]:
    """The time `bars` bars after a symbol's last, by all symbols' times or business days: the later one."""
    if not bars.any():
        return time
    calendar = np.unique(times)
    position = np.searchsorted(calendar, time) + bars
    by_others = calendar[np.minimum(position, len(calendar) - 1)]
    by_weekdays = np.busday_offset(time.astype("datetime64[D]"), bars, roll="backward")
    return np.asarray(np.maximum(by_others, by_weekdays.astype("datetime64[s]")))


def _returns(
    close: NDArray[np.float64], end: NDArray[np.int64], last: NDArray[np.int64], horizons: Sequence[int]
) -> NDArray[np.float32]:
    returns, now = np.empty((len(end), len(horizons)), np.float32), close[end]
    for column, h in enumerate(horizons):
        ahead = end + h
        value = close[np.minimum(ahead, last)] / now - 1
        value[np.abs(value) < SMALLEST_RETURN] = 0
        value[ahead > last] = np.nan
        returns[:, column] = value
    return returns


def returns_ahead(
    windows: BarWindows, rows: NDArray[np.int64], horizons: Sequence[int]
) -> NDArray[np.float32]:
    """(k, len(horizons)) simple returns over the next bars, as labels have them; NaN where a series ends."""
    return _returns(windows.bars.ohlcv[:, CLOSE], windows.end[rows], windows.last[rows], horizons)


def past_moves(windows: Windows, rows: NDArray[np.int64], bars: int) -> NDArray[np.float64]:
    """(k,) return of close over the last `bars` bars of each window, at most the window's length.

    For ready windows, whose prices are scaled, the change in units of the window's range; its sign is right.
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


def trailing_volatility(windows: Windows, rows: NDArray[np.int64], bars: int) -> NDArray[np.float64]:
    """(k,) standard deviation (divisor bars - 1) of the last `bars` returns of close up to each window's end.

    Raises TypeError for ready windows, whose prices are scaled.
    """
    if not isinstance(windows, BarWindows):
        raise TypeError("ready windows hold no prices")
    close = windows.bars.ohlcv[:, CLOSE]
    found, size = np.empty(len(rows)), max(1, 2**24 // bars)
    for first in range(0, len(rows), size):
        end = windows.end[rows[first : first + size]]
        inside = close[end[:, None] + np.arange(-bars, 1)]
        found[first : first + size] = (inside[:, 1:] / inside[:, :-1] - 1).std(axis=1, ddof=1)
    return found


# The price that a trade is made at, and how many bars after the window's last one.
TRADES = {"open": (OPEN, 1), "close": (CLOSE, 0)}


def next_returns(
    windows: BarWindows, rows: NDArray[np.int64], execution: Literal["open", "close"]
) -> NDArray[np.float64]:
    """(k,) return of a position that each window's last bar decides, held until the next bar's trade.

    execution: "open", from the open of the next bar to that of the bar after it; "close", from the window's
    last close, which can be traded no more once it is known, to the next close. NaN where the series ends
    before.
    """
    column, delay = TRADES[execution]
    price, end, last = windows.bars.ohlcv[:, column], windows.end[rows], windows.last[rows]
    bought, sold = np.minimum(end + delay, last), np.minimum(end + delay + 1, last)
    return np.where(end + delay + 1 <= last, price[sold] / price[bought] - 1, np.nan)
