"""Bars, windows over them, their labels and reach, and their normalised prices."""

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
from stockenh.data.windows import StoredWindows, index_windows, next_returns, past_moves

CPU = torch.device("cpu")
HAND = [[2, 4, 1, 3, 0], [3, 5, 2, 4, 9], [4, 4, 3, 3, 99]]


def window(rows):
    return torch.tensor(rows, dtype=torch.float32)[None]


def days(*numbers):
    """Days of January 2024, the 1st of which is a Monday."""
    return np.array([f"2024-01-{n:02d}" for n in numbers], "datetime64[s]")


def flat_bars(*close):
    return np.column_stack([np.repeat(np.array(close)[:, None], 4, 1), np.ones(len(close))])


def series(name, *numbers):
    """A series of one price on these days of January."""
    return name, days(*numbers), flat_bars(*[1] * len(numbers))


def walks_of(*series):
    """Random walks: "A4" is a series of A with 4 bars."""
    return Bars.from_series([(name[0], *smooth_series(int(name[1:]), int(name[1:]))) for name in series])


def make(bars, horizons=(1, 2), lookback=3):
    context = np.arange(2 * len(bars), dtype=np.float32).reshape(-1, 2)
    return index_windows(bars, context, ("a", "b"), horizons, lookback)


def stored(symbol, asof):
    n = len(symbol)
    return StoredWindows(
        symbols=("A", "B"),
        symbol=np.array(symbol, np.int32),
        asof=asof,
        context=np.zeros((n, 2), np.float32),
        context_names=("a", "b"),
        y_ret=np.zeros((n, 2), np.float32),
        horizons=(1, 2),
        lookback=3,
        ohlcv_norm=np.arange(n * 15, dtype=np.float32).reshape(n, 3, 5),
        embedding=np.zeros((n, 4), np.float32),
    )


def test_series_are_joined_and_found_again_and_digests_follow_the_content():
    a, b = smooth_series(1, 4), smooth_series(2, 3)
    bars = Bars.from_series([("A", *a), ("B", *b)])
    assert (bars.symbols, bars.offsets.tolist(), len(bars)) == (("A", "B"), [0, 4, 7], 7)
    np.testing.assert_array_equal(bars.ohlcv[bars.rows(1)], b[1])
    np.testing.assert_array_equal(bars.time[bars.rows(0)], a[0])
    assert bars.series_of_row.tolist() == [0, 0, 0, 0, 1, 1, 1]
    none = Bars.from_series([])
    assert (len(none), none.ohlcv.shape, none.offsets.tolist()) == (0, (0, 5), [0])
    assert none.series_of_row.tolist() == []
    bars, again = walks_of("A4", "B3"), walks_of("A4", "B3")
    assert again.digest() == bars.digest() == make(bars).digest()
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


def test_normalise_by_hand_and_beside_other_windows():
    # Prices run from 1 to 5, so 2 becomes -0.5; log(1 + volume) is 0, log 10 and twice log 10.
    expected = [[-0.5, 0.5, -1, 0, -1], [0, 1, -0.5, 0.5, 0], [0.5, 0.5, 0, 0, 1]]
    torch.testing.assert_close(normalise(window(HAND)), window(expected), rtol=0, atol=1e-6)
    small, large = window(HAND), window(HAND) * 1000
    together = normalise(torch.cat([small, large]))
    torch.testing.assert_close(together, torch.cat([normalise(small), normalise(large)]), rtol=0, atol=0)
    torch.testing.assert_close(together[0, :, :4], together[1, :, :4], rtol=0, atol=1e-6)


@pytest.mark.parametrize("flat_price", [True, False])
@pytest.mark.parametrize("flat_volume", [True, False])
def test_what_is_flat_becomes_0(flat_price, flat_volume):
    raw = window(HAND)
    if flat_price:
        raw[..., :4] = 7.3
    if flat_volume:
        raw[..., 4] = 1234
    found = normalise(raw)
    zero = [bool((part == 0).all()) for part in (found[..., :4], found[..., 4])]
    assert zero == [flat_price, flat_volume] and bool(torch.isfinite(found).all())


@settings(max_examples=200)
@given(
    st.lists(st.floats(2**-10, 2**33, width=32), min_size=6, max_size=6),
    st.lists(st.floats(0, 2**40, width=32), min_size=2, max_size=2),
)
def test_normalised_values_reach_the_ends_of_the_range_and_never_pass_them(prices, volumes):
    a, b, c, d, e, f = prices
    found = normalise(window([[a, b, c, d, volumes[0]], [d, e, f, a, volumes[1]]]))
    assert float(found.abs().max()) <= 1
    if len(set(prices)) > 1:
        assert (float(found[..., :4].min()), float(found[..., :4].max())) == (-1, 1)


def test_windows_and_labels_by_hand_and_never_from_another_series():
    bars = walks_of("A5", "B2", "C3")
    windows = make(bars)
    assert windows.end.tolist() == [2, 3, 4, 9]
    assert windows.symbols == ("A", "B", "C") and windows.symbol.tolist() == [0, 0, 0, 2]
    np.testing.assert_array_equal(windows.asof, bars.time[[2, 3, 4, 9]])
    np.testing.assert_array_equal(windows.context[:, 0], [4, 6, 8, 18])
    first, second = (days(1, 2, 3, 4), flat_bars(1, 2, 4, 8)), (days(21, 22, 23), flat_bars(9, 9, 18))
    windows = make(Bars.from_series([("A", *first), ("A", *second), ("B", *first)]))
    assert (windows.symbols, windows.end.tolist()) == (("A", "B"), [2, 3, 6, 9, 10])
    expected = np.full((5, 2), np.nan, np.float32)
    expected[[0, 3], 0] = 1  # the last bar of every series has a window without a label
    np.testing.assert_array_equal(windows.y_ret, expected)
    assert windows.labelled.tolist() == [True, False, False, True, False]
    bars = Bars.from_series([("A", days(1, 2, 3, 4, 5), flat_bars(10, 20, 25, 25 * (1 + 1e-10), 20))])
    windows = make(bars, horizons=(1, 3), lookback=2)
    expected = np.array([[0.25, 0.0], [0.0, np.nan], [-0.2, np.nan], [np.nan, np.nan]], np.float32)
    np.testing.assert_allclose(windows.y_ret, expected, rtol=1e-6, atol=0)
    assert windows.y_ret[1, 0] == 0, "a return below rounding is a tie"
    assert windows.labelled.tolist() == [True, True, True, False]


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.integers(2, 30))
def test_a_gathered_window_is_the_slice_of_the_bars(seed, lookback):
    bars = Bars.from_series([("A", *random_series(seed, 40)), ("B", *random_series(seed + 1, 55))])
    windows = make(bars, lookback=lookback)
    rows = np.random.default_rng(seed).integers(0, len(windows), 8)
    found = windows.prices(CPU).gather(torch.from_numpy(rows), NoAugment())
    for window_of, row in zip(found, rows, strict=True):
        end = windows.end[row]
        raw = torch.from_numpy(bars.ohlcv[end - lookback + 1 : end + 1].astype(np.float32))
        torch.testing.assert_close(window_of, normalise(raw[None])[0], rtol=0, atol=0)


def test_an_augmentation_sees_raw_bars_before_they_are_normalised():
    class HalveVolume(Augment):
        def __call__(self, ohlcv):
            return ohlcv * torch.tensor([1, 1, 1, 1, 0.5])

    bars = walks_of("A6")
    found = make(bars, lookback=6).prices(CPU).gather(torch.tensor([0]), HalveVolume())
    halved = torch.from_numpy((bars.ohlcv * [1, 1, 1, 1, 0.5]).astype(np.float32))
    torch.testing.assert_close(found, normalise(halved[None]))


def test_memory_grows_with_the_bars_and_not_with_the_lookback():
    bars = walks_of("A5000")
    windows = plain_windows(bars, 120, (3, 5, 10))
    arrays = [windows.symbol, windows.asof, windows.context, windows.y_ret, windows.end, windows.last]
    assert sum(array.nbytes for array in arrays) < 60 * len(bars) and windows.bars is bars
    tensors = [part for part in vars(windows.prices(CPU)).values() if isinstance(part, torch.Tensor)]
    assert sum(tensor.nbytes for tensor in tensors) < 40 * len(bars)


SECOND_DAYS = series("A", 1, 3, 5, 9, 11, 15)
STRETCHES = series("A", 1, 2, 3), series("A", 22, 23)
WEEK, HALTS = series("A", 1, 2, 3, 4, 5), series("B", 1, 2, 9, 16, 17)


@pytest.mark.parametrize(
    ("calendars", "lookback", "extra", "expected"),
    [
        # the last label's bar, and the embargo counts on from it
        ([SECOND_DAYS], 1, 0, [5, 9, 11, 15, 15, 15]),
        ([SECOND_DAYS], 1, 2, [11, 15]),
        # no label is in the symbol's next series, but the embargo goes on there
        (STRETCHES, 1, 0, [3, 3, 3]),
        (STRETCHES, 1, 1, [22, 22, 22]),
        # past a symbol's end business days count: Friday the 5th, then Monday; or other symbols' days
        ([WEEK], 5, 0, [5]),
        ([WEEK], 5, 1, [8]),
        ([WEEK, HALTS], 5, 2, [16, 19]),
    ],
)
def test_reach_is_the_last_label_bar_plus_the_embargo(calendars, lookback, extra, expected):
    windows = make(Bars.from_series(calendars), lookback=lookback)
    assert windows.reach(np.arange(len(expected)), extra).tolist() == days(*expected).tolist()


def test_reach_of_stored_windows_counts_the_symbols_own_dates():
    #                0  1  2  3  4  5  6: B comes first in the file, and A's 3rd of January twice
    windows = stored([1, 0, 0, 0, 0, 1, 1], days(2, 1, 3, 3, 5, 4, 12))
    assert windows.reach(np.arange(4), 0).tolist() == days(12, 5, 12, 12).tolist()
    # Friday the 12th, 3 business days on
    assert windows.reach(np.array([6]), 1).tolist() == days(17).tolist()


def test_stored_windows_come_as_they_are():
    windows = stored([0, 0, 1], days(1, 2, 3))
    found = windows.prices(CPU).gather(torch.tensor([2, 0]), NoAugment())
    np.testing.assert_array_equal(found.numpy(), windows.ohlcv_norm[[2, 0]])


def gapped():
    """A with a gap before its last two bars, B whole, C too short for a window of three bars."""
    calendars = [("A", 1, 2, 3, 4), ("A", 20, 21), ("B", 1, 2, 3, 4, 5), ("C", 1)]
    return Bars.from_series([(name, days(*own), flat_bars(*own)) for name, *own in calendars])


def test_newest_is_the_last_bar_of_a_symbol_and_between_takes_both_ends():
    windows = make(gapped())
    rows, missing = windows.newest()
    assert [windows.symbols[windows.symbol[row]] for row in rows] == ["B"]
    assert windows.asof[rows] == days(5)
    reasons = {"A": "2 bars since its last gap up to 2024-01-21", "C": "1 bars up to 2024-01-01"}
    assert missing == {name: f"{why}, where data.lookback is 3" for name, why in reasons.items()}
    assert stored([0, 0, 1, 1], days(3, 1, 2, 5)).newest()[0].tolist() == [0, 3]
    windows = stored([0, 0, 1, 1], days(3, 1, 2, 5))
    assert windows.between("2024-01-02", "2024-01-03").tolist() == [0, 2]
    assert windows.between(None, "2024-01-01").tolist() == [1]
    assert windows.between("2024-01-03", None).tolist() == [0, 3]
    assert windows.between("2025-01-01", None).tolist() == []


def test_take_keeps_what_belongs_to_each_window():
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


def moves_of(bars):
    return plain_windows(bars, 20, (1, 3))


def test_a_past_move_ends_at_the_bar_of_the_forecast_and_a_next_return_begins_there():
    bars = walks(30, 2)
    windows = moves_of(bars)
    rows, end, close = np.arange(len(windows)), windows.end, bars.ohlcv[:, CLOSE]
    np.testing.assert_allclose(past_moves(windows, rows, 3), close[end] / close[end - 3] - 1)
    after, newest = next_returns(windows, rows, "close"), end == windows.last
    assert newest.sum() == 2 and np.isnan(after[newest]).all()
    np.testing.assert_allclose(after[~newest], (np.roll(close, -1) / close - 1)[end[~newest]])
    short, long = moves_of(walks(30, 1)), moves_of(walks(45, 1))
    assert (past_moves(short, np.arange(5), 60) == past_moves(short, np.arange(5), 19)).all()
    assert (past_moves(short, np.arange(8), 5) == past_moves(long, np.arange(8), 5)).all()


def gapping(name, opens, closes, *numbers):
    """A series of these opens and closes on these days of January."""
    prices = np.array([opens, np.full(len(opens), 9e9), np.ones(len(opens)), closes, np.ones(len(opens))])
    return name, days(*numbers), prices.T.astype(np.float64)


@pytest.mark.parametrize(
    ("execution", "earned"),
    [
        # from open to open: the gaps from 10 to 20 and from 30 to 15 come before the trade
        ("open", [22 / 20 - 1, 15 / 22 - 1, np.nan, np.nan, 80 / 50 - 1, np.nan, np.nan, np.nan]),
        ("close", [21 / 10 - 1, 30 / 21 - 1, 16 / 30 - 1, np.nan, 70 / 40 - 1, 90 / 70 - 1, np.nan, np.nan]),
    ],
)
def test_a_decision_is_traded_at_its_own_series_next_prices(execution, earned):
    """A has a day without a bar, which its next bar follows, then a gap that ends its series."""
    bars = Bars.from_series(
        [
            gapping("A", [10, 20, 22, 15], [10, 21, 30, 16], 1, 2, 3, 5),
            gapping("A", [40, 50, 80], [40, 70, 90], 20, 21, 22),
            gapping("B", [7], [7], 1),
        ]
    )
    windows = make(bars, horizons=(1,), lookback=1)
    np.testing.assert_allclose(next_returns(windows, np.arange(8), execution), earned)
    some = np.array([4, 0])
    for found in (
        next_returns(windows, some, execution),
        next_returns(windows.take(some), np.arange(2), execution),
    ):
        np.testing.assert_allclose(found, np.array(earned)[some])


def test_at_the_next_open_a_decision_earns_nothing_of_the_prices_that_it_knows():
    bars, t = walks_of("A30", "B30"), 12
    windows = make(bars)
    row = np.flatnonzero(windows.end == t)
    at_open, at_close = (next_returns(windows, row, execution) for execution in ("open", "close"))
    bars.ohlcv[: t + 1] *= 3
    assert next_returns(windows, row, "open") == at_open
    assert next_returns(windows, row, "close") != at_close


def test_a_flat_past_is_exactly_0_and_a_scaled_window_has_the_sign():
    bars = walks(40, 1)
    windows, rows = moves_of(bars), np.arange(21)
    stored_ones = as_stored(windows, np.zeros((len(windows), 0), np.float32))
    assert len(windows) == len(rows)
    assert (np.sign(past_moves(stored_ones, rows, 5)) == np.sign(past_moves(windows, rows, 5))).all()
    bars.ohlcv[:, CLOSE] = 10 * (1 + 1e-12 * np.arange(40))
    assert (past_moves(moves_of(bars), np.arange(4), 5) == 0).all()
