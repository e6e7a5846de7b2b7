"""The loop: when it stops, what it records, and that it can be left anywhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import Small, same

from stockenh.errors import TrainingError
from stockenh.report.terminal import SilentProgress
from stockenh.training import checkpoint
from stockenh.training.loop import Interrupted, Journal, Limits, State, StopRequest, choose, fit

Make = Callable[..., Small]


class Notes(Journal):
    """A journal in memory."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []
        self.bests: list[tuple[str, int]] = []
        self.pauses = 0

    def best(self, name: str, state: State) -> None:
        self.bests.append((name, state.epoch))

    def epoch(self, line: dict[str, Any], state: State) -> None:
        self.lines.append(line)

    def pause(self, state: State) -> None:
        self.pauses += 1


class StopAfter(SilentProgress):
    """Requests a stop after so many steps."""

    def __init__(self, stop: StopRequest, steps: int) -> None:
        self.stop, self.left = stop, steps

    def advance(self, windows: int, loss: torch.Tensor) -> None:
        self.left -= 1
        self.stop.requested = self.left == 0


def losses(*values: float) -> Callable[[], dict[str, dict[str, Any]]]:
    remaining = list(values)
    return lambda: {"raw": {"loss": remaining.pop(0)}}


def run(made: Small, validate: Any, state: State | None = None, **kwargs: Any) -> tuple[State, Notes]:
    notes, state = kwargs.pop("notes", Notes()), state or State()
    progress, stop = kwargs.pop("progress", SilentProgress()), kwargs.pop("stop", StopRequest())
    limits = Limits(kwargs.pop("epochs", 5), kwargs.pop("patience", 2), kwargs.pop("seconds", 1e9))
    fit(made.learner, made.batches, validate, state, limits, notes, progress, stop, **kwargs)
    return state, notes


def test_it_trains_all_epochs_and_says_which_was_best(small: Make) -> None:
    made = small("train.epochs=4")
    state, notes = run(made, losses(0.5, 0.4, 0.45, 0.3), epochs=4)
    assert [line["best"] for line in notes.lines] == [True, True, False, True]
    assert notes.bests == [("raw", 1), ("raw", 2), ("raw", 4)]
    assert state.best["raw"].epoch == 4 and state.best["raw"].val_loss == 0.3
    assert state.steps == 4 * made.batches.steps == notes.lines[-1]["steps"]


def test_patience_counts_epochs_without_a_better_validation_loss(small: Make) -> None:
    state, _ = run(small("train.epochs=9"), losses(0.5, 0.4, 0.4, 0.41, 0.1), epochs=9, patience=2)
    assert state.epoch == 4
    assert state.best["raw"].epoch == 2


def test_report_may_stop_it(small: Make) -> None:
    seen = []

    def report(epoch: int, line: dict[str, Any]) -> bool:
        seen.append((epoch, line["val_loss"]))
        return epoch == 2

    state, _ = run(small(), losses(0.5, 0.6, 0.7), report=report)
    assert seen == [(1, 0.5), (2, 0.6)] and state.epoch == 2


def test_the_train_loss_is_the_mean_over_all_labels(small: Make) -> None:
    made = small("optimizer.lr=1e-12", "model.dropout=0", "train.batch_size=7")
    _, notes = run(made, losses(0.5), epochs=1)
    made.learner.model.eval()
    total = count = 0.0
    for step in range(made.batches.steps):
        group = made.batches.group(0, step)
        with torch.no_grad():
            out = made.learner.model(*group.micros[0].inputs)
            total += float(made.learner.objective(out, group.micros[0], group.count) * group.count)
        count += float(group.count)
    assert notes.lines[0]["train_loss"] == pytest.approx(total / count, rel=1e-5)


@pytest.mark.parametrize("after", [1, 3, 7])
def test_stopped_within_an_epoch_and_resumed_it_ends_with_the_same_bits(small: Make, after: int) -> None:
    overrides = ("train.batch_size=32", "train.accumulate=2", "train.epochs=2")
    whole = small(*overrides)
    assert whole.batches.steps >= 4
    _, expected = run(whole, losses(0.5, 0.4), epochs=2)

    left, state, notes, stop = small(*overrides), State(), Notes(), StopRequest()
    with pytest.raises(Interrupted):
        run(left, losses(0.5, 0.4), state, epochs=2, notes=notes, stop=stop, progress=StopAfter(stop, after))
    assert notes.pauses == 1
    kept, rng = left.learner.checkpoint(), checkpoint.rng_state()
    kept = {
        k: torch.utils._pytree.tree_map(lambda v: v.clone() if isinstance(v, torch.Tensor) else v, part)
        for k, part in kept.items()
    }

    again = small(*overrides)
    again.learner.restore(kept)
    checkpoint.set_rng_state(rng)
    state = State.from_dict(state.to_dict())
    remaining = losses(0.5, 0.4) if state.epoch == 0 else losses(0.4)
    _, after_notes = run(again, remaining, state, epochs=2)
    assert same(whole.weights(), again.weights())
    assert after_notes.lines[-1]["train_loss"] == expected.lines[-1]["train_loss"]
    assert after_notes.lines[-1]["lr"] == expected.lines[-1]["lr"]


def test_a_long_epoch_is_saved_within(small: Make) -> None:
    made = small()
    _, notes = run(made, losses(0.5), epochs=1, seconds=0.0)
    assert notes.pauses == made.batches.steps


def test_a_non_finite_step_names_step_dates_and_advice(small: Make) -> None:
    made = small()
    made.resident.y_ret[made.batches.rows_of(1, 2)[0]] = float("nan")
    row = int(made.batches.rows_of(1, 2)[0])
    with pytest.raises(TrainingError) as caught:
        run(made, losses(0.5, 0.4))
    message = str(caught.value)
    first_seen = [i for i in range(made.batches.steps) if row in made.batches.rows_of(0, i)]
    assert message.startswith(f"epoch 1, step {first_seen[0] + 1}:")
    asof = sorted(made.resident.asof[made.batches.rows_of(0, first_seen[0]).numpy()].astype("datetime64[D]"))
    assert f"windows end {asof[0]} to {asof[-1]}" in message
    assert "optimizer.lr" in message
    assert all(torch.isfinite(t).all() for t in made.weights().values())


def test_a_validation_that_is_not_finite_stops_it(small: Make) -> None:
    with pytest.raises(TrainingError, match="validation loss of the raw weights is nan"):
        run(small(), losses(float("nan")))


def test_without_validation_every_epoch_is_the_best_and_none_is_the_last(small: Make) -> None:
    state, notes = run(small("train.epochs=3"), lambda: {"raw": {"loss": None}}, epochs=3, patience=1)
    assert state.epoch == 3 and state.best["raw"].epoch == 3 and state.best["raw"].val_loss is None
    assert notes.bests == [("raw", 1), ("raw", 2), ("raw", 3)]
    assert [line["val_loss"] for line in notes.lines] == [None] * 3
    assert State.from_dict(state.to_dict()) == state


def test_the_lowest_validation_loss_is_chosen_and_without_any_the_last_average() -> None:
    assert choose({"raw": 0.5, "ema": 0.4, "swa": 0.6}) == "ema"
    assert choose({"raw": 0.5, "ema": 0.5}) == "raw"
    assert choose({"raw": None, "ema": None}) == "ema"
    assert choose({"raw": None}) == "raw"
