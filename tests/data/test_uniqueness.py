"""Average uniqueness of overlapping labels, by hand and against a slow count."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from random_bars import as_stored, plain_windows, smooth_series, two_symbols

from stockenh.config.build import labelled_parts
from stockenh.config.compose import compose
from stockenh.config.schema import parse, plain
from stockenh.data.bars import Bars
from stockenh.data.batches import Counts, DeviceWindows
from stockenh.data.fitted import Fitted
from stockenh.data.placement import StreamedWindows
from stockenh.data.prices import NoAugment
from stockenh.data.uniqueness import uniqueness
from stockenh.training.losses.huber_bce import HuberBCE
from stockenh.training.step import Objective

CPU = torch.device("cpu")


def one_symbol(bars=40, horizons=(2, 5)):
    return plain_windows(Bars.from_series([("A", *smooth_series(1, bars))]), 10, horizons)


def slow(windows, train, column):
    """Of each label the mean over the bars that it spans of one over the labels there."""
    horizon = windows.horizons[column]
    spans = {
        row: {(windows.symbol[row], windows.end[row] + k) for k in range(1, horizon + 1)}
        for row in train
        if np.isfinite(windows.y_ret[row, column])
    }
    unique = {
        row: np.mean([1 / sum(bar in other for other in spans.values()) for bar in own])
        for row, own in spans.items()
    }
    mean = np.mean([*unique.values()] or [1.0])
    return {row: value / mean for row, value in unique.items()}


def test_by_hand():
    windows = one_symbol(horizons=(2,))
    found = uniqueness(windows, np.array([0, 1, 2, 5]))[:, 0]
    # spans of two bars: the first three overlap by one bar each, the last is alone
    unique = np.array([0.75, 0.5, 0.75, 1.0])
    assert found[[0, 1, 2, 5]] == pytest.approx(unique / unique.mean())
    assert (found[[3, 4, *range(6, 10)]] == 1).all()


def test_labels_that_do_not_overlap_weigh_1():
    windows = one_symbol(horizons=(2,))
    assert (uniqueness(windows, np.arange(0, 20, 2)) == 1).all()


@given(st.sets(st.integers(0, 40), min_size=1), st.integers(0, 5))
def test_it_is_what_counting_gives(chosen, seed):
    windows = two_symbols(bars=40, horizons=(1, 3))
    y_ret = windows.y_ret.copy()
    y_ret[np.random.default_rng(seed).random(y_ret.shape) < 0.2] = np.nan
    windows = replace(windows, y_ret=y_ret)
    train = np.array(sorted(chosen))
    found = uniqueness(windows, train)
    for column in (0, 1):
        expected = slow(windows, train, column)
        for row, value in expected.items():
            assert found[row, column] == pytest.approx(value, rel=1e-5)
        if expected:
            assert found[list(expected), column].mean() == pytest.approx(1, rel=1e-5)


def test_symbols_do_not_overlap_and_ready_windows_count_their_dates():
    windows = two_symbols(bars=40)
    ready = as_stored(windows, np.zeros((len(windows), 2), np.float32))
    labelled = np.flatnonzero(np.isfinite(windows.y_ret).all(1))
    np.testing.assert_allclose(uniqueness(ready, labelled), uniqueness(windows, labelled), rtol=1e-6)
    alone = labelled[windows.symbol[labelled] == 0]
    of_both, of_one = uniqueness(windows, labelled)[alone], uniqueness(windows, alone)[alone]
    np.testing.assert_allclose(of_both / of_both[0], of_one / of_one[0], rtol=1e-5)


@pytest.mark.parametrize("kind", [DeviceWindows, StreamedWindows])
def test_weights_enter_the_sums_and_the_counts(kind):
    windows = one_symbol(horizons=(2,))
    rows = np.array([0, 1, 2, 5])
    weighted = replace(windows, weight=uniqueness(windows, rows))
    fitted, empty = Fitted.fit(windows, rows), np.zeros((len(windows), 0), np.float32)
    micro = kind(weighted, empty, fitted, CPU).gather(torch.from_numpy(rows), NoAugment())
    weight = weighted.weight[rows]
    np.testing.assert_allclose(micro.labelled, weight)
    count = Counts.of([micro])
    assert float(count.labels) == pytest.approx(4) and float(count.moves) == pytest.approx(4)
    out = {"ret": torch.zeros(4, 1), "up_logits": torch.zeros(4, 1)}
    y = micro.y_ret.numpy()
    huber = np.where(np.abs(y) < 1, y**2 / 2, np.abs(y) - 0.5)
    expected = 0.6 * (huber * weight).sum() / 4 + 0.4 * np.log(2)
    assert float(Objective(HuberBCE())(out, micro, count)) == pytest.approx(expected, rel=1e-5)


def test_a_part_of_the_windows_keeps_its_weights():
    windows = one_symbol()
    weighted = replace(windows, weight=uniqueness(windows, np.arange(8)))
    np.testing.assert_array_equal(weighted.take(np.array([3, 1])).weight, weighted.weight[[3, 1]])


def test_off_there_are_no_weights_and_stride_thins_train_alone():
    def parts(*overrides):
        return labelled_parts(parse(plain(compose(list(overrides)))), windows)

    windows = two_symbols(bars=90)
    whole, rows = parts()
    assert whole is windows and whole.weight is None
    thinned, kept = parts("data.stride=3", "train.uniqueness=true")
    assert np.array_equal(kept["val"], rows["val"]) and np.array_equal(kept["test"], rows["test"])
    days = np.unique(windows.asof[rows["train"]])
    assert np.array_equal(np.unique(windows.asof[kept["train"]]), days[::3])
    expected = uniqueness(windows, kept["train"])
    np.testing.assert_array_equal(thinned.weight, expected)
    assert (thinned.weight[np.concatenate([rows["val"], rows["test"]])] == 1).all()
