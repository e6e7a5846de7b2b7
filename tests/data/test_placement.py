"""Windows on the host give the same batches as windows on the device, and the rule that chooses."""

import threading
from contextlib import closing
from dataclasses import replace

import numpy as np
import psutil
import pytest
import torch
from random_bars import as_stored, two_symbols

from stockenh.data.batches import DeviceWindows, TeacherOutput, TrainBatches
from stockenh.data.cache import DiskCache
from stockenh.data.fitted import Fitted
from stockenh.data.placement import Placement, StreamedWindows, choose_placement, needed_bytes, prefetch
from stockenh.data.prices import NoAugment, RawNoise
from stockenh.errors import ConfigError

CPU = torch.device("cpu")
LOOKBACK, WIDTH = 12, 6
TRAIN = np.arange(5, 240)
MIB, GIB = 2**20, 2**30


def bar_windows():
    return two_symbols(150, LOOKBACK)


def stored_windows():
    windows = bar_windows()
    return as_stored(windows, vectors(windows))


def vectors(windows, dtype=np.float16):
    return np.random.default_rng(1).normal(size=(len(windows), WIDTH)).astype(dtype)


def placed(windows, device=CPU, teacher=False, dtype=np.float16):
    """The same windows on the device and on the host."""
    ret = torch.randn(len(windows), 3, generator=torch.Generator().manual_seed(3))
    answers = TeacherOutput(ret.to(device), (2 * ret).to(device)) if teacher else None
    given = windows, vectors(windows, dtype), Fitted.fit(windows, TRAIN), device, answers
    return DeviceWindows(*given), StreamedWindows(*given)


def batches(data, augment, accumulate):
    return TrainBatches(data, TRAIN, batch_size=8, accumulate=accumulate, seed=7, augment=augment)


def tensors(micro):
    found = [*micro.inputs, micro.y_ret, micro.y_up, micro.labelled]
    return found if micro.teacher is None else [*found, micro.teacher.ret, micro.teacher.up_logits]


def assert_equal(one, other):
    assert (one.teacher is None) == (other.teacher is None)
    for a, b in zip(tensors(one), tensors(other), strict=True):
        assert a.dtype == b.dtype == torch.float32 and a.device == b.device
        assert torch.equal(a.nan_to_num(9), b.nan_to_num(9))


NEEDS_GPU = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs CUDA: pinned memory, a second stream"
)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=NEEDS_GPU)])
@pytest.mark.parametrize(
    ("make", "accumulate", "augment"),
    [
        *((bar_windows, steps, augment) for steps in (1, 3) for augment in (NoAugment(), RawNoise())),
        (stored_windows, 2, NoAugment()),
    ],
)
def test_an_epoch_is_bit_identical(device, make, accumulate, augment):
    epochs = []
    for data in placed(make(), torch.device(device), teacher=True):
        torch.manual_seed(0)
        epochs.append(list(batches(data, augment, accumulate).groups(2, 0)))
    resident, streamed = epochs
    assert len(resident) == -(-len(TRAIN) // (8 * accumulate))
    for one, other in zip(resident, streamed, strict=True):
        assert one.windows == other.windows and one.count == other.count
        for a, b in zip(one.micros, other.micros, strict=True):
            assert_equal(a, b)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_single_batches_their_parts_and_sweeps_are_bit_identical(dtype):
    resident, streamed = placed(bar_windows(), dtype=dtype)
    rows, noise = torch.tensor([200, 3, 3, 138]), RawNoise(0.01, 0.1)
    assert_equal(resident.gather(rows, NoAugment()), streamed.gather(rows, NoAugment()))
    for a, b in zip(resident.vectors(rows), streamed.vectors(rows), strict=True):
        assert torch.equal(a, b)
    for method in ("raw", "gather"):
        found = []
        for data in (resident, streamed):
            torch.manual_seed(4)
            found.append(getattr(data.prices, method)(rows, noise))
        assert torch.equal(*found)
    order = np.array([9, 2, 2, 140, 1, 77, 230])
    for one, other in zip(resident.sweep(order, 2), streamed.sweep(order, 2), strict=True):
        assert_equal(one, other)


def test_there_may_be_no_embedding_and_ready_samples_refuse_augmentation():
    windows = bar_windows()
    nothing = np.zeros((len(windows), 0), np.float32)
    streamed = StreamedWindows(windows, nothing, Fitted.fit(windows, TRAIN), CPU)
    assert streamed.gather(torch.tensor([3, 9]), NoAugment()).x_embedding.shape == (2, 0)
    for data in placed(stored_windows()):
        with pytest.raises(ConfigError, match=r"augment needs raw bars.*data=windows.*augment=none"):
            data.gather(torch.tensor([1]), RawNoise())


def test_an_epoch_can_start_at_any_step():
    _, streamed = placed(bar_windows())
    found = batches(streamed, NoAugment(), 2)
    whole = list(found.groups(1, 0))
    for a, b in zip(whole[9:], found.groups(1, 9), strict=True):
        assert_equal(a.micros[0], b.micros[0])
    assert_equal(whole[4].micros[1], found.group(1, 4).micros[1])


def test_random_numbers_are_drawn_at_a_batchs_turn():
    """Else a run resumed within an epoch would draw other numbers than one that was never stopped."""
    _, streamed = placed(bar_windows())
    torch.manual_seed(0)
    with closing(batches(streamed, RawNoise(), 2).groups(0, 0)) as groups:
        next(groups)
        after = torch.get_rng_state()
    torch.manual_seed(0)
    for _ in range(2):
        torch.randn(8, LOOKBACK, 5)
    assert torch.equal(after, torch.get_rng_state())


def test_an_error_of_the_thread_reaches_the_loop():
    windows = bar_windows()
    short = replace(windows, y_ret=windows.y_ret[:100])  # as a file that lost its end
    streamed = StreamedWindows(short, vectors(windows), Fitted.fit(windows, TRAIN), CPU)
    with pytest.raises(IndexError, match="out of bounds") as caught:
        list(batches(streamed, NoAugment(), 1).groups(0, 0))
    assert any(entry.name == "_send" for entry in caught.traceback)


def test_a_mapped_file_releases_its_pages(tmp_path):
    windows = bar_windows()
    array = np.random.default_rng(5).normal(size=(len(windows), 512)).astype(np.float32)
    mapped = DiskCache(tmp_path).arrays("embedding", "key", lambda: {"embedding": array})["embedding"]
    streamed = StreamedWindows(windows, np.asarray(mapped), Fitted.fit(windows, TRAIN), CPU)
    file = tmp_path / "embedding" / "key" / "embedding.npy"
    for _ in range(2):
        np.testing.assert_array_equal(streamed.vectors(torch.arange(len(windows)))[0].numpy(), array)
        assert resident_kib(file) == 0
    assert np.asarray(mapped).any() and resident_kib(file) > 0, "the measure works"


def resident_kib(file):
    """How much of a file this process has mapped in."""
    maps = psutil.Process().memory_maps(grouped=True)
    return sum(entry.rss for entry in maps if entry.path == str(file)) // 1024


@pytest.mark.parametrize(
    ("setting", "needed", "free", "resident", "words"),
    [
        ("auto", 499, 1000, True, "0 MiB of 0 MiB free there"),
        ("auto", 500, 1000, False, "0 MiB would take half or more of 0 MiB free there"),
        ("auto", 0, 0, False, ""),
        ("auto", 30 * MIB, 100 * MIB, True, "30 MiB of 100 MiB free there"),
        ("auto", 9 * GIB, 10 * GIB, False, "9 GiB would take half or more of 10 GiB free there"),
        (True, 5000, 1000, True, "train.resident=true"),
        (False, 1, 1000, False, "train.resident=false"),
    ],
)
def test_the_rule_and_its_reason(setting, needed, free, resident, words):
    placement = Placement(setting, needed, free)
    assert placement.resident is resident
    assert str(placement).startswith("resident on the device" if resident else "streamed from the host")
    assert words in str(placement)


def test_the_choice_is_applied_and_counts_what_the_device_stores():
    data = bar_windows()
    embedding, fitted = np.zeros((len(data), 8), np.float16), Fitted.fit(data, np.arange(20))
    for setting, kind in ((True, DeviceWindows), (False, StreamedWindows), ("auto", DeviceWindows)):
        ready = choose_placement(setting, data, embedding, CPU).place(data, embedding, fitted, CPU)
        assert type(ready) is kind and ready.resident is (kind is DeviceWindows)
    stored = [ready.context, ready.embedding, ready.y_ret, ready.y_up, ready.labelled]
    stored += [ready.prices.bars, ready.prices.end]
    assert needed_bytes(data, embedding) == sum(tensor.nbytes for tensor in stored)


def running():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("stockenh-prefetch")]


@pytest.mark.parametrize("ahead", [0, 1, 4])
def test_results_are_in_order_and_no_more_than_ahead_are_started(ahead):
    started, got = [], []

    def work(x):
        started.append(x)
        return x * x

    with closing(prefetch(work, range(20), ahead)) as results:
        for turn, result in enumerate(results):
            assert len(started) <= turn + 1 + ahead
            got.append(result)
    assert got == [x * x for x in range(20)]
    assert list(prefetch(work, [], ahead)) == [] and running() == []


def test_the_next_item_is_worked_on_before_its_turn_and_closing_skips_the_rest():
    second = threading.Event()
    with closing(prefetch(lambda x: second.set() if x == 1 else None, range(9), 2)) as results:
        next(results)
        assert second.wait(10)
    done = []
    with closing(prefetch(done.append, range(1000), 2)) as results:
        next(results)
        assert len(running()) == 1
    assert running() == [] and len(done) <= 3


def test_an_error_is_raised_at_its_items_turn_with_its_own_traceback():
    def fails_at_three(x):
        if x == 3:
            raise OSError("the disk is gone")
        return x

    got = []
    with pytest.raises(OSError, match="the disk is gone") as caught:
        got.extend(prefetch(fails_at_three, range(9), 4))
    assert got == [0, 1, 2] and running() == []
    assert "fails_at_three" in [entry.name for entry in caught.traceback]
