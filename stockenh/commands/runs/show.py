"""Run folders as tables: a line each in a list, and some of them side by side."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from stockenh.commands.runs.listing import Run, differing, is_run
from stockenh.report.table import leave_out, new_table, number, percent

WIDTH, KEY_WIDTH = 80, 23  # columns of the terminal, and of them for what a row is
NARROWEST = 20  # of the column with paths, which are folded
LONGEST_CELL = 24  # characters of a value in a list
GROUPS = ("model", "loss", "averaging")
SIDE_BY_SIDE = 3  # runs that fit beside each other
LONGEST = 200  # characters of a value that are shown
FIGURES = ("parameters", "best_epoch", "seconds", "windows_per_second", "device", "precision")


def listing(
    runs: Sequence[Run],
    root: Path,
    width: int = WIDTH,
    varied: Mapping[str, Sequence[Any]] | None = None,
) -> Table:
    """A line per run in the order given, its path relative to `root`, the scores of the largest horizon.

    varied: config keys with the value of each run, in place of its options. Where `width` characters are too
    few, whole columns are left out, the least useful first, and the caption names them.
    """
    chosen = varied if varied is not None else {g: [run.config.get(g, "-") for run in runs] for g in GROUPS}
    scores = [_of_largest(run.scores.get("test", {})) for run in runs]
    columns = {
        "run": [plain(os.path.relpath(run.path, root)) for run in runs],
        "state": [parts_of_state(run)[0] for run in runs],
        **{plain(key): [_cut(plain(value)) for value in values] for key, values in chosen.items()},
        "weights": [_cut(plain(run.weights or "-")) for run in runs],
        "epoch": [f"{run.epochs}/{run.planned}" if run.planned is not None else "-" for run in runs],
        "val loss": ["-" if run.val_loss is None else number(run.val_loss) for run in runs],
        "bars": [plain(horizon.removeprefix("h")) for horizon, _ in scores],
        "rank IC": ["-" if of.get("rank_ic") is None else f"{of['rank_ic']:+.3f}" for _, of in scores],
        **{
            key: ["-" if of.get(key) is None else percent(of[key]) for _, of in scores]
            for key in ("accuracy", "majority")
        },
    }
    if {*columns["rank IC"]} == {"-"}:
        del columns["rank IC"]
    dispensable = ["averaging", "weights", "loss", "val loss", "epoch", "rank IC", *reversed([*chosen])]
    left_out = leave_out(columns, [plain(name) for name in dispensable], width)
    rest = sum(max(len(text) for text in (name, *columns[name])) + 1 for name in columns if name != "run")
    columns["run"] = [folded(text, max(width - rest, NARROWEST)) for text in columns["run"]]
    caption = (
        "accuracy, majority: of direction on the test part at so many bars, ties left out"
        f"{'. epoch: done/planned' * ('epoch' in columns)}. *: a value of that option was changed"
    )
    caption += f". No room for {', '.join(left_out)}" if left_out else ""
    left = ("run", "state", *map(plain, chosen), "weights")
    table = new_table(caption=caption, columns=[*columns], left=left)
    for cells in zip(*columns.values(), strict=True):
        table.add_row(*cells)
    return table


def remarks(runs: Sequence[Run], root: Path) -> list[str]:
    """What a word for the state leaves out: why a folder is damaged, how many members are done."""
    found = ((run, *parts_of_state(run)) for run in runs)
    return [
        f"{state:<8} {plain(os.path.relpath(run.path, root))}: {more}" for run, state, more in found if more
    ]


def parts_of_state(run: Run) -> tuple[str, str]:
    """A run's state in a word, and what else is to say where no column of `listing` says it."""
    if run.state.startswith("damaged: "):
        return "damaged", plain(run.state.removeprefix("damaged: "))
    word, _, more = run.state.partition(", ")
    word = word.removesuffix(" early").partition(" at ")[0]
    return word, more if "members" in more else ""


def _of_largest(test: Mapping[str, Mapping[str, float]]) -> tuple[str, Mapping[str, float]]:
    """The largest horizon and its scores; names that are no horizon's count as the smallest."""
    size = {h: int(d) if (d := h.removeprefix("h")).isdecimal() and len(d) < 7 else 0 for h in test}
    horizon = max(size, key=size.__getitem__, default="-")
    return horizon, test.get(horizon, {})


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_CELL else f"{text[: LONGEST_CELL - 3]}..."


def comparison(runs: Sequence[Run]) -> Iterator[Table]:
    """Config keys that differ, then figures, as many runs side by side as fit; the others below."""
    different = differing(runs)
    root = common_root([run.path for run in runs])
    names = [plain(os.path.relpath(run.path, root)) for run in runs]
    for first in range(0, len(runs), SIDE_BY_SIDE):
        some = range(first, min(first + SIDE_BY_SIDE, len(runs)))
        width = (WIDTH - KEY_WIDTH) // len(some) - 2
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, show_edge=False)
        table.add_column("", overflow="fold", max_width=KEY_WIDTH)
        for index in some:
            heading = folded(names[index], width)
            table.add_column(heading, overflow="fold", max_width=width, justify="right")
        for key, values in different.items():
            cells = (folded(plain(values[index]), width) for index in some)
            table.add_row(folded(plain(key), KEY_WIDTH), *cells)
        if not different:
            table.add_row("config", *("the same" for _ in some))
        table.add_section()
        for key, figures in _figures(runs):
            table.add_row(plain(key), *(plain(figures[index]) for index in some))
        yield table


def incomparable(runs: Sequence[Run]) -> str | None:
    """Why the test figures of these runs can't be compared; None where they can."""
    tests = [run.scores["test"] for run in runs if run.scores.get("test")]
    rows = {
        tuple((h, s.get("n"), s.get("ties"), s.get("majority")) for h, s in test.items()) for test in tests
    }
    if len(rows) < 2:
        return None
    return "The runs were tested on different rows (n, ties or majority differ): their scores don't compare."


def folded(text: str, width: int) -> str:
    """The text in lines of at most so many characters, broken behind / . _ - or a space where it has one."""
    lines = [""]
    for piece in re.findall(r"[^/._\- ]*[/._\- ]|[^/._\- ]+", text):
        if len(lines[-1] + piece) > width and lines[-1]:
            lines.append("")
        while len(piece) > width:
            lines[-1], piece = piece[:width], piece[width:]
            lines.append("")
        lines[-1] += piece
    return "\n".join(line.rstrip() for line in lines)


def plain(value: Any) -> str:
    """A value as text that can't move the cursor or colour the terminal, cut where it is very long."""
    if isinstance(value, list):
        return f"[{', '.join(map(plain, value))}]"
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    shown = "".join(c if c.isprintable() else "?" for c in text[:LONGEST])
    return shown + ("..." if len(text) > LONGEST else "")


def _figures(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """Rows of the lower half: what it is, and a cell per run."""
    rows = [
        ("state", [run.state for run in runs]),
        ("weights", [run.weights or "-" for run in runs]),
        ("epochs", [_short(run.epochs) for run in runs]),
        ("val loss", ["-" if run.val_loss is None else number(run.val_loss) for run in runs]),
    ]
    rows += [(key.replace("_", " "), [_short(run.figures.get(key)) for run in runs]) for key in FIGURES]
    horizons = dict.fromkeys(horizon for run in runs for horizon in run.scores.get("test", {}))
    for horizon in horizons:
        scores = [run.scores.get("test", {}).get(horizon, {}) for run in runs]
        rows += [
            (f"test {horizon.removeprefix('h')} bars: n", [_short(s.get("n")) for s in scores]),
            ("  accuracy", [percent(s.get("accuracy")) for s in scores]),
            ("  majority", [percent(s.get("majority")) for s in scores]),
            ("  log loss", [number(s.get("log_loss")) for s in scores]),
            ("  AUC", [number(s.get("auc"), 3) for s in scores]),
        ]
        if any("limit_accuracy" in s for s in scores):
            rows += [
                ("  limit of accuracy", [percent(s.get("limit_accuracy")) for s in scores]),
                ("  gap closed", [percent(s.get("gap_closed"), 0) for s in scores]),
            ]
    return rows


def _short(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def common_root(folders: Sequence[Path]) -> Path:
    """The folder that paths are shown relative to: none of them becomes a mere dot where it is a run."""
    root = Path(os.path.commonpath([folder.absolute() for folder in folders]))
    return root.parent if is_run(root) else root
