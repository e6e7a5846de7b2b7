"""The end of a run: the best weights judged on all parts, the summary, the pictures, the table."""

from __future__ import annotations

import statistics
from collections.abc import Container, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from stockenh import build
from stockenh.analysis.calibration import Calibration, calibration_metrics, reliability_curves
from stockenh.plots.calibration import reliability_chart
from stockenh.plots.training import PART_TITLES, accuracy_chart, training_curves
from stockenh.run.calibrate import calibrate
from stockenh.run.session import Session
from stockenh.runfolder import RunFolder
from stockenh.tables.result import result_table
from stockenh.training.loop import State, choose
from stockenh.training.predict import Predictions

RESAMPLES = 1000
HELD_OUT = {"val", "test"}


def conclude(
    session: Session,
    state: State,
    parameters: int,
    out: Console,
    judged: Container[str],
    pruned: bool,
) -> dict[str, Any]:
    """Judges the weights that were best on validation, read back from their file; writes and shows all.

    judged: the parts of the data to judge them on, with pictures where these are all; pruned: whether a
    search ended the run.
    """
    chosen = choose({name: best.val_loss for name, best in state.best.items()})
    net = build.trained_model(session.config, session.prepared, session.folder, chosen, session.device)
    with out.status("judging and calibrating"):  # seen on a terminal only: a large model takes a while
        forecasts = {part: session.forecast(net, part) for part in session.prepared.rows if part in judged}
        parts = {part: session.scores(of_part, part, RESAMPLES) for part, of_part in forecasts.items()}
        whole = forecasts.keys() == session.prepared.rows.keys()
        calibration = calibrate(session, sorted(state.best), confident=whole).get(chosen)
    history = session.folder.read_metrics()
    pictures = [training_curves(history, session.folder.report / "curves.png")] if whole else []
    if calibration is not None:
        pictures += _judge_calibration(session, calibration, forecasts, parts)
    summary = {
        "parts": parts,
        "weights": chosen,
        "parameters": parameters,
        "windows": sum(map(len, session.prepared.rows.values())),
        "seconds": round(state.seconds, 3),
        "windows_per_second": statistics.median(line["windows_per_second"] for line in history),
        "device": str(session.device),
        "precision": session.precision,
        "resident": session.ready.resident,
        "epochs": state.epoch,
        "best_epoch": state.best[chosen].epoch,
        "val_loss": state.best[chosen].val_loss,
        "by_weights": {name: asdict(best) for name, best in state.best.items()},
        "stopped_early": state.epoch < session.config.train.epochs,
        "pruned": pruned,
        "steps": state.steps,
        "skipped_steps": state.skipped,
        "seed": session.config.seed,
        "warnings": list(session.prepared.warnings),
    }
    if whole and set(parts) & set(PART_TITLES):
        pictures.append(accuracy_chart(parts, session.folder.report / "accuracy.png"))
    session.folder.write_json(session.folder.summary, summary)
    show_result(session.folder, summary, pictures, out)
    return summary


def _judge_calibration(
    session: Session,
    calibration: Calibration,
    forecasts: Mapping[str, Predictions],
    parts: dict[str, dict[str, Any]],
) -> list[Path]:
    """Adds the scores of calibrated probabilities to the held-out parts; returns the picture of test."""
    horizons, pictures = session.prepared.windows.horizons, []
    for part in HELD_OUT & forecasts.keys():
        before, labels = forecasts[part].up_prob, session.labels(part)
        after = calibration.apply(forecasts[part].up_logits)
        more = calibration_metrics(before, after, labels, horizons)
        parts[part] = {horizon: {**scores, **more[horizon]} for horizon, scores in parts[part].items()}
        if part == "test":
            said, mended = (reliability_curves(up_prob, labels, horizons) for up_prob in (before, after))
            path = session.folder.report / "reliability.png"
            pictures.append(reliability_chart(said, mended, path))
    return pictures


def show_result(folder: RunFolder, summary: dict[str, Any], pictures: list[Path], out: Console) -> None:
    """The table, how it came about, and where everything is."""
    out.print(result_table(summary["parts"], _title(summary), out.width))
    out.print(
        f"trained  {summary['seconds']:,.0f} s, {summary['windows_per_second']:,.0f} windows/s on "
        f"{summary['device']} in {summary['precision']}"
    )
    for picture in pictures:
        out.print(f"picture  {picture}", soft_wrap=True, markup=False)
    out.print(f"run      {folder}", soft_wrap=True, markup=False)


def _title(summary: dict[str, Any]) -> str:
    early = " (stopped early)" if summary["stopped_early"] else ""
    if summary.get("pruned"):
        early = " (pruned by a search)"
    skipped = f", {summary['skipped_steps']} steps skipped" if summary["skipped_steps"] else ""
    others = [
        f"{name} {best['val_loss']:.4f}"
        for name, best in summary["by_weights"].items()
        if name != summary["weights"] and best["val_loss"] is not None
    ]
    told = f" (loss {summary['val_loss']:.4f}; {', '.join(others)})" if others else ""
    why = "the last: nothing was held out" if summary["val_loss"] is None else f"the best on validation{told}"
    return (
        f"{summary['weights']} weights of epoch {summary['best_epoch']} of {summary['epochs']}{early}, "
        f"{why}{skipped}"
    )
