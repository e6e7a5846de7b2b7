from __future__ import annotations

import datetime as dt

import numpy as np
import pytest
from random_bars import random_series

from stockenh.data.features import alignment, timeframe_groups
from stockenh.data.features.technical import ema
from stockenh.errors import ConfigError


def days(*dates: str) -> np.ndarray:
    return np.array(dates, "datetime64[s]")


def same_period(timeframe: str, first: str, second: str) -> bool:
    groups = timeframe_groups(days(first, second), timeframe)
    return bool(groups[0] == groups[1])


@pytest.mark.parametrize(
    ("timeframe", "first", "last", "following"),
    [
        ("15min", "2024-01-02T09:30", "2024-01-02T09:44:59", "2024-01-02T09:45"),
        ("4h", "2024-01-02T08:00", "2024-01-02T11:59", "2024-01-02T12:00"),
        ("1d", "2024-01-02T00:00", "2024-01-02T23:59", "2024-01-03T00:00"),
        ("3d", "1970-01-04", "1970-01-06", "1970-01-07"),
        ("1w", "2024-01-01", "2024-01-07", "2024-01-08"),
        ("1w", "1969-12-29", "1970-01-04", "1970-01-05"),
        ("2w", "1970-01-05", "1970-01-18", "1970-01-19"),
        ("2w", "1969-12-22", "1970-01-04", "1970-01-05"),
        ("1mo", "2024-02-01", "2024-02-29", "2024-03-01"),
        ("2mo", "2024-01-01", "2024-02-29", "2024-03-01"),
        ("1q", "2023-10-01", "2023-12-31", "2024-01-01"),
        ("2q", "1969-07-01", "1969-12-31", "1970-01-01"),
    ],
)
def test_periods_follow_the_calendar(timeframe: str, first: str, last: str, following: str) -> None:
    before = str(np.datetime64(first, "s") - 1)
    assert same_period(timeframe, first, last)
    assert not same_period(timeframe, last, following)
    assert not same_period(timeframe, before, first)


@pytest.mark.parametrize("timeframe", ["", "d", "0d", "-1d", "1.5h", "1y", "1D", "1 d", "1mon", "daily"])
def test_a_bad_timeframe_is_named_with_its_key(timeframe: str) -> None:
    with pytest.raises(ConfigError, match=r"data\.timeframes: ") as error:
        timeframe_groups(days("2024-01-02"), timeframe)
    assert repr(timeframe) in str(error.value)
    assert "\n" not in str(error.value)


def test_ema_starts_at_the_first_value() -> None:
    np.testing.assert_allclose(ema(np.array([10.0, 11.0, 9.0]), 9), [10, 10.2, 9.96])


def test_daily_alignment_by_hand() -> None:
    # EMA9 is 10, 10.2, 10.56, 10.048; EMA21 is 10, 10.0909, 10.2645, 10.0587
    time = days("2024-01-01", "2024-01-02", "2024-01-03", "2024-01-04")
    assert alignment(time, np.array([10.0, 11.0, 12.0, 8.0]), "1d").tolist() == [0, 1, 1, -1]


def test_a_forming_week_counts_only_its_latest_close() -> None:
    # With the week before at 10, a rise to 12 leaves no trace once the close is back at 10.
    time = days("2024-01-05", "2024-01-08", "2024-01-09", "2024-01-10", "2024-01-12", "2024-01-15")
    close = np.array([10.0, 12.0, 10.0, 9.0, 11.0, 11.5])
    assert alignment(time, close, "1w").tolist() == [0, 1, 0, -1, 1, 1]


def test_a_saturday_belongs_to_the_week_before() -> None:
    # On Monday the week closed at 9 on Saturday, so EMA9 = 9.8 and EMA21 = 9.909 and 9.5 lies below.
    time = days("2024-01-05", "2024-01-12", "2024-01-13", "2024-01-15")
    assert alignment(time, np.array([10.0, 10.0, 9.0, 9.5]), "1w")[-1] == -1
    assert alignment(time[[0, 1, 3]], np.array([10.0, 10.0, 9.95]), "1w")[-1] == -1
    assert alignment(time[[0, 1, 3]], np.array([10.0, 10.0, 10.0]), "1w")[-1] == 0


@pytest.mark.parametrize("price", [0.1, 1 / 3, 17.968, 1e10])
def test_a_flat_price_has_no_direction(price: float) -> None:
    time = np.datetime64("2020-01-01", "s") + np.arange(400) * np.timedelta64(86_400, "s")
    close = np.full(400, price)
    close[1::2] = np.nextafter(price, np.inf)
    for timeframe in ("1d", "1w", "1mo", "1q"):
        assert not alignment(time, close, timeframe).any()


def calendar_key(day: dt.date, timeframe: str) -> tuple[int, ...]:
    match timeframe:
        case "1d":
            return (day.toordinal(),)
        case "1w":
            return day.isocalendar()[:2]
        case "2w":
            return ((day - dt.date(1970, 1, 5)).days // 14,)
        case "1mo":
            return day.year, day.month
        case _:
            return day.year, (day.month - 1) // 3


def slow_alignment(dates: list[dt.date], close: list[float], timeframe: str) -> list[int]:
    result = []
    for now in range(len(close)):
        last_of_period: dict[tuple[int, ...], float] = {}
        for day, price in zip(dates[: now + 1], close[: now + 1], strict=True):
            last_of_period[calendar_key(day, timeframe)] = price
        fast = slow = next(iter(last_of_period.values()))
        for price in last_of_period.values():
            fast = 0.2 * price + 0.8 * fast
            slow = price / 11 + slow * 10 / 11
        tiny = 1e-9 * close[now]
        up = close[now] > fast + tiny and fast > slow + tiny
        down = close[now] < fast - tiny and fast < slow - tiny
        result.append(int(up) - int(down))
    return result


@pytest.mark.parametrize("timeframe", ["1d", "1w", "2w", "1mo", "1q"])
def test_alignment_equals_a_bar_by_bar_loop(timeframe: str) -> None:
    for seed in range(3):
        time, ohlcv = random_series(seed, 250)
        expected = slow_alignment(time.astype("datetime64[D]").tolist(), ohlcv[:, 3].tolist(), timeframe)
        assert {-1, 0, 1} == set(expected)
        assert alignment(time, ohlcv[:, 3], timeframe).tolist() == expected
