import random

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from stockenh.config.schema import settings_of
from stockenh.embedding.kernel import ConvolutionBank, KernelEmbedding, convolution_banks, quantise
from stockenh.errors import ConfigError


def windows(count, bars=120, seed=0, drift=0.0):
    """Random walks scaled to [-1, 1] with a random volume."""
    rng = np.random.default_rng(seed)
    close = np.cumsum(rng.normal(drift, 1.0, (count, bars)), axis=1)
    reach = np.abs(rng.normal(0, 0.5, (2, count, bars)))
    price = np.stack([close, close + reach[0], close - reach[1], close], axis=-1)
    low, high = price.min(axis=(1, 2), keepdims=True), price.max(axis=(1, 2), keepdims=True)
    volume = rng.uniform(-1, 1, (count, bars, 1))
    return torch.from_numpy(np.concatenate([2 * (price - low) / (high - low) - 1, volume], axis=-1)).float()


def test_one_kernel_by_hand():
    # Close rises by 1/8 = 128 grid steps a bar over 11 bars, from -1. The kernel with its 2s on the last
    # three taps gives 3 x 128 x (6 + 7 + 8) - 128 x (0 + ... + 8) = 8064 - 4608 = 3456 at all 3 places.
    x, weights = torch.zeros(1, 11, 5), torch.zeros(1, 5, 9)
    x[0, :, 3] = torch.arange(11) / 8 - 1
    weights[0, 3] = torch.tensor([-1.0] * 6 + [2.0] * 3)
    thresholds = torch.tensor([[[3455.5], [3456.5]]])
    grid = quantise(x)
    assert grid[0, 3, :3].tolist() == [-1024, -896, -768]
    inner = ConvolutionBank(weights, thresholds, dilation=1, padded=False)
    assert inner.convolve(grid).tolist() == [[[3456.0] * 3]]
    assert inner.features(grid).tolist() == [[1.0, -1.0]]
    # With zeros beyond the ends, the first place sees taps 4 to 8 on bars 0 to 4: weights -1, -1, 2, 2, 2 on
    # -1024, -896, -768, -640, -512 give -1920. The last sees taps 0 to 4, all of weight -1, on bars 6 to 10,
    # whose steps -256, -128, 0, 128, 256 cancel.
    outer = ConvolutionBank(weights, thresholds, dilation=1, padded=True).convolve(grid)[0, 0]
    assert outer.shape == (11,) and outer[[0, 4, 5, 6, 10]].tolist() == [-1920, 3456, 3456, 3456, 0]


def integer_features(x, width, seed):
    grid = np.rint(x.numpy().astype(np.float64) * 1024).astype(np.int64)
    columns = []
    for bank in convolution_banks(width, seed, x.shape[1]):
        reach = 4 * bank.dilation
        source = np.pad(grid, ((0, 0), (reach, reach), (0, 0))) if bank.padded else grid
        outputs = source.shape[1] - 2 * reach
        for weights, thresholds in zip(bank.weights.numpy(), bank.thresholds.numpy(), strict=True):
            total = np.zeros((len(x), outputs), np.int64)
            for tap in range(9):
                start = tap * bank.dilation
                total += source[:, start : start + outputs] @ weights[:, tap].astype(np.int64)
            for threshold in thresholds:
                share = (total > threshold).sum(axis=1).astype(np.float32) / np.float32(outputs)
                columns.append(2 * share - 1)
    return np.stack(columns, axis=1)


@pytest.mark.parametrize("bars", [9, 30, 120])
def test_every_feature_equals_integer_arithmetic_to_the_last_bit(bars):
    x = windows(20, bars)
    found = KernelEmbedding(seed=3).transform(x)
    assert found.dtype == torch.float32 and found.shape == (20, 512)
    np.testing.assert_array_equal(found.numpy(), integer_features(x, 512, 3))
    assert -1 <= found.min() < found.max() <= 1


def test_batch_order_autocast_and_float_noise_change_nothing():
    x = windows(300)
    together = KernelEmbedding().transform(x)
    order = torch.randperm(300, generator=torch.Generator().manual_seed(0))
    assert torch.equal(KernelEmbedding().transform(x[order]), together[order])
    for row in (0, 127, 128, 299):
        assert torch.equal(KernelEmbedding().transform(x[row : row + 1])[0], together[row])
    x = (windows(10) * 1024).round() / 1024
    plain = KernelEmbedding().transform(x)
    convolution_banks.cache_clear()
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.inference_mode():
        assert torch.equal(KernelEmbedding().transform(x), plain)
    assert torch.equal(KernelEmbedding().transform(x), plain)
    noisy = x + 1e-6 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(KernelEmbedding().transform(noisy), plain)


def test_the_seed_and_nothing_else_picks_the_features():
    def seed_all(seed):
        for module in (torch.manual_seed, np.random.seed, random.seed):
            module(seed)
        convolution_banks.cache_clear()

    def states():
        return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()

    x = windows(5)
    seed_all(1)
    before = states()
    first = KernelEmbedding(seed=0).transform(x)
    assert states() == before
    seed_all(2)
    assert torch.equal(KernelEmbedding(seed=0).transform(x), first)
    assert not torch.equal(KernelEmbedding(seed=1).transform(x), first)


def test_all_84_kernels_appear_with_weights_that_sum_to_zero():
    weights = torch.cat([bank.weights for bank in convolution_banks(512, 0, 120)])
    used = weights.abs().sum(-1) > 0
    assert len(weights) == 128 and set(used.sum(1).tolist()) == {1, 2, 3, 4, 5}
    kernels = {tuple(row[use][0].tolist()) for row, use in zip(weights, used, strict=True)}
    assert len(kernels) == 84 and all(sorted(kernel) == [-1.0] * 6 + [2.0] * 3 for kernel in kernels)


@pytest.mark.parametrize(("bars", "dilations"), [(120, {1, 2, 3, 4, 6, 8, 12}), (9, {1}), (25, {1, 2, 3})])
def test_dilations_reach_as_far_as_the_window(bars, dilations):
    assert {bank.dilation for bank in convolution_banks(512, 0, bars)} == dilations


def test_features_split_random_walks_evenly_and_tell_rising_from_falling_windows():
    # They are quantiles of other random walks: no feature is constant, and the shares average to a half.
    found = KernelEmbedding().transform(windows(400, seed=5))
    assert found.std(0).min() > 0 and abs(found.mean()) < 0.1
    flat = KernelEmbedding().transform(torch.zeros(2, 120, 5))
    assert set(flat.unique().tolist()) == {-1.0, 1.0}
    x = torch.cat([windows(150, seed=1, drift=0.15), windows(150, seed=2, drift=-0.15)])
    label = np.repeat([1, 0], 150)
    embedded = KernelEmbedding().transform(x).numpy()
    fit, held_out = slice(0, None, 2), slice(1, None, 2)
    classifier = LogisticRegression(C=0.01, max_iter=1000).fit(embedded[fit], label[fit])
    assert classifier.score(embedded[held_out], label[held_out]) > 0.9


def test_a_window_that_is_too_short_and_a_wrong_width_name_their_key():
    with pytest.raises(ConfigError, match=r"data\.lookback=8: embedding=kernel needs at least 9 bars"):
        KernelEmbedding().transform(torch.zeros(1, 8, 5))
    for width in (0, -4, 510):
        with pytest.raises(ConfigError, match=rf"embedding\.width={width}"):
            settings_of("embedding", KernelEmbedding, {"width": width})
