import datetime as dt
import re

import numpy as np
import pytest
from random_bars import random_series

from stockenh.data.features import alignment, timeframe_groups
from stockenh.errors import ConfigError


def days(*dates):
    return np.array(dates, "datetime64[s]")


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
def test_periods_follow_the_calendar(timeframe, first, last, following):
    before = str(np.datetime64(first, "s") - 1)
    groups = timeframe_groups(days(before, first, last, following), timeframe)
    assert groups[0] != groups[1] == groups[2] != groups[3]


@pytest.mark.parametrize("timeframe", ["", "d", "0d", "-1d", "1.5h", "1y", "1D", "1 d", "1mon", "daily"])
def test_a_bad_timeframe_is_named_with_its_key(timeframe):
    with pytest.raises(ConfigError, match=rf"^data\.timeframes: .*{re.escape(repr(timeframe))}.*$"):
        timeframe_groups(days("2024-01-02"), timeframe)


@pytest.mark.parametrize(
    ("timeframe", "close_of_day", "expected"),
    [
        # EMA9 is 10, 10.2, 10.56, 10.048; EMA21 is 10, 10.0909, 10.2645, 10.0587
        ("1d", {1: 10, 2: 11, 3: 12, 4: 8}, [0, 1, 1, -1]),
        # A forming week counts only its latest close: with the week before at 10, a rise to 12 leaves no
        # trace once the close is back at 10.
        ("1w", {5: 10, 8: 12, 9: 10, 10: 9, 12: 11, 15: 11.5}, [0, 1, 0, -1, 1, 1]),
        # A Saturday belongs to the week before: on Monday the week closed at 9 on Saturday, so EMA9 = 9.8
        # and EMA21 = 9.909 and 9.5 lies below.
        ("1w", {5: 10, 12: 10, 13: 9, 15: 9.5}, [0, 0, -1, -1]),
        ("1w", {5: 10, 12: 10, 15: 9.95}, [0, 0, -1]),
        ("1w", {5: 10, 12: 10, 15: 10}, [0, 0, 0]),
    ],
)
def test_alignment_by_hand(timeframe, close_of_day, expected):
    time = days(*(f"2024-01-{day:02}" for day in close_of_day))  # the 1st is a Monday
    assert alignment(time, np.array(list(close_of_day.values()), float), timeframe).tolist() == expected


@pytest.mark.parametrize("price", [0.1, 1 / 3, 17.968, 1e10])
def test_a_flat_price_has_no_direction(price):
    time = np.datetime64("2020-01-01", "s") + np.arange(400) * np.timedelta64(86_400, "s")
    close = np.full(400, price)
    close[1::2] = np.nextafter(price, np.inf)
    for timeframe in ("1d", "1w", "1mo", "1q"):
        assert not alignment(time, close, timeframe).any()


CALENDAR = {
    "1d": lambda day: day.toordinal(),
    "1w": lambda day: day.isocalendar()[:2],
    "2w": lambda day: (day - dt.date(1970, 1, 5)).days // 14,
    "1mo": lambda day: (day.year, day.month),
    "1q": lambda day: (day.year, (day.month - 1) // 3),
}


def slow_alignment(dates, close, timeframe):
    result = []
    for now in range(len(close)):
        last_of_period = {}
        for day, price in zip(dates[: now + 1], close[: now + 1], strict=True):
            last_of_period[CALENDAR[timeframe](day)] = price
        fast = slow = next(iter(last_of_period.values()))
        for price in last_of_period.values():
            fast = 0.2 * price + 0.8 * fast
            slow = price / 11 + slow * 10 / 11
        tiny = 1e-9 * close[now]
        up = close[now] > fast + tiny and fast > slow + tiny
        down = close[now] < fast - tiny and fast < slow - tiny
        result.append(int(up) - int(down))
    return result


@pytest.mark.parametrize("timeframe", CALENDAR)
def test_alignment_equals_a_bar_by_bar_loop(timeframe):
    for seed in range(3):
        time, ohlcv = random_series(seed, 250)
        expected = slow_alignment(time.astype("datetime64[D]").tolist(), ohlcv[:, 3].tolist(), timeframe)
        assert {-1, 0, 1} == set(expected)
        assert alignment(time, ohlcv[:, 3], timeframe).tolist() == expected
