"""Work in processes: the same results in the same order, on any number of cores, and nothing left behind."""

import os
import signal
import subprocess
import sys

import numpy as np
import psutil
import pytest
from waiting import wait_for

from stockenh.data import features, processes, readers
from stockenh.data.bars import Bars
from stockenh.data.features import FeatureSettings, context_features
from stockenh.data.processes import grouped, in_processes
from stockenh.data.readers import ReadSettings, read_bars
from stockenh.errors import DataError


@pytest.fixture(params=[1, 3])
def cores(monkeypatch, request):
    monkeypatch.setattr(processes, "available_cores", lambda: request.param)
    return request.param


def test_results_come_in_the_order_of_the_items(cores):
    assert [*in_processes(abs, range(-9, 1))] == [*range(9, -1, -1)]
    assert [*in_processes(abs, [])] == []


def test_an_error_of_the_work_is_raised_here(cores):
    with pytest.raises(ValueError, match="invalid literal"):
        [*in_processes(int, ["1", "2", "x", "4"])]


def test_a_process_that_is_killed_is_a_line(monkeypatch):
    monkeypatch.setattr(processes, "available_cores", lambda: 2)
    others = psutil.Process().children()
    with pytest.raises(DataError, match="lack of memory"):
        [*in_processes(os._exit, [0, 0])]
    assert psutil.Process().children() == others


def has_ended(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_it_ends_with_a_parent_that_is_killed():
    code = (
        "import time; from stockenh.data import processes; processes.available_cores = lambda: 2; "
        "found = processes.in_processes(abs, range(2)); next(found); "
        "print('asked', flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert parent.stdout.readline() == b"asked\n"
    children = psutil.Process(parent.pid).children()
    assert len(children) == 2
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    wait_for(lambda: all(has_ended(child) for child in children))


@pytest.mark.parametrize(
    ("sizes", "groups"), [([], []), ([1], [1]), ([3, 1, 1, 5, 1], [1, 3, 1]), ([9, 9], [1, 1]), ([0, 0], [2])]
)
def test_consecutive_items_are_grouped_by_size(sizes, groups):
    found = grouped(sizes, 3)
    assert [group.stop - group.start for group in found] == groups
    assert [at for group in found for at in range(len(sizes))[group]] == [*range(len(sizes))]


def test_files_are_read_as_by_one_process(monkeypatch, tmp_path, cores):
    for name, day in (("A", "2/1/2020"), ("B", "13/1/2020"), ("C", "1/1/2020")):
        (tmp_path / f"{name}.csv").write_text(f"Date,Open,High,Low,Close,Volume\n{day},1,2,1,2,3\n")
    (tmp_path / "D.csv").write_text("no table")
    (tmp_path / "E.csv").symlink_to("nowhere")
    settings = ReadSettings(min_bars=1)
    expected = read_bars(tmp_path, settings)
    assert [str(time)[:10] for time in expected.bars.time] == ["2020-01-02", "2020-01-13", "2020-01-01"]
    monkeypatch.setattr(readers, "_LARGE", 1)
    monkeypatch.setattr(readers, "_GROUP", 1)
    monkeypatch.setattr(readers, "_MANY", 1)
    monkeypatch.setattr(readers, "_GROUP_ROWS", 1)
    found = read_bars(tmp_path, settings)
    assert found.bars.digest() == expected.bars.digest()
    assert (found.findings, found.files_used) == (expected.findings, 3)


@pytest.mark.parametrize("market", [False, True])
def test_features_are_those_of_one_process(monkeypatch, cores, market):
    rng = np.random.default_rng(0)
    series = []
    for name, count in (("A", 40), ("B", 3), ("C", 90), ("C", 30)):
        time = np.arange(count).astype("datetime64[D]") + len(series) * 200
        close = np.exp(rng.normal(0, 0.02, count).cumsum())
        ohlcv = np.stack([close, close * 1.01, close * 0.99, close, rng.uniform(1, 9, count)], axis=1)
        series.append((name, time, ohlcv))
    bars, settings = Bars.from_series(series), FeatureSettings(lookback=20, market=market)
    expected = context_features(bars, settings)
    monkeypatch.setattr(features, "_LARGE", 1)
    monkeypatch.setattr(features, "_GROUP", 50)
    assert context_features(bars, settings).tobytes() == expected.tobytes()
