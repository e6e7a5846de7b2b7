"""How many bars a split takes, told before a run finds out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stockenh.commands.data_check import min_bars, too_few_dates
from stockenh.data.bars import Bars
from stockenh.data.splits import DateSplit, Split, TrainOnly, WalkForward

HORIZONS = (3, 5, 10)


def symbols(*lengths: int) -> Bars:
    days = np.busday_offset("2015-01-05", np.arange(max(lengths))).astype("datetime64[s]")
    return Bars.from_series([(f"S{i}", days[-n:], np.ones((n, 5))) for i, n in enumerate(lengths)])


def test_the_fewest_bars_of_a_split_without_parts_are_a_window_and_its_label() -> None:
    assert min_bars(TrainOnly(), 120, HORIZONS) == 123


@pytest.mark.parametrize("split", [DateSplit(), DateSplit(embargo=20), WalkForward()])
def test_one_bar_fewer_is_too_few(split: Split) -> None:
    n = min_bars(split, 20, HORIZONS)
    assert n is not None and n > 23
    assert too_few_dates(split, symbols(n), 20, HORIZONS) == ()
    (found,) = too_few_dates(split, symbols(n - 1, n - 5), 20, HORIZONS)
    assert (found.level, found.rule) == ("warning", "too-few-dates")
    assert f"needs a symbol of {n} bars, the longest has {n - 1}" in found.message


def test_a_short_symbol_beside_a_long_one_is_no_matter() -> None:
    assert too_few_dates(DateSplit(), symbols(900, 130), 120, HORIZONS) == ()


def test_a_split_that_nothing_satisfies_says_so() -> None:
    (found,) = too_few_dates(DateSplit(embargo=5_000), symbols(200), 120, HORIZONS)
    assert "more than 5000 bars" in found.message


def test_data_check_warns_and_the_bars_it_names_train(stockenh, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    from bars import write_bars

    write_bars(tmp_path / "A.csv", seed=0, bars=150)
    answer = stockenh("data", "check", str(tmp_path))
    assert answer.code == 0
    needed = min_bars(DateSplit(), 120, HORIZONS)
    assert "too-few-dates" in answer.out and f"symbol of {needed}" in " ".join(answer.out.split())
    write_bars(tmp_path / "A.csv", seed=0, bars=needed or 0)
    assert "too-few-dates" not in stockenh("data", "check", str(tmp_path)).out
    write_bars(tmp_path / "A.csv", seed=0, bars=150)
    assert "too-few-dates" not in stockenh("data", "check", str(tmp_path), "split=all").out
