"""One run from a checked config to a complete run folder, and the same taken up again."""

from __future__ import annotations

import logging
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from stockenh import build, plots
from stockenh.analysis.metrics import part_metrics
from stockenh.build import Prepared
from stockenh.config import RunConfig
from stockenh.data.batches import DeviceWindows
from stockenh.data.fitted import Fitted
from stockenh.errors import RunFolderError
from stockenh.manifest import manifest
from stockenh.runfolder import RunFolder
from stockenh.terminal import PART_NAMES, findings_summary, result_table, training_progress
from stockenh.training import checkpoint
from stockenh.training.interrupt import stop_on_signal
from stockenh.training.learner import Learner
from stockenh.training.loop import Limits, Metrics, State, fit
from stockenh.training.losses.huber_bce import HuberBCE
from stockenh.training.objective import Objective
from stockenh.training.precision import resolve
from stockenh.training.predict import Predictions, predict

log = logging.getLogger(__name__)


@dataclass
class FolderJournal:
    """Writes a run down in its folder. `last` holds all that a resume needs, the best weights included."""

    folder: RunFolder
    learner: Learner
    best_weights: dict[str, dict[str, Tensor]]

    def best(self, name: str, state: State) -> None:
        weights = self.learner.averages.named(self.learner.model)[name].state_dict()
        self.best_weights[name] = {k: v.detach().cpu().clone() for k, v in weights.items()}
        found = {"weights": self.best_weights, "best": state.to_dict()["best"]}
        checkpoint.save(self.folder.best, found)

    def epoch(self, line: Metrics, state: State) -> None:
        self.folder.append_metrics(line)
        self.pause(state)
        log.info("epoch %d: train loss %.5f, validation loss %.5f, %.0f windows/s%s%s",
                 line["epoch"], line["train_loss"], line["val_loss"], line["windows_per_second"],
                 f", {line['skipped']} steps skipped so far" if line["skipped"] else "",
                 ", best so far" if line["best"] else "")  # fmt: skip

    def pause(self, state: State) -> None:
        checkpoint.save(
            self.folder.last,
            {
                "state": state.to_dict(),
                "learner": self.learner.checkpoint(),
                "rng": checkpoint.rng_state(),
                "best_weights": self.best_weights,
            },
        )


def train(config: RunConfig, folder: RunFolder, on: torch.device, out: Console) -> dict[str, Any]:
    """Trains from where the folder is (a fresh one: from the start) to its summary, which is returned.

    Raises Interrupted after a requested stop was saved; whatever it raises, the folder can be taken up.
    """
    with folder.lock():
        prepared = build.data(config, on)
        _show_data(prepared, out)
        fitted = _fitted(folder, prepared)
        net = build.model(config, prepared, on)
        precision = resolve(config.train.precision, on, net)
        _record(config, folder, prepared, on, precision)
        parameters = sum(p.numel() for p in net.parameters())
        out.print(f"model    {parameters:,} parameters, {precision} on {on}")
        resident = DeviceWindows(prepared.windows, prepared.embedding, fitted, on)
        state = _fit(config, folder, prepared, resident, net, precision, on, out)
        return _finish(config, folder, prepared, resident, fitted, state, on, parameters, precision, out)


def _fit(
    config: RunConfig,
    folder: RunFolder,
    prepared: Prepared,
    resident: DeviceWindows,
    net: nn.Module,
    precision: str,
    on: torch.device,
    out: Console,
) -> State:
    batches = build.batches(config, prepared, resident)
    learner = build.learner(config, net, precision, on, config.train.epochs * batches.steps)
    journal = FolderJournal(folder, learner, {})
    state = _take_up(folder, learner, journal)
    fitted = _fitted(folder, prepared)
    plain = Objective(HuberBCE())

    def validate() -> dict[str, Metrics]:
        found = {}
        for name, weights in learner.averages.named(net).items():
            forecast = predict(weights, resident, prepared.rows["val"], fitted, plain)
            found[name] = {"loss": forecast.loss, **_scores(prepared, "val", forecast, resamples=0)}
        return found

    limits = Limits(config.train.epochs, config.train.patience, 60 * config.train.checkpoint_minutes)
    with (
        stop_on_signal() as stop,
        training_progress(out, config.train.epochs, batches.steps) as progress,
    ):
        fit(learner, batches, validate, state, limits, journal, progress, stop)
    for name, weights in journal.best_weights.items():
        folder.write_weights(name, weights)
    return state


def _take_up(folder: RunFolder, learner: Learner, journal: FolderJournal) -> State:
    """The state of the last checkpoint, everything put back; a fresh state where there is none."""
    if not folder.last.exists():
        folder.rewind_metrics(0)
        return State()
    content = checkpoint.load(folder.last)
    try:
        learner.restore(content["learner"])
        state = State.from_dict(content["state"])
        journal.best_weights.update(content["best_weights"])
        checkpoint.set_rng_state(content["rng"])
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise RunFolderError(
            f"{folder.last} does not fit the run's config: {str(error).splitlines()[0]}"
        ) from None
    folder.rewind_metrics(state.epoch)
    return state


def _finish(
    config: RunConfig,
    folder: RunFolder,
    prepared: Prepared,
    resident: DeviceWindows,
    fitted: Fitted,
    state: State,
    on: torch.device,
    parameters: int,
    precision: str,
    out: Console,
) -> dict[str, Any]:
    """Judges the best weights, read back from their file, on all three parts; pictures and summary."""
    chosen = min(state.best, key=lambda name: state.best[name].val_loss)
    net = build.trained_model(config, prepared, folder, chosen, on)
    parts = {
        name: _scores(prepared, name, predict(net, resident, prepared.rows[name], fitted), resamples=1000)
        for name in prepared.rows
    }
    history = folder.read_metrics()
    summary = {
        "parts": parts,
        "weights": chosen,
        "parameters": parameters,
        "windows": sum(map(len, prepared.rows.values())),
        "seconds": round(state.seconds, 3),
        "windows_per_second": statistics.median(line["windows_per_second"] for line in history),
        "device": str(on),
        "precision": precision,
        "epochs": state.epoch,
        "best_epoch": state.best[chosen].epoch,
        "val_loss": state.best[chosen].val_loss,
        "stopped_early": state.epoch < config.train.epochs,
        "steps": state.steps,
        "skipped_steps": state.skipped,
        "seed": config.seed,
    }
    pictures = [
        plots.training_curves(history, folder.report / "curves.png"),
        plots.accuracy_chart(parts, folder.report / "accuracy.png"),
    ]
    folder.write_json(folder.summary, summary)
    show_result(folder, summary, pictures, out)
    return summary


def show_result(folder: RunFolder, summary: dict[str, Any], pictures: list[Path], out: Console) -> None:
    """The table, how it came about, and where everything is."""
    skipped = f", {summary['skipped_steps']} steps skipped" if summary["skipped_steps"] else ""
    title = (
        f"{summary['weights']} weights of epoch {summary['best_epoch']} of {summary['epochs']}"
        f"{' (stopped early)' if summary['stopped_early'] else ''}, the best on validation{skipped}"
    )
    out.print(result_table(summary["parts"], title))
    out.print(
        f"trained  {summary['seconds']:,.0f} s, {summary['windows_per_second']:,.0f} windows/s on "
        f"{summary['device']} in {summary['precision']}"
    )
    for picture in pictures:
        out.print(f"picture  {picture}", soft_wrap=True)
    out.print(f"run      {folder}", soft_wrap=True)


def _scores(prepared: Prepared, part: str, forecast: Predictions, resamples: int) -> dict[str, Any]:
    rows, windows = prepared.rows[part], prepared.windows
    return part_metrics(
        forecast.ret,
        forecast.up_prob,
        windows.y_ret[rows],
        windows.asof[rows],
        windows.horizons,
        resamples=resamples,
    )


def _fitted(folder: RunFolder, prepared: Prepared) -> Fitted:
    """The run's own statistics; fitted on the train part the first time."""
    if not folder.fitted.exists():
        folder.write_json(folder.fitted, Fitted.on(prepared.windows, prepared.rows["train"]).to_dict())
    return build.fitted_of(folder, prepared)


def _record(
    config: RunConfig, folder: RunFolder, prepared: Prepared, on: torch.device, precision: str
) -> None:
    """Writes the manifest and the resolved precision; a run that is taken up must find the same data."""
    digest = prepared.windows.digest()
    if folder.manifest.exists():
        if folder.read_json(folder.manifest).get("data") != digest:
            raise RunFolderError(
                f"{folder}: the bars are not those that this run was trained on (or data.path is another)"
            )
    else:
        folder.write_json(folder.manifest, manifest(digest, on, precision))
    config.raw["train"]["precision"] = precision
    folder.write_config(config.raw)


def _show_data(prepared: Prepared, out: Console) -> None:
    windows = prepared.windows
    out.print(f"data     {len(windows.symbols)} symbols, {len(windows):,} windows of {windows.lookback} bars")
    for line in findings_summary(prepared.findings):
        out.print(f"         {line}", markup=False)
    for name, rows in prepared.rows.items():
        asof = windows.asof[rows].astype("datetime64[D]")
        out.print(
            f"         {PART_NAMES[name]:<10} {len(rows):>9,} windows ending {asof.min()} to {asof.max()}"
        )
    left = int(windows.labelled.sum()) - sum(map(len, prepared.rows.values()))
    out.print(f"         {left:,} windows left out between the parts, so that no label reaches into the next")
    if prepared.findings:
        log.info("%d findings in the data", len(prepared.findings))
