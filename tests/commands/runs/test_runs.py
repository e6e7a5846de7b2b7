"""`stockenh runs`: every folder is a line, two or more are compared, and an untrusted one does no harm."""

import fcntl
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from stockenh.commands.runs.listing import differing, find, option_of, read
from stockenh.commands.runs.show import comparison, folded, incomparable, listing, remarks
from stockenh.commands.runs.show import plain as shown
from stockenh.config.compose import compose
from stockenh.config.schema import plain
from stockenh.report.terminal import PlainConsole

HORIZONS = ("h3", "h5", "h10")


def make_run(path: Path, *overrides: str, done=2, finished=True, written=0, n=100) -> Path:
    """A folder as `train` leaves one, without the training."""
    config = plain(compose(list(overrides)))
    for key in ("resume", "experiment"):
        config.pop(key, None)
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(yaml.safe_dump(config))
    lines = [{"epoch": e + 1, "val_loss": 0.7 - 0.01 * e} for e in range(done)]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if finished:
        scores = {"n": n, "ties": 1, "accuracy": 0.512, "majority": 0.534, "log_loss": 0.69, "auc": None}
        summary = {
            "parts": {"test": dict.fromkeys(HORIZONS, scores)}, "weights": "raw", "epochs": done,
            "stopped_early": False, "val_loss": 0.6543, "windows_per_second": 1234.56, "parameters": 14006,
        }  # fmt: skip
        (path / "summary.json").write_text(json.dumps(summary))
    for file in (*path.iterdir(), path):
        os.utime(file, (written, written))
    return path


def text(*tables: Any, width: int = 80) -> str:
    console = PlainConsole(width=width, file=io.StringIO())
    for table in tables:
        console.print(table)
    return console.file.getvalue()


def change_summary(run: Path, **values: Any) -> None:
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps(summary | values))


def test_a_finished_run_stands_with_its_recipe_and_its_figures(tmp_path):
    run = make_run(tmp_path / "a", "train.epochs=2", "loss=focal", "averaging=swa", "model.d_model=32")
    output = text(listing([read(run)], tmp_path, 120), width=120)
    for word in ("a", "finished", "timeformer*", "focal", "swa", "raw", "2/2", "0.6543", "51.2%", "53.4%"):
        assert word in output.split()
    assert max(map(len, output.splitlines())) <= 120


@pytest.mark.parametrize("width", [80, 100, 120, 160])
@pytest.mark.parametrize("rank_ic", [None, 0.0123])
@pytest.mark.parametrize("option", ["timeformer", "timeformer_xl", "tft_xl"])
def test_a_run_is_one_line_that_fits(tmp_path, width, rank_ic, option):
    names = [f"2026-11-28/18-57-38-{number}" for number in (192990, 192991)]
    runs = [make_run(tmp_path / name, "train.epochs=2", f"model={option}") for name in names]
    runs.append(make_run(tmp_path / "2026-11-28" / "grid" / "3", "train.epochs=2"))
    for run in runs[1:]:
        parts = json.loads((run / "summary.json").read_text())["parts"]
        parts["test"]["h10"] |= {"rank_ic": rank_ic, "accuracy": 0.498}
        change_summary(run, parts=parts)
    output = text(listing([read(run) for run in runs], tmp_path, width), width=width).splitlines()
    assert max(map(len, output)) <= width and len(output) <= 3 + 2 + 3
    for name, scores in zip([*names, "2026-11-28/grid/3"], ("51.2%", "49.8%", "49.8%"), strict=True):
        (line,) = [line.split() for line in output if line.startswith(f"{name} ")]
        assert scores in line and "53.4%" in line and "10" in line
        assert ("+0.012" in line) == (rank_ic is not None and scores == "49.8%" and "rank IC" in output[0])
    assert option in " ".join(output)
    assert width >= 120 or "No room" in " ".join(" ".join(output).split())


def test_what_a_word_for_the_state_leaves_out_stands_below(tmp_path):
    damaged, members = make_run(tmp_path / "a", "train.epochs=2"), tmp_path / "b"
    (damaged / "config.yaml").unlink()
    make_run(members, "train.members=3", finished=False)
    runs = [read(damaged), read(members)]
    words = text(listing(runs, tmp_path)).split()
    assert "damaged" in words and "interrupted" in words and "config.yaml" not in words
    assert remarks(runs, tmp_path) == [
        "damaged  a: config.yaml is missing", "interrupted b: 0 of 3 members done",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("done", "finished", "epochs", "state"),
    [
        (2, True, 2, "finished"),
        (2, True, 3, "interrupted at epoch 3"),  # resumed for longer, and stopped
        (2, False, 3, "interrupted at epoch 3"),
        (0, False, 3, "never began"),
    ],
)
def test_the_state_is_how_far_it_came(tmp_path, done, finished, epochs, state):
    run = read(make_run(tmp_path / "a", f"train.epochs={epochs}", done=done, finished=finished))
    assert run.state == state and run.epochs == done
    assert bool(run.scores) == (state == "finished")
    if not finished and done:
        assert run.val_loss == pytest.approx(0.69)  # the best so far


def test_other_states(tmp_path):
    run = make_run(tmp_path / "a", done=0, finished=False)
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "last.pt").touch()
    assert read(run).state == "interrupted at epoch 1"
    early = make_run(tmp_path / "early", "train.epochs=9")
    change_summary(early, stopped_early=True)
    assert read(early).state == "finished early"
    locked = make_run(tmp_path / "locked", "train.epochs=3", done=1, finished=False)
    with (locked / ".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        assert read(locked).state == "running, epoch 2"
    assert read(locked).state == "interrupted at epoch 2"
    (tmp_path / "hydra" / ".hydra").mkdir(parents=True)
    assert read(tmp_path / "hydra").state == "never began"


def test_a_run_without_a_test_part_has_no_scores(tmp_path):
    run = make_run(tmp_path / "a", "split=all", "train.epochs=2")
    parts = json.loads((run / "summary.json").read_text())["parts"]
    change_summary(run, parts={"train": parts["test"]}, val_loss=None)
    output = text(listing([read(run)], tmp_path)).split()
    assert "finished" in output and "51.2%" not in output


@pytest.mark.parametrize(
    ("overrides", "option"),
    [
        ("loss=focal", "focal"),
        ("loss=huber_bce loss.smoothing=0.1", "label_smoothing"),
        ("loss.delta=2", "huber_bce*"),
        ("optimizer.lr=2e-3", "adamw_decay"),
        ("optimizer.lr=1e-3", "adamw_decay*"),
        ("optimizer=adamw", "adamw"),
        ("data=files data.path=x", "files"),
        ("model=timeformer_xl", "timeformer_xl"),
    ],
)
def test_options_are_known_by_their_values_or_stand_by_their_class(overrides, option):
    group = re.match(r"\w+", overrides)[0]
    assert option_of(group, plain(compose(overrides.split()))[group]) == option
    assert option_of("loss", {"_target_": "stockenh.training.losses.mine.Mine"}) == "Mine"


def test_sweeps_and_runs_in_run_folders_are_found(tmp_path):
    there = {make_run(tmp_path / name) for name in ("a", "sweep/0", "sweep/1", "a/finer")}
    (tmp_path / "a" / ".hydra").mkdir()
    (tmp_path / "a" / ".hydra" / "config.yaml").touch()
    (tmp_path / "elsewhere").mkdir()
    # what other commands leave is no run
    others = ("forecast.parquet", "lr_finder.json", "parity.png", "explain.json", "audit.json")
    for left in (*others, "track.json", "bench.json"):
        for folder in (tmp_path / f"of {left}", tmp_path / "a" / f"of {left}"):
            (folder / ".hydra").mkdir(parents=True)
            (folder / left).touch()
        (tmp_path / "a" / left).touch()
    assert set(find(tmp_path)) == there


def test_newest_first_and_filtered(stockenh, here):
    make_run(Path("outputs/old"), "loss=focal", written=100)
    make_run(Path("outputs/new"), "optimizer.lr=1e-4", "loss=focal", "loss.gamma=1.0", written=300)
    make_run(Path("outputs/between"), written=200)
    for arguments, order in {
        "": "new between old",
        "outputs": "new between old",
        "loss=focal": "new old",
        "optimizer.lr=0.0001": "new",
        "optimizer.lr=1e-4": "new",
        "outputs loss=focal seed=42 optimizer=adamw_decay": "new old",
        "loss=label_smoothing": "",
        "outputs/old": "old",
        "run=outputs/old": "old",
    }.items():
        last = stockenh("runs", *arguments.split(), code=0).out.split("──")[-1].split("accuracy,")[0]
        found = [word for word in last.split() if word in ("old", "new", "between")]
        assert found == order.split(), arguments


def test_misspelt_keys_and_folders_get_a_line(stockenh, refused, here):
    assert "no runs in outputs; stockenh train makes one" in stockenh("runs", code=0).out
    Path("outputs/unreadable").mkdir(parents=True)
    Path("outputs/unreadable/config.yaml").write_text("")
    assert "0 of 1 run in outputs" in stockenh("runs", "los=focal", code=0).out
    make_run(Path("outputs/a"))
    assert "los: no run here has such a key. Nearest: loss" in stockenh("runs", "los=focal", code=2).err
    assert "nowhere: no such folder" in refused("runs", "nowhere")


def test_side_by_side_only_what_differs_and_the_figures(stockenh, tmp_path):
    runs = [make_run(tmp_path / name, f"loss={name}", "train.epochs=2") for name in ("focal", "huber_bce")]
    assert differing(map(read, runs)) == {"loss": ["focal", "huber_bce"], "loss.gamma": [2.0, 0.0]}
    answer = stockenh("runs", *map(str, runs), code=0)
    rows = [line.split() for line in answer.out.splitlines()]
    assert ["loss.gamma", "2.0", "0.0"] in rows
    assert ["majority", "53.4%", "53.4%"] in rows
    assert ["windows", "per", "second", "1,235", "1,235"] in rows
    assert "model" not in answer.out and "don't compare" not in answer.out


def test_runs_tested_on_other_rows_are_not_compared(tmp_path):
    runs = [read(make_run(tmp_path / str(n), "train.epochs=2", f"seed={n}", n=n)) for n in (100, 200)]
    assert "tested on different rows" in incomparable(runs)
    assert incomparable(runs[:1]) is None


def test_many_runs_side_by_side_stay_within_80_columns(tmp_path):
    name = "2026-01-01/09-12-39-915253/{}"
    runs = [read(make_run(tmp_path / name.format(n), f"seed={n}", "train.epochs=2")) for n in range(5)]
    output = text(*comparison(runs))
    assert max(map(len, output.splitlines())) <= 80
    seeds = [line.split()[1:] for line in output.splitlines() if line.startswith("seed")]
    assert seeds == [["0", "1", "2"], ["3", "4"]]


def test_long_names_break_behind_their_signs(tmp_path):
    assert folded("/home/someone/work/outputs/2026-01-01/09-12-39-915253", 26).split("\n") == [
        "/home/someone/work/", "outputs/2026-01-01/09-12-", "39-915253",
    ]  # fmt: skip
    assert folded("short", 26) == "short" and folded("", 26) == ""
    assert folded("x" * 30 + "/y", 26).split("\n") == ["x" * 26, "xxxx/y"]
    long = tmp_path / "a-very-long-name-for-grid" / "12" / "without_teacher"
    runs = [
        read(make_run(long, "data=files", "data.path=/home/someone/market/bars_of_2026/nasdaq")),
        read(make_run(tmp_path / "b")),
    ]
    lines = [line.rstrip() for line in text(listing(runs, tmp_path), *comparison(runs)).splitlines()]
    assert max(map(len, lines)) <= 80
    assert any(line.startswith("a-very-long-name-for-grid") for line in lines)
    assert any("teacher" in line for line in lines)
    assert any("/home/someone/market/" in line for line in lines)


LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [{f'*a{n - 1}, ' * 9}]\n" for n in range(1, 12))
DAMAGE = {
    "config short": ("config.yaml", "train: {epochs: [", "damaged: config.yaml is not readable YAML"),
    "config no mapping": ("config.yaml", "- 1", "damaged: config.yaml does not hold a config"),
    "config target": ("config.yaml", "loss: {_target_: os.system}\nmodel: [1]\ntrain: 3", ""),
    "config python": ("config.yaml", "seed: !!python/object/apply:os.system ['touch ran']", "damaged"),
    "config date": ("config.yaml", "seed: 2001-99-99", ""),
    "config number": ("config.yaml", f"seed: {'9' * 5000}", "damaged"),
    "config hex": ("config.yaml", f"seed: 0x{'f' * 5000}", ""),
    "config deep": ("config.yaml", "[" * 100_000, "damaged"),
    "config laughs": ("config.yaml", LAUGHS, ""),
    "config bytes": ("config.yaml", b"\xff\xfe\x00", "damaged"),
    "config escapes": ("config.yaml", 'model: "\\e[31m[bold]red[/]"\nloss: {_target_: "a.\\e[2J"}', ""),
    "summary short": ("summary.json", '{"parts": {', "damaged: summary.json is not readable JSON"),
    "summary list": ("summary.json", "[1, 2]", "damaged: summary.json is not a run's"),
    "summary odd": ("summary.json", '{"parts": {"test": {"h3": {"accuracy": "x", "n": NaN}, "h5": 3}}, '
                    '"epochs": -1, "weights": ["x"], "val_loss": 1e999, "seconds": true}', ""),
    "summary deep": ("summary.json", "[" * 100_000, "damaged"),
    "metrics odd": ("metrics.jsonl", '{"epoch": "x", "val_loss": {}}\n[1]\n{"epoch": 1', ""),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_or_hostile_folder_is_a_line(here, stockenh, damage):
    make_run(Path("outputs/good"), "train.epochs=2", written=1)
    bad = make_run(Path("outputs/bad"), "train.epochs=2")
    name, content, state = DAMAGE[damage]
    (bad / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    for arguments in ([], ["outputs/bad", "outputs/good"]):
        answer = stockenh("runs", *arguments, code=0)
        assert "good" in answer.out and "bad" in answer.out and "Traceback" not in answer.err
        assert "\x1b" not in answer.out
    assert read(bad).state.startswith(state)
    assert not Path("ran").exists()


def test_a_pipe_or_a_huge_file_is_not_read_and_one_may_be_missing(tmp_path):
    pipe, huge, missing = (make_run(tmp_path / name) for name in ("pipe", "huge", "missing"))
    (pipe / "summary.json").unlink()
    os.mkfifo(pipe / "summary.json")
    os.mkfifo(pipe / ".lock")
    assert read(pipe).state == "damaged: summary.json is not the file of a run"
    with (huge / "metrics.jsonl").open("w") as file:
        file.truncate(2**30)
    assert read(huge).state == "damaged: metrics.jsonl is not the file of a run"
    (missing / "config.yaml").unlink()
    assert read(missing).state == "damaged: config.yaml is missing"


def test_reading_leaves_no_trace_and_imports_no_torch(tmp_path):
    run = make_run(tmp_path / "outputs" / "a")
    before = {p: p.stat().st_mtime for p in run.rglob("*")}
    code = (
        "import sys; from stockenh import cli; sys.argv = ['stockenh', 'runs']\n"
        "try: cli.main()\n"
        "finally: print([m for m in ('torch', 'polars', 'matplotlib') if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0 and done.stderr.strip() == "[]"
    assert {p: p.stat().st_mtime for p in run.rglob("*")} == before


def test_values_can_not_steer_the_terminal():
    assert shown("\x1b[31mred\n") == "?[31mred?"
    assert shown("x" * 500) == "x" * 200 + "..."
    assert [shown(v) for v in (None, True, [1, "a"], 0.5)] == ["null", "true", "[1, a]", "0.5"]


def test_the_limit_stands_beside_scores_where_it_is_known(tmp_path):
    known, unknown = (make_run(tmp_path / name, "train.epochs=2") for name in ("known", "unknown"))
    parts = json.loads((known / "summary.json").read_text())["parts"]
    for scores in parts["test"].values():
        scores.update(limit_accuracy=0.802, limit_log_loss=0.44, gap_closed=0.75)
    change_summary(known, parts=parts)
    rows = [line.split() for line in text(*comparison([read(known), read(unknown)])).splitlines()]
    assert rows.count(["limit", "of", "accuracy", "80.2%", "n/a"]) == 3
    assert rows.count(["gap", "closed", "75%", "n/a"]) == 3
    assert "gap closed" not in text(*comparison([read(unknown), read(unknown)]))


def test_a_run_of_the_program_itself(stockenh, finished_run, here):
    shutil.copytree(finished_run, "real")
    run = read(Path("real"))
    summary = json.loads(Path("real/summary.json").read_text())
    assert (run.state, run.weights, run.val_loss) == ("finished", summary["weights"], summary["val_loss"])
    assert run.config["averaging"] == "ema_swa" and run.config["model"] == "timeformer*"
    assert run.scores["test"]["h3"]["accuracy"] == summary["parts"]["test"]["h3"]["accuracy"]
    shutil.copytree("real", "copy")
    assert "the same" in stockenh("runs", "real", "copy", code=0).out
