"""The end of a run: the best weights judged on all parts, the summary, the pictures, the table."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from rich.console import Console

from stockenh import build, plots
from stockenh.analysis.calibration import calibration_metrics, reliability_curves
from stockenh.run.calibrate import calibrate
from stockenh.run.session import Session
from stockenh.runfolder import RunFolder
from stockenh.terminal import result_table
from stockenh.training.loop import State

RESAMPLES = 1000


def conclude(session: Session, state: State, parameters: int, out: Console) -> dict[str, Any]:
    """Judges the weights that were best on validation, read back from their file; writes and shows all."""
    chosen = min(state.best, key=lambda name: state.best[name].val_loss)
    net = build.trained_model(session.config, session.prepared, session.folder, chosen, session.device)
    forecasts = {part: session.forecast(net, part) for part in session.prepared.rows}
    parts = {part: session.scores(of_part, part, RESAMPLES) for part, of_part in forecasts.items()}
    calibration = calibrate(session, sorted(state.best))[chosen]
    calibrated = {part: calibration.apply(forecasts[part].up_logits) for part in ("val", "test")}
    horizons = session.prepared.windows.horizons
    for part, probabilities in calibrated.items():
        more = calibration_metrics(forecasts[part].up_prob, probabilities, session.labels(part), horizons)
        parts[part] = {horizon: {**scores, **more[horizon]} for horizon, scores in parts[part].items()}
    before, after = (
        reliability_curves(up_prob, session.labels("test"), horizons)
        for up_prob in (forecasts["test"].up_prob, calibrated["test"])
    )
    history = session.folder.read_metrics()
    summary = {
        "parts": parts,
        "weights": chosen,
        "parameters": parameters,
        "windows": sum(map(len, session.prepared.rows.values())),
        "seconds": round(state.seconds, 3),
        "windows_per_second": statistics.median(line["windows_per_second"] for line in history),
        "device": str(session.device),
        "precision": session.precision,
        "epochs": state.epoch,
        "best_epoch": state.best[chosen].epoch,
        "val_loss": state.best[chosen].val_loss,
        "stopped_early": state.epoch < session.config.train.epochs,
        "steps": state.steps,
        "skipped_steps": state.skipped,
        "seed": session.config.seed,
    }
    pictures = [
        plots.training_curves(history, session.folder.report / "curves.png"),
        plots.accuracy_chart(parts, session.folder.report / "accuracy.png"),
        plots.reliability_chart(before, after, session.folder.report / "reliability.png"),
    ]
    session.folder.write_json(session.folder.summary, summary)
    show_result(session.folder, summary, pictures, out)
    return summary


def show_result(folder: RunFolder, summary: dict[str, Any], pictures: list[Path], out: Console) -> None:
    """The table, how it came about, and where everything is."""
    early = " (stopped early)" if summary["stopped_early"] else ""
    skipped = f", {summary['skipped_steps']} steps skipped" if summary["skipped_steps"] else ""
    title = (
        f"{summary['weights']} weights of epoch {summary['best_epoch']} of {summary['epochs']}{early}, "
        f"the best on validation{skipped}"
    )
    out.print(result_table(summary["parts"], title))
    out.print(
        f"trained  {summary['seconds']:,.0f} s, {summary['windows_per_second']:,.0f} windows/s on "
        f"{summary['device']} in {summary['precision']}"
    )
    for picture in pictures:
        out.print(f"picture  {picture}", soft_wrap=True, markup=False)
    out.print(f"run      {folder}", soft_wrap=True, markup=False)
