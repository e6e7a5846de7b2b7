"""What an export shows on the terminal: the cost of 8 bits, and times."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.table import Table

from stockenh.tables.figures import number, percent


def int8_table(found: Mapping[str, Any]) -> Table:
    """Per horizon: scores in fp32 and int8, and how far the forecasts moved."""
    table = Table(title="What 8 bits cost on these windows", title_justify="left", caption_justify="left",
                  box=box.SIMPLE_HEAD, padding=(0, 0), show_edge=False, caption=(
        "of the calibrated probabilities, which is what the files give. moved: mean difference of up_prob. "
        "return error: root mean square, as a share of the spread of the forecast returns"
    ))  # fmt: skip
    for name in ("bars", "accuracy", "int8", "log loss", "int8", "majority", "moved", "return error"):
        table.add_column(name, justify="right", no_wrap=True)
    for place, (horizon, fp32) in enumerate(found["fp32"].items()):
        int8 = found["int8"][horizon]
        table.add_row(
            horizon.removeprefix("h"), percent(fp32["accuracy"]), percent(int8["accuracy"]),
            number(fp32["log_loss"]), number(int8["log_loss"]), percent(fp32["majority"]),
            percent(found["up_prob_mean_difference"][place], 2),
            percent(found["ret_error_share_of_spread"][place], 1),
        )  # fmt: skip
    return table


def speed_table(speed: Mapping[str, Mapping[str, float]], threads: int) -> Table:
    """Milliseconds of one pass by batch and engine, and how many times faster than eager."""
    title = f"One pass on cpu, {threads} thread{'s' * (threads != 1)}, taken in turn"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 0), show_edge=False)
    table.add_column("engine")
    for batch in speed:
        table.add_column(f"ms at batch {batch}", justify="right", no_wrap=True)
        table.add_column("ratio", justify="right", no_wrap=True)
    for engine in next(iter(speed.values())):
        cells = []
        for seconds in speed.values():
            cells += [number(1000 * seconds[engine], 3), number(seconds["eager"] / seconds[engine], 1)]
        table.add_row(engine, *cells)
    return table
