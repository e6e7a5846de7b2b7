"""The end of a run: calibration on validation, scores of the chosen weights, summary, table and pictures."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from stockenh.commands.runs.listing import option_of
from stockenh.commands.train.details import write_details
from stockenh.commands.train.figures import PART_TITLES, accuracy_chart, training_curves
from stockenh.commands.train.session import Session
from stockenh.commands.train.verdict import test_verdicts
from stockenh.commands.trained import Trained, shifts_probabilities
from stockenh.config import build
from stockenh.config.schema import to_dict
from stockenh.evaluation.metrics import calibration_metrics
from stockenh.inference.calibration import Calibration
from stockenh.inference.conformal import Conformal, has_interval
from stockenh.inference.predict import Confidence, Predictions
from stockenh.report.table import Grid, as_table, between, interval, leave_out, number, of_target, percent
from stockenh.report.terminal import print_files, print_line
from stockenh.storage.run_folder import RunFolder
from stockenh.training.loop import State, choose

HELD_OUT = {"val", "test"}


def calibrate(
    session: Session,
    forecasts: Iterable[tuple[str, Predictions]],
    levels: tuple[float, ...],
    shifted: bool,
) -> dict[str, Calibration]:
    """Fits and writes calibration, confidence and, of quantiles, the widening of their interval.

    forecasts: of the validation part, by the name of weights that a forecast may use; levels: of the
    quantiles; shifted: see `Calibration.fit`. Empty where there is no validation part.
    """
    calibrations, confidences, conformals = {}, {}, {}
    for name, forecast in forecasts:
        windows, rows = session.prepared.windows, session.prepared.rows["val"]
        logits, asof = forecast.up_logits, windows.asof[rows]
        calibrations[name] = Calibration.fit(
            logits, session.directions("val"), asof, windows.horizons, shifted
        )
        confidences[name] = Confidence.of(calibrations[name].apply(logits))
        if has_interval(levels) and forecast.quantiles is not None:
            conformals[name] = Conformal.fit(forecast.quantiles, levels, windows.y_ret[rows])
    folder = session.folder
    written: list[tuple[Path, Mapping[str, Calibration | Confidence | Conformal]]] = [
        (folder.calibration, calibrations),
        (folder.confidence, confidences),
        *([(folder.conformal, conformals)] if conformals else []),
    ]
    for path, fits in written:
        folder.write_json(path, {name: fit.to_dict() for name, fit in fits.items()})
    return calibrations


_DISPENSABLE = ("ties", "Brier", "MAE", "n", "log loss", "AUC")  # left out of a narrow table in this order


Parts = Mapping[str, Mapping[str, Mapping[str, Any]]]


def result_table(parts: Parts, title: str, width: int = 80, target: str = "absolute") -> Table:
    """See `result_grid`."""
    return as_table(result_grid(parts, title, width, target))


def result_grid(parts: Parts, title: str, width: int = 80, target: str = "absolute") -> Grid:
    """Every part and horizon, accuracy beside its interval, the majority class and the limit where known.

    Where `width` characters are too few, whole columns are left out, the least useful first, and the caption
    names them.
    """
    columns = _result_columns(parts)
    left_out = leave_out(columns, _DISPENSABLE, width)
    caption = (
        "accuracy, majority, AUC: without rows that have no direction (ties). 95%: moving-block bootstrap "
        "over dates. majority: share of the larger class in that part."
    )
    unit = "returns, in raw units" if target == "absolute" else "the target, in its own units"
    if "MAE" not in left_out:
        has_size = "n/a" not in columns["MAE"]
        caption += (
            f" MAE: of {unit}." if has_size else " MAE is n/a: the loss learns an order, which has no size."
        )
    if "n/a" in columns["95%"]:
        caption += " n/a there: too few dates for an interval."
    if "limit" in columns:
        caption += (
            " limit: expected accuracy of the best possible forecast. closed: share of the way from "
            "majority to limit."
        )
    if "rank IC" in columns:
        caption += " rank IC: mean over dates of Spearman's correlation of forecast and return over symbols."
    if "its limit" in columns:
        caption += " its limit: rank IC of the best possible forecast on the same rows."
    caption += f" No room for {', '.join(left_out)}: see summary.json." if left_out else ""
    rows = zip(*columns.values(), strict=True)
    blocks = [list(block) for _, block in itertools.groupby(rows, key=lambda row: row[0])]
    return Grid(f"{title}{of_target(target)}", tuple(columns), blocks, caption, ("part",))


def _result_columns(parts: Parts) -> dict[str, list[str]]:
    scores = [(part, horizon, m) for part, horizons in parts.items() for horizon, m in horizons.items()]
    limits = {
        "limit": [percent(m.get("limit_accuracy")) for *_, m in scores],
        "closed": [percent(m.get("gap_closed"), 0) for *_, m in scores],
    }
    if not any("limit_accuracy" in m for *_, m in scores):
        limits = {}
    ranks = {
        "rank IC": [number(m.get("rank_ic"), 3) for *_, m in scores],
        "IC 95%": [between(m.get("rank_ic_low"), m.get("rank_ic_high"), 1, 3) for *_, m in scores],
        "its limit": [number(m.get("limit_rank_ic"), 3) for *_, m in scores],
    }
    if not any("rank_ic" in m for *_, m in scores):
        ranks = {}
    elif not any("limit_rank_ic" in m for *_, m in scores):
        del ranks["its limit"]
    return {
        "part": [part for part, _, _ in scores],
        "bars": [horizon.removeprefix("h") for _, horizon, _ in scores],
        "n": [str(m["n"]) for *_, m in scores],
        "ties": [percent(m["tie_share"]) for *_, m in scores],
        **ranks,
        "AUC": [number(m["auc"], 3) for *_, m in scores],
        "log loss": [number(m["log_loss"]) for *_, m in scores],
        "accuracy": [percent(m["accuracy"]) for *_, m in scores],
        "95%": [interval(m["accuracy_low"], m["accuracy_high"]) for *_, m in scores],
        "majority": [percent(m["majority"]) for *_, m in scores],
        **limits,
        "Brier": [number(m["brier"], 3) for *_, m in scores],
        "MAE": [number(m["mae"]) for *_, m in scores],
    }


def conclude(
    session: Session,
    state: State,
    parameters: int,
    console: Console,
    judged: Container[str],
    pruned: bool,
) -> dict[str, Any]:
    """Scores the weights that were best on validation, read back from their file, and writes all.

    judged: the parts of the data to score them on, with pictures where these are all; pruned: whether a
    search ended the run.
    """
    chosen = choose({name: best.val_loss for name, best in state.best.items()})
    net = build.trained_model(session.config, session.prepared, session.folder, chosen, session.device)
    with console.status("scoring and calibrating"):  # on a terminal only: a large model takes a while
        forecasts = {part: session.forecast(net, part) for part in session.prepared.rows if part in judged}
        parts = {part: session.scores(found, part) for part, found in forecasts.items()}
        has_all = forecasts.keys() == session.prepared.rows.keys()
        shifted = shifts_probabilities(session.config, session.folder)
        levels, on_validation = (
            build.quantile_levels(session.config),
            _on_validation(session, sorted(state.best)),
        )
        calibration = calibrate(session, on_validation, levels, shifted).get(chosen)
        if not has_all and "val" in forecasts:  # a trial, which a search compares by more than its metric
            daily = session.daily_returns(forecasts["val"], "val")
            if daily is not None:
                session.folder.write_json(session.folder.daily, daily)
    history = session.folder.read_metrics()
    if has_all:
        training_curves(history, session.folder.report / "curves.png", loss_in_words(to_dict(session.config)))
    if calibration is not None:
        score_calibration(session, calibration, forecasts, parts)
    summary = {
        **about(session, parts),
        "weights": chosen,
        "parameters": parameters,
        "seconds": round(state.seconds, 3),
        "windows_per_second": statistics.median(line["windows_per_second"] for line in history),
        "epochs": state.epoch,
        "best_epoch": state.best[chosen].epoch,
        "val_loss": state.best[chosen].val_loss,
        "by_weights": {name: asdict(best) for name, best in state.best.items()},
        "stopped_early": state.epoch < session.config.train.epochs,
        "pruned": pruned,
        "steps": state.steps,
        "skipped_steps": state.skipped,
    }
    if has_all and set(parts) & set(PART_TITLES):
        of = of_target(session.config.target.name)
        accuracy_chart(parts, session.folder.report / "accuracy.png", of)
    session.folder.write_json(session.folder.summary, summary)
    if has_all:
        write_details(session, Trained.open(session.folder, None), net, forecasts.get("test"))
    return summary


def about(session: Session, parts: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What a summary says of the scores and of what they were made with."""
    prepared = session.prepared
    trained_on = np.unique(prepared.windows.symbol[prepared.rows["train"]])
    return {
        "parts": parts,
        "symbols": [prepared.windows.symbols[number] for number in trained_on],
        "target": session.config.target.name,
        "windows": sum(map(len, prepared.rows.values())),
        "device": str(session.device),
        "precision": session.precision,
        "resident": session.ready.resident,
        "seed": session.config.seed,
        "warnings": list(prepared.warnings),
    }


def _on_validation(session: Session, names: list[str]) -> Iterator[tuple[str, Predictions]]:
    """The forecasts of the validation part by the named weights; none where there is no such part."""
    for name in names if "val" in session.prepared.rows else ():
        net = build.trained_model(session.config, session.prepared, session.folder, name, session.device)
        yield name, session.forecast(net, "val")


def score_calibration(
    session: Session,
    calibration: Calibration,
    forecasts: Mapping[str, Predictions],
    parts: dict[str, dict[str, Any]],
) -> None:
    """Adds the scores of calibrated probabilities to the held-out parts."""
    horizons = session.prepared.windows.horizons
    for part in HELD_OUT & forecasts.keys():
        before, labels = forecasts[part].up_prob, session.directions(part)
        after = calibration.apply(forecasts[part].up_logits)
        more = calibration_metrics(before, after, labels, horizons)
        parts[part] = {horizon: {**scores, **more[horizon]} for horizon, scores in parts[part].items()}


def loss_in_words(raw: Mapping[str, Any]) -> str:
    """`loss=focal, augment=noise`: what a training loss is of. raw: the config as plain containers."""
    words = [f"{group}={option_of(group, raw[group])}" for group in ("loss", "augment")]
    if words[1] == "augment=none":
        del words[1]
    return ", ".join(words + ["of a teacher"] * (raw.get("teacher") is not None))


def show_result(folder: RunFolder, summary: Mapping[str, Any], console: Console) -> None:
    """Prints the table, speed and device, and where the files are."""
    target = summary.get("target", "absolute")
    console.print(result_table(summary["parts"], title_of(summary), console.width, target))
    is_relative = target in ("market_relative", "rank")
    for _, text in test_verdicts(summary["parts"].get("test", {}), is_relative):
        print_line(console, f"verdict  {text}")
    console.print(
        f"trained  {summary['seconds']:,.0f} s, {summary['windows_per_second']:,.0f} windows/s on "
        f"{summary['device']} in {summary['precision']}"
    )
    print_files(console, "picture", sorted(folder.report.glob("*.png")))
    print_files(console, "run", [folder.path])


def title_of(summary: Mapping[str, Any]) -> str:
    """Which weights the scores are of, and why these."""
    if members := summary.get("members"):
        loss = "" if summary["val_loss"] is None else f" (validation loss {summary['val_loss']:.4f})"
        return f"mean of {len(members)} members{loss}"
    early = " (stopped early)" if summary["stopped_early"] else ""
    if summary.get("pruned"):
        early = " (pruned by a search)"
    skipped = f", {summary['skipped_steps']} steps skipped" if summary["skipped_steps"] else ""
    others = [
        f"{name} {best['val_loss']:.4f}"
        for name, best in summary["by_weights"].items()
        if name != summary["weights"] and best["val_loss"] is not None
    ]
    losses = f" (loss {summary['val_loss']:.4f}; {', '.join(others)})" if others else ""
    why = f"the best on validation{losses}"
    if summary["val_loss"] is None:
        why = "the last: nothing was held out"
    return (
        f"{summary['weights']} weights of epoch {summary['best_epoch']} of {summary['epochs']}{early}, "
        f"{why}{skipped}"
    )
