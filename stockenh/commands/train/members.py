"""An ensemble in one run folder: members with seeds in sequence, each a run of its own, and their mean."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from rich.console import Console

from stockenh.commands.ensembles import NAME, TrainedEnsemble, member_folders, opened
from stockenh.commands.tracking import start_tracking, track
from stockenh.commands.train.details import write_details
from stockenh.commands.train.figures import PART_TITLES, accuracy_chart
from stockenh.commands.train.result import about, calibrate, score_calibration
from stockenh.commands.train.resumed import changed_config, is_finished
from stockenh.commands.train.run import train
from stockenh.commands.train.session import Session
from stockenh.commands.trained import Trained
from stockenh.config import build
from stockenh.config.schema import RunConfig, plugins_of
from stockenh.report.table import of_target
from stockenh.report.terminal import print_line
from stockenh.report.trackers import NotTracked
from stockenh.storage.machine import manifest
from stockenh.storage.run_folder import RunFolder
from stockenh.storage.untrusted import is_file
from stockenh.training import world
from stockenh.training.losses.huber_bce import HuberBCE
from stockenh.training.step import Objective

Begin = Callable[[RunConfig], None]


def train_members(
    config: RunConfig,
    folder: RunFolder,
    device: torch.device,
    console: Console,
    begin: Begin | None,
    changes: Mapping[str, Any],
    tracked: NotTracked,
) -> dict[str, Any]:
    """Trains what is left of every member, then scores their mean; returns its summary, as `train` does.

    begin: see `train`; changes: settings of a resumed run by dotted key, for members that have begun already;
    tracked: what follows the whole at a tracker.
    """
    if world.own_rank() is not None:
        world.refuse_several(f"train.members={config.train.members}")
    members = member_folders(folder, config)
    if begin is None:
        start_tracking(tracked, folder, config)
    for number, member in enumerate(members):
        own = _member_config(config, member, number, changes)
        with ExitStack() as locked:
            begin_member = None
            if is_file(member.config):
                locked.enter_context(member.lock())
            else:
                begin_member = _begins(member, locked, config, begin, tracked, folder)
            print_line(console, f"member   {number + 1} of {len(members)}, seed {own.seed}")
            if begin_member is None and is_finished(member, own, quiet=True):
                continue
            if begin is None:
                folder.reopen()
            # what is the same for all is said once
            said = console if number == 0 else Console(quiet=True)
            with track(own, tracked.warn) as mine:
                train(own, member, device, said, begin=begin_member, progress=console, tracked=mine)
        begin = None
    return _conclude(config, folder, members, device, console)


def _member_config(
    config: RunConfig, member: RunFolder, number: int, changes: Mapping[str, Any]
) -> RunConfig:
    if is_file(member.config):
        return changed_config(member, changes)
    return replace(config, seed=config.seed + number, train=replace(config.train, members=1))


def _begins(
    member: RunFolder,
    locked: ExitStack,
    whole: RunConfig,
    begin: Begin | None,
    tracked: NotTracked,
    folder: RunFolder,
) -> Begin:
    """What makes and locks a member's folder once its data are read; before the first, that of the whole."""

    def begin_member(own: RunConfig) -> None:
        if begin is not None:
            config = replace(own, seed=whole.seed, train=replace(own.train, members=whole.train.members))
            begin(config)
            start_tracking(tracked, folder, config)
        member.path.mkdir(parents=True, exist_ok=True)
        locked.enter_context(member.lock())
        member.begin(own.raw)

    return begin_member


def _conclude(
    config: RunConfig, folder: RunFolder, folders: list[RunFolder], device: torch.device, console: Console
) -> dict[str, Any]:
    """Scores and calibrates the mean of finished members; writes what a run folder holds of its result."""
    members = [Trained.open(member, None) for member in folders]
    ensemble = TrainedEnsemble.of(members)
    with console.status("scoring and calibrating the mean of the members"):
        prepared = build.data(members[0].run, device)
        ready, fitted = ensemble.ready(prepared, device)
        precision = members[0].run.train.precision
        session = Session(config, folder, prepared, fitted, ready, device, precision)
        net = ensemble.net(prepared, device)
        forecasts = {part: session.forecast(net, part) for part in prepared.rows}
        parts = {part: session.scores(found, part) for part, found in forecasts.items()}
        val_loss = session.validation(net, Objective(HuberBCE(returns="huber")))["loss"]
    on_validation = [(NAME, forecasts["val"])] if "val" in forecasts else []
    fits = calibrate(session, on_validation, ensemble.quantile_levels, ensemble.shifts_probabilities)
    for calibration in fits.values():
        score_calibration(session, calibration, forecasts, parts)
    if set(parts) & set(PART_TITLES):
        accuracy_chart(parts, folder.report / "accuracy.png", of_target(config.target.name))
    origins = {
        "members": [member.to_dict() for member in members],
        "plugins": [plugin.to_dict() for plugin in plugins_of(config)],
    }
    made_with = manifest(prepared.windows.digest(), device, precision, origins, prepared.warnings)
    folder.write_json(folder.manifest, made_with)
    summary = _summary(session, folders, parts, val_loss)
    folder.write_json(folder.summary, summary)
    write_details(session, opened(str(folder), None), net, forecasts.get("test"))
    return summary


def _summary(
    session: Session, folders: list[RunFolder], parts: dict[str, dict[str, Any]], val_loss: float | None
) -> dict[str, Any]:
    of_members: list[dict[str, Any]] = [dict(member.read_summary()) for member in folders]
    best = max(one["best_epoch"] for one in of_members)
    kept = ("seed", "weights", "epochs", "best_epoch", "val_loss", "stopped_early", "seconds")
    return {
        **about(session, parts),
        "weights": NAME,
        "members": [{key: one[key] for key in kept} for one in of_members],
        "parameters": sum(one["parameters"] for one in of_members),
        "seconds": round(sum(one["seconds"] for one in of_members), 3),
        "windows_per_second": statistics.median(one["windows_per_second"] for one in of_members),
        "epochs": max(one["epochs"] for one in of_members),
        "best_epoch": best,
        "val_loss": val_loss,
        "by_weights": {NAME: {"epoch": best, "val_loss": val_loss}},
        "stopped_early": all(one["stopped_early"] for one in of_members),
        "pruned": False,
        "steps": sum(one["steps"] for one in of_members),
        "skipped_steps": sum(one["skipped_steps"] for one in of_members),
    }
