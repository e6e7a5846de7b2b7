"""What the terminal shows: tables whole at any width, alike findings on a line, progress, splits."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from rich.table import Table

from stockenh.commands.data_check import findings_table
from stockenh.commands.train.result import result_table
from stockenh.data.cache import DiskCache
from stockenh.data.findings import Finding
from stockenh.data.sources.files import FilesData
from stockenh.data.splits import PARTS, WalkForward
from stockenh.report.terminal import embedding_progress, program, show_data


def lines(table: Table, width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def text(table: Table, width: int = 80) -> str:
    return " ".join(" ".join(lines(table, width)).split())


SCORES = {
    "n": 191_623, "tie_share": 0.012, "accuracy": 0.5151, "accuracy_low": 0.491, "accuracy_high": 0.572,
    "majority": 0.546, "log_loss": 0.69314, "brier": 0.25, "auc": 0.512, "mae": 0.0312,
}  # fmt: skip


def scores(**other: Any) -> dict[str, dict[str, dict[str, Any]]]:
    return {part: {h: {**SCORES, **other} for h in ("h3", "h10")} for part in ("train", "validation", "test")}


@pytest.mark.parametrize("width", range(60, 121, 5))
def test_the_result_table_keeps_its_figures_whole(width: int) -> None:
    output = lines(result_table(scores(), "raw weights of epoch 3", width), width)
    assert max(map(len, output)) <= width
    assert not any("…" in line for line in output)
    for name in ("part", "bars", "accuracy", "95%", "majority", "AUC"):
        assert name in output[1].split() or name in output[0].split()
    (row,) = [line for line in output if line.split()[:2] == ["validation", "10"]]
    assert {"51.5%", "49.1-57.2", "54.6%", "0.512"} <= set(row.split())


def test_a_part_too_short_for_an_interval_is_n_a() -> None:
    assert "n/a there" not in text(result_table(scores(), "", 100), 100)
    short = text(result_table(scores(accuracy_low=None, accuracy_high=None), "", 100), 100)
    assert "n/a there: too few dates for an interval." in short


def test_the_program_is_named_as_it_can_be_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "my env" / "bin" / "stockenh"
    own.parent.mkdir(parents=True)
    own.write_text("#!/bin/sh\n")
    own.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    for called, name in (
        (str(own), "'my env/bin/stockenh'"),
        ("my env/bin/stockenh", "'my env/bin/stockenh'"),
        ("stockenh", "stockenh"),
        ("/usr/lib/stockenh/__main__.py", "stockenh"),
    ):
        monkeypatch.setattr("sys.argv", [called, "train"])
        assert program() == name
    monkeypatch.setenv("PATH", str(own.parent))
    monkeypatch.setattr("sys.argv", [str(own), "train"])
    assert program() == "stockenh"


def test_a_wide_terminal_shows_all_and_a_narrow_one_names_what_it_leaves_out() -> None:
    assert "No room" not in text(result_table(scores(), "", 100), 100)
    assert "No room for ties: see summary.json." in text(result_table(scores(), "", 80))
    assert "No room for ties, Brier, MAE, n: see summary.json." in text(result_table(scores(), "", 60), 60)


def test_missing_figures_are_n_a() -> None:
    assert "n/a" in text(result_table(scores(auc=None, accuracy_low=None), "", 60), 60)


def found(rule: str, symbol: str, rows: int, fix: str = "fetch again", level: Any = "drop") -> Finding:
    message = f"{rows} of 900 rows left out: the high is below the low"
    return Finding(level, rule, message, fix, f"{symbol}.csv", symbol, f"2020-01-{rows:02d}", rows)


def test_findings_of_one_rule_with_one_fix_share_a_line() -> None:
    alike = [found("high-below-low", f"S{i:02d}", i + 2) for i in range(40)]
    output = text(findings_table([*alike, found("high-below-low", "ODD", 9, fix="other")]), 200)
    assert output.count("high-below-low") == 2
    assert "drop 40 symbols: S00, S01" in output
    assert f" {sum(i + 2 for i in range(40))} " in output
    assert "S00: 2 of 900 rows left out" in output


def test_the_gravest_finding_comes_first_and_one_alone_names_file_and_date() -> None:
    table = findings_table([found("spike", "A", 3), found("too-short", "B", 4, level="error")])
    output = lines(table, 80)
    first = next(i for i, line in enumerate(output) if line.startswith("error"))
    assert first < next(i for i, line in enumerate(output) if line.startswith("drop"))
    assert "B.csv" in output[first] and "too-short" in output[first]
    assert "from 2020-01-04" in output[first + 1]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_findings_fit_the_terminal(width: int) -> None:
    long = Finding("warning", "time-zone", "a-very-long-file-name-of-an-export-from-somewhere.csv", "", "", 0,
                   "dates carry a time zone (+05:30): used as written, without the zone",
                   "nothing to do if they are the exchange's dates; else convert them")  # fmt: skip
    output = lines(findings_table([long, *(found("spike", f"S{i}", i) for i in range(1, 9))]), width)
    assert max(map(len, output)) <= width
    for word in ("warning", "time-zone:", "exchange's", "convert", "spike:"):
        assert any(word in line.split() for line in output)


LEARNT = {
    "n": 39120, "ties": 0, "tie_share": 0.0, "accuracy": 0.774, "accuracy_low": 0.763, "accuracy_high": 0.785,
    "majority": 0.519, "log_loss": 0.5045, "brier": 0.164, "auc": 0.832, "mae": 0.0257,
}  # fmt: skip
LIMITS = {"limit_accuracy": 0.8021, "limit_log_loss": 0.44, "gap_closed": 0.9007}


def shown(*of_parts: dict[str, Any]) -> list[str]:
    """The table's lines on a terminal of 80 columns."""
    out = io.StringIO()
    parts = {part: {"h10": of_parts[i]} for i, part in enumerate(("train", "val")[: len(of_parts)])}
    Console(file=out, width=80).print(result_table(parts, "a run"))
    return [line.rstrip() for line in out.getvalue().splitlines()]


def test_without_a_limit_there_is_no_column_of_it():
    title, head, _, row, *rest = shown(LEARNT)
    assert title == "a run"
    assert head.split("  ")[0] == "part" and "Brier" in head and "ties" in head
    assert row.split() == [
        "train", "10", "39120", "0.0%", "77.4%", "76.3-78.5", "51.9%", "0.5045", "0.164", "0.832", "0.0257",
    ]  # fmt: skip
    assert "limit" not in " ".join([head, *rest])


def test_the_limit_and_the_share_of_the_gap_stand_beside_the_score():
    _, head, _, row, *rest = shown({**LEARNT, **LIMITS})
    assert head.replace("log loss", "loss").split() == [
        "part", "bars", "n", "accuracy", "95%", "majority", "limit", "closed", "loss", "AUC", "MAE",
    ]  # fmt: skip
    assert row.split() == [
        "train", "10", "39120", "77.4%", "76.3-78.5", "51.9%", "80.2%", "90%", "0.5045", "0.832", "0.0257",
    ]  # fmt: skip
    assert max(map(len, [head, row])) <= 80
    assert "closed: share of the way from majority to limit" in " ".join(line.strip() for line in rest)


def test_a_gap_that_is_undefined_is_not_available():
    row = shown({**LEARNT, **LIMITS, "gap_closed": None})[3]
    assert "n/a" in row


@pytest.mark.parametrize(("fold", "later"), [(0, True), (4, False)])
def test_windows_of_later_folds_are_not_called_purged(fold: int, later: bool, bars_folder: Path) -> None:
    settings = FilesData(path=str(bars_folder), lookback=20, horizons=[1, 2])
    windows = settings.load(DiskCache(None)).windows
    labelled = np.flatnonzero(windows.labelled)
    split = WalkForward(folds=5, fold=fold, val=0.5)
    assigned = split.assign(windows.asof[labelled], lambda extra: windows.reach(labelled, extra))
    rows = {name: labelled[assigned == PARTS[name]] for name in split.parts}
    console = Console(file=io.StringIO(), width=120)
    show_data(windows, rows, (), console)
    assert isinstance(console.file, io.StringIO)
    output = console.file.getvalue()
    end = windows.asof[rows["test"]].max()
    beyond = int((windows.asof[labelled] > end).sum())
    purged = len(labelled) - beyond - sum(map(len, rows.values()))
    assert f" {purged:,} windows purged" in output and purged > 0
    assert (f" {beyond:,} later windows are those of other folds" in output) == later == (beyond > 0)


def drawn(terminal: bool, *calls: tuple[int, int]) -> str:
    out = Console(file=io.StringIO(), force_terminal=terminal, width=100)
    with embedding_progress(out) as watch:
        for done, total in calls:
            watch(done, total)
    return out.file.getvalue()


def test_a_terminal_shows_how_many_windows_are_embedded() -> None:
    output = drawn(True, (0, 11_482), (8, 11_482), (2_048, 11_482))
    assert "embedding" in output
    assert "2,048/11,482 windows" in output


def test_what_comes_from_the_cache_draws_nothing() -> None:
    assert "embedding" not in drawn(True)


def test_without_a_terminal_nothing_is_drawn() -> None:
    assert drawn(False, (0, 10), (10, 10)) == ""
