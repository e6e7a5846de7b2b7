"""The learning-rate range test of `find-lr`, and of `optimizer.lr=auto` in a run."""

from __future__ import annotations

import logging
from dataclasses import asdict, replace
from pathlib import Path

import torch
from rich.console import Console
from torch import nn

from stockenh.commands.train.session import Session, resolved
from stockenh.config import build
from stockenh.config.schema import RunConfig
from stockenh.data.fitted import Fitted
from stockenh.errors import TrainingError
from stockenh.models.cpu.memory import keep_freed_memory
from stockenh.report.figure import COLOURS, legend_above, new_figure, save
from stockenh.report.terminal import embedding_progress, print_files, show_data
from stockenh.storage.run_folder import RunFolder
from stockenh.training.lr_finder import Curve, Suggestions, range_test, suggest

log = logging.getLogger(__name__)

READINGS = {"valley": "valley", "steepest": "steepest", "minimum": "minimum / 10"}


def lr_curve(curve: Curve, found: Suggestions, path: Path) -> Path:
    """Draws the range test's curve with its suggestions; returns the path.

    Points are the change of the loss against the initial model on the same batch, the line is their
    exponential mean. The axis ends where a divergence would make the descent look flat.
    """
    figure = new_figure(9, 5)
    axes = figure.add_subplot()
    changes = [loss - untouched for loss, untouched in zip(curve.losses, curve.untouched, strict=True)]
    points = axes.plot(curve.lrs, changes, "o", color=COLOURS[5], label="each step")
    points[0].set(markersize=3, alpha=0.7)
    label = f"exponential mean ({curve.smoothing:g})"
    axes.plot(curve.lrs, curve.smoothed, color=COLOURS[0], linewidth=2, label=label, zorder=3)
    for (name, label), colour in zip(READINGS.items(), COLOURS[1:], strict=False):
        if (rate := getattr(found, name)) is not None:
            axes.axvline(rate, color=colour, linewidth=1.6, label=f"{label}: {rate:.2g}")
    axes.axhline(0, color="black", linewidth=1, linestyle="--", zorder=1)
    if curve.lrs:
        axes.set_xscale("log")
        depth = max(-min(curve.smoothed), 0.01 * abs(curve.level))
        axes.set_ylim(-2 * depth, 2 * depth)
    axes.set_xlabel("learning rate")
    axes.set_ylabel("change of the loss on the same batch")
    legend_above(axes)
    title = f"Learning-rate range test: optimizer.lr={found.lr}" if found.lr else "Learning-rate range test"
    return save(figure, title if found.lr else f"{title}: no suggestion", path)


def find_lr(config: RunConfig, folder: RunFolder, device: torch.device, console: Console) -> float:
    """The range test alone; the folder gets its figures and its picture, but no run.

    Raises TrainingError where the curve suggests nothing.
    """
    with embedding_progress(console) as watch:
        prepared = build.data(config, device, watch)
    show_data(prepared.windows, prepared.rows, prepared.findings, console)
    net = build.model(config, prepared, device)
    config = resolved(config, net, device)
    torch.set_num_threads(config.threads or 1)
    keep_freed_memory()
    fitted = Fitted.fit(prepared.windows, prepared.rows["train"])
    placement = build.placement(config, prepared, device)
    ready = placement.place(prepared.windows, prepared.embedding, fitted, device)
    session = Session(config, folder, prepared, fitted, ready, device, config.train.precision)
    lr = search(session, net, console)
    console.print(f"paste    optimizer.lr={lr}")
    return lr


def search(session: Session, net: nn.Module, console: Console) -> float:
    """The rate that the curve of this model and data suggests, printed and stored; `net` stays as it is.

    Raises TrainingError where it suggests none.
    """
    settings = session.config.finder
    config = replace(
        session.config,
        optimizer=replace(session.config.optimizer, lr=settings.start_lr),
        train=replace(session.config.train, compile=False),  # compiling takes longer than so few steps
    )
    batches = build.batches(config, session.prepared, session.ready)
    learner = build.learner(config, net, session.fitted, session.device, batches.steps)
    size = config.train.batch_size * config.train.accumulate
    console.print(
        f"finder   {settings.steps} steps of {size} windows, rates from {settings.start_lr:g} to "
        f"{settings.end_lr:g}"
    )
    curve = range_test(learner, batches, **asdict(settings))
    found = suggest(curve)
    session.folder.write_json(session.folder.lr_finder, _record(session, curve, found))
    picture = lr_curve(curve, found, session.folder.lr_picture)
    _show(curve, found, console)
    print_files(console, "picture", [picture])
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


def _show(curve: Curve, found: Suggestions, console: Console) -> None:
    if curve.diverged:
        console.print(f"         ended after {len(curve.lrs)} steps: the loss diverged")
    if curve.skipped:
        console.print(f"         {curve.skipped} steps skipped by fp16, their rates tried again")
    for name, label in READINGS.items():
        rate = getattr(found, name)
        if rate is not None:
            console.print(f"         {label:<13}{rate:.3g}")
    if found.lr is not None:
        console.print(f"suggests {found.lr} as optimizer.lr, the schedule's peak")
