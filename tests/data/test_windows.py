"""Bars, windows over them, their labels and reach, and their normalised prices."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_bars import as_stored, plain_windows, random_series, smooth_series
from random_walks import walks

from stockenh.data.bars import CLOSE, Bars
from stockenh.data.prices import Augment, NoAugment, normalise
from stockenh.data.windows import BarWindows, StoredWindows, index_windows, next_returns, past_moves
from stockenh.errors import ConfigError

CPU = torch.device("cpu")
HAND = [[2, 4, 1, 3, 0], [3, 5, 2, 4, 9], [4, 4, 3, 3, 99]]


def window(rows: list[list[float]]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float32)[None]


def days(*numbers: int) -> np.ndarray:
    """Days of January 2024, the 1st of which is a Monday."""
    return np.array([f"2024-01-{n:02d}" for n in numbers], "datetime64[s]")


def flat_bars(*close: float) -> np.ndarray:
    return np.column_stack([np.repeat(np.array(close)[:, None], 4, 1), np.ones(len(close))])


def make(bars: Bars, horizons: tuple[int, ...] = (1, 2), lookback: int = 3) -> BarWindows:
    context = np.arange(2 * len(bars), dtype=np.float32).reshape(-1, 2)
    return index_windows(bars, context, ("a", "b"), horizons, lookback)


def stored(symbol: list[int], asof: np.ndarray, horizons: tuple[int, ...] = (1, 2)) -> StoredWindows:
    n = len(symbol)
    return StoredWindows(
        symbols=("A", "B"),
        symbol=np.array(symbol, np.int32),
        asof=asof,
        context=np.zeros((n, 2), np.float32),
        context_names=("a", "b"),
        y_ret=np.zeros((n, len(horizons)), np.float32),
        horizons=horizons,
        lookback=3,
        ohlcv_norm=np.arange(n * 15, dtype=np.float32).reshape(n, 3, 5),
        embedding=np.zeros((n, 4), np.float32),
    )


A, B = smooth_series(1, 4), smooth_series(2, 3)


def test_series_are_joined_and_found_again() -> None:
    bars = Bars.from_series([("A", *A), ("B", *B)])
    assert (bars.symbols, bars.offsets.tolist(), len(bars)) == (("A", "B"), [0, 4, 7], 7)
    np.testing.assert_array_equal(bars.ohlcv[bars.rows(1)], B[1])
    np.testing.assert_array_equal(bars.time[bars.rows(0)], A[0])
    assert bars.series_of_row.tolist() == [0, 0, 0, 0, 1, 1, 1]
    none = Bars.from_series([])
    assert (len(none), none.ohlcv.shape, none.offsets.tolist()) == (0, (0, 5), [0])
    assert none.series_of_row.tolist() == []


def test_digests_follow_the_content() -> None:
    bars = Bars.from_series([("A", *A), ("B", *B)])
    assert Bars.from_series([("A", *A), ("B", *B)]).digest() == bars.digest() == make(bars).digest()
    moved = bars.ohlcv.copy()
    moved[5, 4] += 1
    others = [
        replace(bars, ohlcv=moved),
        replace(bars, time=bars.time + np.timedelta64(1, "s")),
        replace(bars, symbols=("A", "C")),
        replace(bars, offsets=np.array([0, 3, 7])),
    ]
    assert len({bars.digest(), *(other.digest() for other in others)}) == 5
    one, other = stored([0, 1], days(1, 2)), stored([0, 1], days(1, 3))
    assert one.digest() == stored([0, 1], days(1, 2)).digest() != other.digest()


def test_normalise_by_hand() -> None:
    # Prices run from 1 to 5, so 2 becomes -0.5; log(1 + volume) is 0, log 10 and twice log 10.
    expected = [[-0.5, 0.5, -1, 0, -1], [0, 1, -0.5, 0.5, 0], [0.5, 0.5, 0, 0, 1]]
    torch.testing.assert_close(normalise(window(HAND)), window(expected), rtol=0, atol=1e-6)


@pytest.mark.parametrize("flat_price", [True, False])
@pytest.mark.parametrize("flat_volume", [True, False])
def test_what_is_flat_becomes_0(flat_price: bool, flat_volume: bool) -> None:
    raw = window(HAND)
    if flat_price:
        raw[..., :4] = 7.3
    if flat_volume:
        raw[..., 4] = 1234
    found = normalise(raw)
    assert bool((found[..., :4] == 0).all()) is flat_price
    assert bool((found[..., 4] == 0).all()) is flat_volume
    assert bool(torch.isfinite(found).all())


def test_a_windows_scale_does_not_depend_on_its_neighbours() -> None:
    small, large = window(HAND), window(HAND) * 1000
    together = normalise(torch.cat([small, large]))
    torch.testing.assert_close(together, torch.cat([normalise(small), normalise(large)]), rtol=0, atol=0)
    torch.testing.assert_close(together[0, :, :4], together[1, :, :4], rtol=0, atol=1e-6)


@settings(max_examples=200)
@given(
    st.lists(st.floats(2**-10, 2**33, width=32), min_size=6, max_size=6),
    st.lists(st.floats(0, 2**40, width=32), min_size=2, max_size=2),
)
def test_normalised_values_reach_the_ends_of_the_range_and_never_pass_them(
    prices: list[float], volumes: list[float]
) -> None:
    a, b, c, d, e, f = prices
    found = normalise(window([[a, b, c, d, volumes[0]], [d, e, f, a, volumes[1]]]))
    assert float(found.abs().max()) <= 1
    if len(set(prices)) > 1:
        assert (float(found[..., :4].min()), float(found[..., :4].max())) == (-1, 1)


def test_every_bar_with_enough_bars_before_it_has_a_window() -> None:
    bars = Bars.from_series([(name, *smooth_series(n, n)) for name, n in (("A", 5), ("B", 2), ("C", 3))])
    windows = make(bars)
    assert windows.end.tolist() == [2, 3, 4, 9]
    assert windows.symbols == ("A", "B", "C") and windows.symbol.tolist() == [0, 0, 0, 2]
    np.testing.assert_array_equal(windows.asof, bars.time[[2, 3, 4, 9]])
    np.testing.assert_array_equal(windows.context[:, 0], [4, 6, 8, 18])


def test_two_series_of_a_symbol_share_its_name_and_no_window_or_label() -> None:
    first, second = (days(1, 2, 3, 4), flat_bars(1, 2, 4, 8)), (days(21, 22, 23), flat_bars(9, 9, 18))
    windows = make(Bars.from_series([("A", *first), ("A", *second)]))
    assert windows.symbols == ("A",)
    assert windows.end.tolist() == [2, 3, 6]
    expected = np.array([[1, np.nan], [np.nan] * 2, [np.nan] * 2], np.float32)
    np.testing.assert_array_equal(windows.y_ret, expected)


def test_labels_by_hand() -> None:
    bars = Bars.from_series([("A", days(1, 2, 3, 4, 5), flat_bars(10, 20, 25, 25 * (1 + 1e-10), 20))])
    windows = make(bars, horizons=(1, 3), lookback=2)
    expected = np.array([[0.25, 0.0], [0.0, np.nan], [-0.2, np.nan], [np.nan, np.nan]], np.float32)
    np.testing.assert_allclose(windows.y_ret, expected, rtol=1e-6, atol=0)
    assert windows.y_ret[1, 0] == 0, "a return below rounding is a tie"
    assert windows.labelled.tolist() == [True, True, True, False]


def test_the_last_bar_of_every_series_has_a_window_without_a_label() -> None:
    lengths = (("A", 9), ("A", 4), ("B", 7))
    bars = Bars.from_series([(name, *smooth_series(length, length)) for name, length in lengths])
    windows = make(bars)
    newest = np.isin(windows.end, bars.offsets[1:] - 1)
    assert newest.sum() == 3
    assert np.isnan(windows.y_ret[newest]).all()
    assert windows.labelled[~newest].all()


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.integers(2, 30))
def test_a_gathered_window_is_the_slice_of_the_bars(seed: int, lookback: int) -> None:
    bars = Bars.from_series([("A", *random_series(seed, 40)), ("B", *random_series(seed + 1, 55))])
    windows = make(bars, lookback=lookback)
    rows = np.random.default_rng(seed).integers(0, len(windows), 8)
    found = windows.prices(CPU).gather(torch.from_numpy(rows), NoAugment())
    for window_of, row in zip(found, rows, strict=True):
        end = windows.end[row]
        raw = torch.from_numpy(bars.ohlcv[end - lookback + 1 : end + 1].astype(np.float32))
        torch.testing.assert_close(window_of, normalise(raw[None])[0], rtol=0, atol=0)


def test_an_augmentation_sees_raw_bars_before_they_are_normalised() -> None:
    class HalveVolume(Augment):
        def __call__(self, ohlcv: torch.Tensor) -> torch.Tensor:
            return ohlcv * torch.tensor([1, 1, 1, 1, 0.5])

    bars = Bars.from_series([("A", *smooth_series(4, 6))])
    found = make(bars, lookback=6).prices(CPU).gather(torch.tensor([0]), HalveVolume())
    halved = torch.from_numpy((bars.ohlcv * [1, 1, 1, 1, 0.5]).astype(np.float32))
    torch.testing.assert_close(found, normalise(halved[None]))


def test_memory_grows_with_the_bars_and_not_with_the_lookback() -> None:
    bars = Bars.from_series([("A", *smooth_series(5, 5000))])
    windows = plain_windows(bars, 120, (3, 5, 10))
    arrays = [windows.symbol, windows.asof, windows.context, windows.y_ret, windows.end, windows.last]
    assert sum(array.nbytes for array in arrays) < 60 * len(bars)
    assert windows.bars is bars
    prices = windows.prices(CPU)
    tensors = [value for value in vars(prices).values() if isinstance(value, torch.Tensor)]
    assert sum(tensor.nbytes for tensor in tensors) < 40 * len(bars)


def test_reach_is_the_last_label_bar_and_the_embargo_counts_on_from_it() -> None:
    a = ("A", days(1, 3, 5, 9, 11, 15), flat_bars(1, 1, 1, 1, 1, 1))  # trades every second business day
    windows = make(Bars.from_series([a]), lookback=1)
    rows = np.arange(6)
    assert windows.reach(rows, 0).tolist() == days(5, 9, 11, 15, 15, 15).tolist()
    assert windows.reach(rows[:2], 2).tolist() == days(11, 15).tolist()


def test_the_embargo_goes_on_in_the_symbols_next_series() -> None:
    first, second = (days(1, 2, 3), flat_bars(1, 1, 1)), (days(22, 23), flat_bars(1, 1))
    windows = make(Bars.from_series([("A", *first), ("A", *second)]), lookback=1)
    assert windows.reach(np.arange(3), 0).tolist() == days(3, 3, 3).tolist(), "no label is in the next series"
    assert windows.reach(np.arange(3), 1).tolist() == days(22, 22, 22).tolist()


def test_past_a_symbols_end_other_symbols_days_or_business_days_count() -> None:
    a = ("A", days(1, 2, 3, 4, 5), flat_bars(1, 1, 1, 1, 1))
    halts = ("B", days(1, 2, 9, 16, 17), flat_bars(1, 1, 1, 1, 1))
    alone = make(Bars.from_series([a]), lookback=5)
    assert alone.reach(np.array([0]), 0).tolist() == days(5).tolist()
    assert alone.reach(np.array([0]), 1).tolist() == days(8).tolist(), "Friday the 5th, then Monday"
    beside = make(Bars.from_series([a, halts]), lookback=5)
    assert beside.reach(np.array([0, 1]), 2).tolist() == days(16, 19).tolist()


def test_reach_of_stored_windows_counts_the_symbols_own_dates() -> None:
    #                0  1  2  3  4  5  6: B comes first in the file, and A's 3rd of January twice
    windows = stored([1, 0, 0, 0, 0, 1, 1], days(2, 1, 3, 3, 5, 4, 12))
    rows = np.arange(7)
    assert windows.reach(rows[:3], 0).tolist() == days(12, 5, 12).tolist()
    assert windows.reach(rows[3:4], 0).tolist() == windows.reach(rows[2:3], 0).tolist()
    assert windows.reach(np.array([6]), 1).tolist() == days(17).tolist(), (
        "Friday the 12th, 3 business days on"
    )


def test_stored_windows_come_as_they_are_and_take_no_augmentation() -> None:
    class Other(Augment):
        def __call__(self, ohlcv: torch.Tensor) -> torch.Tensor:
            return ohlcv

    windows = stored([0, 0, 1], days(1, 2, 3))
    prices = windows.prices(CPU)
    found = prices.gather(torch.tensor([2, 0]), NoAugment())
    np.testing.assert_array_equal(found.numpy(), windows.ohlcv_norm[[2, 0]])
    with pytest.raises(ConfigError, match=r"augment needs raw bars.*data=windows.*augment=none"):
        prices.gather(torch.tensor([0]), Other())


def gapped() -> Bars:
    """A with a gap before its last two bars, B whole, C too short for a window of three bars."""
    return Bars.from_series(
        [
            ("A", days(1, 2, 3, 4), flat_bars(1, 2, 3, 4)),
            ("A", days(20, 21), flat_bars(5, 6)),
            ("B", days(1, 2, 3, 4, 5), flat_bars(1, 2, 3, 4, 5)),
            ("C", days(1), flat_bars(1)),
        ]
    )


def test_newest_is_the_last_bar_of_a_symbol_and_not_the_last_with_a_window() -> None:
    windows = make(gapped())
    rows, missing = windows.newest()
    assert [windows.symbols[windows.symbol[row]] for row in rows] == ["B"]
    assert windows.asof[rows] == days(5)
    assert missing == {
        "A": "2 bars since its last gap up to 2024-01-21, where data.lookback is 3",
        "C": "1 bars up to 2024-01-01, where data.lookback is 3",
    }
    assert stored([0, 0, 1, 1], days(3, 1, 2, 5)).newest()[0].tolist() == [0, 3]


def test_between_takes_both_ends() -> None:
    windows = stored([0, 0, 1, 1], days(3, 1, 2, 5))
    assert windows.between("2024-01-02", "2024-01-03").tolist() == [0, 2]
    assert windows.between(None, "2024-01-01").tolist() == [1]
    assert windows.between("2024-01-03", None).tolist() == [0, 3]
    assert windows.between("2025-01-01", None).tolist() == []


def test_take_keeps_what_belongs_to_each_window() -> None:
    windows = make(gapped())
    rows = np.array([4, 0])
    part = windows.take(rows)
    assert len(part) == 2 and part.digest() == windows.digest()
    whole = windows.prices(CPU).gather(torch.from_numpy(rows), NoAugment())
    assert torch.equal(part.prices(CPU).gather(torch.tensor([0, 1]), NoAugment()), whole)
    for name in ("asof", "symbol", "context", "y_ret"):
        np.testing.assert_array_equal(getattr(part, name), getattr(windows, name)[rows])
    of_stored = stored([0, 0, 1, 1], days(3, 1, 2, 5))
    np.testing.assert_array_equal(of_stored.take(rows[1:]).ohlcv_norm, of_stored.ohlcv_norm[:1])


def moves_of(bars: Bars) -> BarWindows:
    return plain_windows(bars, 20, (1, 3))


def test_a_past_move_ends_at_the_bar_of_the_forecast_and_a_next_return_begins_there() -> None:
    bars = walks(30, 2)
    windows = moves_of(bars)
    rows = np.arange(len(windows))
    close = bars.ohlcv[:, CLOSE]
    found = past_moves(windows, rows, 3)
    after = next_returns(windows, rows)
    for row in rows:
        end = windows.end[row]
        assert found[row] == pytest.approx(close[end] / close[end - 3] - 1)
        if end == windows.last[row]:
            assert np.isnan(after[row])
        else:
            assert after[row] == pytest.approx(close[end + 1] / close[end] - 1)
    assert np.isnan(after).sum() == 2


def test_a_past_move_stays_within_the_window_and_ignores_later_bars() -> None:
    short, long = moves_of(walks(30, 1)), moves_of(walks(45, 1))
    assert (past_moves(short, np.arange(5), 60) == past_moves(short, np.arange(5), 19)).all()
    assert (past_moves(short, np.arange(8), 5) == past_moves(long, np.arange(8), 5)).all()


def test_a_scaled_window_has_the_sign() -> None:
    windows = moves_of(walks(40, 1))
    stored_ones = as_stored(windows, np.zeros((len(windows), 0), np.float32))
    rows = np.arange(len(windows))
    assert (np.sign(past_moves(stored_ones, rows, 5)) == np.sign(past_moves(windows, rows, 5))).all()


def test_a_flat_past_is_exactly_0() -> None:
    bars = walks(30, 1)
    bars.ohlcv[:, CLOSE] = 10 * (1 + 1e-12 * np.arange(30))
    assert (past_moves(moves_of(bars), np.arange(4), 5) == 0).all()
