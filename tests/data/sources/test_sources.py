from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import bar_files
import numpy as np
import pytest

from stockenh.config.schema import settings_of
from stockenh.data import features
from stockenh.data import readers as read
from stockenh.data.cache import DiskCache
from stockenh.data.sources import DataSettings, Loaded
from stockenh.data.sources.files import FilesData, SampleData
from stockenh.data.sources.synthetic import SyntheticData, best_probabilities, generate
from stockenh.data.sources.windows_file import WindowsData
from stockenh.data.windows import BarWindows
from stockenh.errors import ConfigError, DataError


class Counter:
    """Replaces a function of a module by one that counts its calls."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str) -> None:
        self.function, self.calls = getattr(module, name), 0
        monkeypatch.setattr(module, name, self)

    def __call__(self, *args: object) -> object:
        self.calls += 1
        return self.function(*args)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two symbols of 60 bars; one bar of B can't be used."""
    (tmp_path / "bars").mkdir()
    bad = bar_files.rows(60, seed=2)
    bad[10][2] = "n/k"
    bar_files.write(tmp_path / "bars" / "A.csv", bar_files.rows(60, seed=1))
    bar_files.write(tmp_path / "bars" / "B.csv", bad)
    return tmp_path / "bars"


@pytest.fixture
def store(tmp_path: Path) -> DiskCache:
    return DiskCache(tmp_path / "cache")


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter:
    return Counter(monkeypatch, read, "read_bars")


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> Counter:
    return Counter(monkeypatch, features, "context_features")


def files(folder: Path, **settings: object) -> FilesData:
    return FilesData(**{"path": str(folder), "lookback": 20, **settings})  # type: ignore[arg-type]


def bars_of(loaded: Loaded) -> BarWindows:
    assert isinstance(loaded.windows, BarWindows)
    return loaded.windows


def test_files_become_windows_with_what_was_found(folder: Path, store: DiskCache) -> None:
    loaded = files(folder).load(store)
    windows = bars_of(loaded)
    assert windows.symbols == ("A", "B")
    assert np.bincount(windows.symbol).tolist() == [41, 40]
    assert windows.bars.ohlcv[:60].tolist() == bar_files.numbers(60, seed=1).tolist()
    assert [(f.rule, f.file, f.rows) for f in loaded.findings] == [("number-unreadable", "B.csv", 1)]
    assert windows.best_prob is None and windows.take(np.array([1])).best_prob is None


def test_the_second_time_nothing_is_read_or_computed_and_all_is_the_same(
    folder: Path, store: DiskCache, reads: Counter, computed: Counter
) -> None:
    first, second = files(folder).load(store), files(folder).load(store)
    assert (reads.calls, computed.calls) == (1, 1)
    assert first.findings == second.findings
    assert first.windows.digest() == second.windows.digest()
    for name in ("symbol", "asof", "context", "y_ret", "end", "last"):
        np.testing.assert_array_equal(getattr(first.windows, name), getattr(second.windows, name))
    assert second.windows.symbols == ("A", "B")


def one_price(folder: Path) -> None:
    rows = bar_files.rows(60, seed=1)
    rows[59][4] = rows[59][3]
    bar_files.write(folder / "A.csv", rows)


@pytest.mark.parametrize(
    "change",
    [one_price, lambda folder: (folder / "A.csv").rename(folder / "C.csv"), lambda f: (f / "B.csv").unlink()],
)
def test_changed_files_are_read_again(
    folder: Path, store: DiskCache, reads: Counter, computed: Counter, change: Callable[[Path], object]
) -> None:
    before = files(folder).load(store).windows.digest()
    change(folder)
    assert files(folder).load(store).windows.digest() != before
    assert (reads.calls, computed.calls) == (2, 2)


def test_every_setting_of_reading_has_its_own_entry(folder: Path, store: DiskCache, reads: Counter) -> None:
    variants: list[dict[str, object]] = [
        {}, {"adjust": False}, {"max_gap_days": 9}, {"lookback": 22}, {"columns": {"open": "Open"}},
        {"horizons": [4, 8]},
    ]  # fmt: skip
    for variant in variants:
        files(folder, **variant).load(store)
    assert reads.calls == len(variants)


def test_other_timeframes_and_later_horizons_need_no_new_reading(
    folder: Path, store: DiskCache, reads: Counter, computed: Counter
) -> None:
    files(folder, horizons=[3, 5]).load(store)
    windows = files(folder, horizons=[3, 7, 9]).load(store).windows
    assert windows.y_ret.shape[1] == 3
    assert (reads.calls, computed.calls) == (1, 1)
    windows = files(folder, timeframes=["1d"]).load(store).windows
    assert windows.context_names[:2] == ("align_1d", "bull_ob_count")
    assert (reads.calls, computed.calls) == (1, 2)


def test_without_usable_bars_the_first_reason_is_shown(folder: Path, store: DiskCache) -> None:
    with pytest.raises(DataError, match=r"no usable bars\. A\.csv.*60"):
        files(folder, lookback=58).load(store)
    for file in folder.iterdir():
        file.write_text("Error: limit reached\n")
    for _ in range(2):
        with pytest.raises(DataError, match=r"bars: no usable bars\. A\.csv: .*stockenh data check .*bars$"):
            files(folder).load(store)


@pytest.mark.parametrize("path", ["nowhere", "empty"])
def test_a_path_without_files_names_the_key(tmp_path: Path, store: DiskCache, path: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"data\.path"):
        files(tmp_path / path).load(store)


def test_the_sample_needs_no_file_and_keeps_its_features(store: DiskCache, computed: Counter) -> None:
    first, second = SampleData().load(store), SampleData().load(store)
    assert computed.calls == 1
    assert first.findings == ()
    assert first.windows.symbols == ("AAPL", "GOOG", "IBM", "MSFT")
    assert len(first.windows) == len(bars_of(first).bars) - 4 * 119
    np.testing.assert_array_equal(first.windows.context, second.windows.context)


def test_a_generated_market_brings_its_best_probabilities(store: DiskCache, computed: Counter) -> None:
    settings = SyntheticData(symbols=2, bars=150, horizons=[2, 7])
    first, second = settings.load(store).windows, settings.load(store).windows
    assert computed.calls == 1
    assert first.symbols == ("SYN001", "SYN002") and len(first) == 2 * 31
    assert first.best_prob is not None and first.best_prob.shape == (62, 2)
    np.testing.assert_array_equal(first.best_prob, second.best_prob)
    rows = np.array([40, 3])
    np.testing.assert_array_equal(first.take(rows).best_prob, first.best_prob[rows])
    market = SyntheticData(symbols=2, bars=150)
    whole = best_probabilities(generate(market), market, [2, 7])
    np.testing.assert_array_equal(first.best_prob[[0, 61]], whole[[119, 299]])


def test_a_market_too_short_for_a_window_is_refused(store: DiskCache) -> None:
    with pytest.raises(DataError, match=r"no symbol has the 120 bars of data\.lookback and the 3 more"):
        SyntheticData(symbols=2, bars=122).load(store)


@pytest.mark.parametrize("settings", [FilesData, SampleData, SyntheticData, WindowsData])
@pytest.mark.parametrize("horizons", [[], [0, 3], [5, 3], [3, 3]])
def test_horizons_must_increase(settings: type[DataSettings], horizons: list[int]) -> None:
    with pytest.raises(ConfigError, match=r"data\.horizons=\[.*\] must be increasing"):
        settings(horizons=horizons)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lookback": 2}, r"data\.lookback=2"),
        ({"timeframes": ["1d", "1d"]}, r"data\.timeframes=.*: name each once"),
        ({"timeframes": ["soon"]}, r"data\.timeframes.*soon"),
        ({"max_gap_days": 0}, r"data\.max_gap_days=0 must be at least 1"),
        ({"columns": {"kurs": "Close"}}, r"data\.columns\.kurs.*Options: adj_close, close, date"),
    ],
)
def test_wrong_settings_are_refused_by_name(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        settings_of("data", FilesData, {"path": "x", **settings})
