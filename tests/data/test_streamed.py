"""Windows that stay on the host give the very batches that windows on the device give."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from random_bars import smooth_series

from stockenh.data.bars import Bars
from stockenh.data.batches import Answers, DeviceWindows, Micro, ReadyWindows, TrainBatches
from stockenh.data.cache import DiskCache
from stockenh.data.fitted import Fitted
from stockenh.data.placement import StreamedWindows
from stockenh.data.prices import NoAugment, RawNoise
from stockenh.data.windows import BarWindows, StoredWindows, Windows, index_windows
from stockenh.errors import ConfigError

CPU = torch.device("cpu")
LOOKBACK, BARS, WIDTH = 12, 150, 6
TRAIN = np.arange(5, 240)


def bar_windows() -> BarWindows:
    bars = Bars.from_series([("A", *smooth_series(1, BARS)), ("B", *smooth_series(2, BARS))])
    context = np.random.default_rng(0).normal(3, 2, (len(bars), 4)).astype(np.float32)
    return index_windows(bars, context, tuple("abcd"), (3, 5, 10), LOOKBACK)


def stored_windows() -> StoredWindows:
    of_bars = bar_windows()
    names = ("symbols", "symbol", "asof", "context", "context_names", "y_ret", "horizons", "lookback")
    prices = of_bars.prices(CPU).gather(torch.arange(len(of_bars)), NoAugment()).numpy()
    return StoredWindows(
        **{name: getattr(of_bars, name) for name in names}, ohlcv_norm=prices, embedding=vectors(of_bars)
    )


def vectors(windows: Windows, dtype: type = np.float16) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(len(windows), WIDTH)).astype(dtype)


def held(
    windows: Windows, device: torch.device = CPU, taught: bool = False, dtype: type = np.float16
) -> tuple[DeviceWindows, StreamedWindows]:
    """The same windows on the device and on the host."""
    fitted = Fitted.on(windows, TRAIN)
    ret = torch.randn(len(windows), 3, generator=torch.Generator().manual_seed(3))
    answers = Answers(ret.to(device), (2 * ret).to(device)) if taught else None
    embedding = vectors(windows, dtype)
    return (
        DeviceWindows(windows, embedding, fitted, device, answers),
        StreamedWindows(windows, embedding, fitted, device, answers),
    )


def batches(data: ReadyWindows, augment: NoAugment | RawNoise, accumulate: int) -> TrainBatches:
    return TrainBatches(data, TRAIN, batch_size=8, accumulate=accumulate, seed=7, augment=augment)


def tensors(micro: Micro) -> list[torch.Tensor]:
    found = [*micro.inputs, micro.y_ret, micro.y_up, micro.labelled]
    return found if micro.taught is None else [*found, micro.taught.ret, micro.taught.up_logits]


def assert_equal(one: Micro, other: Micro) -> None:
    assert (one.taught is None) == (other.taught is None)
    for a, b in zip(tensors(one), tensors(other), strict=True):
        assert a.dtype == b.dtype == torch.float32 and a.device == b.device
        assert torch.equal(a.nan_to_num(9), b.nan_to_num(9))


def assert_same_epoch(device: torch.device, windows: Windows, accumulate: int, noisy: bool) -> None:
    augment = RawNoise() if noisy else NoAugment()
    epochs = []
    for data in held(windows, device, taught=True):
        torch.manual_seed(0)
        epochs.append(list(batches(data, augment, accumulate).groups(2, 0)))
    resident, streamed = epochs
    assert len(resident) == -(-len(TRAIN) // (8 * accumulate))
    for one, other in zip(resident, streamed, strict=True):
        assert one.windows == other.windows and torch.equal(one.count, other.count)
        for a, b in zip(one.micros, other.micros, strict=True):
            assert_equal(a, b)


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("noisy", [False, True])
def test_an_epoch_is_bit_identical(accumulate: int, noisy: bool) -> None:
    assert_same_epoch(CPU, bar_windows(), accumulate, noisy)


def test_an_epoch_of_ready_samples_is_bit_identical() -> None:
    assert_same_epoch(CPU, stored_windows(), 2, noisy=False)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA: pinned memory and a second stream")
@pytest.mark.parametrize("noisy", [False, True])
def test_an_epoch_is_bit_identical_on_a_gpu(noisy: bool) -> None:
    assert_same_epoch(torch.device("cuda"), bar_windows(), 3, noisy)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_single_batches_and_their_parts_are_bit_identical(dtype: type) -> None:
    resident, streamed = held(bar_windows(), dtype=dtype)
    rows, noise = torch.tensor([200, 3, 3, 138]), RawNoise(0.01, 0.1)
    assert_equal(resident.gather(rows, NoAugment()), streamed.gather(rows, NoAugment()))
    for a, b in zip(resident.vectors(rows), streamed.vectors(rows), strict=True):
        assert torch.equal(a, b)
    for of_prices in ("raw", "gather"):
        found = []
        for data in (resident, streamed):
            torch.manual_seed(4)
            found.append(getattr(data.prices, of_prices)(rows, noise))
        assert torch.equal(*found)


def test_a_sweep_is_bit_identical_and_in_the_order_of_the_rows() -> None:
    rows = np.array([9, 2, 2, 140, 1, 77, 230])
    resident, streamed = held(bar_windows())
    for one, other in zip(resident.sweep(rows, 2), streamed.sweep(rows, 2), strict=True):
        assert_equal(one, other)


def test_without_an_embedding_there_is_none() -> None:
    windows = bar_windows()
    streamed = StreamedWindows(
        windows, np.zeros((len(windows), 0), np.float32), Fitted.on(windows, TRAIN), CPU
    )
    assert streamed.gather(torch.tensor([3, 9]), NoAugment()).x_kron.shape == (2, 0)


def test_any_step_of_an_epoch_can_be_begun_with() -> None:
    _, streamed = held(bar_windows())
    found = batches(streamed, NoAugment(), 2)
    whole = list(found.groups(1, 0))
    for a, b in zip(whole[9:], found.groups(1, 9), strict=True):
        assert_equal(a.micros[0], b.micros[0])
    assert_equal(whole[4].micros[1], found.group(1, 4).micros[1])


def test_what_is_random_is_drawn_when_a_batchs_turn_has_come() -> None:
    """Else a run taken up within an epoch would draw other numbers than one that was never stopped."""
    _, streamed = held(bar_windows())
    groups = batches(streamed, RawNoise(), 2).groups(0, 0)
    torch.manual_seed(0)
    next(groups)
    after = torch.get_rng_state()
    torch.manual_seed(0)
    torch.randn(8, LOOKBACK, 5)
    torch.randn(8, LOOKBACK, 5)
    assert torch.equal(after, torch.get_rng_state())
    groups.close()


def test_ready_samples_refuse_augmentation_as_on_the_device() -> None:
    _, streamed = held(stored_windows())
    with pytest.raises(ConfigError, match="augment needs raw bars"):
        streamed.gather(torch.tensor([1]), RawNoise())


def test_an_error_of_the_thread_reaches_the_loop() -> None:
    windows = bar_windows()
    short = replace(windows, y_ret=windows.y_ret[:100])  # as a file that lost its end
    streamed = StreamedWindows(short, vectors(windows), Fitted.on(windows, TRAIN), CPU)
    with pytest.raises(IndexError, match="out of bounds") as caught:
        list(batches(streamed, NoAugment(), 1).groups(0, 0))
    assert any(entry.name == "_send" for entry in caught.traceback)


def test_a_mapped_file_gives_its_pages_back(tmp_path: Path) -> None:
    windows = bar_windows()
    array = np.random.default_rng(5).normal(size=(len(windows), 512)).astype(np.float32)
    mapped = DiskCache(tmp_path).arrays("embedding", "key", lambda: {"embedding": array})["embedding"]
    fitted = Fitted.on(windows, TRAIN)
    streamed = StreamedWindows(windows, np.asarray(mapped), fitted, CPU)
    rows = torch.arange(len(windows))
    got, _ = streamed.vectors(rows)
    np.testing.assert_array_equal(got.numpy(), array)
    assert resident_kib(tmp_path / "embedding" / "key" / "embedding.npy") == 0
    assert torch.equal(streamed.vectors(rows)[0], got)


def resident_kib(file: Path) -> int:
    """How much of a file this process has mapped in."""
    found, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split(maxsplit=1)[0]:
            inside = line.endswith(str(file))
        elif inside and line.startswith("Rss:"):
            found += int(line.split()[1])
    return found
