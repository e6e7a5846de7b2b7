"""EMA and SWA: off changes nothing, on equals hand numbers, both survive save and resume."""

from itertools import chain, repeat

import pytest
import torch
from conftest import assert_resumes, fit, same
from torch import nn

from stockenh.config import build
from stockenh.config.schema import settings_of
from stockenh.errors import ConfigError
from stockenh.training.averaging import Averages, Averaging, Ema, Swa, refresh_batch_norm


class Scalar(nn.Module):
    """One weight and one buffer."""

    def __init__(self, value):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(value))
        self.register_buffer("seen", torch.tensor(0.0))

    def set(self, value):
        self.w.data.fill_(value)
        self.seen.fill_(value)
        return self


def test_ema_by_hand_starts_as_a_copy_warms_up_and_forgets_the_initial_weights():
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
    ema = Ema(model.set(1.0), decay=0.9999)
    for _ in range(3000):
        ema.step(model.set(0.0))
    assert float(ema.weights().w) < 1e-6


def test_swa_by_hand_is_the_mean_of_epoch_ends():
    model = Scalar(0.0)
    swa = Swa(model, first=2)
    for epoch, value in enumerate((1.0, 2.0, 4.0, 9.0), start=1):
        swa.step(model.set(100.0))
        swa.close_epoch(model.set(value), epoch, list)
        assert (swa.weights() is None) == (epoch <= 2)
    assert float(swa.weights().w) == 6.5


def test_batch_norm_is_refreshed_with_three_input_batches():
    class Normed(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(1)
            self.drop = nn.Dropout(0.5)

        def forward(self, *inputs):
            return self.norm(self.drop(inputs[2]))

    model = Normed().train()
    empty = torch.zeros(2, 0)
    batches = [(empty, empty, torch.tensor([[1.0], [3.0]])), (empty, empty, torch.tensor([[5.0], [7.0]]))]
    refresh_batch_norm(model, lambda: batches)
    assert float(model.norm.running_mean) == 4.0  # the mean of all, dropout off
    assert model.norm.momentum == 0.1 and model.training and model.drop.training


def test_an_average_changes_no_bit_of_the_raw_weights_and_is_named_once_there_is_one(small):
    def train(*overrides):
        made, seen = small("train.epochs=4", *overrides), []

        def validate():
            seen.append(list(made.learner.averages.named(made.learner.model)))
            return {name: {"loss": -len(seen)} for name in seen[-1]}

        torch.manual_seed(0)
        fit(made, validate, 4)
        return made, seen

    plain, seen = train()
    assert seen == [["raw"]] * 4 and plain.learner.averages.state_dict() == {}
    averaged, seen = train("averaging=ema")
    assert seen == [["raw", "ema"]] * 4 and same(plain.weights(), averaged.weights())
    # not compared: SWA has a learning rate of its own
    _, seen = train("averaging=ema_swa", "averaging.swa_start=0.5")
    assert seen == [["raw", "ema"]] * 2 + [["raw", "ema", "swa"]] * 2


def test_early_stopping_waits_for_swa(small):
    made, losses = (
        small("train.epochs=10", "averaging=swa", "averaging.swa_start=0.6"),
        chain([0.1], repeat(0.5)),
    )
    first = build.limits(made.config).patience_from
    state = fit(made, lambda: {"raw": {"loss": next(losses)}}, 10, patience=2, patience_from=first)
    assert state.epoch == 8  # worse since epoch 1, SWA from epoch 7, patience 2
    assert made.learner.averages.named(made.learner.model).keys() == {"raw", "swa"}


@pytest.mark.parametrize("done", [1, 3])
def test_resumed_from_a_file_the_averages_go_on_with_the_same_bits(small, tmp_path, done):
    overrides = ("train.epochs=4", "averaging=ema_swa", "averaging.swa_start=0.5")

    def epochs(made, first, last):
        for epoch in range(first, last):
            made.steps(0, made.batches.steps, epoch)
            made.close_epoch(epoch + 1)

    whole = small(*overrides)
    epochs(whole, 0, done)
    assert_resumes(whole, tmp_path / "c.pt", lambda: small(*overrides), lambda made: epochs(made, done, 4))
    assert whole.learner.averages.named(whole.learner.model).keys() == {"raw", "ema", "swa"}


def test_an_average_of_a_shorter_plan_starts_anew():
    model = Scalar(1.0)
    short = Averages({"swa": Swa(model, first=1)})
    short.close_epoch(model, 2, list)
    longer = Averages({"swa": Swa(model, first=3)})
    longer.load_state_dict(short.state_dict())
    assert longer.named(model).keys() == {"raw"}


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("ema_decay", 1.0, ""),
        ("swa_start", 1.0, "must be below 1"),
        ("swa_lr_factor", 0.0, ""),
        ("swa_anneal", "linear", ""),
    ],
)
def test_wrong_settings_are_named(key, value, says):
    with pytest.raises(ConfigError, match=f"averaging.{key}={value}.*{says}"):
        settings_of("averaging", Averaging, {key: value})


@pytest.mark.parametrize(("epochs", "first"), [(1, 0), (2, 1), (20, 15), (50, 37)])
def test_however_short_the_run_an_epoch_is_left_to_average(epochs, first):
    assert Averaging(swa_start=0.75).swa_first(epochs) == first < epochs
