"""Warnings that need a symbol's other bars: everything is kept, the rule, first date and ratio are named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from bar_files import HEADER, dates, finding, numbers, read_cells, rules

from stockenh.data.findings import Finding
from stockenh.data.readers import ReadResult
from stockenh.data.readers.series_rules import spikes, split_ratio

N = 140


def warn(tmp_path: Path, values: np.ndarray, rule: str, days: list[str] | None = None) -> Finding:
    """Writes bars, checks that all are kept, and returns the warning."""
    result = kept(tmp_path, values, days)
    found = finding(result, rule)
    assert found.level == "warning" and found.fix
    assert len(result.bars) == len(values)
    return found


def kept(tmp_path: Path, values: np.ndarray, days: list[str] | None = None) -> ReadResult:
    days = days or dates(len(values))
    cells = [[day, *map(repr, bar)] for day, bar in zip(days, values.tolist(), strict=True)]
    return read_cells(tmp_path, cells)


@pytest.mark.parametrize(
    ("factor", "ratio"),
    [(2.0, "2:1"), (1.5, "3:2"), (10.0, "10:1"), (1 / 20, "1:20"), (1 / 8, "1:8"), (2.5, "5:2")],
)
def test_a_raw_split_is_named_with_ratio_and_date(tmp_path: Path, factor: float, ratio: str) -> None:
    values = numbers(N)
    values[:70, :4] = values[:70, :4] * factor
    values[70, :4] = values[69, :4] / factor * 1.004
    found = warn(tmp_path, values, "raw-split")
    assert found.rows == 1
    assert found.date == dates(N)[70]
    assert f"{ratio} on {dates(N)[70]}" in found.message
    assert "data.columns.adj_close" in found.fix


def test_a_split_is_found_by_its_open_when_the_day_moves(tmp_path: Path) -> None:
    values = numbers(N)
    values[:70, :4] *= 2
    values[70] = [0.5 * values[69, 3], 0.56 * values[69, 3], 0.49 * values[69, 3], 0.55 * values[69, 3], 9]
    assert "2:1" in warn(tmp_path, values, "raw-split").message


def test_split_ratios_within_three_per_cent() -> None:
    assert split_ratio(0.5 * 1.029) == (2, 1)
    assert split_ratio(0.5 * 1.04) is None
    assert split_ratio(20.3) == (1, 20)
    assert split_ratio(2 / 3) == (3, 2)


def test_a_wrong_split_factor_shows_in_the_adjusted_close(tmp_path: Path) -> None:
    values = numbers(N)
    adjusted = values[:, 3].copy()
    adjusted[:70] *= 4
    adjusted[70] = adjusted[69] / 4
    cells = [
        [day, *map(str, bar)] for day, bar in zip(dates(N), np.c_[values, adjusted].tolist(), strict=True)
    ]
    result = read_cells(tmp_path, cells, f"{HEADER},Adj Close")
    assert "4:1 on" in finding(result, "adjusted-split").message
    assert "raw-split" not in rules(result)


def test_a_large_overnight_move_that_is_no_split(tmp_path: Path) -> None:
    values = numbers(N)
    values[70:, :4] *= 1.43 * values[69, 3] / values[70, 0]
    found = warn(tmp_path, values, "overnight-jump")
    assert (found.rows, found.date) == (1, dates(N)[70])
    values[70:, :4] *= 1.38 / 1.43
    assert "overnight-jump" not in rules(kept(tmp_path, values))


def test_a_spike_that_reverses_is_one_warning_and_no_split(tmp_path: Path) -> None:
    values = numbers(N)
    values[70, :4] *= 2
    found = warn(tmp_path, values, "spike")
    assert (found.rows, found.date) == (1, dates(N)[70])
    assert rules(kept(tmp_path, values)) == ["spike"]


def test_spikes_by_hand() -> None:
    assert spikes(np.array([10, 13, 10.2, 10, 13, 13, 10.0])).tolist() == [0, 1, 0, 0, 0, 0, 0]
    assert spikes(np.array([10.0, 20.0])).tolist() == [0, 0]


def test_a_bar_copied_back_from_the_next_day(tmp_path: Path) -> None:
    values = numbers(N)
    values[70, :4] = values[71, :4]
    found = warn(tmp_path, values, "copied-bar")
    assert (found.rows, found.date) == (1, dates(N)[70])


def test_months_of_the_same_close(tmp_path: Path) -> None:
    values = numbers(300)
    values[100:120, :4] = [10.0, 10.0, 10.0, 10.0]
    values[:, 0] = values[:, 3]
    found = warn(tmp_path, values, "stale-close")
    assert (found.rows, found.date) == (20, dates(300)[100])
    assert "20 bars in a row" in found.message
    values[119, :4] = 10.01
    assert "stale-close" not in rules(kept(tmp_path, values))


def test_many_exact_zero_returns(tmp_path: Path) -> None:
    values = numbers(101)
    values[1:23:2, :] = values[:22:2, :]
    values[1:23:2, 0] += 0.01
    found = warn(tmp_path, values, "zero-returns")
    assert found.rows == 11
    assert found.message.startswith("11% of daily returns")
    assert "zero-returns" not in rules(kept(tmp_path, values[4:]))


def test_weekend_sessions_are_kept(tmp_path: Path) -> None:
    days = dates(N)
    saturday = str(np.datetime64(days[2]) + 1)
    assert np.datetime64(saturday).astype(object).weekday() == 5
    found = warn(tmp_path, numbers(N + 1), "weekend", sorted([*days, saturday]))
    assert (found.rows, found.date) == (1, saturday)
