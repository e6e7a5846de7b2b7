"""Train batches and sweeps, and the noise on their raw bars."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from random_bars import smooth_series, two_symbols

from stockenh.config.schema import group_settings
from stockenh.data.batches import DeviceWindows, TrainBatches
from stockenh.data.fitted import Fitted
from stockenh.data.prices import Augment, NoAugment, RawNoise
from stockenh.errors import ConfigError
from stockenh.training.distributed import RankBatches
from stockenh.training.world import Rank

CPU = torch.device("cpu")
ROWS = np.arange(5, 28)  # 23 windows


@pytest.fixture
def embedding(data):
    return np.arange(2 * len(data), dtype=np.float16).reshape(-1, 2)


@pytest.fixture
def fitted(data):
    return Fitted.fit(data, np.arange(40))


@pytest.fixture
def data():
    return two_symbols()


@pytest.fixture
def resident(data, embedding, fitted):
    return DeviceWindows(data, embedding, fitted, CPU)


def batches(resident, rows, **settings):
    chosen = {"batch_size": 4, "accumulate": 1, "seed": 7, "augment": NoAugment(), **settings}
    return TrainBatches(resident, rows, **chosen)


def epoch(found, number):
    return torch.cat([found.rows_of(number, step) for step in range(found.steps)]).tolist()


def test_a_micro_batch_holds_what_the_rows_say(data, embedding, fitted, resident):
    rows = np.array([40, 3, 58])  # the last is a newest bar, without a label
    micro = resident.gather(torch.from_numpy(rows), NoAugment())
    assert [tensor.shape[1:] for tensor in micro.inputs] == [(12, 5), (2,), (4,)]
    assert micro.teacher is None
    assert [value.dtype for value in vars(micro).values() if value is not None] == [torch.float32] * 6
    np.testing.assert_array_equal(micro.x_embedding.numpy(), embedding[rows])
    np.testing.assert_array_equal(micro.x_ctx.numpy(), fitted.standardise(data.context)[rows])
    assert micro.labelled.tolist() == [[1, 1, 1], [1, 1, 1], [0, 0, 0]]
    np.testing.assert_array_equal(micro.y_up.numpy()[:2], data.y_ret[rows[:2]] > 0)


def test_returns_are_in_train_standard_deviations_and_missing_ones_masked(data, resident, embedding, fitted):
    micro = resident.gather(torch.arange(40), NoAugment())
    labelled = micro.labelled.bool().numpy()
    np.testing.assert_array_equal(labelled, np.isfinite(data.y_ret[:40]))
    scaled = np.where(labelled, micro.y_ret.numpy(), np.nan)
    np.testing.assert_allclose(np.nanstd(scaled, axis=0), 1, atol=1e-5)
    data.y_ret[0] = [0.0, np.nan, -0.01]
    micro = DeviceWindows(data, embedding, fitted, CPU).gather(torch.tensor([0]), NoAugment())
    assert (micro.labelled.tolist(), micro.y_up.tolist()) == ([[1, 0, 1]], [[0.5, 0.5, 0]])
    assert micro.y_ret[0].tolist() == pytest.approx([0, 0, -0.01 / fitted.return_std[2]], rel=1e-6)


def test_the_order_depends_on_seed_and_epoch_alone(resident):
    first = batches(resident, ROWS)
    forward = [epoch(first, number) for number in range(3)]
    torch.rand(100)
    second = batches(resident, ROWS, batch_size=7, accumulate=3)
    assert [epoch(second, number) for number in (2, 0, 1)] == [forward[2], forward[0], forward[1]]
    assert epoch(batches(resident, ROWS, seed=8), 0) != forward[0]
    assert len({tuple(order) for order in forward}) == 3
    assert forward[0] != sorted(forward[0])


@pytest.mark.parametrize(
    ("batch_size", "accumulate", "groups"),
    [(1, 1, [1] * 23), (5, 2, [10, 10, 3]), (4, 2, [8, 8, 7]), (64, 1, [23])],
)
def test_every_train_row_comes_exactly_once_per_epoch(resident, batch_size, accumulate, groups):
    """The last short group is kept, and its micro-batches are full as long as there are rows."""
    found = batches(resident, ROWS, batch_size=batch_size, accumulate=accumulate)
    for number in (0, 5):
        assert sorted(epoch(found, number)) == ROWS.tolist()
        for step, windows in enumerate(groups):
            group = found.group(number, step)
            sizes = [len(micro.x_price) for micro in group.micros]
            assert group.windows == windows == sum(sizes)
            assert set(sizes[:-1]) <= {batch_size} and 0 < sizes[-1] <= batch_size
    assert found.steps == len(groups)


def test_accumulated_micro_batches_cover_the_big_batch_and_count_its_labels(resident, data):
    small, big = batches(resident, ROWS, batch_size=4, accumulate=2), batches(resident, ROWS, batch_size=8)
    assert small.steps == big.steps
    for step in range(big.steps):
        parts, whole = small.group(3, step), big.group(3, step)
        assert parts.count == whole.count
        for name, tensor in vars(whole.micros[0]).items():
            if tensor is not None:
                assert torch.equal(torch.cat([vars(part)[name] for part in parts.micros]), tensor)
    rows = np.arange(45, 75)  # runs over the unlabelled end of the first symbol
    found = batches(resident, rows, batch_size=4, accumulate=2)
    counts = [found.group(1, step).count.labels.item() for step in range(found.steps)]
    known = np.isfinite(data.y_ret)
    assert counts == [known[found.rows_of(1, step).numpy()].sum() for step in range(found.steps)]
    assert sum(counts) == known[rows].sum() < 3 * len(rows)


def test_training_batches_are_augmented_and_sweeps_are_the_rows_in_their_order(resident, embedding):
    class Flatten(Augment):
        def __call__(self, ohlcv):
            return torch.ones_like(ohlcv)

    (micro,) = batches(resident, ROWS, batch_size=64, augment=Flatten()).group(0, 0).micros
    assert bool((micro.x_price == 0).all())
    assert all(bool(swept.x_price.any()) for swept in resident.sweep(ROWS, 10))
    rows = np.array([9, 2, 2, 40, 1])
    chunks = [micro.x_embedding for micro in resident.sweep(rows, 2)]
    assert [len(chunk) for chunk in chunks] == [2, 2, 1]
    np.testing.assert_array_equal(torch.cat(chunks).numpy(), embedding[rows])


@pytest.mark.parametrize("size", range(1, 6))
def test_shares_hold_every_row_once_and_differ_by_one_at_most(data, resident, size):
    whole = batches(resident, ROWS)
    processes = [RankBatches(whole, data.y_ret, Rank(rank, rank, size)) for rank in range(size)]
    for rows in range(1, 71):
        shares = [process.share(torch.arange(rows)) for process in processes]
        assert torch.equal(torch.cat(shares), torch.arange(rows))
        lengths = [len(share) for share in shares]
        assert max(lengths) - min(lengths) <= 1


def bars(windows=3, steps=40, seed=0):
    """(windows, steps, 5) valid bars, the last without volume."""
    ohlcv = np.stack([smooth_series(seed + number, steps)[1] for number in range(windows)])
    ohlcv[:, -1, 4] = 0
    return torch.from_numpy(ohlcv).float()


SCALES = st.sampled_from([1e-4, 1.0, 1e7])


@given(st.integers(0, 1000), st.floats(0, 1), st.floats(0, 1), SCALES)
def test_every_bar_stays_valid(seed, price, volume, scale):
    raw = bars(seed=seed) * torch.tensor([scale] * 4 + [1.0])
    opening, high, low, close, traded = RawNoise(price, volume)(raw).unbind(-1)
    assert (low <= torch.minimum(opening, close)).all() and (high >= torch.maximum(opening, close)).all()
    assert (low > 0).all() and (traded >= 0).all() and (traded[:, -1] == 0).all()


def test_noise_by_hand_and_of_the_configured_size():
    raw = torch.tensor([[[10.0, 12.0, 9.0, 11.0, 1000.0]]])
    noise = torch.tensor([[[1.0, 0.0, 0.0, -1.0, 2.0]]])
    moved = RawNoise(price=0.5, volume=0.1).apply(raw, noise)[0, 0]
    opening, close = 10 * np.exp(0.5), 11 * np.exp(-0.5)  # 16.49 is above the high, 6.67 below the low
    np.testing.assert_allclose(moved.numpy(), [opening, opening, close, close, 1000 * np.exp(0.2)], rtol=1e-6)
    raw = bars(200, 100)
    moved = RawNoise(price=0.01, volume=0.2)(raw, torch.Generator().manual_seed(0))
    assert float((moved / raw)[..., 3].log().std()) == pytest.approx(0.01, rel=0.05)
    traded = raw[..., 4] > 0
    assert float((moved / raw)[..., 4][traded].log().std()) == pytest.approx(0.2, rel=0.05)


def test_a_generator_or_else_the_global_one_decides_and_no_noise_is_no_change():
    raw, state = bars(), torch.get_rng_state()
    assert torch.equal(RawNoise(price=0.0, volume=0.0)(raw, torch.Generator()), raw)
    assert NoAugment()(raw) is raw
    assert torch.equal(torch.get_rng_state(), state)
    raw, noise = bars(), RawNoise()
    first, again, other = (noise(raw, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)
    torch.manual_seed(3)
    assert torch.equal(first, noise(raw)) and not torch.equal(first, noise(raw))


@pytest.mark.parametrize(("name", "value"), [("price", -0.1), ("price", 1.5), ("volume", -1.0)])
def test_a_wrong_scale_names_its_key(name, value):
    with pytest.raises(ConfigError, match=rf"augment\.{name}={value}"):
        group_settings("augment", {"_target_": "stockenh.data.prices.RawNoise", name: value})


def test_shares_count_the_weights_of_the_whole_group(data, embedding, fitted):
    weight = np.random.default_rng(0).uniform(0.5, 1.5, data.y_ret.shape).astype(np.float32)
    weighted = replace(data, weight=weight)
    whole = batches(DeviceWindows(weighted, embedding, fitted, CPU), ROWS, accumulate=2)
    group = whole.group(0, 1)
    for rank in range(3):
        share = RankBatches(whole, data.y_ret, Rank(rank, rank, 3), weight).group(0, 1)
        for own, wanted in zip(share.count, group.count, strict=True):
            assert float(own) == pytest.approx(float(wanted), rel=1e-6)
