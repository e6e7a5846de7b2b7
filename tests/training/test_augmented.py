"""Train-time augmentation: off is the plain batch, on is the noise by hand."""

from __future__ import annotations

from collections.abc import Callable

import torch
from conftest import Small

from stockenh.data.prices import BarPrices, RawNoise, normalise

Make = Callable[..., Small]


def test_off_is_the_plain_batch_and_draws_nothing(small: Make) -> None:
    made = small("augment=none")
    state = torch.get_rng_state()
    rows = made.batches.rows_of(0, 0)
    (micro,) = made.batches.group(0, 0).micros
    prices = made.resident.prices
    assert isinstance(prices, BarPrices)
    raw = prices.bars[prices.end[rows, None] + prices.steps]
    assert torch.equal(micro.x_price, normalise(raw))
    assert torch.equal(state, torch.get_rng_state())


def test_on_adds_noise_to_the_bars_of_training_windows_alone(small: Make) -> None:
    made, plain = small("augment=noise", "augment.price=0.01"), small()
    rows = made.batches.rows_of(0, 0)
    torch.manual_seed(5)
    (micro,) = made.batches.group(0, 0).micros
    prices = made.resident.prices
    assert isinstance(prices, BarPrices)
    raw = prices.bars[prices.end[rows, None] + prices.steps]
    noise = torch.randn(raw.shape, generator=torch.Generator().manual_seed(5))
    assert torch.equal(micro.x_price, normalise(RawNoise(0.01, 0.05).apply(raw, noise)))
    (of_plain,) = plain.batches.group(0, 0).micros
    assert not torch.equal(micro.x_price, of_plain.x_price)
    for name in ("x_kron", "x_ctx", "y_ret", "y_up", "labelled"):
        assert torch.equal(getattr(micro, name), getattr(of_plain, name)), name
    val = made.prepared.rows["val"]
    for a, b in zip(made.resident.sweep(val, 64), plain.resident.sweep(val, 64), strict=True):
        assert torch.equal(a.x_price, b.x_price)
