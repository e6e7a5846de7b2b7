"""The learning-rate range test of `find-lr`, and of `optimizer.lr=auto` in a run."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
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
from stockenh.training.checkpoint import unchanged_rng
from stockenh.training.lr_finder import Curve, Suggestions, median, range_test, suggest

log = logging.getLogger(__name__)

READINGS = {"valley": "valley", "steepest": "steepest", "minimum": "minimum / 10"}


def lr_curve(curves: Sequence[Curve], found: Suggestions, path: Path) -> Path:
    """Draws the curves of all seeds with the suggestions; returns the path.

    Points are the change of the loss against the initial model on the same batch, a line is their mean over
    neighbouring steps. The axis ends where a divergence would make the descent look flat.
    """
    figure = new_figure(9, 5)
    axes = figure.add_subplot()
    depth = 0.0
    for place, curve in enumerate(curve for curve in curves if curve.lrs):
        logs, smoothed = curve.smooth
        first = place == 0
        label = "each step" if first else None
        points = axes.plot(curve.lrs, curve.changes, "o", color=COLOURS[5], label=label)
        points[0].set(markersize=3, alpha=0.5)
        label = f"mean over steps, {_count(len(curves))}" if first else None
        axes.plot(np.exp(logs), smoothed, color=COLOURS[0], linewidth=1.6, label=label, zorder=3)
        depth = max(depth, -float(smoothed.min()), 0.01 * abs(curve.level))
    for (name, label), colour in zip(READINGS.items(), COLOURS[1:], strict=False):
        if (rate := getattr(found, name)) is not None:
            axes.axvline(rate, color=colour, linewidth=1.6, label=f"{label}: {rate:.2g}")
    axes.axhline(0, color="black", linewidth=1, linestyle="--", zorder=1)
    if depth:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
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
    """The rate that the curves of this model and data suggest, printed and stored; `net` stays as it is.

    Raises TrainingError where they suggest none.
    """
    settings, train, begin = session.config.finder, session.config.train, time.monotonic()
    console.print(
        f"finder   {_count(settings.seeds)}, {settings.steps} steps of "
        f"{train.batch_size * train.accumulate} windows each, rates from {settings.start_lr:g} to "
        f"{settings.end_lr:g}"
    )
    with unchanged_rng(session.device):
        curves = {seed: _curve(session, net, seed) for seed in _seeds(session.config)}
    each = {seed: suggest(curve) for seed, curve in curves.items()}
    found = median(list(each.values()))
    session.folder.write_json(session.folder.lr_finder, _record(session, curves, each, found))
    picture = lr_curve(list(curves.values()), found, session.folder.lr_picture)
    _show(curves, each, found, time.monotonic() - begin, console)
    print_files(console, "picture", [picture])
    if found.lr is None:
        raise TrainingError(f"the range test suggests no rate: {found.reason}")
    log.info("the range test suggests optimizer.lr=%s", found.lr)
    return found.lr


def _seeds(config: RunConfig) -> list[int]:
    """The run's own, then others far from it, so that runs of neighbouring seeds share no curve."""
    others = [(config.seed + 1000 * number) % 2**32 for number in range(1, config.finder.seeds)]
    return [config.seed, *others]


def _curve(session: Session, net: nn.Module, seed: int) -> Curve:
    """The range test of the run as it would be with this seed: initial weights, data order and dropout."""
    config = session.config
    if seed != config.seed:
        config = replace(config, seed=seed)
        torch.manual_seed(seed)
        if config.init_from is None:  # else all seeds start with those weights
            net = build.model(config, session.prepared, session.device)
    config = replace(
        config,
        optimizer=replace(config.optimizer, lr=config.finder.start_lr),
        train=replace(config.train, compile=False),  # compiling takes longer than so few steps
    )
    batches = build.batches(config, session.prepared, session.ready)
    learner = build.learner(config, net, session.fitted, session.device, batches.steps)
    settings = asdict(config.finder)
    del settings["seeds"]
    return range_test(learner, batches, **settings)


def _record(
    session: Session, curves: dict[int, Curve], each: dict[int, Suggestions], found: Suggestions
) -> dict[str, object]:
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
        "seeds": [
            {"seed": seed, "lr": each[seed].lr, "suggestions": asdict(each[seed]), "curve": asdict(curve)}
            for seed, curve in curves.items()
        ],
    }


def _show(
    curves: dict[int, Curve],
    each: dict[int, Suggestions],
    found: Suggestions,
    seconds: float,
    console: Console,
) -> None:
    steps, skipped = (sum(of) for of in zip(*((len(c.lrs), c.skipped) for c in curves.values()), strict=True))
    diverged = sum(curve.diverged for curve in curves.values())
    ended = f"; {diverged} of {_count(len(curves))} ended early: the loss diverged" if diverged else ""
    console.print(f"         {steps} steps in {seconds:.1f} s{ended}")
    if skipped:
        console.print(f"         {skipped} steps skipped by fp16, their rates tried again")
    for name, label in READINGS.items():
        if (rate := getattr(found, name)) is not None:
            known = [value for one in each.values() if (value := getattr(one, name)) is not None]
            console.print(f"         {label:<13}{rate:.3g}, by seed {min(known):.3g} to {max(known):.3g}")
    if found.lr is not None:
        rates = ", ".join(str(one.lr or "none (flat)") for one in each.values())
        console.print(f"suggests {found.lr} as optimizer.lr, the schedule's peak; by seed {rates}")


def _count(seeds: int) -> str:
    return f"{seeds} seed{'s' * (seeds > 1)}"
