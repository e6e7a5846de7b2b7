"""The loop: when it stops, what it records, and that it can be stopped and resumed anywhere.

Windows streamed from the host give the same bits as resident ones.
"""

import io
import json
import math
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import SMALL, After, assemble, assert_resumes, fit, resumed_from_file, same
from rich.console import Console
from safetensors.torch import load_file

from stockenh.config import build
from stockenh.data.batches import DeviceWindows
from stockenh.data.placement import StreamedWindows
from stockenh.errors import TrainingError
from stockenh.inference.calibration import Calibration
from stockenh.inference.predict import forecast, predict
from stockenh.report.terminal import PrintedProgress
from stockenh.storage.run_folder import RunFolder
from stockenh.training.checkpoint import FolderJournal
from stockenh.training.loop import Journal, State, choose
from stockenh.training.step import Objective
from stockenh.training.stop import Interrupted

STREAMED = "train.resident=false"
RECIPE = ("train.batch_size=16", "train.accumulate=3", "augment=noise", "train.epochs=2")


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


@pytest.mark.parametrize(("counts", "stops"), [("start", 0), ("peak", 3)])
def test_patience_may_begin_at_the_peak_of_the_rate(small, counts, stops):
    made = small("train.epochs=9", "schedule.warmup=0.3", f"train.patience_from={counts}")
    first = build.limits(made.config).patience_from
    assert first == stops
    state, _ = run(made, 0.4, *[0.5] * 8, epochs=9, patience=2, patience_from=first)
    assert state.epoch == max(1, first) + 2


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
            total += float(made.learner.objective(out, group.micros[0], group.count) * group.count.labels)
        count += float(group.count.labels)
    assert notes.lines[0]["train_loss"] == pytest.approx(total / count, rel=1e-5)


def overflowing(made, steps):
    """The run with outputs that overflow in the first so many steps, as fp16's do."""
    left = iter(range(steps))

    def overflow(module, inputs, out):
        return {k: v * math.inf for k, v in out.items()} if next(left, None) is not None else out

    made.learner.model.register_forward_hook(overflow)
    return made


@pytest.mark.parametrize("stop", [None, 2])
def test_steps_that_fp16_skips_do_not_enter_the_train_loss(small, stop):
    fp16 = ("train.precision=fp16", "optimizer.lr=1e-12", "model.dropout=0", "train.batch_size=32")
    made = overflowing(small(*fp16), 3)
    state, notes = State(), Notes()
    if stop is not None:
        with pytest.raises(Interrupted):
            fit(made, losses(0.5), 1, state, journal=notes, stop=stop)
        assert state.loss_sum == state.label_sum == 0
    fit(made, losses(0.5), 1, state, journal=notes)
    _, plain = run(small(*fp16), 0.5, epochs=1)
    (line,) = notes.lines
    assert line["skipped"] == 3 and line["steps"] == made.batches.steps - 3 > 0
    assert line["train_loss"] == pytest.approx(plain.lines[0]["train_loss"], rel=0.1)


def test_an_epoch_of_skipped_steps_says_so_and_the_next_goes_on(small, tmp_path):
    made = small("train.precision=fp16", "train.batch_size=64")
    overflowing(made, made.batches.steps)
    (tmp_path / "config.yaml").touch()
    printed, journal = io.StringIO(), FolderJournal(RunFolder(tmp_path), made.learner)
    journal.folder.config.touch()
    progress = PrintedProgress(Console(file=printed, width=200), 2)
    fit(made, losses(0.5, 0.4), 2, journal=journal, progress=progress)
    first, second = journal.folder.read_metrics()
    assert first["train_loss"] is None and first["steps"] == 0 and math.isfinite(second["train_loss"])
    warning, *lines = printed.getvalue().splitlines()
    assert "epoch 1: fp16 skipped every step" in warning
    assert len(lines) == 2 and "loss n/a" in lines[0] and "skipped" in lines[0]


def test_a_train_loss_that_overflows_with_a_finite_gradient_stops_the_run(small):
    made = small()

    class Huge(Objective):
        def __call__(self, out, micro, count):
            return super().__call__(out, micro, count) + math.inf

    made = replace(made, learner=replace(made.learner, objective=Huge(made.learner.objective.loss)))
    with pytest.raises(TrainingError, match=r"epoch 1: the mean training loss is inf.*optimizer\.lr"):
        run(made, 0.5, epochs=1)


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


def two_epochs(made, state=None, **options):
    fit(made, lambda: {"raw": {"loss": None}}, 2, state, **options)


def threads():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("stockenh-prefetch")]


@pytest.fixture(scope="module")
def whole(bars):
    """The weights that a resident run ends with."""
    made = assemble(*SMALL, f"data.path={bars}", *RECIPE)
    assert isinstance(made.resident, DeviceWindows) and made.batches.steps >= 4
    two_epochs(made)
    return made.weights()


def test_streamed_it_ends_with_the_same_bits(small, whole):
    made = small(*RECIPE, STREAMED)
    assert isinstance(made.resident, StreamedWindows)
    two_epochs(made)
    assert same(whole, made.weights()) and threads() == []


@pytest.mark.parametrize("after", [1, 3])
@pytest.mark.parametrize("later", [STREAMED, "train.resident=true"])
def test_streamed_and_stopped_it_goes_on_to_the_same_bits_either_way(small, whole, tmp_path, after, later):
    made, state = small(*RECIPE, STREAMED), State()
    with pytest.raises(Interrupted):
        two_epochs(made, state, stop=after)
    assert threads() == [] and state.step_in_epoch == after
    again = resumed_from_file(made, tmp_path / "c.pt", lambda: small(*RECIPE, later))
    two_epochs(again, state)
    assert same(whole, again.weights())


def test_an_error_of_the_loop_ends_the_thread(small):
    def fail():
        assert len(threads()) == 1
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory") as caught:
        two_epochs(small(*RECIPE, STREAMED), progress=After(2, fail))
    assert caught.value.__traceback__ is not None and threads() == []


@pytest.mark.parametrize("embedding", ["embedding.shuffle=false", "embedding.shuffle=true"])
def test_forecasts_are_the_same_with_and_without_views(small, embedding):
    resident, streamed = small(embedding), small(embedding, STREAMED)
    net, rows = resident.learner.model, resident.prepared.rows["val"]
    calibration, views = Calibration.identity(3), build.views(resident.config)
    found = []
    for made in (resident, streamed):
        plain = predict(net, made.resident, rows, made.fitted, made.learner.objective)
        noisy = forecast(net, made.resident, rows, made.fitted, calibration, views)
        found.append((plain.loss, plain.ret, plain.up_logits, noisy.ret, noisy.up_prob, noisy.uncertainty))
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_run_says_how_its_windows_are_held(stockenh, bars, tmp_path):
    summaries, lines, weights = [], [], []
    for setting in ("true", "false", "auto"):
        run_folder = tmp_path / setting
        changes = ("train.epochs=1", f"train.resident={setting}", f"hydra.run.dir={run_folder}")
        answer = stockenh("train", *SMALL, f"data.path={bars}", *changes)
        assert answer.code == 0, answer.err
        lines.append(next(line for line in answer.out.splitlines() if line.startswith("windows")))
        summaries.append(json.loads((run_folder / "summary.json").read_text()))
        (file,) = (run_folder / "weights").iterdir()  # without averages there is one
        assert file.name == "raw.safetensors" and summaries[-1]["weights"] == "raw"
        weights.append(load_file(file))
    assert [summary["resident"] for summary in summaries] == [True, False, True]
    assert lines[0] == "windows  resident on the device, as train.resident=true says"
    assert lines[1] == "windows  streamed from the host, as train.resident=false says"
    assert lines[2].startswith("windows  resident on the device: ") and lines[2].endswith(" free there")
    assert same(weights[0], weights[1]) and same(weights[0], weights[2])
    assert summaries[0]["parts"] == summaries[1]["parts"]


def test_a_setting_that_is_neither_is_refused(stockenh):
    answer = stockenh("train", "train.resident=maybe")
    assert answer.code == 2
    assert all(word in answer.err for word in ("train.resident=maybe", "auto", "true", "false"))
