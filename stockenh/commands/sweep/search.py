"""A search from Hydra's multirun to its report: checked, stored, run by workers, told."""

from __future__ import annotations

import time
from collections.abc import Sequence

from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf
from optuna.trial import TrialState
from rich.console import Console

from stockenh.commands.multirun.command import config_dirs, kept_arguments
from stockenh.commands.multirun.pool import launch
from stockenh.commands.multirun.worker import Worker
from stockenh.commands.sweep.check import check
from stockenh.commands.sweep.drawing import pruner_of, sampler_of
from stockenh.commands.sweep.report import conclude
from stockenh.commands.sweep.settings import LOSS
from stockenh.commands.sweep.show import Watch
from stockenh.commands.sweep.spec import Search
from stockenh.commands.sweep.study import SharedStudy, StudyPlace, shown
from stockenh.commands.sweep.trials import StudySource, too_many_failures
from stockenh.config.overrides import suggest
from stockenh.config.schema import parse
from stockenh.errors import ConfigError, StockenhError
from stockenh.report.terminal import console
from stockenh.storage.files import WorkerLock


def search(context: HydraContext, config: DictConfig, task: TaskFunction, arguments: Sequence[str]) -> float:
    """Runs a search to its end and returns the best metric.

    Raises ConfigError for what can't be searched, StockenhError where too many trials failed, and
    KeyboardInterrupt after a stop; whatever it raises, the same folder goes on with it.
    """
    out = console()
    asked = Search.of(context, config, task, arguments)
    for of_optuna in (lambda: pruner_of(asked.settings), lambda: sampler_of(asked.settings, 0, 0)):
        of_optuna()
    base = parse(asked.raw)
    if base.teacher is None and (taught := [n for n in asked.space.names if n.startswith("distill.")]):
        raise ConfigError(f"sweep.params.{taught[0]} is about a student's teacher: name it, teacher=RUN")
    if not {"train", "val"} <= set(base.split.parts):
        raise ConfigError("a search is judged on validation, and this split has none: take split=by_date")
    known, metric = [f"val.h{bars}" for bars in base.data.horizons], asked.settings.metric
    if metric != LOSS and metric.rpartition(".")[0] not in known:
        raise ConfigError(f"sweep.metric={metric}: no such horizon. {suggest(metric, known, True)}")
    place = StudyPlace.of(asked.settings, asked.folder.path)
    check(asked.space, asked.known, asked.composed)
    boss = WorkerLock(asked.folder.workers)
    try:
        study = SharedStudy(place, asked.settings)
        study.require_same(asked.made_of)
        _begin(asked, out, place, study)
        deadline = time.time() + 3600 * asked.settings.max_hours
        source = StudySource(place, asked.settings, asked.space, asked.known, base.seed, deadline)
        worker = Worker(
            context, config, task, source, asked.arguments, asked.folder.workers, boss.id + ".lock"
        )
        with Watch(study, _workers(asked), deadline, out):
            _work(asked, worker, study)
        study.close_dead()
        return _end(asked, study, out)
    finally:
        boss.release()


def _begin(asked: Search, out: Console, place: StudyPlace, study: SharedStudy) -> None:
    """Says what begins or goes on, and writes down how to go on with it."""
    folder, settings = asked.folder, asked.settings
    dead = study.close_dead()
    study.fill()
    OmegaConf.save(asked.config, folder.path / "multirun.yaml")
    command = "distill" if asked.raw.get("teacher") else "train"
    about = folder.read() if folder.about.exists() else {}
    folder.write({**about, "arguments": kept_arguments(asked.config), "command": command})
    ended = sum(t.state.is_finished() for t in study.trials())
    where = f"{folder.path}" if place.url is None else f"{place.name} in {shown(place.url)}"
    doing = "resumed" if ended else "study"
    out.print(
        f"{doing:<8} {where}: {ended} of {settings.n_trials} trials ended", soft_wrap=True, markup=False
    )
    if dead:
        out.print(f"         closed as failed, their workers being dead: {', '.join(map(str, dead))}")


def _work(asked: Search, worker: Worker, study: SharedStudy) -> None:
    def ended() -> int:
        return sum(t.state.is_finished() for t in study.trials())

    def remain() -> bool:
        study.close_dead()
        trials = study.trials()
        waiting = any(t.state == TrialState.WAITING and t.number < asked.settings.n_trials for t in trials)
        return waiting and not too_many_failures(trials, asked.settings)

    launch(worker, _workers(asked), asked.arguments, ended, remain)


def _end(asked: Search, study: SharedStudy, out: Console) -> float:
    """Tells what came of it. Raises StockenhError where that is nothing to rely on."""
    trials, settings = study.trials(), asked.settings
    best = conclude(asked, study, out)
    waiting = sum(t.state == TrialState.WAITING and t.number < settings.n_trials for t in trials)
    failed = [t for t in trials if t.state == TrialState.FAIL]
    if too_many_failures(trials, settings):
        why = failed[-1].user_attrs.get("why", "") if failed else ""
        raise StockenhError(
            f"{len(failed)} of {settings.n_trials} trials failed, more than sweep.max_failures="
            f"{settings.max_failures:g} allows; the last: {why}"
        )
    again = asked.folder.resume_command(config_dirs(asked.config))
    if running := sum(t.state == TrialState.RUNNING for t in trials):
        out.print(
            f"running  {running} trials still run in another process; the report with them: {again}",
            soft_wrap=True,
            markup=False,
        )
    if waiting:
        out.print(
            f"stopped  {waiting} trials are left; go on with: {again}",
            soft_wrap=True,
            markup=False,
        )
    if best is None:
        raise StockenhError("no trial came to its end, so there is no best one")
    return best


def _workers(asked: Search) -> int:
    return min(asked.settings.n_workers, asked.settings.n_trials)
