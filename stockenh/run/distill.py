"""A distilled student beside its teacher and beside the same student without one: scores and cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from stockenh import build
from stockenh.analysis.calibration import calibration_metrics
from stockenh.analysis.metrics import part_metrics
from stockenh.build import Prepared
from stockenh.config import RunConfig
from stockenh.plots.distillation import distillation_chart
from stockenh.run.result import RESAMPLES
from stockenh.run.teach import ask
from stockenh.run.trained import Trained
from stockenh.runfolder import RunFolder
from stockenh.tables.distill import cost_table, retention_table
from stockenh.timing import in_turn

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
    seconds = {
        batch: in_turn({name: _pass(net, [x[:batch] for x in inputs[name]]) for name, net in nets.items()})
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
        if given[0].is_cuda:
            torch.cuda.synchronize()

    return call
