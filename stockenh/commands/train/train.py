"""One run from a checked config to a complete run folder, and the same taken up again."""

from __future__ import annotations

import hashlib
from collections.abc import Container
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from stockenh.commands.find_lr.find_lr import search
from stockenh.commands.train.processes import OneProcess, Processes
from stockenh.commands.train.result import conclude
from stockenh.commands.train.session import Session, answers, settled
from stockenh.commands.trained import Trained, require_same_weights
from stockenh.config import build
from stockenh.config.build import Prepared
from stockenh.config.schema import WEIGHTS, RunConfig
from stockenh.data.fitted import Fitted
from stockenh.errors import RunFolderError
from stockenh.models.cpu.memory import keep_freed_memory
from stockenh.report.terminal import PART_NAMES, embedding_progress, show_data, training_progress
from stockenh.storage.machine import manifest
from stockenh.storage.run_folder import RunFolder
from stockenh.training.checkpoint import FolderJournal
from stockenh.training.loop import Limits, Metrics, Report, State, fit, stop_on_signal
from stockenh.training.losses.huber_bce import HuberBCE
from stockenh.training.optimizers import AUTO
from stockenh.training.step import Objective


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
    placement = build.placement(config, prepared, on)
    out.print(f"windows  {placement}", markup=False)
    ready = placement.place(prepared.windows, prepared.embedding, fitted, on, taught)
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
    config = replace(config, optimizer=replace(config.optimizer, lr=lr))
    session.folder.write_config(config.raw)
    return replace(session, config=config)


def _fitted(folder: RunFolder, prepared: Prepared) -> Fitted:
    """The run's own statistics; fitted on the train part the first time."""
    if not folder.fitted.exists():
        fitted = Fitted.fit(prepared.windows, prepared.rows["train"])
        folder.write_json(folder.fitted, fitted.to_dict())
    return build.fitted_of(folder, prepared)


@dataclass(frozen=True)
class Start:
    """Named weights of a finished run."""

    source: RunFolder
    name: str
    tensors: dict[str, Tensor]
    sha256: str

    @classmethod
    def read(cls, source: RunFolder, name: str | None) -> Start:
        """The weights called `name`; None: those that were chosen when the run was finished.

        Raises RunFolderError where the run is not finished or has no such weights.
        """
        if not source.config.is_file():
            raise RunFolderError(f"init_from={source}: no run folder is there")
        if not source.summary.is_file():
            raise RunFolderError(f"init_from={source}: the run is not finished, so it has no weights yet")
        name = source.chosen_weights(name)
        tensors = source.read_weights(name)
        return cls(source, name, tensors, hashlib.sha256(source.weights(name).read_bytes()).hexdigest())

    def put_into(self, net: nn.Module, prepared: Prepared) -> None:
        """Sets a model's weights. Raises RunFolderError where names, shapes or context features differ."""
        build.fitted_of(self.source, prepared)
        if why := _difference(net.state_dict(), self.tensors):
            raise RunFolderError(
                f"init_from={self.source}: its {self.name} weights are another model's: {why}"
            )
        net.load_state_dict(self.tensors)

    def to_dict(self) -> dict[str, Any]:
        """What the manifest says of it."""
        return {"run": str(self.source), "weights": self.name, "sha256": self.sha256}


def begin(init_from: str | None, weights: str | None, folder: RunFolder) -> Start | None:
    """What a run begins with; None: its own initial weights, or a checkpoint that it has already written.

    Raises RunFolderError where the source is not to be had, or not what the run first began with.
    """
    if init_from is None or folder.last.exists():
        return None
    known = _recorded(folder)
    try:
        start = Start.read(RunFolder(Path(init_from)), known.get("weights", weights))
    except RunFolderError as error:
        if not known:
            raise
        raise RunFolderError(
            f"{folder} stopped before its first checkpoint and would begin again. {error}"
        ) from None
    if known and known != start.to_dict():
        raise RunFolderError(
            f"init_from={init_from} has changed since {folder} began, which has no checkpoint yet: train anew"
        )
    return start


def _recorded(folder: RunFolder) -> dict[str, Any]:
    """What the manifest of a run that has begun says of its start; empty where it says nothing."""
    manifest = folder.read_json(folder.manifest) if folder.manifest.exists() else {}
    known = manifest.get("init_from") if isinstance(manifest, dict) else None
    if known is None:
        return {}
    if not isinstance(known, dict) or known.get("weights") not in WEIGHTS:
        raise RunFolderError(f"{folder.manifest} does not say what the run began with")
    return known


def _difference(own: dict[str, Tensor], others: dict[str, Tensor]) -> str | None:
    """The first tensor by which two models differ, in words."""
    for name in sorted(own.keys() | others.keys()):
        there = _shape(others[name]) if name in others else "missing"
        here = _shape(own[name]) if name in own else "missing"
        if there != here:
            return f"{name} is {there} there and {here} in this run"
    return None


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"
