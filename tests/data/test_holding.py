from __future__ import annotations

import numpy as np
import pytest
import torch
from random_bars import smooth_series

from stockenh.data.bars import Bars
from stockenh.data.batches import DeviceWindows
from stockenh.data.fitted import Fitted
from stockenh.data.placement import Placement, StreamedWindows, choose_placement, needed_bytes
from stockenh.data.windows import BarWindows, index_windows
from stockenh.storage.machine import free_memory

CPU = torch.device("cpu")
MIB, GIB = 2**20, 2**30


def windows() -> BarWindows:
    bars = Bars.from_series([("A", *smooth_series(1, 60))])
    return index_windows(bars, np.zeros((60, 4), np.float32), tuple("abcd"), (3, 5, 10), 12)


@pytest.mark.parametrize(
    ("setting", "needed", "free", "resident"),
    [
        ("auto", 499, 1000, True),
        ("auto", 500, 1000, False),
        ("auto", 0, 0, False),
        (True, 5000, 1000, True),
        (False, 1, 1000, False),
    ],
)
def test_the_rule(setting: bool | str, needed: int, free: int, resident: bool) -> None:
    assert Placement.by_rule(setting, needed, free).resident is resident


@pytest.mark.parametrize(
    ("setting", "needed", "free", "says"),
    [
        ("auto", 30 * MIB, 100 * MIB, "resident on the device: 30 MiB of 100 MiB free there"),
        ("auto", 9 * GIB, 10 * GIB,
         "streamed from the host: 9 GiB would take half or more of 10 GiB free there"),
        (False, MIB, GIB, "streamed from the host, as train.resident=false says"),
    ],
)  # fmt: skip
def test_the_choice_says_why(setting: bool | str, needed: int, free: int, says: str) -> None:
    assert str(Placement.by_rule(setting, needed, free)) == says


def test_what_windows_need_is_what_the_device_holds() -> None:
    data = windows()
    embedding = np.zeros((len(data), 8), np.float16)
    fitted = Fitted.on(data, np.arange(20))
    held = DeviceWindows(data, embedding, fitted, CPU)
    tensors = [held.context, held.embedding, held.y_ret, held.labelled, held.prices.bars, held.prices.end]
    assert needed_bytes(data, embedding) == sum(t.nbytes for t in tensors)


def test_the_choice_is_kept_to() -> None:
    data = windows()
    embedding, fitted = np.zeros((len(data), 8), np.float16), Fitted.on(data, np.arange(20))
    for setting, kind in ((True, DeviceWindows), (False, StreamedWindows), ("auto", DeviceWindows)):
        held = choose_placement(setting, data, embedding, CPU).place(data, embedding, fitted, CPU)
        assert type(held) is kind and held.resident is (kind is DeviceWindows)


def test_a_cpus_free_memory_is_less_than_the_machine_has() -> None:
    free = free_memory(CPU)
    with open("/proc/meminfo") as lines:
        total = 1024 * int(next(lines).split()[1])
    assert MIB < free <= total
