"""Targets: hand numbers, days of one part only, and that inputs never depend on them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from random_bars import as_stored, plain_windows, smooth_series
from scipy.special import ndtri

from stockenh.config.build import split_rows
from stockenh.data.bars import Bars
from stockenh.data.batches import DeviceWindows
from stockenh.data.fitted import Fitted
from stockenh.data.placement import StreamedWindows
from stockenh.data.prices import NoAugment
from stockenh.data.splits import DateSplit
from stockenh.data.targets import Absolute, MarketRelative, Rank, VolatilityScaled
from stockenh.errors import ConfigError

NAN = np.nan
CPU = torch.device("cpu")
RELATIVE = (MarketRelative, Rank)


def panel(symbols: int = 6, bars: int = 60, horizons: tuple[int, ...] = (1, 4)):
    series = [(f"S{i}", *smooth_series(i, bars)) for i in range(symbols)]
    return plain_windows(Bars.from_series(series), lookback=12, horizons=horizons)


def day_of(returns, times=None):
    """Windows of one calendar day, a symbol each, with these returns."""
    whole = panel(len(returns), 14, horizons=(1,))
    last = whole.take(np.flatnonzero(whole.asof == whole.asof.min()))
    made = replace(last, y_ret=np.array(returns, np.float32)[:, None])
    return made if times is None else replace(made, asof=made.asof + np.array(times, "timedelta64[h]"))


def made(target, windows, parts=None):
    windows, _ = target.apply(windows, parts or {"train": np.arange(len(windows))})
    return windows.y_ret[:, 0], windows.direction[:, 0]


def test_absolute_changes_nothing():
    windows = panel()
    parts = {"train": np.arange(5)}
    same, kept = Absolute().apply(windows, parts)
    assert same is windows and kept == parts
    assert same.direction is same.y_ret and same.returns is same.y_ret


def test_market_relative_by_hand():
    y_ret, direction = made(MarketRelative(), day_of([0.01, 0.02, 0.06, -0.04, -0.05]))
    assert y_ret == pytest.approx([0.01, 0.02, 0.06, -0.04, -0.05], abs=1e-8)  # a mean of 0
    # the median is 0.01, above the mean: what lies at it has no direction
    assert np.sign(direction).tolist() == [0, 1, 1, -1, -1]


def test_rank_by_hand():
    y_ret, direction = made(Rank(), day_of([0.03, -0.01, 0.05, -0.01, 0.0]))
    # ranks 4, 1.5, 5, 1.5, 3 of 5
    assert y_ret == pytest.approx(ndtri([0.7, 0.2, 0.9, 0.2, 0.5]), abs=1e-6)
    assert np.sign(direction).tolist() == [1, -1, 1, -1, 0]


@pytest.mark.parametrize("target", [kind(min_symbols=4) for kind in RELATIVE], ids=lambda t: t.name)
def test_at_the_median_there_is_no_direction_though_the_rank_lies_below_the_middle(target):
    _, direction = made(target, day_of([0.01, 0.01, 0.01, 0.03]))
    assert np.sign(direction).tolist() == [0, 0, 0, 1]
    _, even = made(target, day_of([0.01, 0.02, 0.03, 0.04]))
    assert np.sign(even).tolist() == [-1, -1, 1, 1]


@pytest.mark.parametrize("kind", RELATIVE)
def test_a_day_with_too_few_symbols_has_no_label(kind):
    for returns, labelled in (([0.01, NAN, 0.02, 0.0], 0), ([0.01, 0.03, 0.02, NAN, 0.0], 4)):
        windows = day_of(returns)
        if not labelled:
            with pytest.raises(ConfigError, match=f"target={kind.name}.*target.min_symbols=4"):
                kind(min_symbols=4).apply(windows, {"train": np.arange(4)})
            continue
        y_ret, direction = made(kind(min_symbols=4), windows)
        known = np.isfinite(returns)
        np.testing.assert_array_equal(np.isfinite(y_ret), known)
        np.testing.assert_array_equal(np.isfinite(direction), known)


@pytest.mark.parametrize("kind", RELATIVE)
def test_a_day_is_a_calendar_date_and_a_symbol_counts_once(kind):
    returns = [0.01, 0.02, 0.03]
    together, _ = made(kind(min_symbols=3), day_of(returns))
    at_other_hours, _ = made(kind(min_symbols=3), day_of(returns, times=[0, 9, 23]))
    np.testing.assert_array_equal(together, at_other_hours)
    twice = day_of(returns)
    twice = replace(twice, symbol=np.array([0, 1, 1], np.int32))
    with pytest.raises(ConfigError, match=r"no day of the train part.*min_symbols=3.*have 2 symbols"):
        kind(min_symbols=3).apply(twice, {"train": np.arange(3)})


def test_volatility_scaled_by_hand():
    windows = panel(1, 30, horizons=(1, 4))
    close = windows.bars.ohlcv[:, 3]
    moves = np.diff(close) / close[:-1]
    scaled, kept = VolatilityScaled(bars=5).apply(windows, {"train": np.arange(len(windows))})
    for row in (0, 7):
        end = windows.end[row]
        volatility = np.std(moves[end - 5 : end], ddof=1)
        expected = windows.y_ret[row] / (volatility * np.sqrt([1, 4]))
        assert scaled.y_ret[row] == pytest.approx(expected, rel=1e-5)
    np.testing.assert_array_equal(np.sign(scaled.direction), np.sign(windows.y_ret))
    assert len(kept["train"]) == np.isfinite(windows.y_ret).any(1).sum()


def test_a_flat_series_has_no_label_and_no_infinite_one():
    windows = panel(2, 30)
    flat = windows.bars.ohlcv.copy()
    flat[:30, :4] = 50.0
    windows = replace(windows, bars=replace(windows.bars, ohlcv=flat))
    scaled, kept = VolatilityScaled(bars=5).apply(windows, {"train": np.arange(len(windows))})
    assert np.isnan(scaled.y_ret[windows.symbol == 0]).all() and not np.isinf(scaled.y_ret).any()
    assert set(windows.symbol[kept["train"]]) == {1}


@pytest.mark.parametrize("kind", RELATIVE)
def test_labels_of_a_part_do_not_depend_on_other_parts_or_days(kind):
    windows = panel(7, 90)
    rows = split_rows(DateSplit(0.3, 0.3), windows)
    before, kept = kind().apply(windows, rows)
    for part, own in kept.items():
        others = np.setdiff1d(np.arange(len(windows)), rows[part])
        changed = windows.y_ret.copy()
        changed[others] = np.random.default_rng(0).normal(0, 1, changed[others].shape)
        after, _ = kind().apply(replace(windows, y_ret=changed), rows)
        np.testing.assert_array_equal(after.y_ret[own], before.y_ret[own])
        np.testing.assert_array_equal(after.direction[own], before.direction[own])
        day = windows.asof[own[0]]
        today, rest = own[windows.asof[own] == day], own[windows.asof[own] != day]
        changed = windows.y_ret.copy()
        changed[today] = np.random.default_rng(1).normal(0, 1, changed[today].shape)
        after, _ = kind().apply(replace(windows, y_ret=changed), rows)
        np.testing.assert_array_equal(after.y_ret[rest], before.y_ret[rest])
        assert not np.array_equal(after.y_ret[today], before.y_ret[today], equal_nan=True)
    outside = np.setdiff1d(np.arange(len(windows)), np.concatenate(list(rows.values())))
    assert np.isnan(before.y_ret[outside]).all()  # purged windows have no part in any day


@pytest.mark.parametrize("kind", RELATIVE)
def test_a_purged_symbol_of_the_same_day_does_not_count(kind):
    """One symbol's label reaches into validation where the others' end before: its own bars have gaps."""
    windows = panel(7, 90)
    rows = split_rows(DateSplit(0.3, 0.3), windows)
    last = windows.asof[rows["train"]].max()
    today = rows["train"][windows.asof[rows["train"]] == last]
    without = {**rows, "train": np.setdiff1d(rows["train"], today[:1])}
    changed = windows.y_ret.copy()
    changed[today[0]] = 9.0
    before, _ = kind().apply(windows, without)
    after, _ = kind().apply(replace(windows, y_ret=changed), without)
    np.testing.assert_array_equal(after.y_ret, before.y_ret)
    assert np.isnan(after.y_ret[today[0]]).all()


@pytest.mark.parametrize("target", [MarketRelative(), Rank(), VolatilityScaled(bars=5)], ids=lambda t: t.name)
def test_inputs_and_split_are_the_same_for_every_target(target):
    windows = panel()
    rows = split_rows(DateSplit(0.3, 0.3), windows)
    other, _ = target.apply(windows, rows)
    assert other.digest() == windows.digest() and other.best_prob is None
    again = split_rows(DateSplit(0.3, 0.3), other)
    assert all(np.array_equal(again[part], rows[part]) for part in rows)
    np.testing.assert_array_equal(other.returns, windows.y_ret)
    twice, _ = target.apply(other, rows)  # made of the simple returns, not of a target
    np.testing.assert_array_equal(twice.y_ret, other.y_ret)
    embedding = np.zeros((len(windows), 0), np.float32)
    index = torch.from_numpy(rows["val"][:9])
    inputs = []
    for each in (windows, other):
        fitted = Fitted.fit(each, rows["train"])
        inputs.append(DeviceWindows(each, embedding, fitted, CPU).gather(index, NoAugment()).inputs)
    assert all(torch.equal(a, b) for a, b in zip(*inputs, strict=True))


@pytest.mark.parametrize("kind", [DeviceWindows, StreamedWindows])
def test_a_batch_has_the_target_and_its_direction(kind):
    windows = panel()
    rows = split_rows(DateSplit(0.3, 0.3), windows)
    relative, kept = MarketRelative().apply(windows, rows)
    fitted = Fitted.fit(relative, kept["train"])
    ready = kind(relative, np.zeros((len(windows), 0), np.float32), fitted, CPU)
    own = kept["train"][:40]
    micro = ready.gather(torch.from_numpy(own), NoAugment())
    expected = relative.y_ret[own] / np.array(fitted.return_std, np.float32)
    np.testing.assert_allclose(micro.y_ret, expected, rtol=1e-6)
    np.testing.assert_array_equal(micro.y_up, 0.5 + 0.5 * np.sign(relative.direction[own]))
    np.testing.assert_array_equal(micro.moved, relative.direction[own] != 0)
    assert (np.sign(relative.y_ret[own]) != np.sign(relative.direction[own])).any()  # mean and median differ
    up = relative.direction[kept["train"]]
    assert fitted.up_share == pytest.approx((up > 0).sum(0) / (up != 0).sum(0))


def test_ready_windows_keep_their_hash_and_have_no_volatility():
    windows = panel(3, 30)
    ready = as_stored(windows, np.zeros((len(windows), 2), np.float32))
    parts = {"train": np.arange(len(windows))}
    relative, _ = Rank(min_symbols=3).apply(ready, parts)
    of_bars, _ = Rank(min_symbols=3).apply(windows, parts)
    assert relative.digest() == ready.digest()
    np.testing.assert_array_equal(relative.y_ret, of_bars.y_ret)
    with pytest.raises(TypeError):
        VolatilityScaled(bars=5).apply(ready, parts)


@given(st.lists(st.integers(-3, 3), min_size=5, max_size=12))
def test_ranks_are_symmetric_and_keep_the_order(numbers):
    returns = np.array(numbers) / 100
    (score, up), (turned, down) = (made(Rank(), day_of(x)) for x in (returns, -returns))
    np.testing.assert_allclose(score, -turned, atol=1e-6)
    np.testing.assert_array_equal(np.sign(up), -np.sign(down))
    relative, _ = made(MarketRelative(), day_of(returns))
    ranked = np.argsort(np.argsort(score, kind="stable"), kind="stable")
    assert np.array_equal(ranked, np.argsort(np.argsort(relative, kind="stable"), kind="stable"))
    assert np.isfinite(score).all()
