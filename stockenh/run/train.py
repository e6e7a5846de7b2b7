"""One run from a checked config to a complete run folder, and the same taken up again."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from stockenh import build
from stockenh.build import Prepared
from stockenh.config import RunConfig
from stockenh.data.fitted import Fitted
from stockenh.errors import RunFolderError
from stockenh.manifest import manifest
from stockenh.run.find import search
from stockenh.run.provenance import require_same_weights
from stockenh.run.result import conclude
from stockenh.run.session import Session, settled
from stockenh.run.start import begin
from stockenh.run.teach import answers
from stockenh.run.together import OneProcess, Processes
from stockenh.run.trained import Trained
from stockenh.runfolder import RunFolder
from stockenh.terminal import PART_NAMES, embedding_progress, show_data, training_progress
from stockenh.training.interrupt import stop_on_signal
from stockenh.training.journal import FolderJournal
from stockenh.training.loop import Limits, Metrics, Report, State, fit
from stockenh.training.losses.huber_bce import HuberBCE
from stockenh.training.memory import keep_freed_memory
from stockenh.training.objective import Objective
from stockenh.training.optimizers import AUTO


def train(
    config: RunConfig,
    folder: RunFolder,
    on: torch.device,
    out: Console,
    report: Report | None = None,
    judged: Container[str] = PART_NAMES,
    processes: Processes | None = None,
) -> dict[str, Any]:
    """Trains from where the folder is (a new one: from the start) to its summary, which is returned.

    report: is told each epoch and may end the run; judged: the parts of the data that the summary is of;
    processes: those that make the steps, by default this one alone.
    The caller holds the folder's lock. Raises Interrupted after a requested stop was saved; whatever it
    raises, the folder can be taken up.
    """
    processes = processes or OneProcess()
    processes.check(config)
    build.require_compiler(config, on)
    start = begin(config.init_from, config.weights, folder)
    config = build.with_settled_embedding(build.with_settled_data(config), on)
    if folder.manifest.exists():
        require_same_weights(folder, config.embedding)
    with embedding_progress(out) as watch:
        prepared = build.data(config, on, watch)
    _check_same_data(folder, prepared)
    show_data(prepared.windows, prepared.rows, prepared.findings, out, prepared.warnings)
    net = build.model(config, prepared, on)
    if start is not None:
        start.put_into(net, prepared)
        out.print(f"start    {start.name} weights of {start.source}", soft_wrap=True, markup=False)
    config = settled(config, net, on)
    folder.write_config(config.raw)
    torch.set_num_threads(config.threads or 1)
    keep_freed_memory()
    precision = config.train.precision
    fitted = _fitted(folder, prepared)
    if not folder.manifest.exists():
        origins = {
            "init_from": start.to_dict() if start else None,
            "teacher": _teacher(config),
            "embedding": config.embedding.provenance(),
        }
        made_with = manifest(prepared.windows.digest(), on, precision, origins, prepared.warnings)
        folder.write_json(folder.manifest, made_with)
    taught = answers(config, folder, prepared, fitted, on, out)
    holding = build.holding(config, prepared, on)
    out.print(f"windows  {holding}", markup=False)
    ready = holding.hold(prepared.windows, prepared.embedding, fitted, on, taught)
    session = Session(config, folder, prepared, fitted, ready, on, precision)
    parameters = sum(p.numel() for p in net.parameters())
    several = f", {processes.size} processes" if processes.size > 1 else ""
    out.print(f"model    {parameters:,} parameters, {precision} on {on}{several}")
    session = _with_lr(session, net, out)
    state, ended = _fit(session, net, out, report, processes)
    return conclude(session, state, parameters, out, judged, ended)


def _fit(
    session: Session, net: nn.Module, out: Console, report: Report | None, processes: Processes
) -> tuple[State, bool]:
    """Trains the model; leaves the best weights in the folder, by name. Also whether the report ended it."""
    settings = session.config.train
    batches = build.batches(session.config, session.prepared, session.ready)
    learner = build.learner(session.config, net, session.fitted, session.device, batches.steps)
    journal = FolderJournal(session.folder, learner)
    state = journal.take_up()
    # always the plain loss, so that runs with other losses or models stay comparable
    plain = Objective(HuberBCE(returns="huber"))

    def validate() -> dict[str, Metrics]:
        found = {}
        for name, weights in learner.averages.named(net).items():
            found[name] = session.validation(weights, plain)
        return found

    limits = Limits(settings.epochs, settings.patience, 60 * settings.checkpoint_minutes)
    with (
        stop_on_signal(processes.grace) as stop,
        training_progress(out, settings.epochs, batches.steps) as progress,
        processes.training(session, learner, batches, state) as (stepping, shares),
    ):
        ended = fit(stepping, shares, validate, state, limits, journal, progress, stop, report)
    session.folder.reopen()
    for name, tensors in journal.best_weights.items():
        session.folder.write_weights(name, tensors)
    return state, ended


def _teacher(config: RunConfig) -> dict[str, str] | None:
    if config.teacher is None:
        return None
    return Trained.open(RunFolder.open(Path(config.teacher)), config.weights).to_dict()


def _check_same_data(folder: RunFolder, prepared: Prepared) -> None:
    if folder.manifest.exists():
        known = folder.read_json(folder.manifest)
        if not isinstance(known, dict) or known.get("data") != prepared.windows.digest():
            raise RunFolderError(
                f"{folder}: the bars are not those that this run was trained on (or data.path is another)"
            )


def _with_lr(session: Session, net: nn.Module, out: Console) -> Session:
    """The session with `optimizer.lr=auto` found, and kept so that a resumed run need not look again."""
    config = session.config
    if config.optimizer.lr != AUTO:
        return session
    out.print("lr       optimizer.lr=auto: a range test finds it, which leaves the run as it was")
    lr = search(session, net, out)
    raw = {**config.raw, "optimizer": {**config.raw["optimizer"], "lr": lr}}
    session.folder.write_config(raw)
    return replace(session, config=replace(config, optimizer=replace(config.optimizer, lr=lr), raw=raw))


def _fitted(folder: RunFolder, prepared: Prepared) -> Fitted:
    """The run's own statistics; fitted on the train part the first time."""
    if not folder.fitted.exists():
        fitted = Fitted.on(prepared.windows, prepared.rows["train"])
        folder.write_json(folder.fitted, fitted.to_dict())
    return build.fitted_of(folder, prepared)
