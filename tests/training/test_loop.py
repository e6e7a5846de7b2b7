"""The loop: when it stops, what it records, and that it can be stopped and resumed anywhere."""

import math

import pytest
import torch
from conftest import assert_resumes, fit, same

from stockenh.errors import TrainingError
from stockenh.training.loop import Interrupted, Journal, State, choose


class Notes(Journal):
    """A journal in memory."""

    def __init__(self):
        self.lines, self.bests, self.pauses = [], [], 0

    def best(self, name, state):
        self.bests.append((name, state.epoch))

    def epoch(self, line, state):
        self.lines.append(line)

    def pause(self, state):
        self.pauses += 1


def losses(*values):
    remaining = iter(values)
    return lambda: {"raw": {"loss": next(remaining)}}


def run(made, *val_losses, epochs=5, **options):
    notes = Notes()
    return fit(made, losses(*val_losses), epochs, journal=notes, **options), notes


def test_it_trains_all_epochs_and_says_which_was_best(small):
    made = small("train.epochs=4")
    state, notes = run(made, 0.5, 0.4, 0.45, 0.3, epochs=4)
    assert [line["best"] for line in notes.lines] == [True, True, False, True]
    assert notes.bests == [("raw", 1), ("raw", 2), ("raw", 4)]
    assert state.best["raw"].epoch == 4 and state.best["raw"].val_loss == 0.3
    assert state.steps == 4 * made.batches.steps == notes.lines[-1]["steps"]


def test_patience_counts_epochs_without_a_better_validation_loss(small):
    state, _ = run(small("train.epochs=9"), 0.5, 0.4, 0.4, 0.41, 0.1, epochs=9, patience=2)
    assert state.epoch == 4 and state.best["raw"].epoch == 2


def test_report_may_stop_it(small):
    seen = []

    def report(epoch, line):
        seen.append((epoch, line["val_loss"]))
        return epoch == 2

    state, _ = run(small(), 0.5, 0.6, 0.7, report=report)
    assert seen == [(1, 0.5), (2, 0.6)] and state.epoch == 2


def test_the_train_loss_is_the_mean_over_all_labels(small):
    made = small("optimizer.lr=1e-12", "model.dropout=0", "train.batch_size=7")
    _, notes = run(made, 0.5, epochs=1)
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
def test_stopped_within_an_epoch_and_resumed_it_ends_with_the_same_bits(small, tmp_path, after):
    make = lambda: small("train.batch_size=32", "train.accumulate=2", "train.epochs=2")  # noqa: E731
    whole = make()
    assert whole.batches.steps >= 4
    _, expected = run(whole, 0.5, 0.4, epochs=2)
    left, state, notes = make(), State(), Notes()  # a build sets the seed
    with pytest.raises(Interrupted):
        fit(left, losses(0.5, 0.4), 2, state, journal=notes, stop=after)
    assert notes.pauses == 1
    kept, found = state.to_dict(), []

    def go_on(made):
        remaining = (0.5, 0.4)[kept["epoch"] :]
        found.append(run(made, *remaining, epochs=2, state=State.from_dict(kept))[1].lines[-1])

    assert_resumes(left, tmp_path / "c.pt", make, go_on)
    assert same(whole.weights(), left.weights())
    for name in ("train_loss", "lr"):
        assert [line[name] for line in found] == [expected.lines[-1][name]] * 2


def test_a_long_epoch_is_saved_within(small):
    made = small()
    assert run(made, 0.5, epochs=1, seconds=0.0)[1].pauses == made.batches.steps


def test_a_non_finite_step_names_step_dates_and_advice(small):
    made = small()
    row = int(made.batches.rows_of(1, 2)[0])
    made.resident.y_ret[row] = float("nan")
    with pytest.raises(TrainingError) as caught:
        run(made, 0.5, 0.4)
    first = next(step for step in range(made.batches.steps) if row in made.batches.rows_of(0, step))
    asof = sorted(made.resident.asof[made.batches.rows_of(0, first).numpy()].astype("datetime64[D]"))
    message = str(caught.value)
    assert message.startswith(f"epoch 1, step {first + 1}:") and "optimizer.lr" in message
    assert f"windows end {asof[0]} to {asof[-1]}" in message
    assert all(torch.isfinite(t).all() for t in made.weights().values())


def test_a_validation_that_is_not_finite_stops_it(small):
    with pytest.raises(TrainingError, match="validation loss of the raw weights is nan"):
        run(small(), math.nan)


def test_without_validation_every_epoch_is_the_best_and_none_is_the_last(small):
    state, notes = run(small("train.epochs=3"), None, None, None, epochs=3, patience=1)
    assert state.epoch == 3 and state.best["raw"].epoch == 3 and state.best["raw"].val_loss is None
    assert notes.bests == [("raw", 1), ("raw", 2), ("raw", 3)]
    assert [line["val_loss"] for line in notes.lines] == [None] * 3
    assert State.from_dict(state.to_dict()) == state


@pytest.mark.parametrize(
    ("val_losses", "chosen"),
    [((0.5, 0.4, 0.6), "ema"), ((0.5, 0.5), "raw"), ((None, None), "ema"), ((None,), "raw")],
)
def test_the_lowest_validation_loss_is_chosen_and_without_any_the_last_average(val_losses, chosen):
    assert choose(dict(zip(("raw", "ema", "swa"), val_losses, strict=False))) == chosen
