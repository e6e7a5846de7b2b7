"""What a distillation shows on the terminal: scores and cost of teacher and students."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from stockenh.commands.measure import Clock
from stockenh.commands.train.result import RESAMPLES
from stockenh.commands.train.session import ask
from stockenh.commands.trained import Trained
from stockenh.config import build
from stockenh.config.build import Prepared
from stockenh.config.schema import RunConfig
from stockenh.evaluation.metrics import calibration_metrics, part_metrics
from stockenh.report.figure import (
    COLOURS,
    GREY,
    bars_of,
    bars_text,
    legend_above,
    new_figure,
    percent_axis,
    save,
)
from stockenh.report.figure import (
    number as plot_number,
)
from stockenh.report.table import interval, number, percent
from stockenh.storage.run_folder import RunFolder


def retention_table(scores: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Table:
    """Every model and horizon of a distillation on the test part."""
    table = Table(title="Distillation on the test part", title_justify="left", caption_justify="left",
                  box=box.SIMPLE_HEAD, padding=(0, 0), show_edge=False, caption=(
        "accuracy: of the model's own probabilities. 95%: moving-block bootstrap over dates. "
        "kept: the share of the teacher's accuracy above the majority class; n/a where its own 95% reaches "
        "down to it. log loss and ECE: calibrated on validation"
    ))  # fmt: skip
    for name in ("model", "bars", "accuracy", "95%", "majority", "kept", "log loss", "ECE"):
        table.add_column(name, justify="left" if name == "model" else "right", no_wrap=True)
    for model, horizons in scores.items():
        for horizon, m in horizons.items():
            table.add_row(
                model, horizon.removeprefix("h"), percent(m["accuracy"]),
                interval(m["accuracy_low"], m["accuracy_high"]), percent(m["majority"]),
                percent(m["retention"], 0), number(m["log_loss_calibrated"]), number(m["ece_calibrated"], 3),
            )  # fmt: skip
        table.add_section()
    return table


def cost_table(cost: Mapping[str, Mapping[str, float]], title: str) -> Table:
    """What each model of a distillation costs, and how many times less than the first."""
    table = Table(title=f"Cost {title}", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 0),
                  show_edge=False)  # fmt: skip
    first = next(iter(cost.values()))
    for name in ("model", "parameters", "bytes", "ms at batch 1", "ratio", "windows/s at 256", "ratio"):
        table.add_column(name, justify="left" if name == "model" else "right", no_wrap=True)
    for model, c in cost.items():
        table.add_row(
            model, f"{c['parameters']:,}", f"{c['bytes']:,}", number(c["milliseconds_at_1"], 2),
            number(first["milliseconds_at_1"] / c["milliseconds_at_1"], 1),
            f"{c['windows_per_second_at_256']:,.0f}",
            number(c["windows_per_second_at_256"] / first["windows_per_second_at_256"], 1),
        )  # fmt: skip
    return table


def distillation_chart(scores: Mapping[str, Mapping[str, Mapping[str, Any]]], path: Path) -> Path:
    """Test accuracy with its interval, per horizon and model; returns the path written.

    scores maps the name of a model to {"h3": {"accuracy", "accuracy_low", "accuracy_high", "majority"}, ...}.
    """
    figure = new_figure(9, 5)
    axes = figure.add_subplot()
    horizons = sorted({horizon for of_model in scores.values() for horizon in of_model}, key=bars_of)
    for index, (name, of_model) in enumerate(scores.items()):
        offset = 0.2 * (index - (len(scores) - 1) / 2)
        for place, horizon in enumerate(horizons):
            m = of_model[horizon]
            accuracy, low, high = (
                plot_number(m[key]) for key in ("accuracy", "accuracy_low", "accuracy_high")
            )
            axes.errorbar(
                place + offset, accuracy, [[accuracy - low], [high - accuracy]], fmt="o", capsize=4,
                color=COLOURS[index], markersize=7, label=name if place == 0 else None, zorder=3,
            )  # fmt: skip
    first = next(iter(scores.values()))
    for place, horizon in enumerate(horizons):
        majority = plot_number(first[horizon]["majority"])
        axes.hlines(majority, place - 0.4, place + 0.4, color=GREY, linestyle="--", linewidth=1.5,
                    label="majority class" if place == 0 else "_")  # fmt: skip
    axes.set_xticks(range(len(horizons)), [f"{bars_text(horizon)} ahead" for horizon in horizons])
    axes.set_ylabel("direction accuracy")
    percent_axis(axes)
    legend_above(axes)
    title = "Distillation on the test part\nbars: 95% moving-block bootstrap over dates"
    return save(figure, title, path)


BATCHES = (1, 256)


def compare(
    config: RunConfig, student: RunFolder, alone: RunFolder, on: torch.device, out: Console
) -> dict[str, Any]:
    """Judges teacher, student and the student alone on the same test rows, times them in turn, writes
    distillation.json and its picture into the student's folder, and shows both tables."""
    teacher = Trained.open(RunFolder.open(Path(config.teacher or "")), config.weights)
    prepared = build.data(config, on)
    three = {
        "teacher": teacher,
        "student": Trained.open(student, None),
        "student alone": Trained.open(alone, None),
    }
    scores = {name: _scores(config, model, prepared, on) for name, model in three.items()}
    cost = _cost(config, three, prepared, on)
    found = {
        "part": "test" if "test" in prepared.rows else None,
        "scores": _with_retention(scores),
        "cost": cost,
        "device": str(on),
        "threads": torch.get_num_threads(),
        "teacher": teacher.to_dict(),
    }
    student_file = student.path / "distillation.json"
    student.write_json(student_file, found)
    show(student, found, out)
    return found


def show(student: RunFolder, found: dict[str, Any], out: Console) -> None:
    """Both tables and the picture, from what distillation.json holds."""
    if found["part"]:
        out.print(retention_table(found["scores"]))
        picture = distillation_chart(found["scores"], student.report / "distillation.png")
        out.print(f"picture  {picture}", soft_wrap=True, markup=False)
    threads = f"{found['threads']} thread{'s' * (found['threads'] != 1)}"
    out.print(cost_table(found["cost"], f"on {found['device']}, eager fp32, {threads}"))
    out.print(f"figures  {student.path / 'distillation.json'}", soft_wrap=True, markup=False)


def _scores(
    config: RunConfig, model: Trained, prepared: Prepared, on: torch.device
) -> dict[str, dict[str, Any]]:
    """{"h3": {...}, ...} on the test part; empty where the split has none."""
    rows = prepared.rows.get("test")
    if rows is None:
        return {}
    windows = prepared.windows
    said = ask(config, model, prepared, rows, on)
    labels = windows.y_ret[rows]
    plain = part_metrics(
        said.ret, said.up_prob, labels, windows.asof[rows], windows.horizons, resamples=RESAMPLES
    )
    calibrated = model.calibration.apply(said.up_logits)
    more = calibration_metrics(said.up_prob, calibrated, labels, windows.horizons)
    return {horizon: {**plain[horizon], **more[horizon]} for horizon in plain}


def _with_retention(scores: dict[str, dict[str, dict[str, Any]]]) -> dict[str, dict[str, dict[str, Any]]]:
    return {
        name: {
            horizon: {**m, "retention": retention(m, scores["teacher"][horizon])}
            for horizon, m in of_model.items()
        }
        for name, of_model in scores.items()
    }


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
    config: RunConfig, models: dict[str, Trained], prepared: Prepared, on: torch.device
) -> dict[str, dict[str, float]]:
    """Parameters, bytes of the weights' file, and times of one pass, taken in turn."""
    nets: dict[str, nn.Module] = {}
    inputs: dict[str, tuple[Tensor, ...]] = {}
    for name, model in models.items():
        theirs = prepared
        if not config.embedding.agrees_with(model.run.embedding):
            theirs = build.data(replace(config, embedding=model.run.embedding, model=model.run.model), on)
        nets[name] = model.net(theirs, on)
        ready, _ = model.ready(theirs, on)
        rows = torch.arange(max(BATCHES), device=ready.index) % len(theirs.windows)
        inputs[name] = ready.gather(rows, build.AS_IT_IS).inputs
    clock = Clock(on, rounds=5, turn=0.05)
    seconds = {
        batch: clock.medians(
            {name: _pass(net, [x[:batch] for x in inputs[name]]) for name, net in nets.items()}
        )
        for batch in BATCHES
    }
    return {
        name: {
            "parameters": sum(p.numel() for p in nets[name].parameters()),
            "bytes": model.folder.weights(model.name).stat().st_size,
            "milliseconds_at_1": 1000 * seconds[1][name],
            "windows_per_second_at_256": 256 / seconds[256][name],
        }
        for name, model in models.items()
    }


def _pass(net: nn.Module, given: list[Tensor]) -> Callable[[], object]:
    @torch.inference_mode()
    def call() -> None:
        net(*given)

    return call
