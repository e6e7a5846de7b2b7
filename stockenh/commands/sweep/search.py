"""A search from Hydra's multirun to its report: checked, stored, run by workers, reported."""

from __future__ import annotations

import time
from collections.abc import Sequence

from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf
from optuna.trial import TrialState
from rich.console import Console

from stockenh.commands.multirun.launch import launch
from stockenh.commands.multirun.resume import config_dirs, kept_arguments
from stockenh.commands.multirun.worker import Worker
from stockenh.commands.sweep.check import check
from stockenh.commands.sweep.report import conclude
from stockenh.commands.sweep.show import Watch
from stockenh.commands.sweep.spec import LOSS, SearchSpec
from stockenh.commands.sweep.study import SharedStudy, pruner_of, sampler_of, without_password
from stockenh.commands.sweep.trials import StudySource
from stockenh.config.overrides import suggest
from stockenh.config.schema import RunConfig, parse
from stockenh.errors import ConfigError, StockenhError
from stockenh.report import terminal


def search(context: HydraContext, config: DictConfig, task: TaskFunction, arguments: Sequence[str]) -> float:
    """Runs a search to its end and returns the best metric.

    Raises ConfigError for what can't be searched, StockenhError where too many trials failed, and
    KeyboardInterrupt after a stop; whatever it raises, the same folder can be resumed.
    """
    console = terminal.console()
    spec = SearchSpec.of(context, config, arguments)
    base = parse(spec.raw)
    _require_searchable(spec, base)
    check(spec)
    settings, folder = spec.settings, spec.folder
    folder.workers.mkdir(parents=True, exist_ok=True)
    study = SharedStudy(settings, folder.path)
    study.require_same(spec.fingerprint)
    _begin(spec, study, console)
    deadline = time.time() + 3600 * settings.max_hours
    source = StudySource(settings, folder.path, spec.space, spec.values, base.seed, deadline)
    worker = Worker(context, config, task, source, spec.arguments, folder.workers)
    size = min(settings.n_workers, settings.n_trials)
    with Watch(study, size, deadline, console):
        launch(worker, size, spec.arguments, study)
    study.close_dead()
    return _end(spec, study, console)


def _require_searchable(spec: SearchSpec, base: RunConfig) -> None:
    """Raises ConfigError where the sampler, the pruner, the split or the metric can't be."""
    pruner_of(spec.settings)
    sampler_of(spec.settings, 0, 0)
    of_teacher = [name for name in spec.space.names if name.startswith("distill.")]
    if base.teacher is None and of_teacher:
        raise ConfigError(f"sweep.params.{of_teacher[0]} is about a student's teacher: name it, teacher=RUN")
    if not {"train", "val"} <= set(base.split.parts):
        raise ConfigError("a search is judged on validation, and this split has none: take split=by_date")
    horizons, metric = [f"val.h{bars}" for bars in base.data.horizons], spec.settings.metric
    if metric != LOSS and metric.rpartition(".")[0] not in horizons:
        raise ConfigError(f"sweep.metric={metric}: no such horizon. {suggest(metric, horizons, True)}")


def _begin(spec: SearchSpec, study: SharedStudy, console: Console) -> None:
    """Prints what starts or is resumed, and records how to resume it."""
    folder, settings = spec.folder, spec.settings
    dead = study.close_dead()
    study.fill()
    OmegaConf.save(spec.config, folder.path / "multirun.yaml")
    about = folder.read() if folder.about.exists() else {}
    folder.write({**about, "arguments": kept_arguments(spec.config), "command": spec.command})
    ended, where = study.count_ended(), str(folder.path)
    if settings.storage is not None:
        where = f"{study.name} in {without_password(settings.storage)}"
    doing = "resumed" if ended else "study"
    console.print(
        f"{doing:<8} {where}: {ended} of {settings.n_trials} trials ended", soft_wrap=True, markup=False
    )
    if dead:
        console.print(f"         closed as failed, their workers being dead: {', '.join(map(str, dead))}")


def _end(spec: SearchSpec, study: SharedStudy, console: Console) -> float:
    """Reports the result. Raises StockenhError where too many trials failed or none is complete."""
    settings = spec.settings
    best = conclude(spec, study, console)
    if study.has_failed():
        failed = study.trials(TrialState.FAIL)
        raise StockenhError(
            f"{len(failed)} of {settings.n_trials} trials failed, more than sweep.max_failures="
            f"{settings.max_failures:g} allows; the last: {failed[-1].user_attrs.get('why', '')}"
        )
    again = spec.folder.resume_command(config_dirs(spec.config))
    if running := len(study.trials(TrialState.RUNNING)):
        line = f"running  {running} trials still run in another process; the report with them: {again}"
        console.print(line, soft_wrap=True, markup=False)
    if waiting := study.count_waiting():
        line = f"stopped  {waiting} trials are left; go on with: {again}"
        console.print(line, soft_wrap=True, markup=False)
    if best is None:
        raise StockenhError("no trial is complete, so there is no best one")
    return best
