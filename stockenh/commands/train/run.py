"""One run from a checked config to a complete run folder, new or resumed."""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import replace
from typing import Any

import torch
from rich.console import Console
from torch import nn

from stockenh.commands.ensembles import opened
from stockenh.commands.tracking import start_tracking
from stockenh.commands.train.processes import share
from stockenh.commands.train.range_test import search
from stockenh.commands.train.result import conclude
from stockenh.commands.train.session import (
    Session,
    initial_weights,
    load_initial,
    resolved,
    teacher_answers,
    teacher_origin,
)
from stockenh.commands.trained import is_data_of, require_same_weights
from stockenh.config import build
from stockenh.config.schema import RunConfig, plugins_of
from stockenh.data.fitted import Fitted
from stockenh.errors import ConfigError, RunFolderError
from stockenh.models.cpu.memory import keep_freed_memory
from stockenh.report.terminal import PART_NAMES, embedding_progress, print_line, show_data, training_progress
from stockenh.report.trackers import NotTracked
from stockenh.storage.machine import manifest
from stockenh.storage.run_folder import RunFolder
from stockenh.training.checkpoint import FolderJournal
from stockenh.training.distributed import ProcessGroup
from stockenh.training.loop import Metrics, Report, fit
from stockenh.training.losses.huber_bce import HuberBCE
from stockenh.training.optimizers import AUTO
from stockenh.training.step import Objective
from stockenh.training.stop import stop_on_signal

# torchrun repeats a terminal's Ctrl-C to every process, which got it from the terminal already
GRACE_SECONDS = 5.0
BYTES_OF_A_WEIGHT = 4  # of its file, in float32


def train(
    config: RunConfig,
    folder: RunFolder,
    device: torch.device,
    console: Console,
    report: Report | None = None,
    judged: Container[str] = PART_NAMES,
    begin: Callable[[RunConfig], None] | None = None,
    progress: Console | None = None,
    tracked: NotTracked | None = None,
    stops: Callable[[], bool] | None = None,
) -> dict[str, Any]:
    """Trains from the state of the folder (a new one: from the start) to its summary, which is returned.

    report: called after each epoch, may end the run; judged: the parts of the data that the summary covers;
    begin: makes the folder of a new run, once the data are read and the model fits them; progress: where the
    progress is shown, where that is not the console; tracked: what follows the run at a tracker;
    stops: another reason to stop than a signal, looked at about every second.
    The caller holds the folder's lock, or `begin` takes it. Raises Interrupted once a requested stop is
    saved; whatever it raises, a folder that was made can be resumed.
    """
    group = ProcessGroup.current
    if group is not None:
        _refuse_several_processes(config)
    session, net = _prepare(config, folder, device, console, begin)
    parameters = sum(p.numel() for p in net.parameters())
    several = f", {group.own.size} processes" if group is not None else ""
    console.print(f"model    {parameters:,} parameters, {session.precision} on {device}{several}")
    if config.teacher is not None and begin is not None:  # a resumed student needs no teacher
        _warn_if_larger(parameters, config, console)
    session = _with_lr(session, net, console)
    settings = session.config.train
    batches = build.batches(session.config, session.prepared, session.ready)
    learner = build.learner(session.config, net, session.fitted, device, batches.steps)
    tracked = tracked or NotTracked()
    journal = FolderJournal(folder, learner, written=tracked.log)
    state = journal.resume()
    start_tracking(tracked, folder, session.config)
    # always the plain loss, so that runs with other losses or models stay comparable
    plain = Objective(HuberBCE(returns="huber"))
    averages, calibrated = learner.averages, session.validates_calibrated()

    def validate() -> dict[str, Metrics]:
        return {
            name: session.validation(weights, plain, calibrated)
            for name, weights in averages.named(net).items()
        }

    limits = build.limits(session.config)
    with (
        stop_on_signal(GRACE_SECONDS if group is not None else 0.0, stops) as stop,
        training_progress(progress or console, settings.epochs, batches.steps) as shown,
    ):
        if group is not None:
            learner, batches = share(group, session, learner, batches, state)
        ended = fit(learner, batches, validate, state, limits, journal, shown, stop, report)
    folder.require_there()
    folder.reopen()
    for name, tensors in journal.best_weights.items():
        folder.write_weights(name, tensors)
    return conclude(session, state, parameters, console, judged, ended)


def _prepare(
    config: RunConfig,
    folder: RunFolder,
    device: torch.device,
    console: Console,
    begin: Callable[[RunConfig], None] | None,
) -> tuple[Session, nn.Module]:
    """Reads the data, makes the model, and writes what the folder of a new run starts with."""
    build.require_compiler(config, device)
    start = initial_weights(config.init_from, config.weights, folder if begin is None else None)
    config = build.with_resolved_embedding(build.with_resolved_data(config), device)
    if begin is None and folder.manifest.exists():
        require_same_weights(folder, config.embedding)
    with embedding_progress(console) as watch:
        prepared = build.data(config, device, watch)
    if begin is None and folder.manifest.exists() and not is_data_of(folder, prepared.windows):
        raise RunFolderError(
            f"{folder}: the bars are not those that this run was trained on (or data.path is another)"
        )
    show_data(prepared.windows, prepared.rows, prepared.findings, console, prepared.warnings)
    net = build.model(config, prepared, device)
    if start is not None:
        load_initial(start, net, prepared)
        print_line(console, f"start    {start.name} weights of {start.folder}")
    config = resolved(config, net, device)
    if begin is not None:
        begin(config)
    folder.write_config(config.raw)
    torch.set_num_threads(config.threads or 1)
    keep_freed_memory()
    precision = config.train.precision
    if not folder.fitted.exists():
        folder.write_json(folder.fitted, Fitted.fit(prepared.windows, prepared.rows["train"]).to_dict())
    fitted = build.fitted_of(folder, prepared)
    if not folder.manifest.exists():
        origins = {
            "init_from": start.to_dict() if start else None,
            "teacher": teacher_origin(config),
            "embedding": config.embedding.provenance(),
            "plugins": [plugin.to_dict() for plugin in plugins_of(config)],
        }
        made_with = manifest(prepared.windows.digest(), device, precision, origins, prepared.warnings)
        folder.write_json(folder.manifest, made_with)
    taught = teacher_answers(config, folder, prepared, fitted, device, console)
    placement = build.placement(config, prepared, device)
    console.print(f"windows  {placement}")
    ready = placement.place(prepared.windows, prepared.embedding, fitted, device, taught)
    return Session(config, folder, prepared, fitted, ready, device, precision), net


def _refuse_several_processes(config: RunConfig) -> None:
    """Raises ConfigError for what several processes can't train."""
    if config.teacher is not None:
        raise ConfigError("a student with a teacher trains in one process: continue without torchrun")
    if config.train.batch == "date":
        raise ConfigError(
            "train.batch=date trains in one process, because days are not divided: continue without torchrun"
        )


def _warn_if_larger(parameters: int, config: RunConfig, console: Console) -> None:
    """Prints a warning where a student has more parameters than its teacher."""
    teacher = opened(config.teacher or "", config.weights)
    of_teacher = teacher.size // BYTES_OF_A_WEIGHT
    if parameters > of_teacher:
        print_line(
            console,
            f"warning  the student is larger than its teacher ({parameters:,} parameters against about "
            f"{of_teacher:,}): nothing is saved; take a smaller model, such as model=student",
        )


def _with_lr(session: Session, net: nn.Module, console: Console) -> Session:
    """The session with `optimizer.lr=auto` found, and stored so that a resumed run need not search again."""
    config = session.config
    if config.optimizer.lr != AUTO:
        return session
    console.print("lr       optimizer.lr=auto: a range test finds it, which leaves the run as it was")
    lr = search(session, net, console)
    config = replace(config, optimizer=replace(config.optimizer, lr=lr))
    session.folder.write_config(config.raw)
    return replace(session, config=config)
