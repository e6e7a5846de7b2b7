"""The result of a run: every part and horizon."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.table import Table

from stockenh.tables.figures import interval, number, percent

_DISPENSABLE = ("ties", "Brier", "MAE", "n", "log loss", "AUC")  # in a narrow table, the first first


def result_table(parts: dict[str, dict[str, dict[str, Any]]], title: str, width: int = 80) -> Table:
    """Every part and horizon, accuracy beside its interval, the majority class and the limit where known.

    Where `width` columns don't hold all, whole columns go, the least telling first, and the caption says so.
    """
    columns = _result_columns(parts)
    gone = []
    for name in _DISPENSABLE:
        if sum(max(map(len, (head, *cells))) + 1 for head, cells in columns.items()) - 1 <= width:
            break
        gone.append(name)
        del columns[name]
    caption = (
        "accuracy, majority, AUC: without returns of exactly 0 (ties). 95%: moving-block bootstrap over "
        "dates. majority: share of the larger class in that part."
    )
    caption += "" if "MAE" in gone else " MAE: of returns, in raw units."
    if "n/a" in columns["95%"]:
        caption += " n/a there: too few dates for an interval."
    if "limit" in columns:
        caption += (
            " limit: expected accuracy of the best forecast there can be. closed: share of the way from "
            "majority to limit."
        )
    caption += f" No room for {', '.join(gone)}: see summary.json." if gone else ""
    table = Table(title=title, title_justify="left", caption_justify="left", box=box.SIMPLE_HEAD,
                  padding=(0, 0), show_edge=False, caption=caption)  # fmt: skip
    for name in columns:
        table.add_column(name, justify="left" if name == "part" else "right", no_wrap=True)
    rows = list(zip(*columns.values(), strict=True))
    for i, row in enumerate(rows):
        table.add_row(*row, end_section=i + 1 < len(rows) and rows[i + 1][0] != row[0])
    return table


def _result_columns(parts: dict[str, dict[str, dict[str, Any]]]) -> dict[str, list[str]]:
    scores = [(part, horizon, m) for part, horizons in parts.items() for horizon, m in horizons.items()]
    limits = {
        "limit": [percent(m.get("limit_accuracy")) for *_, m in scores],
        "closed": [percent(m.get("gap_closed"), 0) for *_, m in scores],
    }
    if not any("limit_accuracy" in m for *_, m in scores):
        limits = {}
    return {
        "part": [part for part, _, _ in scores],
        "bars": [horizon.removeprefix("h") for _, horizon, _ in scores],
        "n": [str(m["n"]) for *_, m in scores],
        "ties": [percent(m["tie_share"]) for *_, m in scores],
        "accuracy": [percent(m["accuracy"]) for *_, m in scores],
        "95%": [interval(m["accuracy_low"], m["accuracy_high"]) for *_, m in scores],
        "majority": [percent(m["majority"]) for *_, m in scores],
        **limits,
        "log loss": [number(m["log_loss"]) for *_, m in scores],
        "Brier": [number(m["brier"], 3) for *_, m in scores],
        "AUC": [number(m["auc"], 3) for *_, m in scores],
        "MAE": [number(m["mae"]) for *_, m in scores],
    }
