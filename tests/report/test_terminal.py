"""What the terminal shows: tables whole at any width, alike findings on a line, progress, splits."""

import io

import numpy as np
import pytest
from rich.console import Console

from stockenh.commands.data_check import findings_table
from stockenh.commands.train.result import result_table
from stockenh.data.cache import DiskCache
from stockenh.data.findings import Finding
from stockenh.data.sources.files import FilesData
from stockenh.data.splits import PARTS, WalkForward
from stockenh.errors import counted
from stockenh.report.terminal import (
    PrintedProgress,
    duration,
    embedding_progress,
    epoch_line,
    program,
    show_data,
)

SCORES = {
    "n": 39_120, "ties": 0, "tie_share": 0.012, "accuracy": 0.774, "accuracy_low": 0.763,
    "accuracy_high": 0.785, "majority": 0.519, "log_loss": 0.5045, "brier": 0.164,
    "auc": 0.832, "mae": 0.0257,
}  # fmt: skip
LIMITS = {"limit_accuracy": 0.8021, "limit_log_loss": 0.44, "gap_closed": 0.9007}


def lines(width, *, findings=None, title="", **other):
    """The lines of a table of findings, or of the scores of three parts with these changes."""
    if findings is None:
        horizons = dict.fromkeys(("h3", "h10"), SCORES | other)
        table = result_table(dict.fromkeys(("train", "validation", "test"), horizons), title, width)
    else:
        table = findings_table(findings)
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def text(width, **options):
    return " ".join(" ".join(lines(width, **options)).split())


def row(output, *start):
    (found,) = [line.split() for line in output if line.split()[: len(start)] == list(start)]
    return found


@pytest.mark.parametrize("width", range(60, 121, 5))
def test_the_result_table_keeps_its_figures_whole(width):
    output = lines(width, title="raw weights of epoch 3")
    assert max(map(len, output)) <= width
    assert not any("…" in line for line in output)
    for name in ("part", "bars", "accuracy", "95%", "majority", "AUC"):
        assert name in output[1].split() or name in output[0].split()
    assert {"77.4%", "76.3-78.5", "51.9%", "0.832"} <= set(row(output, "validation", "10"))


def test_the_result_table_names_what_it_leaves_out_and_what_is_undefined():
    whole = text(100)
    assert "n/a" not in whole and "No room" not in whole
    assert "No room for ties: see summary.json." in text(80)
    assert "No room for ties, Brier, MAE, n: see summary.json." in text(60)
    short = text(100, accuracy_low=None, accuracy_high=None)
    assert "n/a there: too few dates for an interval." in short
    assert "n/a" in text(60, auc=None)


def test_a_limit_and_the_share_of_the_gap_stand_beside_the_score():
    plain = lines(100, title="a run")
    assert plain[0].strip() == "a run" and "limit" not in " ".join(plain)
    assert row(plain, "train", "10") == [
        "train", "10", "39120", "1.2%", "0.832", "0.5045", "77.4%", "76.3-78.5", "51.9%", "0.164", "0.0257",
    ]  # fmt: skip
    output = lines(85, title="a run", **LIMITS)
    assert max(map(len, output)) <= 85
    assert output[1].replace("log loss", "loss").split() == [
        "part", "bars", "n", "AUC", "loss", "accuracy", "95%", "majority", "limit", "closed", "MAE",
    ]  # fmt: skip
    assert row(output, "train", "10") == [
        "train", "10", "39120", "0.832", "0.5045", "77.4%", "76.3-78.5", "51.9%", "80.2%", "90%", "0.0257",
    ]  # fmt: skip
    assert "closed: share of the way from majority to limit" in text(80, **LIMITS)
    assert "n/a" in row(lines(85, **LIMITS | {"gap_closed": None}), "train", "10")


def test_a_panel_has_its_rank_ic_first():
    ic = {"rank_ic": 0.0312, "rank_ic_low": -0.004, "rank_ic_high": 0.0651}
    output = lines(100, **ic)
    assert row(output, "train", "10")[3:8] == ["0.031", "-0.004", "to", "0.065", "0.832"]
    assert "its limit" not in output[0] and "rank IC: mean over dates" in text(100, **ic)
    assert row(lines(110, **ic, limit_rank_ic=0.0456), "train", "10")[7] == "0.046"


def test_the_program_is_named_as_it_can_be_typed(tmp_path, monkeypatch):
    own = tmp_path / "my env" / "bin" / "stockenh"
    own.parent.mkdir(parents=True)
    own.write_text("#!/bin/sh\n")
    own.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    for called, path, name in (
        (str(own), tmp_path, "'my env/bin/stockenh'"),
        ("my env/bin/stockenh", tmp_path, "'my env/bin/stockenh'"),
        ("stockenh", tmp_path, "stockenh"),
        ("/usr/lib/stockenh/__main__.py", tmp_path, "stockenh"),
        (str(own), own.parent, "stockenh"),
    ):
        monkeypatch.setenv("PATH", str(path))
        monkeypatch.setattr("sys.argv", [called, "train"])
        assert program() == name


def found(rule, symbol, rows, fix="fetch again", level="drop"):
    message = f"{rows} of 900 rows left out: the high is below the low"
    return Finding(level, rule, message, fix, f"{symbol}.csv", symbol, f"2020-01-{rows:02d}", rows)


def test_findings_of_one_rule_with_one_fix_share_a_line():
    alike = [found("high-below-low", f"S{i:02d}", i + 2) for i in range(40)]
    output = text(200, findings=[*alike, found("high-below-low", "ODD", 9, fix="other")])
    assert output.count("high-below-low") == 2
    assert "drop 40 symbols: S00, S01" in output
    assert f" {sum(i + 2 for i in range(40))} " in output
    assert "S00: 2 of 900 rows left out" in output


def test_the_gravest_finding_comes_first_and_one_alone_names_file_and_date():
    output = lines(80, findings=[found("spike", "A", 3), found("too-short", "B", 4, level="error")])
    error, drop = (
        next(i for i, line in enumerate(output) if line.startswith(level)) for level in ("error", "drop")
    )
    assert error < drop and "B.csv" in output[error] and "too-short" in output[error]
    assert "from 2020-01-04" in output[error + 1]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_findings_fit_the_terminal(width):
    message = "dates carry a time zone (+05:30): used as written, without the zone"
    fix = "nothing to do if they are the exchange's dates; else convert them"
    file = "a-very-long-file-name-of-an-export-from-somewhere.csv"
    long = Finding("warning", "time-zone", message, fix, file, "", "", 0)
    output = lines(width, findings=[long, *(found("spike", f"S{i}", i) for i in range(1, 9))])
    assert max(map(len, output)) <= width
    for word in ("warning", "time-zone:", "exchange's", "convert", "spike:"):
        assert any(word in line.split() for line in output)


@pytest.mark.parametrize(("fold", "later"), [(0, True), (4, False)])
def test_windows_of_later_folds_are_not_called_purged(fold, later, bars_folder):
    settings = FilesData(path=str(bars_folder), lookback=20, horizons=[1, 2])
    windows = settings.load(DiskCache(None)).windows
    labelled = np.flatnonzero(windows.labelled)
    split = WalkForward(folds=5, fold=fold, val=0.5)
    assigned = split.assign(windows.asof[labelled], lambda extra: windows.reach(labelled, extra))
    rows = {name: labelled[assigned == PARTS[name]] for name in split.parts}
    console = Console(file=io.StringIO(), width=120)
    show_data(windows, rows, (), console)
    output = console.file.getvalue()
    beyond = int((windows.asof[labelled] > windows.asof[rows["test"]].max()).sum())
    purged = len(labelled) - beyond - sum(map(len, rows.values()))
    assert f" {purged:,} windows purged" in output and purged > 0
    assert (f" {beyond:,} later windows of other folds" in output) == later == (beyond > 0)


@pytest.mark.parametrize(
    ("terminal", "counts", "is_shown"),
    [(True, (0, 8, 2_048), True), (True, (), False), (False, (0, 8, 2_048), False)],  # none: from the cache
)
def test_a_terminal_shows_how_many_windows_are_embedded(terminal, counts, is_shown):
    out = Console(file=io.StringIO(), force_terminal=terminal, width=100)
    with embedding_progress(out) as watch:
        for done in counts:
            watch(done, 11_482)
    output = out.file.getvalue()
    assert ("embedding" in output) == ("2,048/11,482 windows" in output) == is_shown
    assert terminal or output == ""


EPOCH = {
    "epoch": 2, "train_loss": 0.49524, "val_loss": 0.392, "best": True, "skipped": 0,
    "windows_per_second": 3829.6, "val": {"h3": {"rank_ic": 0.1}, "h10": {"rank_ic": 0.031}},
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, " 2/10  loss 0.4952  val loss 0.3920 best  rank IC +0.031 (10 bars)  3,830 windows/s"),
        ({}, "3,830 windows/s  at most 4 min left"),
        ({"best": False, "val": {"h1": {"rank_ic": 0.0}, "h5": {}}}, "0.3920  rank IC +0.000 (1 bar)"),
        ({"val_loss": None, "val": {}}, "2/10  loss 0.4952  3,830 windows/s"),
        ({"val": {"h3": {"rank_ic": None}}}, "best  3,830"),
        ({"skipped": 1}, "1 step skipped so far"),
        ({"train_loss": None, "skipped": 3}, "loss n/a"),
        ({"epoch": 10}, "10/10  loss"),
    ],
)  # fmt: skip
def test_an_epoch_is_a_line_with_losses_rank_ic_speed_and_time_left(changes, expected):
    line = epoch_line(EPOCH | changes, 10, 250.0)
    assert expected in line
    assert ("left" in line) == (line.split("/")[0] != "10")


def test_a_run_resumed_after_the_last_step_of_an_epoch_does_not_say_how_long_the_rest_takes():
    printed = io.StringIO()
    progress = PrintedProgress(Console(file=printed, width=200), 10)
    progress.start(2, steps=7, done=7)
    progress.finish(EPOCH)
    progress.start(3, steps=7, done=0)
    progress.finish(EPOCH | {"epoch": 3})
    first, second = printed.getvalue().splitlines()
    assert "left" not in first and "left" in second


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 seeds"), (1, "1 seed"), (2, "2 seeds"), (1888, "1,888 seeds")]
)
def test_one_is_singular(number, text):
    assert counted(number, "seed") == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(-1, "0 s"), (89, "89 s"), (100, "2 min"), (3600, "60 min"), (9000, "2.5 h")]
)
def test_durations_have_a_unit_that_suits_them(seconds, text):
    assert duration(seconds) == text
