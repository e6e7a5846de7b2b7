"""What an explanation shows on the terminal, and the reservations that belong to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.table import Table

from stockenh.analysis.explanation import by_importance
from stockenh.tables.figures import interval, number, percent

MOST_INPUTS = 12
OUTPUT_TITLES = {"up": "up", "ret": "return"}


def groups_table(attributions: Mapping[str, Mapping[str, Any]]) -> Table:
    """Size of each group of inputs, per output and horizon, and how exactly they add up.

    attributions: output, then horizon, to `Explained.figures`.
    """
    table = _table(
        "What the forecasts come from",
        "mean size of a group's attribution, in logits for up, in returns for return. gap: how far all "
        "attributions together are from forecast minus baseline, as a share of it. steps: the most that an "
        "integral took",
    )
    table.add_column("inputs", no_wrap=True)
    targets = [(output, horizon, of) for output, by in attributions.items() for horizon, of in by.items()]
    for output, horizon, _ in targets:
        table.add_column(
            f"{OUTPUT_TITLES[output]} {horizon.removeprefix('h')}", justify="right", no_wrap=True
        )
    for group in targets[0][2]["groups"]:
        table.add_row(group, *(_size(output, of["groups"][group]["size"]) for output, _, of in targets))
    table.add_section()
    gaps = [of["completeness"] for _, _, of in targets]
    table.add_row("gap, worst window", *(percent(gap["worst"], 3) for gap in gaps))
    table.add_row("gap, mean", *(percent(gap["mean"], 3) for gap in gaps))
    table.add_row("steps", *(str(gap["most_steps"]) for gap in gaps))
    return table


def inputs_table(attributions: Mapping[str, Mapping[str, Any]], groups: Mapping[str, str]) -> Table:
    """The single inputs with the largest attributions to the first output."""
    output, targets = next(iter(attributions.items()))
    ranked = by_importance(targets)
    left = len(ranked) - MOST_INPUTS
    more = f", and {left} more in explain.json" if left > 0 else ""
    table = _table(
        f"The inputs that weigh most for {OUTPUT_TITLES[output]}", f"mean size of attribution{more}"
    )
    table.add_column("input", no_wrap=True)
    table.add_column("of", no_wrap=True)
    for horizon in targets:
        table.add_column(f"{horizon.removeprefix('h')} bars", justify="right", no_wrap=True)
    for name in ranked[:MOST_INPUTS]:
        sizes = (_size(output, of["inputs"][name]["size"]) for of in targets.values())
        table.add_row(name, groups[name], *sizes)
    return table


def weights_table(weights: Mapping[str, Any]) -> Table:
    """The model's own selection weights: the price series, and the static variables with the largest."""
    static = sorted(weights["static"].items(), key=lambda item: -item[1]["mean"])
    left = len(static) - MOST_INPUTS
    table = _table(
        "The model's own selection weights",
        "weights of the price series sum to 100% at each bar, those of the static variables once a window; "
        f"80%: the middle four fifths of windows{f'. {left} more in explain.json' if left > 0 else ''}",
    )
    table.add_column("variable", no_wrap=True)
    for name in ("mean", "80%"):
        table.add_column(name, justify="right", no_wrap=True)
    for rows in (weights["price"].items(), static[:MOST_INPUTS]):
        for name, spread in rows:
            table.add_row(name, percent(spread["mean"]), interval(spread["low"], spread["high"]))
        table.add_section()
    return table


def majority_lines(found: Mapping[str, Any]) -> list[str]:
    """What attributions can't say, and where they explain noise.

    found: `part`, `scores` per horizon, and the horizons that are `no_better_than_majority`.
    """
    lines = ["note     attributions say what the model uses, not what moves the market"]
    if found["part"] != "test":
        return [
            *lines,
            "note     the run held nothing out: nothing shows that there is more to explain than noise",
        ]
    for horizon in found["no_better_than_majority"]:
        m = found["scores"][horizon]
        accuracy = f"{percent(m['accuracy'])} ({interval(m['accuracy_low'], m['accuracy_high'])})"
        lines.append(
            f"note     {horizon.removeprefix('h')} bars: accuracy {accuracy} does not lie above the majority "
            f"class's {percent(m['majority'])}: what is explained is noise"
        )
    return lines


def _size(output: str, value: float) -> str:
    return percent(value, 3) if output == "ret" else number(value)


def _table(title: str, caption: str) -> Table:
    return Table(title=title, title_justify="left", caption=caption, caption_justify="left",
                 box=box.SIMPLE_HEAD, padding=(0, 0), show_edge=False)  # fmt: skip
