"""Noise on raw bars: valid bars come out, by hand, reproducibly, and off is nothing at all."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stockenh.config.schema import group_settings
from stockenh.data.prices import NoAugment, RawNoise
from stockenh.errors import ConfigError


def bars(windows: int = 3, steps: int = 40, seed: int = 0) -> torch.Tensor:
    """(windows, steps, 5) valid bars, the last without volume."""
    rng = np.random.default_rng(seed)
    close = 50 * np.exp(rng.normal(0, 0.02, (windows, steps)).cumsum(1))
    opening = close * np.exp(rng.normal(0, 0.01, close.shape))
    high, low = np.maximum(opening, close) * 1.001, np.minimum(opening, close) * 0.999
    volume = rng.integers(1000, 9000, close.shape)
    volume[:, -1] = 0
    return torch.from_numpy(np.stack([opening, high, low, close, volume], -1)).float()


@given(
    seed=st.integers(0, 1000),
    price=st.floats(0, 1),
    volume=st.floats(0, 1),
    scale=st.sampled_from([1e-4, 1.0, 1e7]),
)
def test_every_bar_stays_valid(seed: int, price: float, volume: float, scale: float) -> None:
    raw = bars(seed=seed) * torch.tensor([scale] * 4 + [1.0])
    opening, high, low, close, traded = RawNoise(price, volume)(raw).unbind(-1)
    assert (low <= torch.minimum(opening, close)).all() and (high >= torch.maximum(opening, close)).all()
    assert (low > 0).all() and (traded >= 0).all()
    assert (traded[:, -1] == 0).all()


def test_by_hand() -> None:
    raw = torch.tensor([[[10.0, 12.0, 9.0, 11.0, 1000.0]]])
    noise = torch.tensor([[[1.0, 0.0, 0.0, -1.0, 2.0]]])
    moved = RawNoise(price=0.5, volume=0.1).apply(raw, noise)[0, 0]
    opening, close = 10 * np.exp(0.5), 11 * np.exp(-0.5)  # 16.49 is above the high, 6.67 below the low
    np.testing.assert_allclose(moved.numpy(), [opening, opening, close, close, 1000 * np.exp(0.2)], rtol=1e-6)


def test_noise_is_relative_and_of_the_configured_size() -> None:
    raw = bars(200, 100)
    moved = RawNoise(price=0.01, volume=0.2)(raw, torch.Generator().manual_seed(0))
    assert float((moved / raw)[..., 3].log().std()) == pytest.approx(0.01, rel=0.05)
    traded = raw[..., 4] > 0
    assert float((moved / raw)[..., 4][traded].log().std()) == pytest.approx(0.2, rel=0.05)


def test_no_noise_is_no_change() -> None:
    raw, state = bars(), torch.get_rng_state()
    assert torch.equal(RawNoise(price=0.0, volume=0.0)(raw, torch.Generator()), raw)
    assert NoAugment()(raw) is raw
    assert torch.equal(torch.get_rng_state(), state)


def test_a_generator_decides_or_else_the_global_one() -> None:
    raw, noise = bars(), RawNoise()
    first, again, other = (noise(raw, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)
    torch.manual_seed(3)
    assert torch.equal(first, noise(raw)) and not torch.equal(first, noise(raw))


@pytest.mark.parametrize(("name", "value"), [("price", -0.1), ("price", 1.5), ("volume", -1.0)])
def test_a_wrong_scale_names_its_key(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"augment\.{name}={value}"):
        group_settings("augment", {"_target_": "stockenh.data.prices.RawNoise", name: value})
