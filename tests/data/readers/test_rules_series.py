"""Warnings that need a symbol's other bars: everything is kept, the rule, first date and ratio are named."""

import numpy as np
import pytest
from bar_files import HEADER, cells_of, dates, finding, numbers, read_cells, rules

from stockenh.data.readers.series_rules import spikes, split_ratio

DAYS = dates(140)


def warned(folder, values, rule, *words, days=(), **fields):
    """Checks that reading keeps all bars and warns; returns the names of all rules that fired."""
    result = read_cells(folder, cells_of(values, days))
    assert finding(result, rule, *words, level="warning", **fields).fix
    assert len(result.bars) == len(values)
    return rules(result)


def rules_of(folder, values):
    return rules(read_cells(folder, cells_of(values)))


@pytest.mark.parametrize(
    ("factor", "ratio"),
    [(2.0, "2:1"), (1.5, "3:2"), (10.0, "10:1"), (1 / 20, "1:20"), (1 / 8, "1:8"), (2.5, "5:2")],
)
def test_a_raw_split_is_named_with_ratio_and_date(tmp_path, factor, ratio):
    values = numbers(140)
    values[:70, :4] *= factor
    values[70, :4] = values[69, :4] / factor * 1.004
    words = f"{ratio} on {DAYS[70]}", "data.columns.adj_close"
    warned(tmp_path, values, "raw-split", *words, rows=1, date=DAYS[70])


def test_a_split_is_found_by_the_open_or_in_the_adjusted_close(tmp_path):
    values = numbers(140)
    values[:70, :4] *= 2
    values[70] = [0.5 * values[69, 3], 0.56 * values[69, 3], 0.49 * values[69, 3], 0.55 * values[69, 3], 9]
    warned(tmp_path, values, "raw-split", "2:1")
    found = [split_ratio(move) for move in (0.5 * 1.029, 0.5 * 1.04, 20.3, 2 / 3)]
    assert found == [(2, 1), None, (1, 20), (3, 2)]
    values = numbers(140)
    adjusted = values[:, 3].copy()
    adjusted[:70] *= 4
    adjusted[70] = adjusted[69] / 4
    result = read_cells(tmp_path, cells_of(np.c_[values, adjusted]), f"{HEADER},Adj Close")
    assert finding(result, "adjusted-split", "4:1 on") and "raw-split" not in rules(result)


def test_a_large_overnight_move_that_is_no_split(tmp_path):
    values = numbers(140)
    values[70:, :4] *= 1.43 * values[69, 3] / values[70, 0]
    warned(tmp_path, values, "overnight-jump", rows=1, date=DAYS[70])
    values[70:, :4] *= 1.38 / 1.43
    assert "overnight-jump" not in rules_of(tmp_path, values)


def test_a_spike_that_reverses_is_one_warning_and_no_split(tmp_path):
    values = numbers(140)
    values[70, :4] *= 2
    assert warned(tmp_path, values, "spike", rows=1, date=DAYS[70]) == ["spike"]
    assert spikes(np.array([10, 13, 10.2, 10, 13, 13, 10.0])).tolist() == [0, 1, 0, 0, 0, 0, 0]
    assert spikes(np.array([10.0, 20.0])).tolist() == [0, 0]


def test_a_bar_copied_back_from_the_next_day_and_a_weekend_session(tmp_path):
    values = numbers(140)
    values[70, :4] = values[71, :4]
    warned(tmp_path, values, "copied-bar", rows=1, date=DAYS[70])
    saturday = str(np.datetime64(DAYS[2]) + 1)
    assert np.datetime64(saturday).astype(object).weekday() == 5
    days = sorted([*DAYS, saturday])
    warned(tmp_path, numbers(141), "weekend", days=days, rows=1, date=saturday)


def test_months_of_the_same_close_and_many_exact_zero_returns(tmp_path):
    values = numbers(300)
    values[100:120, :4] = 10.0
    values[:, 0] = values[:, 3]
    warned(tmp_path, values, "stale-close", "20 bars", rows=20, date=dates(300)[100])
    values[119, :4] = 10.01
    assert "stale-close" not in rules_of(tmp_path, values)
    values = numbers(101)
    values[1:23:2, :] = values[:22:2, :]
    values[1:23:2, 0] += 0.01
    warned(tmp_path, values, "zero-returns", "11% of daily returns", rows=11)
    assert "zero-returns" not in rules_of(tmp_path, values[4:])
