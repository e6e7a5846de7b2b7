"""The end of a run: the best weights judged on all parts, the summary, the pictures, the table."""

from __future__ import annotations

import statistics
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from stockenh import build, plots
from stockenh.run.session import Session
from stockenh.runfolder import RunFolder
from stockenh.terminal import result_table
from stockenh.training.loop import State, choose

RESAMPLES = 1000


def conclude(session: Session, state: State, parameters: int, out: Console) -> dict[str, Any]:
    """Judges the weights that were best on validation, read back from their file; writes and shows all."""
    chosen = choose({name: best.val_loss for name, best in state.best.items()})
    net = build.trained_model(session.config, session.prepared, session.folder, chosen, session.device)
    parts = {
        part: session.scores(session.forecast(net, part), part, RESAMPLES) for part in session.prepared.rows
    }
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
        "by_weights": {name: asdict(best) for name, best in state.best.items()},
        "stopped_early": state.epoch < session.config.train.epochs,
        "steps": state.steps,
        "skipped_steps": state.skipped,
        "seed": session.config.seed,
    }
    pictures = [plots.training_curves(history, session.folder.report / "curves.png")]
    if set(parts) & set(plots.PART_TITLES):
        pictures.append(plots.accuracy_chart(parts, session.folder.report / "accuracy.png"))
    session.folder.write_json(session.folder.summary, summary)
    show_result(session.folder, summary, pictures, out)
    return summary


def show_result(folder: RunFolder, summary: dict[str, Any], pictures: list[Path], out: Console) -> None:
    """The table, how it came about, and where everything is."""
    out.print(result_table(summary["parts"], _title(summary)))
    out.print(
        f"trained  {summary['seconds']:,.0f} s, {summary['windows_per_second']:,.0f} windows/s on "
        f"{summary['device']} in {summary['precision']}"
    )
    for picture in pictures:
        out.print(f"picture  {picture}", soft_wrap=True, markup=False)
    out.print(f"run      {folder}", soft_wrap=True, markup=False)


def _title(summary: dict[str, Any]) -> str:
    early = " (stopped early)" if summary["stopped_early"] else ""
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
