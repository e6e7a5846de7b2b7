"""The loop of a run: epochs of training steps, each validated; stopped, saved and resumed at any step."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Annotated, Any, Protocol

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from stockenh.data.batches import TrainBatches
from stockenh.errors import TrainingError
from stockenh.storage.untrusted import typed
from stockenh.training.precision import NonFiniteGradient, sum_dtype
from stockenh.training.step import Learner
from stockenh.training.stop import Interrupted, StopRequest

Metrics = dict[str, Any]
Natural = Annotated[int, Field(ge=0)]


@dataclass
class Best:
    """The best validation so far of one set of weights; without validation the last is the best."""

    epoch: int
    val_loss: float | None

    def is_beaten_by(self, val_loss: float | None) -> bool:
        """Whether weights with this validation loss replace it."""
        return self.val_loss is None or val_loss is None or val_loss < self.val_loss


@dataclass
class State:
    """How far a run is: everything that the next step depends on, besides the learner."""

    epoch: Natural = 0  # completed epochs
    step_in_epoch: Natural = 0  # optimizer steps tried in the current epoch
    steps: Natural = 0  # optimizer steps taken
    skipped: Natural = 0  # optimizer steps that fp16 skipped
    loss_sum: float = 0.0  # of the steps taken in the current epoch: group losses times labels
    label_sum: float = 0.0
    train_seconds: float = 0.0  # of the current epoch
    seconds: float = 0.0  # of training and validation, all sessions together
    best: dict[str, Best] = field(default_factory=dict)  # by name of the weights

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> State:
        """Raises RunFolderError where the values are not those of `to_dict`."""
        return typed(cls, values, "its state")


class Journal:
    """Where a run is recorded; this one records nothing."""

    def best(self, name: str, state: State) -> None:
        """The weights `name` have their best validation loss now."""

    def epoch(self, line: Metrics, state: State) -> None:
        """An epoch is complete."""

    def pause(self, state: State) -> None:
        """A step within an epoch from which the run can be resumed."""


class Progress(Protocol):
    """Shows how far training is."""

    def start(self, epoch: int, steps: int, done: int) -> None:
        """An epoch starts at step `done` of `steps`."""

    def advance(self, windows: int, loss: Tensor) -> None:
        """A step is complete."""

    def finish(self, line: Metrics) -> None:
        """An epoch is complete."""


@dataclass(frozen=True)
class Limits:
    """How long to train. patience_from: the epoch from which early stopping counts."""

    epochs: int
    patience: int
    checkpoint_seconds: float
    patience_from: int = 0


Validate = Callable[[], dict[str, Metrics]]
Report = Callable[[int, Metrics], bool]


def fit(
    learner: Learner,
    batches: TrainBatches,
    validate: Validate,
    state: State,
    limits: Limits,
    journal: Journal,
    progress: Progress,
    stop: StopRequest,
    report: Report | None = None,
) -> bool:
    """Trains until the epochs are done, patience runs out, or `report(epoch, metrics)` returns True.

    Returns whether the report ended it.

    validate() gives {name of weights: {"loss": ..., horizon: metrics}}, maybe with other losses; a loss of
    None, where there is nothing to validate on, makes every epoch the best so far. Raises Interrupted once a
    requested stop is saved, and TrainingError where a step is not finite.

    Of several processes all run this function. Rank 0 validates and decides, and the others get the results;
    where it ends, they end at their next broadcast.
    """
    from_first = learner.processes.from_first
    while from_first(lambda: state.epoch < limits.epochs and not _is_stale(state, limits)):
        _train_epoch(learner, batches, state, limits, journal, progress, stop)
        state.epoch, state.step_in_epoch = state.epoch + 1, 0
        learner.averages.close_epoch(learner.model, state.epoch, batches.inputs)
        state.seconds += state.train_seconds
        began = time.perf_counter()
        line = _close_epoch(learner, batches, from_first(validate), state, journal)
        state.seconds += time.perf_counter() - began
        journal.epoch(line, state)
        progress.finish(line)
        if from_first(partial(_ends, report, stop, state.epoch, line)):
            return True
    return False


def _ends(report: Report | None, stop: StopRequest, epoch: int, line: Metrics) -> bool:
    """Whether the report ends the run. Raises Interrupted where it is to stop: an epoch is saved anyway."""
    if report is not None and report(epoch, line):
        return True
    if stop.look is not None and stop.look():
        raise Interrupted
    return False


def _is_stale(state: State, limits: Limits) -> bool:
    """Whether no weights had a better validation loss for `patience` epochs in a row."""
    best = max((b.epoch for b in state.best.values()), default=state.epoch)
    return state.epoch - max(best, limits.patience_from) >= limits.patience


def _train_epoch(
    learner: Learner,
    batches: TrainBatches,
    state: State,
    limits: Limits,
    journal: Journal,
    progress: Progress,
    stop: StopRequest,
) -> None:
    learner.model.train()
    progress.start(state.epoch + 1, batches.steps, state.step_in_epoch)
    device = batches.data.device
    loss_sum = torch.tensor(state.loss_sum, dtype=sum_dtype(device), device=device)
    label_sum = torch.tensor(state.label_sum, dtype=sum_dtype(device), device=device)
    before, began, saved = state.train_seconds, time.perf_counter(), time.perf_counter()
    with closing(batches.groups(state.epoch, state.step_in_epoch)) as groups:
        for step, group in enumerate(groups, state.step_in_epoch):
            try:
                loss, taken = learner.step(group)
                if taken:  # the loss of a step that fp16 skipped may be infinite
                    loss_sum += loss * group.count.labels
                    label_sum += group.count.labels
                state.step_in_epoch = step + 1
                state.steps += taken
                state.skipped += not taken
                progress.advance(group.windows, loss)
                now, stops = time.perf_counter(), stop.is_due()
                saves = stops or now - saved > limits.checkpoint_seconds
                learner.precision.require_finite(now=saves or step + 1 == batches.steps)
            except NonFiniteGradient as error:
                raise _explain(error, learner, batches, state, step - error.ago) from None
            if saves:
                state.loss_sum, state.label_sum = float(loss_sum), float(label_sum)
                state.train_seconds = before + now - began
                journal.pause(state)
                saved = now
            if stops:
                raise Interrupted(stop.signum)
    state.loss_sum, state.label_sum = float(loss_sum), float(label_sum)
    state.train_seconds = before + time.perf_counter() - began


def _close_epoch(
    learner: Learner, batches: TrainBatches, validation: dict[str, Metrics], state: State, journal: Journal
) -> Metrics:
    improved = []
    for name, figures in validation.items():
        loss = figures["loss"]
        if loss is not None and not math.isfinite(loss):
            raise TrainingError(
                f"epoch {state.epoch}: the validation loss of the {name} weights is {loss}. "
                f"The last checkpoint is kept. Lower optimizer.lr"
            )
        if name not in state.best or state.best[name].is_beaten_by(loss):
            state.best[name] = Best(state.epoch, loss)
            improved.append(name)
    for name in improved:
        journal.best(name, state)
    train_loss = state.loss_sum / state.label_sum if state.label_sum else None
    if train_loss is not None and not math.isfinite(train_loss):
        raise TrainingError(
            f"epoch {state.epoch}: the mean training loss is {train_loss}. The last checkpoint is kept. "
            f"Lower optimizer.lr"
        )
    chosen = choose({name: figures["loss"] for name, figures in validation.items()})
    windows = len(batches.rows)
    line = {
        "epoch": state.epoch,
        "steps": state.steps,
        "skipped": state.skipped,
        "lr": learner.schedule.lr,
        "train_loss": train_loss,  # None: fp16 skipped every step of the epoch
        **{f"val_{k}": v for k, v in validation[chosen].items() if not isinstance(v, dict)},
        "weights": chosen,
        "best": bool(improved),
        "val": {k: v for k, v in validation[chosen].items() if isinstance(v, dict)},
        "by_weights": validation,
        "seconds": round(state.train_seconds, 3),
        "windows_per_second": round(windows / max(state.train_seconds, 1e-9), 1),
    }
    state.loss_sum = state.label_sum = state.train_seconds = 0.0
    return line


def choose(losses: Mapping[str, float | None]) -> str:
    """The name of the weights with the lowest validation loss.

    Without validation it is the last name, an average where there is one: swa before ema before raw.
    """
    known = {name: loss for name, loss in losses.items() if loss is not None}
    return min(known, key=known.__getitem__) if known else list(losses)[-1]


def _explain(
    error: Exception, learner: Learner, batches: TrainBatches, state: State, step: int
) -> TrainingError:
    rows = batches.rows_of(state.epoch, step).cpu().numpy()
    asof = np.sort(batches.data.asof[rows].astype("datetime64[D]"))
    return TrainingError(
        f"epoch {state.epoch + 1}, step {step + 1}: {error}; its {len(rows)} windows end {asof[0]} to "
        f"{asof[-1]}. The step was not made, and the last checkpoint is kept. Train again with a lower "
        f"optimizer.lr (the rate here: {learner.schedule.lr:.3g}), or check the bars of these dates; "
        f"in fp16, try train.precision=bf16"
    )
