"""Forecasts from raw bars by an export alone, with onnxruntime and numpy: python serve.py RUN/export AAPL.csv

Bars are CSV with a header, or JSON: {"symbol": "AAPL", "bars": [{"date": "2024-01-31", ...}, ...]}, or by
column: {"bars": {"date": [...], "open": [...], ...}}. Columns are date, open, high, low, close, volume, and
symbol and adj_close where there are any. The oldest bar comes first. Forecasts are for bars after the last.
"""

import csv
import io
import json
import re
import sys
from pathlib import Path

import numpy as np
import onnxruntime

MAX_ROWS = 20_000
MAX_PRICE = 1e15  # and volume
SLACK = 5e-3  # relative; an open or close further outside low to high is no rounding
SHIFT = 5  # a price so many times off the others of its row has a shifted decimal point
ALIASES = {"timestamp": "date", "datetime": "date", "ticker": "symbol", "adjclose": "adj_close"}
DATE = re.compile(r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d)?)?", re.ASCII)
SPLIT = (
    1.2  # a larger jump of adj_close / close from one bar to the next is a split, a smaller one a dividend
)


class BadBars(ValueError):
    """Bars that can't be forecast; the message is one line that says why."""


class TooManyRows(BadBars):
    """More bars than are read at once."""


class Forecaster:
    """The graphs of an export's folder. Raises ValueError where the export can't start from bars."""

    def __init__(self, folder, threads=1):
        folder = Path(folder)
        self.manifest = json.loads((folder / "manifest.json").read_text())
        self.bars = self.manifest.get("bars")
        if self.bars is None:
            why = self.manifest.get("bars_unavailable", "an older version wrote it")
            raise ValueError(f"{folder} can't start from raw bars: {why}")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.enable_mem_pattern = False  # it keeps a plan for every number of bars that was ever sent
        self.features, self.model = (
            onnxruntime.InferenceSession(folder / name, options, providers=["CPUExecutionProvider"])
            for name in (self.bars["features"], "model.onnx")
        )
        self.names = [output.name for output in self.model.get_outputs()]

    def __call__(self, content, symbol=""):
        """A dict per symbol and horizon, from the bytes of CSV or JSON. Raises BadBars."""
        rows = []
        for name, table in by_symbol(*read(content), symbol).items():
            try:
                rows += self.forecast(name, table)
            except BadBars as error:
                raise BadBars(f"{name}: {error}" if name else str(error)) from None
        return rows

    def forecast(self, symbol, table):
        """Of one symbol, from its columns."""
        text, time, bars = self.checked(table)
        gaps = np.flatnonzero(np.diff(time) > self.bars["max_gap_days"] * 86_400)
        first = gaps[-1] + 1 if len(gaps) else 0  # nothing is known about what lies in a gap
        least = self.bars["history_bars"]["least"]
        if len(time) - first < least:
            since = f" since the gap before {text[first]}" if first else ""
            raise BadBars(f"{len(time) - first} bars{since}, where the model needs {least}")
        inputs = self.features.run(None, {"time": time[None, first:], "bars": bars[None, first:]})
        of = [output.name for output in self.features.get_outputs()]
        found = dict(zip(self.names, self.model.run(None, dict(zip(of, inputs, strict=True))), strict=True))
        columns = {self.manifest["forecast"]: found["ret"][0], "up_prob": found["up_prob"][0]}
        interval = self.manifest["interval"]
        if interval is not None and "quantiles" in found:
            low, middle, high = (
                found["quantiles"][0, :, interval["places"][k]] for k in ("low", "middle", "high")
            )
            columns["ret_p10"] = np.minimum(low - interval["widening"], middle)
            columns["ret_p90"] = np.maximum(high + interval["widening"], middle)
        if not all(np.isfinite(column).all() for column in columns.values()):
            raise BadBars("no finite forecast comes from these bars")
        return [
            {"symbol": symbol, "date": text[-1], "horizon": horizon}
            | {name: float(column[place]) for name, column in columns.items()}
            for place, horizon in enumerate(self.manifest["horizons"])
        ]

    def checked(self, table):
        """Dates as text, seconds since 1970 (T,) and bars (T, 5), adjusted. Raises BadBars."""
        names = self.bars["columns"]
        missing = [name for name in ("date", *names) if name not in table]
        if missing:
            raise BadBars(
                f"the column {missing[0]} is missing; there are {', '.join(map(repr, list(table)[:20]))}"
            )
        text = [dated(value, row, self.bars["daily"]) for row, value in enumerate(table["date"], 1)]
        try:
            time = np.array(text, "datetime64[s]").astype(np.int64)
        except ValueError as error:
            raise BadBars(f"date: {str(error)[:80]}") from None
        late = np.flatnonzero(np.diff(time) <= 0)
        if len(late):
            row = late[0] + 1
            raise BadBars(
                f"row {row + 1}: {text[row]} follows {text[row - 1]}; dates must increase, each once"
            )
        bars = np.stack([numbers(name, table[name]) for name in names], 1)
        prices, volume = bars[:, :4], bars[:, 4]
        refuse(prices <= 0, text, "a price is 0 or below")
        refuse(volume < 0, text, "the volume is below 0")
        refuse(bars > MAX_PRICE, text, "a number is too large for a price or volume")
        middle = np.sort(prices, 1)[:, 1:3].mean(1, keepdims=True)
        refuse(
            (prices > SHIFT * middle) | (prices < middle / SHIFT),
            text,
            f"a price is {SHIFT} times off the others",
        )
        high, low, inside = prices[:, 1], prices[:, 2], prices[:, [0, 3]]
        refuse(high < low * (1 - 1e-6), text, "the high is below the low")
        outside = (inside > high[:, None] * (1 + SLACK)) | (inside < low[:, None] * (1 - SLACK))
        refuse(outside, text, "open or close is outside low to high")
        if self.bars["adjust"] and "adj_close" in table:
            adjusted = numbers("adj_close", table["adj_close"])
            refuse(adjusted <= 0, text, "adj_close is 0 or below")
            bars = adjust(bars, adjusted)
        return text, time, bars


def read(content):
    """Columns by name, and the symbol that JSON gives beside them. Raises BadBars."""
    try:
        text = content.decode("utf-8-sig").strip()
        if text[:1] in ("{", "["):
            return from_json(json.loads(text))
        return from_csv(text), None
    except BadBars:
        raise
    except (ValueError, RecursionError, csv.Error) as error:
        raise BadBars(f"neither CSV nor JSON: {' '.join(str(error).split())[:120]}") from None


def from_csv(text):
    rows = [row for row in csv.reader(io.StringIO(text)) if "".join(row).strip()]
    if len(rows) < 2:
        raise BadBars("there are no bars")
    limited(len(rows) - 1)
    header, width = rows[0], len(rows[0])
    for number, row in enumerate(rows[1:], 1):
        if len(row) != width:
            raise BadBars(f"row {number} has {len(row)} values, the header {width}")
    return named(zip(header, zip(*rows[1:], strict=True), strict=True))


def from_json(data):
    symbol = data.get("symbol") if isinstance(data, dict) else None
    bars = data.get("bars", data) if isinstance(data, dict) else data
    if symbol is not None and not isinstance(symbol, str):
        raise BadBars("symbol is not text")
    if isinstance(bars, dict):
        columns = {
            name: values for name, values in bars.items() if name != "symbol" or isinstance(values, list)
        }
        if not columns or not all(isinstance(values, list) for values in columns.values()):
            raise BadBars(
                'bars are neither a list of bars nor lists by column, as {"date": [...], "open": [...]}'
            )
        lengths = {len(values) for values in columns.values()}
        if len(lengths) > 1:
            raise BadBars(f"columns differ in length: {', '.join(map(str, sorted(lengths)[:5]))}")
        limited(lengths.pop())
        return named(columns.items()), symbol
    if not isinstance(bars, list) or not bars:
        raise BadBars("there are no bars")
    limited(len(bars))
    for number, bar in enumerate(bars, 1):
        if not isinstance(bar, dict) or bar.keys() != bars[0].keys():
            raise BadBars(f"row {number} is not an object with the names of row 1")
    return named((name, [bar[name] for bar in bars]) for name in bars[0]), symbol


def limited(rows):
    if rows > MAX_ROWS:
        raise TooManyRows(f"{rows:,} bars, more than {MAX_ROWS:,}")


def named(columns):
    """Columns by lower-case name: `Adj Close` is adj_close."""
    table = {}
    for header, values in columns:
        name = re.sub(r"[ _]+", "_", header.strip().lower())
        name = ALIASES.get(name.replace("_", ""), name)
        if name in table:
            raise BadBars(f"the column {name!r} is there twice")
        table[name] = values
    return table


def by_symbol(table, beside, symbol):
    """Columns of each symbol, in the order of their first bars; `symbol` where the bars name none."""
    if "symbol" not in table:
        return {beside or symbol: table}
    rows = {}
    for row, name in enumerate(table["symbol"]):
        if not isinstance(name, str):
            raise BadBars(f"row {row + 1}: symbol is not text")
        rows.setdefault(name.strip(), []).append(row)
    return {
        name: {column: [values[row] for row in own] for column, values in table.items()}
        for name, own in rows.items()
    }


def dated(value, row, daily):
    text = value.strip() if isinstance(value, str) else ""
    if not DATE.fullmatch(text):
        raise BadBars(f"row {row}: date is {str(value)[:40]!r}, not one such as 2024-01-31")
    return text[:10] if daily else text


def numbers(name, values):
    if set(map(type, values)) <= {int, float, str}:
        try:
            found = np.array(list(map(float, values)))
            if np.isfinite(found).all():
                return found
        except (ValueError, OverflowError):
            pass
    row = next(row for row, value in enumerate(values) if not is_number(value))
    raise BadBars(f"row {row + 1}: {name} is {str(values[row])[:40]!r}, not a number")


def is_number(value):
    try:
        return type(value) in (int, float, str) and bool(np.isfinite(float(value)))
    except (ValueError, OverflowError):
        return False


def refuse(wrong, text, why):
    rows = np.flatnonzero(wrong if wrong.ndim == 1 else wrong.any(1))
    if len(rows):
        raise BadBars(f"row {rows[0] + 1} ({text[rows[0]]}): {why}")


def adjust(bars, adjusted):
    """Prices times adj_close / close; volume in shares of the first bar."""
    factor = adjusted / bars[:, 3]
    jump = factor[:-1] / factor[1:]
    split = np.where(np.maximum(jump, 1 / jump) > SPLIT, jump, 1.0)
    shares = np.concatenate([[1.0], np.cumprod(split)])
    return np.column_stack([bars[:, :4] * factor[:, None], bars[:, 4] * shares])


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python serve.py RUN/export BARS.csv")
    try:
        for forecast in Forecaster(sys.argv[1])(Path(sys.argv[2]).read_bytes(), Path(sys.argv[2]).stem):
            print(json.dumps(forecast))
    except (OSError, ValueError) as error:
        sys.exit(f"serve.py: {error}")
