"""Train-time augmentation: off is the plain batch, on is the noise by hand, and it is taken up bit by bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from conftest import Small, same

from stockenh.data.prices import BarPrices, RawNoise, normalise
from stockenh.training import checkpoint

Make = Callable[..., Small]


def steps(small: Small, first: int, last: int) -> None:
    for step in range(first, last):
        small.learner.step(small.batches.group(0, step))


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


def test_taken_up_from_a_file_the_noise_goes_on_with_the_same_bits(small: Make, tmp_path: Path) -> None:
    whole = small("augment=noise", "train.batch_size=16")
    steps(whole, 0, 3)
    checkpoint.save(tmp_path / "c.pt", {"learner": whole.learner.checkpoint(), "rng": checkpoint.rng_state()})
    steps(whole, 3, 6)
    taken_up = small("augment=noise", "train.batch_size=16")
    content = checkpoint.load(tmp_path / "c.pt")
    taken_up.learner.restore(content["learner"])
    checkpoint.set_rng_state(content["rng"])
    steps(taken_up, 3, 6)
    assert same(whole.weights(), taken_up.weights())
