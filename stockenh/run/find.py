"""The learning-rate range test of a config: `stockenh find-lr`, and `optimizer.lr=auto` within a run."""

from __future__ import annotations

import logging
from dataclasses import asdict, replace

import torch
from rich.console import Console
from torch import nn

from stockenh import build
from stockenh.config import RunConfig
from stockenh.data.fitted import Fitted
from stockenh.errors import TrainingError
from stockenh.finder import Curve, Suggestions, range_test, suggest
from stockenh.plots.finder import lr_curve
from stockenh.run.session import Session, settled
from stockenh.runfolder import RunFolder
from stockenh.terminal import embedding_progress, show_data
from stockenh.training.memory import keep_freed_memory

log = logging.getLogger(__name__)

READINGS = {"valley": "valley", "steepest": "steepest", "minimum": "minimum / 10"}


def find_lr(config: RunConfig, folder: RunFolder, on: torch.device, out: Console) -> float:
    """The range test alone; the folder gets its figures and its picture, but no run.

    Raises TrainingError where the curve suggests nothing.
    """
    with embedding_progress(out) as watch:
        prepared = build.data(config, on, watch)
    show_data(prepared.windows, prepared.rows, prepared.findings, out)
    net = build.model(config, prepared, on)
    config = settled(config, net, on)
    torch.set_num_threads(config.threads or 1)
    keep_freed_memory()
    fitted = Fitted.on(prepared.windows, prepared.rows["train"])
    holding = build.holding(config, prepared, on)
    ready = holding.hold(prepared.windows, prepared.embedding, fitted, on)
    session = Session(config, folder, prepared, fitted, ready, on, config.train.precision)
    lr = search(session, net, out)
    out.print(f"paste    optimizer.lr={lr}")
    return lr


def search(session: Session, net: nn.Module, out: Console) -> float:
    """The rate that the curve of this model and data suggests, shown and written down; `net` is untouched.

    Raises TrainingError where it suggests none.
    """
    settings = session.config.finder
    config = replace(
        session.config,
        optimizer=replace(session.config.optimizer, lr=settings.start_lr),
        train=replace(session.config.train, compile=False),  # so few steps don't pay for it
    )
    batches = build.batches(config, session.prepared, session.ready)
    learner = build.learner(config, net, session.fitted, session.device, batches.steps)
    size = config.train.batch_size * config.train.accumulate
    out.print(
        f"finder   {settings.steps} steps of {size} windows, rates from {settings.start_lr:g} to "
        f"{settings.end_lr:g}"
    )
    curve = range_test(learner, batches, settings)
    found = suggest(curve)
    session.folder.write_json(session.folder.lr_finder, _record(session, curve, found))
    picture = lr_curve(curve, found, session.folder.lr_picture)
    _show(curve, found, out)
    out.print(f"picture  {picture}", soft_wrap=True, markup=False)
    if found.lr is None:
        raise TrainingError(f"the range test suggests no rate: {found.reason}")
    log.info("the range test suggests optimizer.lr=%s", found.lr)
    return found.lr


def _record(session: Session, curve: Curve, found: Suggestions) -> dict[str, object]:
    config = session.config
    return {
        "lr": found.lr,
        "suggestions": asdict(found),
        "settings": asdict(config.finder),
        "batch_size": config.train.batch_size,
        "accumulate": config.train.accumulate,
        "precision": session.precision,
        "device": str(session.device),
        "seed": config.seed,
        "curve": asdict(curve),
    }


def _show(curve: Curve, found: Suggestions, out: Console) -> None:
    if curve.diverged:
        out.print(f"         ended after {len(curve.lrs)} steps, for the loss blew up")
    if curve.skipped:
        out.print(f"         {curve.skipped} steps skipped by fp16, their rates tried again")
    for name, label in READINGS.items():
        rate = getattr(found, name)
        if rate is not None:
            out.print(f"         {label:<13}{rate:.3g}")
    if found.lr is not None:
        out.print(f"suggests {found.lr} as optimizer.lr, the schedule's peak")
