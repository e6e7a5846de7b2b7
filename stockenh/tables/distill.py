"""What a distillation shows on the terminal: scores and cost of teacher and students."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.table import Table

from stockenh.tables.figures import interval, number, percent


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
