"""A search from Hydra's multirun to its report: checked, stored, run by workers, reported."""

from __future__ import annotations

import copy
import functools
import itertools
import statistics
import time
from collections.abc import Sequence
from typing import Any

from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf
from optuna.trial import TrialState
from rich.console import Console

from stockenh.commands.multirun.folder import parts_of
from stockenh.commands.multirun.kept import given_again
from stockenh.commands.multirun.launch import launch, show_line
from stockenh.commands.multirun.stops import is_requested
from stockenh.commands.multirun.worker import Worker
from stockenh.commands.runs.listing import flatten
from stockenh.commands.sweep.base import base_values
from stockenh.commands.sweep.report import conclude
from stockenh.commands.sweep.show import Watch
from stockenh.commands.sweep.spec import LOSS, SearchSpec
from stockenh.commands.sweep.study import SharedStudy, attribute, pruner_of, sampler_of, without_password
from stockenh.commands.sweep.trials import StudySource
from stockenh.commands.tracking import describe, track, warn_once
from stockenh.config import build
from stockenh.config.catalog import groups
from stockenh.config.overrides import PLAIN_KEY, suggest
from stockenh.config.schema import RunConfig, parse
from stockenh.errors import ConfigError, StockenhError, counted
from stockenh.report import terminal
from stockenh.report.terminal import duration
from stockenh.storage.untrusted import require_plain_folder

MOST_CORNERS = 2000  # of a space
# How many deaths of its workers a trial outlives, by launcher: machines of some clusters come and go.
OUTLIVES = {"stockenh_ray": 2}
# What decides which rows and labels a trial is judged on: two trials that differ there can't be compared.
JUDGED_BY = ("data", "split", "target", "seed")
# What is no part of a model or its training.
OUTSIDE = (
    "device", "threads", "cache_dir", "sweep", "hydra", "run", "resume", "teacher", "experiment", "tracker",
)  # fmt: skip


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
    require_plain_folder(folder.path, to_write=True)
    launcher = str(config.hydra.runtime.choices["hydra/launcher"])
    study = SharedStudy(settings, folder.path, outlives=OUTLIVES.get(launcher, 0))
    study.require_same(spec.fingerprint)
    with track(base, warn_once(console)) as tracked:
        _begin(spec, study, console)
        tracked.start(lambda: describe(folder.path, spec.values, "sweep"))
        deadline = time.time() + 3600 * settings.max_hours
        source = StudySource(
            settings, folder.path, spec.space, spec.values, base.seed, deadline, study.session
        )
        worker = Worker(context, config, task, source, spec.arguments, folder.workers)
        size = min(settings.n_workers, settings.n_trials)
        with Watch(study, size, deadline, console):
            launch(worker, size, spec.arguments, study)
        study.close_dead()
        best = _end(spec, study, console)
        tracked.results["summary/best"] = best
    return best


def _require_searchable(spec: SearchSpec, base: RunConfig) -> None:
    """Raises ConfigError where the sampler, the pruner, the split or the metric can't be."""
    if base.train.members > 1:
        raise ConfigError(
            f"train.members={base.train.members}: a trial trains one network; train the members afterwards, "
            f"with the best recipe"
        )
    pruner_of(spec.settings)
    sampler_of(spec.settings, 0, 0)
    of_teacher = [name for name in spec.space.parameters if name.startswith("distill.")]
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
    stopped = study.give_back_dead() if is_requested(folder.path) else []
    dead = study.close_dead()
    first, left_out = base_values(spec.space, spec.values.__getitem__) if settings.enqueue_base else ({}, {})
    is_new = not study.trials()
    study.fill(first)
    folder.begin(spec.config, {"command": spec.command})
    ended, where = study.count_ended(), str(folder.path)
    if settings.storage is not None:
        where = f"{study.name} in {without_password(settings.storage)}"
    doing = "resumed" if ended else "study"
    show_line(console, doing, f"{where}: {ended} of {counted(settings.n_trials, 'trial')} ended")
    for line in [*overridden(spec), *([cost_line(spec, study)] if ended < settings.n_trials else [])]:
        show_line(console, *line)
    if is_new and settings.enqueue_base:
        why = "; ".join(f"{name} is left out, {reason}" for name, reason in left_out.items())
        show_line(console, "trial 0", f"has the config's own values{f', but {why}' if why else ''}")
    if stopped:
        console.print(f"         stopped without saving, and continued: {', '.join(map(str, stopped))}")
    if dead:
        console.print(f"         closed as failed, their workers being dead: {', '.join(map(str, dead))}")


def overridden(spec: SearchSpec) -> list[tuple[str, str]]:
    """A line for each value of the command line that the space searches all the same, or that takes a
    parameter out of it; values of the shipped space's own keys are fixed by naming them."""
    given = {key: argument for argument in spec.arguments if (key := parts_of(argument)[0])}
    lines = []
    chosen = {name: option for name, option in spec.choices.items() if name in given}
    searched = [name for name, line in spec.space.parameters.items() if not line.helper]
    for group, option in chosen.items():
        if names := [name for name in searched if name.startswith(f"{group}.")]:
            lines.append(("space", f"replaces values of {group}={option}: {', '.join(names)}"))
    declared = OmegaConf.select(spec.config, "sweep.params") or {}
    if fixed := [argument for key, argument in given.items() if key in declared and key not in searched]:
        lines.append(("space", f"does not search what is given: {', '.join(fixed)}"))
    return lines


def cost_line(spec: SearchSpec, study: SharedStudy) -> tuple[str, str]:
    """What the rest of a search takes at most: trials, epochs, and the time by those that have ended."""
    settings, epochs = spec.settings, spec.raw["train"]["epochs"]
    ended = [trial for trial in study.trials() if trial.state == TrialState.COMPLETE]
    left = settings.n_trials - study.count_ended()
    text = f"{counted(left, 'trial')} of at most {counted(epochs, 'epoch')}, {left * epochs:,} in all"
    seconds = [s / e for t in ended if (s := attribute(t, "seconds")) and (e := attribute(t, "epochs"))]
    if seconds:
        total = statistics.fmean(seconds) * left * epochs / min(settings.n_workers, max(left, 1))
        text += f", about {duration(total)} by the trials so far"
    else:
        text += "; the first trial shows how long one takes"
    return "cost", f"{text}; sweep.max_hours={settings.max_hours:g} ends it earlier"


def _end(spec: SearchSpec, study: SharedStudy, console: Console) -> float:
    """Reports the result. Raises StockenhError where too many trials failed or none is complete."""
    settings = spec.settings
    best = conclude(spec, study, console)
    if study.has_failed():
        failed = study.trials(TrialState.FAIL)
        raise StockenhError(
            f"{len(failed)} of {settings.n_trials} trials failed, more than sweep.max_failures="
            f"{settings.max_failures:g} allows; the last: {attribute(failed[-1], 'why')}"
        )
    again = spec.folder.resume_command(given_again(spec.config))
    if running := len(study.trials(TrialState.RUNNING)):
        text = f"{running} trials still run in another process; the report with them: {again}"
        show_line(console, "running", text)
    if waiting := study.count_waiting():
        show_line(console, "stopped", f"{waiting} trials are left; go on with: {again}")
    if best is None:
        raise StockenhError("no trial is complete, so there is no best one")
    return best


def check(spec: SearchSpec) -> None:
    """Tries every corner of the space: keys that exist, values that are allowed, a model that can be built.

    Raises ConfigError naming the parameter or the corner.
    """
    options = groups()
    for name, line in spec.space.parameters.items():
        if not line.helper:
            _refuse_outside(name)
    corners = list(itertools.islice(spec.space.corners(spec.values.__getitem__), MOST_CORNERS + 1))
    if len(corners) > MOST_CORNERS:
        raise ConfigError(
            f"sweep.params: the model's parameters have more than {MOST_CORNERS:,} combinations of ends, "
            f"and each is tried before the first trial: leave some out or give them fewer choices"
        )
    windows: Any = None
    raw_of = functools.cache(spec.raw_of)
    for values, keys in corners:
        choices = {key: value for key, value in keys.items() if key in options}
        raw = copy.deepcopy(raw_of(tuple(f"{group}={value}" for group, value in choices.items())))
        for key, value in keys.items():
            if key not in options:
                _set(raw, key, value)
        try:
            config = parse(raw)
            if windows is None:
                windows = config.data.load(build.cache(config)).windows
            build.refuse_misfit(config, windows)
        except ConfigError as error:
            corner = ", ".join(f"{name}={value}" for name, value in values.items())
            raise ConfigError(
                f"sweep.params: a corner of the space is no valid run ({corner}): {error}"
            ) from None


def _set(raw: dict[str, Any], key: str, value: Any) -> None:
    *path, leaf = key.split(".")
    node: Any = raw
    for part in path:
        node = node.get(part) if isinstance(node, dict) else None
    if not isinstance(node, dict) or leaf not in node or isinstance(node[leaf], dict) or leaf == "_target_":
        raise ConfigError(
            f"sweep.params.{key}: no such key of the config. {suggest(key, flatten(raw))} A value that only "
            f"expressions use is declared with helper: true"
        )
    node[leaf] = value


def _refuse_outside(name: str) -> None:
    if not PLAIN_KEY.fullmatch(name):
        raise ConfigError(f"sweep.params.{name} is no key of the config: write it as model.layers")
    group = name.partition(".")[0]
    if group in JUDGED_BY:
        raise ConfigError(
            f"sweep.params.{name}: trials that differ in {group} are judged on other rows or by luck, "
            f"or on other labels, and can't be compared; a sweep is for one choice of it"
        )
    if group in OUTSIDE:
        raise ConfigError(f"sweep.params.{name} is no part of a model or its training")
