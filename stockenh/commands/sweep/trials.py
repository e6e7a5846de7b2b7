"""The trials of a study, one after another, as a worker sees them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from stockenh.commands.multirun.stops import is_requested
from stockenh.commands.multirun.worker import Assignment
from stockenh.commands.sweep.space import Space
from stockenh.commands.sweep.spec import LOSS, SweepConfig
from stockenh.commands.sweep.study import SharedStudy, sampler_of
from stockenh.config.overrides import suggest
from stockenh.errors import ConfigError
from stockenh.training.stop import Interrupted


@dataclass
class StudySource:
    """Draws the values of each trial as it is taken.

    values:   the config's own values by dotted key, for the expressions of the space
    deadline: seconds since the epoch, after which no trial begins or goes on
    session: of the command; see SharedStudy
    """

    settings: SweepConfig
    folder: Path  # of the sweep
    space: Space
    values: Mapping[str, Any]
    seed: int
    deadline: float
    session: str = ""
    _study: SharedStudy | None = field(default=None, repr=False)
    _worker: str = ""

    def __getstate__(self) -> dict[str, Any]:
        """Without the study, whose files and connections are this process's own."""
        return {**self.__dict__, "_study": None, "_worker": ""}

    def open(self, worker: str) -> None:
        self._study = SharedStudy(self.settings, self.folder, self.session)
        self._worker = worker

    def take(self) -> Assignment | None:
        """The next trial with its values drawn; None where none waits or the time is over."""
        study = self._study
        assert study is not None, "open() comes first"
        while time.time() < self.deadline and not study.has_failed() and (number := study.take()) is not None:
            if (drawn := self._draw(study, number)) is not None:
                return drawn
        return None

    def _draw(self, study: SharedStudy, number: int) -> StudyTrial | None:
        """A trial with its values; None where it is closed, for none can be drawn."""
        study.study.sampler = sampler_of(self.settings, self.seed, number)
        trial = optuna.trial.Trial(study.study, study.id_of(number))
        trial.set_user_attr("worker", self._worker)
        trial.set_user_attr("sweep", str(self.folder))
        try:
            overrides = self.space.overrides(trial, self.values.__getitem__)
        except Exception as error:  # what samplers raise over trials that somebody else stored
            study.close(
                number, str(error) if isinstance(error, ConfigError) else f"{type(error).__name__}: {error}"
            )
            return None
        return StudyTrial(number, overrides, study, trial, self.deadline)


@dataclass
class StudyTrial:
    """A running trial of the study."""

    number: int
    overrides: list[str]
    study: SharedStudy
    trial: optuna.trial.Trial
    deadline: float
    pruned: bool = False
    stopped: bool = False

    def __post_init__(self) -> None:
        self._ended = self.study.start_heartbeat(self.number)

    def report(self, epoch: int, metrics: dict[str, Any]) -> bool:
        """Sends the metric of an epoch to the study; True where the pruner ends the trial.

        Raises Interrupted where the time of the sweep is over, and ConfigError where there is no such metric.
        """
        value = metric_of(metrics["by_weights"][metrics["weights"]], self.study.settings.metric)
        # a resumed trial repeats an epoch that is stored already
        if epoch not in self.study.trials()[self.number].intermediate_values:
            self.trial.report(value, epoch)
        self.pruned = self.trial.should_prune()
        if not self.pruned and time.time() >= self.deadline:
            raise Interrupted
        return self.pruned

    def complete(self, summary: dict[str, Any], validation: dict[str, Any]) -> None:
        """Sends the metric of the weights that are kept to the study, and what the trial took."""
        self.trial.set_user_attr("epochs", summary["epochs"])
        self.trial.set_user_attr("seconds", summary["seconds"])
        if self.pruned:
            self.study.study.tell(self.trial, state=TrialState.PRUNED)
        else:
            self.study.study.tell(self.trial, metric_of(validation, self.study.settings.metric))
        self._ended.set()

    def fail(self, why: str) -> None:
        """Ends the trial as failed; the study keeps the reason."""
        self.study.close(self.number, why)
        self._ended.set()

    def stops(self) -> bool:
        """Whether the sweep's stop file is there, or its time is over."""
        return time.time() >= self.deadline or is_requested(self.study.folder)

    def give_back(self) -> None:
        """Lets the trial wait, to be resumed where it was saved."""
        if self._ended.is_set():  # and another worker may have it by now
            return
        self._ended.set()
        self.study.give_back(self.number)
        self.stopped = time.time() < self.deadline


def metric_of(validation: Mapping[str, Any], metric: str) -> float:
    """`val_loss`, or `val.h5.auc`, from {"loss": ..., "h5": {...}}. Raises ConfigError."""
    value: Any = validation
    for key in ["loss"] if metric == LOSS else metric.split(".")[1:]:
        value = value.get(key) if isinstance(value, Mapping) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        horizons = {h: scores for h, scores in validation.items() if isinstance(scores, Mapping)}
        names = [f"val.{h}.{k}" for h, scores in horizons.items() for k, v in scores.items() if v is not None]
        raise ConfigError(
            f"sweep.metric={metric} is no figure of validation. {suggest(metric, [LOSS, *names])}"
        )
    return float(value)
