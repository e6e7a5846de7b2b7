"""EMA and SWA: off changes nothing, on equals hand numbers, both survive save and resume."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import Small, resumed_from_file, same
from torch import nn

from stockenh.config.schema import settings_of
from stockenh.errors import ConfigError
from stockenh.report.terminal import SilentProgress
from stockenh.training import checkpoint
from stockenh.training.averaging import Averages, Averaging, Ema, Swa, refresh_batch_norm
from stockenh.training.loop import Journal, Limits, State, StopRequest, fit

Make = Callable[..., Small]


class Scalar(nn.Module):
    """One weight and one buffer."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(value))
        self.register_buffer("seen", torch.tensor(0.0))

    def set(self, value: float) -> Scalar:
        self.w.data.fill_(value)
        self.seen.fill_(value)
        return self


def no_inputs() -> list[tuple[torch.Tensor, ...]]:
    return []


def run(made: Small, epochs: int, validate: Callable[[], dict[str, dict[str, float]]] | None = None) -> State:
    state = State()
    always = validate or (
        lambda: {name: {"loss": 1.0} for name in made.learner.averages.named(made.learner.model)}
    )
    limits = Limits(epochs, 2 if validate else 99, 1e9)
    fit(made.learner, made.batches, always, state, limits, Journal(), SilentProgress(), StopRequest())
    return state


def test_ema_by_hand_starts_as_a_copy_and_warms_up() -> None:
    model = Scalar(10.0)
    ema = Ema(model, decay=0.2)
    assert float(ema.weights().w) == 10.0
    # n = 0: min(0.2, 1/10) = 0.1; n = 1: min(0.2, 2/11) = 2/11; n = 2: min(0.2, 3/12) = 0.2
    expected = 10.0
    for value, decay in ((20.0, 0.1), (-5.0, 2 / 11), (7.0, 0.2)):
        ema.step(model.set(value))
        expected = decay * expected + (1 - decay) * value
        assert float(ema.weights().w) == pytest.approx(expected, rel=1e-6)
        assert float(ema.weights().seen) == value  # buffers are copied


def test_ema_forgets_the_initial_weights() -> None:
    model = Scalar(1.0)
    ema = Ema(model, decay=0.9999)
    for _ in range(3000):
        ema.step(model.set(0.0))
    assert float(ema.weights().w) < 1e-6


def test_swa_by_hand_is_the_mean_of_epoch_ends() -> None:
    model = Scalar(0.0)
    swa = Swa(model, first=2)
    for epoch, value in enumerate((1.0, 2.0, 4.0, 9.0), start=1):
        swa.step(model.set(100.0))
        swa.close_epoch(model.set(value), epoch, no_inputs)
        assert (swa.weights() is None) == (epoch <= 2)
    averaged = swa.weights()
    assert averaged is not None and float(averaged.w) == 6.5


def test_batch_norm_is_refreshed_with_three_input_batches() -> None:
    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(1)
            self.drop = nn.Dropout(0.5)

        def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
            return self.norm(self.drop(inputs[2]))

    model = Normed().train()
    empty = torch.zeros(2, 0)
    batches = [(empty, empty, torch.tensor([[1.0], [3.0]])), (empty, empty, torch.tensor([[5.0], [7.0]]))]
    refresh_batch_norm(model, lambda: batches)
    assert float(model.norm.running_mean) == 4.0  # the mean of all, dropout off
    assert model.norm.momentum == 0.1 and model.training and model.drop.training


def test_off_keeps_raw_weights_only_and_changes_no_bit(small: Make) -> None:
    plain, averaged = small("train.epochs=4"), small("train.epochs=4", "averaging=ema")
    for made in (plain, averaged):
        torch.manual_seed(0)
        run(made, 4)
    assert list(plain.learner.averages.named(plain.learner.model)) == ["raw"]
    assert plain.learner.averages.state_dict() == {}
    assert same(plain.weights(), averaged.weights())  # the average watches, it does not take part


def test_together_each_is_named_once_there_is_one(small: Make) -> None:
    made = small("train.epochs=4", "averaging=ema_swa", "averaging.swa_start=0.5")
    seen: list[list[str]] = []

    def validate() -> dict[str, dict[str, float]]:
        seen.append(list(made.learner.averages.named(made.learner.model)))
        return {name: {"loss": -len(seen)} for name in seen[-1]}

    run(made, 4, validate)
    assert seen == [["raw", "ema"], ["raw", "ema"], ["raw", "ema", "swa"], ["raw", "ema", "swa"]]


def test_early_stopping_waits_for_swa(small: Make) -> None:
    made = small("train.epochs=10", "averaging=swa", "averaging.swa_start=0.6")
    losses = iter([0.1] + [0.5] * 9)
    state = run(made, 10, lambda: {"raw": {"loss": next(losses)}})
    assert state.epoch == 8  # worse since epoch 1, SWA from epoch 7, patience 2
    assert made.learner.averages.named(made.learner.model).keys() == {"raw", "swa"}


@pytest.mark.parametrize("at", [1, 3])
def test_resumed_from_a_file_the_averages_go_on_with_the_same_bits(
    small: Make, tmp_path: Path, at: int
) -> None:
    overrides = ("train.epochs=4", "averaging=ema_swa", "averaging.swa_start=0.5")

    def epochs(made: Small, first: int, last: int) -> None:
        for epoch in range(first, last):
            for step in range(made.batches.steps):
                made.learner.step(made.batches.group(epoch, step))
            made.learner.averages.close_epoch(made.learner.model, epoch + 1, made.batches.inputs)

    whole = small(*overrides)
    epochs(whole, 0, at)
    again = resumed_from_file(whole, tmp_path / "c.pt", lambda: small(*overrides))
    epochs(whole, at, 4)
    checkpoint.set_rng_state(checkpoint.load(tmp_path / "c.pt")["rng"])
    epochs(again, at, 4)
    expected = whole.learner.averages.named(whole.learner.model)
    found = again.learner.averages.named(again.learner.model)
    assert expected.keys() == found.keys() == {"raw", "ema", "swa"}
    for name, net in expected.items():
        assert same(dict(net.state_dict()), dict(found[name].state_dict())), name


def test_an_average_of_a_shorter_plan_is_begun_anew() -> None:
    model = Scalar(1.0)
    short = Averages({"swa": Swa(model, first=1)})
    short.close_epoch(model, 2, no_inputs)
    longer = Averages({"swa": Swa(model, first=3)})
    longer.load_state_dict(short.state_dict())
    assert longer.named(model).keys() == {"raw"}


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"ema_decay": 1.0}, "averaging.ema_decay=1.0"),
        ({"swa_start": 1.0}, "averaging.swa_start=1.0 must be below 1"),
        ({"swa_lr_factor": 0.0}, "averaging.swa_lr_factor=0.0"),
        ({"swa_anneal": "linear"}, "averaging.swa_anneal=linear"),
    ],
)
def test_wrong_settings_are_named(values: dict[str, float], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        settings_of("averaging", Averaging, values)


@pytest.mark.parametrize(("epochs", "first"), [(1, 0), (2, 1), (20, 15), (50, 37)])
def test_however_short_the_run_an_epoch_is_left_to_average(epochs: int, first: int) -> None:
    assert Averaging(swa_start=0.75).swa_first(epochs) == first < epochs
