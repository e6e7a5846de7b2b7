"""The newest bars of symbols as candles, and their forecasts as a cone.

Legend: T bars shown, H horizons.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stockenh.report.figure import COLOURS, GREY, as_drawn, new_figure, or_nan, save
from stockenh.report.page import Tile, Tiles
from stockenh.report.table import percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_PANELS = 12
WIDTH, HEIGHT = 168, 84  # of a tile, in the units of its paths
UP, DOWN = COLOURS[2], COLOURS[1]

Newest = Mapping[str, Any]


def most_interesting(symbols: Sequence[Newest], most: int = MOST_PANELS) -> list[Newest]:
    """Those that were never seen in training, then those whose probability is farthest from 50%."""

    def key(of: Newest) -> tuple[bool, float]:
        return not of["unseen"], -max(abs(p - 0.5) for p in of["up_prob"])

    return sorted(symbols, key=key)[:most]


def candles_chart(newest: Newest, path: Path) -> Path:
    """A panel per symbol with T bars and the cone of the forecast; returns the path.

    newest: see `newest_forecasts`; of more symbols than there are panels, the most interesting ones.
    """
    symbols = most_interesting(newest["symbols"])
    columns = min(len(symbols), 4)
    rows = -(-len(symbols) // columns)
    figure = new_figure(max(3.1 * columns, 6.2), 1.0 + 2.35 * rows)
    for place, of in enumerate(symbols):
        _draw(figure.add_subplot(rows, columns, place + 1), of, newest["horizons"])
    which = ""
    if len(newest["symbols"]) > len(symbols):
        which = f" of {len(symbols)} of {len(newest['symbols'])} symbols, the farthest from 50%"
    title = f"Newest bars and forecasts{which}, as of {newest['asof']}\n{cone_note(newest)}"
    return save(figure, title, path)


def cone_note(newest: Newest) -> str:
    """What the cone is."""
    line = "line: the forecast return; " if newest["is_return"] else ""
    if newest["has_quantiles"]:
        return f"{line}cone: the forecast's 80% interval, widened on validation"
    return f"{line}grey cone: 80% of the symbol's own past returns over so many bars, not a forecast"


def _draw(axes: Axes, of: Newest, horizons: Sequence[int]) -> None:
    bars, last = of["bars"], len(of["bars"]) - 1
    opened, highest, lowest, closed = zip(*bars, strict=True)
    colours = [UP if end >= start else DOWN for start, end in zip(opened, closed, strict=True)]
    axes.vlines(range(len(bars)), lowest, highest, colors=colours, linewidth=0.7, zorder=2)
    axes.vlines(range(len(bars)), opened, closed, colors=colours, linewidth=2.4, zorder=2)
    base = bars[-1][3]
    ahead = [last, *(last + horizon for horizon in horizons)]
    low, high = ([base, *(base * (1 + or_nan(end)) for end in of[name])] for name in ("low", "high"))
    colour = COLOURS[0] if of["is_forecast"] else GREY
    axes.fill_between(ahead, low, high, color=colour, alpha=0.22, linewidth=0, zorder=1)
    if of["ret"] is not None:
        middle = [base, *(base * (1 + ret) for ret in of["ret"])]
        axes.plot(ahead, middle, "o-", color=COLOURS[0], linewidth=1.2, markersize=2.5, zorder=3)
    axes.axvline(last + 0.5, color=GREY, linestyle=":", linewidth=0.8, zorder=1)
    new = " (not seen in training)" if of["unseen"] else ""
    axes.set_title(f"{as_drawn(of['symbol'][:24])}{new}\n{up_text(of, horizons)}", fontsize=8.5)
    ticks = [0, last // 2, last]
    axes.set_xticks(ticks, [of["dates"][place][2:10] for place in ticks], fontsize=7)
    axes.tick_params(axis="y", labelsize=7)


def up_text(of: Newest, horizons: Sequence[int]) -> str:
    """`up 3: 51%, 10: 54%`."""
    each = (f"{horizon}: {percent(p, 0)}" for horizon, p in zip(horizons, of["up_prob"], strict=True))
    return f"up {', '.join(each)}"


def tiles(newest: Newest) -> Tiles:
    """Every symbol as a small picture."""
    horizons = newest["horizons"]
    made = [_tile(of, horizons) for of in sorted(newest["symbols"], key=lambda of: str(of["symbol"]))]
    return Tiles("All symbols", cone_note(newest), (WIDTH, HEIGHT), made)


def _tile(of: Newest, horizons: Sequence[int]) -> Tile:
    bars, base = of["bars"], of["bars"][-1][3]
    ends = [base * (1 + end) for name in ("low", "high") for end in of[name] if end is not None]
    middle = [] if of["ret"] is None else [base * (1 + ret) for ret in of["ret"]]
    prices = [*(price for bar in bars for price in bar), *ends, *middle]
    bottom, span = min(prices), max(max(prices) - min(prices), 1e-12)
    step = (WIDTH - 4) / (len(bars) + max(horizons))

    def x(place: float) -> str:
        return f"{2 + step * (place + 0.5):.1f}".rstrip("0").rstrip(".")

    def y(price: float) -> str:
        return f"{HEIGHT - 2 - (HEIGHT - 4) * (price - bottom) / span:.1f}".rstrip("0").rstrip(".")

    data = dict.fromkeys(("up wick", "down wick", "up body", "down body"), "")
    for place, (start, high, low, close) in enumerate(bars):
        way = "up" if close >= start else "down"
        data[f"{way} wick"] += f"M{x(place)} {y(low)}V{y(high)}"
        # a body of no height would not be drawn
        data[f"{way} body"] += f"M{x(place)} {y(start)}V{y(close)}h.1"
    last = len(bars) - 1
    paths = [(name, path) for name, path in data.items() if path]
    origin = f"M{x(last)} {y(base)}"
    if all(end is not None for name in ("low", "high") for end in of[name]):
        upper = [f"L{x(last + h)} {y(base * (1 + end))}" for h, end in zip(horizons, of["high"], strict=True)]
        lower = [f"L{x(last + h)} {y(base * (1 + end))}" for h, end in zip(horizons, of["low"], strict=True)]
        cone = f"{origin}{''.join(upper)}{''.join(reversed(lower))}Z"
        paths.insert(0, ("cone" if of["is_forecast"] else "past", cone))
    if middle:
        line = "".join(f"L{x(last + h)} {y(price)}" for h, price in zip(horizons, middle, strict=True))
        paths.append(("mid", f"{origin}{line}"))
    name = f"{of['symbol']}{' (not seen in training)' if of['unseen'] else ''}"
    lines = [up_text(of, horizons)]
    if of["rank"] is not None:
        lines.append(f"rank {of['rank']} at {horizons[-1]} bars")
    lines.append(f"close {base:,.6g} on {of['dates'][-1][:10]}")
    return Tile(name, lines, paths)
