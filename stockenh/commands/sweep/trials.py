"""The trials of a study, one after another, as a worker sees them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from stockenh.commands.multirun.job import Assignment
from stockenh.commands.sweep.drawing import sampler_of
from stockenh.commands.sweep.settings import SweepConfig
from stockenh.commands.sweep.space import Space
from stockenh.commands.sweep.study import SharedStudy, StudyPlace
from stockenh.config.overrides import hydra_text, suggest
from stockenh.errors import ConfigError
from stockenh.training.loop import Interrupted


@dataclass
class StudySource:
    """Draws the values of each trial as it is taken.

    known:    the config's own values by dotted key, for the expressions of the space
    deadline: seconds since the epoch from which on no trial begins or goes on
    """

    place: StudyPlace
    settings: SweepConfig
    space: Space
    known: Mapping[str, Any]
    seed: int
    deadline: float
    _study: SharedStudy | None = field(default=None, repr=False)
    _worker: str = ""

    def open(self, worker: str) -> None:
        self._study = SharedStudy(self.place, self.settings)
        self._worker = worker

    def take(self) -> Assignment | None:
        """The next trial with its values drawn; None where none waits or the time is over."""
        study = self._study
        assert study is not None, "open() comes first"
        if time.time() >= self.deadline or too_many_failures(study.trials(), self.settings):
            return None
        if (number := study.take()) is None:
            return None
        study.study.sampler = sampler_of(self.settings, self.seed, number)
        trial = optuna.trial.Trial(study.study, study.id_of(number))
        trial.set_user_attr("worker", self._worker)
        trial.set_user_attr("sweep", str(self.place.folder))
        try:
            _, keys = self.space.draw(trial, self.known.__getitem__)
        except ConfigError as error:
            study.close(number, str(error))
            return self.take()
        overrides = [f"{key}={hydra_text(value)}" for key, value in keys.items()]
        trial.set_user_attr("overrides", overrides)
        return StudyTrial(number, overrides, self.settings, study, trial, self.deadline)


@dataclass
class StudyTrial:
    """A running trial of the study."""

    number: int
    overrides: list[str]
    settings: SweepConfig
    study: SharedStudy
    trial: optuna.trial.Trial
    deadline: float
    pruned: bool = False
    stopped: bool = False

    def __post_init__(self) -> None:
        self._alive = ExitStack()
        self._alive.enter_context(self.study.heartbeat(self.number))

    def report(self, epoch: int, metrics: dict[str, Any]) -> bool:
        """Tells the study the metric of an epoch; True where the pruner ends the trial.

        Raises Interrupted where the time of the sweep is over, and ConfigError where there is no such metric.
        """
        value = metric_of(metrics["by_weights"][metrics["weights"]], self.settings.metric)
        # an epoch that a resumed trial repeats is known already
        if epoch not in self.study.trials()[self.number].intermediate_values:
            self.trial.report(value, epoch)
        self.pruned = self.trial.should_prune()
        if not self.pruned and time.time() >= self.deadline:
            raise Interrupted
        return self.pruned

    def complete(self, summary: dict[str, Any], validation: dict[str, Any]) -> None:
        """Tells the study the metric of the weights that are kept, and what the trial took."""
        self.trial.set_user_attr("epochs", summary["epochs"])
        self.trial.set_user_attr("seconds", summary["seconds"])
        if self.pruned:
            self.study.study.tell(self.trial, state=TrialState.PRUNED)
        else:
            self.study.study.tell(self.trial, metric_of(validation, self.settings.metric))
        self._alive.close()

    def fail(self, why: str) -> None:
        """Ends the trial as failed; the study tells why."""
        self.study.close(self.number, why)
        self._alive.close()

    def give_back(self) -> None:
        """Lets the trial wait to be taken up where it was saved."""
        self.study.give_back(self.number)
        self.stopped = True
        self._alive.close()


def too_many_failures(trials: Iterable[FrozenTrial], settings: SweepConfig) -> bool:
    """Whether so many trials failed that the search is to end as failed."""
    failed = sum(trial.state == TrialState.FAIL for trial in trials)
    return failed > settings.max_failures * settings.n_trials


def metric_of(validation: Mapping[str, Any], metric: str) -> float:
    """`val_loss`, or `val.h5.auc`, from {"loss": ..., "h5": {...}}. Raises ConfigError."""
    value: Any = validation
    for key in ["loss"] if metric == "val_loss" else metric.split(".")[1:]:
        value = value.get(key) if isinstance(value, Mapping) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        horizons = {h: scores for h, scores in validation.items() if isinstance(scores, Mapping)}
        names = [f"val.{h}.{k}" for h, scores in horizons.items() for k, v in scores.items() if v is not None]
        raise ConfigError(
            f"sweep.metric={metric} is no figure of validation. {suggest(metric, ['val_loss', *names])}"
        )
    return float(value)
