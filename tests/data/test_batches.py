from __future__ import annotations

import numpy as np
import pytest
import torch
from random_bars import two_symbols

from stockenh.data.batches import DeviceWindows, TrainBatches
from stockenh.data.fitted import Fitted
from stockenh.data.prices import Augment, NoAugment
from stockenh.data.windows import BarWindows

CPU = torch.device("cpu")
ROWS = np.arange(5, 28)  # 23 windows


def embedding(data: BarWindows) -> np.ndarray:
    return np.arange(2 * len(data), dtype=np.float16).reshape(-1, 2)


@pytest.fixture
def data() -> BarWindows:
    return two_symbols()


@pytest.fixture
def fitted(data: BarWindows) -> Fitted:
    return Fitted.fit(data, np.arange(40))


@pytest.fixture
def resident(data: BarWindows, fitted: Fitted) -> DeviceWindows:
    return DeviceWindows(data, embedding(data), fitted, CPU)


def batches(resident: DeviceWindows, rows: np.ndarray, **settings: object) -> TrainBatches:
    chosen = {"batch_size": 4, "accumulate": 1, "seed": 7, "augment": NoAugment(), **settings}
    return TrainBatches(resident, rows, **chosen)  # type: ignore[arg-type]


def epoch(found: TrainBatches, number: int) -> list[int]:
    return torch.cat([found.rows_of(number, step) for step in range(found.steps)]).tolist()


def test_a_micro_batch_holds_what_the_rows_say(
    data: BarWindows, fitted: Fitted, resident: DeviceWindows
) -> None:
    rows = np.array([40, 3, 58])  # the last is a newest bar, without a label
    micro = resident.gather(torch.from_numpy(rows), NoAugment())
    assert [tensor.shape[1:] for tensor in micro.inputs] == [(12, 5), (2,), (4,)]
    assert micro.teacher is None
    tensors = [value for value in vars(micro).values() if value is not None]
    assert len(tensors) == 6 and {tensor.dtype for tensor in tensors} == {torch.float32}
    np.testing.assert_array_equal(micro.x_kron.numpy(), embedding(data)[rows])
    np.testing.assert_array_equal(micro.x_ctx.numpy(), fitted.standardise(data.context)[rows])
    assert micro.labelled.tolist() == [[1, 1, 1], [1, 1, 1], [0, 0, 0]]
    np.testing.assert_array_equal(micro.y_up.numpy()[:2], data.y_ret[rows[:2]] > 0)


def test_returns_are_in_train_standard_deviations(data: BarWindows, resident: DeviceWindows) -> None:
    micro = resident.gather(torch.arange(40), NoAugment())
    labelled = micro.labelled.bool().numpy()
    np.testing.assert_array_equal(labelled, np.isfinite(data.y_ret[:40]))
    scaled = np.where(labelled, micro.y_ret.numpy(), np.nan)
    np.testing.assert_allclose(np.nanstd(scaled, axis=0), 1, atol=1e-5)


def test_missing_labels_are_masked_and_ties_are_labels(data: BarWindows, fitted: Fitted) -> None:
    data.y_ret[0] = [0.0, np.nan, -0.01]
    micro = DeviceWindows(data, embedding(data), fitted, CPU).gather(torch.tensor([0]), NoAugment())
    assert micro.labelled.tolist() == [[1, 0, 1]]
    assert micro.y_up.tolist() == [[0, 0, 0]]
    assert micro.y_ret[0, :2].tolist() == [0, 0]
    assert micro.y_ret[0, 2].item() == pytest.approx(-0.01 / fitted.return_std[2], rel=1e-6)


def test_the_order_depends_on_seed_and_epoch_alone(resident: DeviceWindows) -> None:
    first = batches(resident, ROWS)
    forward = [epoch(first, number) for number in range(3)]
    torch.rand(100)
    second = batches(resident, ROWS, batch_size=7, accumulate=3)
    assert [epoch(second, number) for number in (2, 0, 1)] == [forward[2], forward[0], forward[1]]
    assert epoch(batches(resident, ROWS, seed=8), 0) != forward[0]
    assert len({tuple(order) for order in forward}) == 3
    assert forward[0] != sorted(forward[0])


@pytest.mark.parametrize(
    "settings", [{"batch_size": 1}, {"batch_size": 5, "accumulate": 2}, {"batch_size": 64}]
)
def test_every_train_row_comes_exactly_once_per_epoch(
    resident: DeviceWindows, settings: dict[str, int]
) -> None:
    found = batches(resident, ROWS, **settings)
    for number in (0, 5):
        assert sorted(epoch(found, number)) == ROWS.tolist()


def test_the_last_short_group_is_kept(resident: DeviceWindows) -> None:
    found = batches(resident, ROWS, batch_size=4, accumulate=2)
    groups = [found.group(0, step) for step in range(found.steps)]
    assert [group.windows for group in groups] == [8, 8, 7]
    assert [[len(micro.x_price) for micro in group.micros] for group in groups] == [[4, 4], [4, 4], [4, 3]]


def test_a_groups_count_is_its_number_of_labels(data: BarWindows, resident: DeviceWindows) -> None:
    rows = np.arange(45, 75)  # runs over the unlabelled end of the first symbol
    found = batches(resident, rows, batch_size=4, accumulate=2)
    counts = [found.group(1, step).count.item() for step in range(found.steps)]
    by_hand = [np.isfinite(data.y_ret[found.rows_of(1, step).numpy()]).sum() for step in range(found.steps)]
    assert counts == by_hand
    assert sum(counts) == np.isfinite(data.y_ret[rows]).sum() < 3 * len(rows)


def test_accumulated_micro_batches_cover_the_rows_of_the_big_batch(resident: DeviceWindows) -> None:
    small, big = batches(resident, ROWS, batch_size=4, accumulate=2), batches(resident, ROWS, batch_size=8)
    assert small.steps == big.steps
    for step in range(big.steps):
        (whole,) = big.group(3, step).micros
        parts = small.group(3, step).micros
        assert small.group(3, step).count == big.group(3, step).count
        for name, tensor in vars(whole).items():
            if tensor is not None:
                assert torch.equal(torch.cat([vars(part)[name] for part in parts]), tensor)


def test_training_batches_are_augmented_and_sweeps_are_not(resident: DeviceWindows) -> None:
    class Flatten(Augment):
        def __call__(self, ohlcv: torch.Tensor) -> torch.Tensor:
            return torch.ones_like(ohlcv)

    (micro,) = batches(resident, ROWS, batch_size=64, augment=Flatten()).group(0, 0).micros
    assert bool((micro.x_price == 0).all())
    assert all(bool(swept.x_price.any()) for swept in resident.sweep(ROWS, 10))


def test_a_sweep_goes_through_the_rows_in_their_order(data: BarWindows, resident: DeviceWindows) -> None:
    rows = np.array([9, 2, 2, 40, 1])
    chunks = list(resident.sweep(rows, 2))
    assert [len(micro.x_ctx) for micro in chunks] == [2, 2, 1]
    np.testing.assert_array_equal(torch.cat([m.x_kron for m in chunks]).numpy(), embedding(data)[rows])
