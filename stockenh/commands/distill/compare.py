"""What a distillation is compared by: scores and cost of the teacher and of students with and without it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn

from stockenh.commands.ensembles import opened
from stockenh.commands.measure import Clock
from stockenh.commands.train.session import prepared_for, teacher_predictions
from stockenh.commands.trained import Trained
from stockenh.config import build
from stockenh.config.build import Prepared
from stockenh.config.schema import RunConfig
from stockenh.evaluation.bootstrap import Resampling
from stockenh.evaluation.metrics import calibration_metrics, part_metrics
from stockenh.report.figure import (
    COLOURS,
    GREY,
    bars_of,
    bars_text,
    legend_above,
    new_figure,
    or_nan,
    percent_axis,
    save,
)
from stockenh.report.table import Grid, as_table, interval, number, of_target, percent
from stockenh.report.terminal import print_files
from stockenh.storage.run_folder import RunFolder


def retention_grid(scores: Mapping[str, Mapping[str, Mapping[str, Any]]], target: str = "absolute") -> Grid:
    """Every model and horizon of a distillation on the test part."""
    blocks = [
        [
            (
                model, horizon.removeprefix("h"), percent(m["accuracy"]),
                interval(m["accuracy_low"], m["accuracy_high"]), percent(m["majority"]),
                percent(m["retention"], 0), number(m["log_loss_calibrated"]), number(m["ece_calibrated"], 3),
            )
            for horizon, m in horizons.items()
        ]
        for model, horizons in scores.items()
    ]  # fmt: skip
    names = ("model", "bars", "accuracy", "95%", "majority", "kept", "log loss", "ECE")
    return Grid(f"Distillation on the test part{of_target(target)}", names, blocks, (
        "accuracy: of the model's own probabilities. 95%: moving-block bootstrap over dates. "
        "kept: the share of the teacher's accuracy above the majority class; n/a where its own 95% reaches "
        "down to it. log loss and ECE: calibrated on validation"
    ), ("model",))  # fmt: skip


def cost_grid(cost: Mapping[str, Mapping[str, float]], title: str) -> Grid:
    """What each model of a distillation costs, and how many times less than the first."""
    first = next(iter(cost.values()))
    rows = [
        (
            model, f"{c['parameters']:,}", f"{c['bytes']:,}", number(c["milliseconds_at_1"], 2),
            number(first["milliseconds_at_1"] / c["milliseconds_at_1"], 1),
            f"{c['windows_per_second_at_256']:,.0f}",
            number(c["windows_per_second_at_256"] / first["windows_per_second_at_256"], 1),
        )
        for model, c in cost.items()
    ]  # fmt: skip
    names = ("model", "parameters", "bytes", "ms at batch 1", "ratio", "windows/s at 256", "ratio")
    return Grid(f"Cost {title}", names, [rows], left=("model",))


def distillation_chart(
    scores: Mapping[str, Mapping[str, Mapping[str, Any]]], path: Path, target: str = "absolute"
) -> Path:
    """Test accuracy with its interval, per horizon and model; returns the path written.

    scores maps the name of a model to {"h3": {"accuracy", "accuracy_low", "accuracy_high", "majority"}, ...}.
    """
    figure = new_figure(9, 5)
    axes = figure.add_subplot()
    horizons = sorted({horizon for of_model in scores.values() for horizon in of_model}, key=bars_of)
    for index, (name, of_model) in enumerate(scores.items()):
        offset = 0.2 * (index - (len(scores) - 1) / 2)
        ends = ("accuracy", "accuracy_low", "accuracy_high")
        found = [[or_nan(of_model[horizon][key]) for key in ends] for horizon in horizons]
        accuracy, low, high = np.array(found).T
        axes.errorbar(
            np.arange(len(horizons)) + offset, accuracy, [accuracy - low, high - accuracy], fmt="o",
            capsize=4, color=COLOURS[index], markersize=7, label=name, zorder=3,
        )  # fmt: skip
    first = next(iter(scores.values()))
    for place, horizon in enumerate(horizons):
        majority = or_nan(first[horizon]["majority"])
        axes.hlines(majority, place - 0.4, place + 0.4, color=GREY, linestyle="--", linewidth=1.5,
                    label="majority class" if place == 0 else "_")  # fmt: skip
    axes.set_xticks(range(len(horizons)), [f"{bars_text(horizon)} ahead" for horizon in horizons])
    axes.set_ylabel("direction accuracy")
    percent_axis(axes)
    legend_above(axes)
    title = f"Distillation on the test part{of_target(target)}\nbars: 95% moving-block bootstrap over dates"
    return save(figure, title, path)


BATCHES = (1, 256)


def compare(
    config: RunConfig, student: RunFolder, alone: RunFolder, device: torch.device, console: Console
) -> dict[str, Any]:
    """Scores teacher, student and the student alone on the same test rows, times them in turn, writes
    distillation.json and its picture into the student's folder, and shows both tables."""
    models = {
        "teacher": opened(config.teacher or "", config.weights),
        "student": Trained.open(student, None),
        "student alone": Trained.open(alone, None),
    }
    prepared = build.data(config, device)
    scores = {name: _scores(config, model, prepared, device) for name, model in models.items()}
    for of_model in scores.values():
        for horizon, m in of_model.items():
            m["retention"] = retention(m, scores["teacher"][horizon])
    found = {
        "part": "test" if "test" in prepared.rows else None,
        "target": config.target.name,
        "scores": scores,
        "cost": _cost(config, models, prepared, device),
        "device": str(device),
        "threads": torch.get_num_threads(),
        "teacher": models["teacher"].to_dict(),
    }
    student.write_json(student.path / "distillation.json", found)
    show(student, found, console)
    return found


def show(student: RunFolder, found: dict[str, Any], console: Console) -> None:
    """Both tables and the picture, from what distillation.json holds."""
    if found["part"]:
        target = found["target"]
        console.print(as_table(retention_grid(found["scores"], target)))
        picture = distillation_chart(found["scores"], student.report / "distillation.png", target)
        print_files(console, "picture", [picture])
    threads = f"{found['threads']} thread{'s' * (found['threads'] != 1)}"
    console.print(as_table(cost_grid(found["cost"], f"on {found['device']}, eager fp32, {threads}")))
    print_files(console, "figures", [student.path / "distillation.json"])


def _scores(
    config: RunConfig, model: Trained, prepared: Prepared, device: torch.device
) -> dict[str, dict[str, Any]]:
    """{"h3": {...}, ...} on the test part; empty where the split has none."""
    rows = prepared.rows.get("test")
    if rows is None:
        return {}
    windows = prepared.windows
    horizons, y_ret, y_dir = windows.horizons, windows.y_ret[rows], windows.direction[rows]
    own = teacher_predictions(config, model, prepared, rows, device)
    resampling = Resampling(seed=config.seed)
    plain = part_metrics(own.ret, own.up_prob, y_ret, windows.asof[rows], horizons, resampling, y_dir)
    calibrated = calibration_metrics(own.up_prob, model.calibration.apply(own.up_logits), y_dir, horizons)
    return {horizon: {**plain[horizon], **calibrated[horizon]} for horizon in plain}


def retention(student: dict[str, Any], teacher: dict[str, Any]) -> float | None:
    """The share that a student keeps of its teacher's accuracy above the majority class.

    None where the teacher's interval reaches down to the majority class: a share of nothing is noise.
    """
    figures = (student["accuracy"], teacher["accuracy_low"], teacher["majority"])
    if any(figure is None for figure in figures) or teacher["accuracy_low"] <= teacher["majority"]:
        return None
    kept: float = (student["accuracy"] - teacher["majority"]) / (teacher["accuracy"] - teacher["majority"])
    return kept


def _cost(
    config: RunConfig, models: dict[str, Trained], prepared: Prepared, device: torch.device
) -> dict[str, dict[str, float]]:
    """Parameters, bytes of the weights' file, and times of one pass, taken in turn."""
    nets: dict[str, nn.Module] = {}
    inputs: dict[str, tuple[Tensor, ...]] = {}
    for name, model in models.items():
        theirs = prepared_for(config, model, prepared, device)
        nets[name] = model.net(theirs, device)
        ready, _ = model.ready(theirs, device)
        rows = torch.arange(max(BATCHES), device=ready.index) % len(theirs.windows)
        inputs[name] = ready.gather(rows, build.AS_IT_IS).inputs
    clock = Clock(device, rounds=5, turn=0.05)

    @torch.inference_mode()
    def one_pass(name: str, batch: int) -> None:
        nets[name](*(x[:batch] for x in inputs[name]))

    at_1, at_256 = (
        clock.medians({name: partial(one_pass, name, batch) for name in nets}) for batch in BATCHES
    )
    return {
        name: {
            "parameters": sum(p.numel() for p in nets[name].parameters()),
            "bytes": model.size,
            "milliseconds_at_1": 1000 * at_1[name],
            "windows_per_second_at_256": 256 / at_256[name],
        }
        for name, model in models.items()
    }
