"""The command line: help, wrong input, paths, and what Hydra adds."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import stockenh as package
from stockenh.config.catalog import groups
from stockenh.config.schema import GROUPS

HEAVY = ("torch", "hydra", "omegaconf", "polars", "matplotlib", "numpy", "yaml")


@pytest.fixture(autouse=True)
def in_own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from stockenh import cli; sys.argv = ['stockenh', '--help']\n"
        "try: cli.main()\n"
        f"finally: print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0
    assert "train" in done.stdout
    assert done.stderr.strip() == "[]"


def test_help_is_quick(shell):
    def seconds() -> float:
        begun = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert shell("--help").code == 0
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        return ended.ru_utime - begun.ru_utime + ended.ru_stime - begun.ru_stime

    # of the processor, and at its best: a busy neighbour is not our doing
    assert any(seconds() < 0.4 for _ in range(10))


def test_version(stockenh):
    answer = stockenh("--version")
    assert (answer.code, answer.out) == (0, f"stockenh {package.__version__}\n")


def test_train_help_lists_every_group_on_a_line_of_its_own(stockenh):
    lines = [line.strip() for line in stockenh("train", "--help").out.splitlines()]
    assert set(GROUPS) <= set(groups())
    text = " ".join(lines)
    for group, options in groups().items():
        if group in ("sweep", "ablate", "bench"):
            continue  # of other commands
        assert f"{group}={' | '.join(options)}" in text
        assert any(line.startswith(f"{group}={options[0]}") for line in lines)


WRONG = {
    ("los=x",): "los: no such key. Nearest: loss.",
    ("loss=huber",): "loss=huber: no such loss. Nearest: huber_bce",
    ("loss=",): "loss=: no such loss.",
    ("experiment=plan",): "experiment=plan: no such experiment. Nearest: plain",
    ("hydra/launcher=jobib",): "hydra/launcher=jobib: no such hydra/launcher.",
    ("optimizer=null",): "optimizer=null: no such optimizer. Options: adamw",
    ("optimizer.lrr=1",): "optimizer.lrr: no such key. Nearest: optimizer.lr",
    ("train.epoch=3",): "train.epoch: no such key. Nearest: train.epochs",
    ("+foo.bar=1",): "foo: no such key. Options: augment, averaging",
    ("+model.widht=1",): "model.widht: no such setting of TimeFormerSettings.",
    ("hydra.foo=1",): "hydra.foo: Hydra has no such key",
    ("+loss=huber_bce",): "loss has a value already: write loss=... without a +",
    ("split.fold=1",): "split.fold belongs to split=walk_forward: add that to the command",
    ("data.path=/tmp",): "data.path belongs to data=files or data=windows",
    ("data=files", "data.columns.clos=C"): "data.columns.clos: no such key. Nearest: data.columns.close",
    ("data.columns.clos=C",): "data.columns.clos: no such key. Nearest: data.columns.close",
    ("data.columns.close=C",): "data.columns.close belongs to data=files: add that to the command",
    ("data=files",): "data.path must be given: data.path=...",
    ("data=windows",): "data.path must be given: data.path=...",
    ("train.epochs=abc",): "train.epochs=abc is not a whole number",
    ("train.epochs=1.5",): "train.epochs=1.5 is not a whole number",
    ("train.epochs=null",): "train.epochs=null: it must have a value",
    ("model.dropout=high",): "model.dropout=high is not a number",
    ("optimizer.lr=nan",): "optimizer.lr=nan is not a number",
    ("train.compile=maybe",): "train.compile=maybe is not true or false",
    ("data.horizons=3",): "data.horizons must be a list: data.horizons=[...]",
    ("train=3",): "train: must be a mapping of settings, not 3",
    ("train.batch_size=0",): "train.batch_size=0 must be at least 1",
    ("train.precision=fp8",): "train.precision=fp8 is no precision. Nearest: fp32",
    ("seed=-1",): "seed=-1 must be at least 0",
    ("optimizer.lr=a(b",): "optimizer.lr=a(b: the value has a character that Hydra's grammar reserves",
    ("train.epochs=[1",): "train.epochs=[1: the value has a character",
    ("seed",): "seed: write GROUP=OPTION or KEY=VALUE",
    ("=3",): "=3: write GROUP=OPTION or KEY=VALUE",
    ("seed=1,2",): "seed=1,2 holds several values: add --multirun",
    ("model.d_model=100", "model.heads=8"): "model.d_model=100 is not divisible by model.heads=8",
    ("device=banana",): "device=banana: take auto, cpu, cuda or cuda:1",
    ("--config-dir", "nowhere"): "nowhere' not found",
    ("--bogus",): "unrecognized arguments: --bogus",
    ("--cfg", "jbo"): "argument --cfg/-c: invalid choice: 'jbo'",
    ("model._target_=os.system",): "model._target_=os.system is no ModelSettings of this package",
    ("model._target_=stockenh.training.losses.huber_bce.HuberBCE",): "is no ModelSettings of this package",
    ("resume=nowhere",): "nowhere: no such folder",
}


@pytest.mark.parametrize(("arguments", "said"), WRONG.items(), ids=[" ".join(w) for w in WRONG])
def test_wrong_input_is_answered_in_two_lines_at_most(stockenh, arguments, said):
    answer = stockenh("train", *arguments)
    assert answer.code == 2
    assert answer.err.startswith("stockenh: ")
    assert said in answer.err
    assert len(answer.err.splitlines()) <= 2
    assert answer.out == ""


def test_unknown_cuda_device(stockenh):
    import torch

    number = torch.cuda.device_count()
    answer = stockenh("train", f"device=cuda:{number}")
    assert answer.code == 2
    assert f"device=cuda:{number}: " in answer.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["tran"], "Did you mean 'train'?"), (["--nope"], "--nope"), (["data", "chek"], "'check'?")],
)
def test_unknown_command_or_flag(stockenh, arguments, said):
    answer = stockenh(*arguments)
    assert answer.code == 2
    assert said in answer.err
    assert len(answer.err.splitlines()) == 1


def test_no_command_shows_the_help(stockenh):
    answer = stockenh()
    assert "train" in answer.out
    assert answer.err == ""


def test_data_path_that_does_not_exist(stockenh):
    answer = stockenh("train", "data=files", "data.path=no/where")
    assert answer.code == 2
    assert "no/where: no such file or folder" in answer.err
    assert "Traceback" not in answer.err


def test_split_without_test_windows_names_the_keys(stockenh, small_run):
    answer = stockenh("train", *small_run, "split.test=0.001")
    assert answer.code == 2
    assert "split.test=0.001" in answer.err and "leave no test windows" in answer.err


@pytest.mark.parametrize(
    "target", ["os.system", "stockenh.cli.train", "stockenh.__main__.main", "builtins.exec"]
)
def test_a_target_is_refused_and_not_called(stockenh, target):
    answer = stockenh("train", f"loss._target_={target}", "+loss.command=touch called")
    assert answer.code == 2
    assert "is no Loss of this package" in answer.err
    assert not Path("called").exists()


def test_a_wrong_override_in_a_process_of_its_own(shell):
    answer = shell("train", "loss=huber")
    assert answer.code == 2
    assert answer.err.startswith("stockenh: loss=huber: no such loss. Nearest: huber_bce")
    assert len(answer.err.splitlines()) == 1


def test_cfg_prints_the_config_and_trains_nothing(stockenh):
    answer = stockenh("train", "seed=5", "--cfg", "job", "train.epochs=7")
    assert answer.code == 0
    assert (yaml.safe_load(answer.out)["seed"], yaml.safe_load(answer.out)["train"]["epochs"]) == (5, 7)
    assert not list(Path().rglob("summary.json"))


@pytest.fixture
def awkward(bars_folder, tmp_path) -> Path:
    """The tiny bars in a folder whose name has everything that a grammar could stumble on."""
    folder = tmp_path / "my (old) bars, 'café' = 5 $ ${x} \"Zürich\" #1"
    folder.mkdir()
    for file in bars_folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def test_paths_with_everything_in_them(shell, small_run, awkward, tmp_path):
    out = tmp_path / "run (1), ü = 'x' $5"
    answer = shell("train", *small_run, f"data.path={awkward}", f"hydra.run.dir={out}")
    assert answer.code == 0, answer.err
    assert (out / "summary.json").is_file()
    assert yaml.safe_load((out / "config.yaml").read_text())["data"]["path"] == str(awkward)


def test_tilde_is_the_home_folder(stockenh, small_run, bars_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "bars").symlink_to(bars_folder)
    answer = stockenh("train", *small_run, "data.path=~/bars", "hydra.run.dir=~/run")
    assert answer.code == 0, answer.err
    assert (tmp_path / "run/summary.json").is_file()


def test_paths_quoted_for_hydra_already(stockenh, small_run, bars_folder):
    answer = stockenh("train", *small_run, f"data.path='{bars_folder}'", 'hydra.run.dir="a (b)"')
    assert answer.code == 0, answer.err
    assert Path("a (b)/summary.json").is_file()


def test_sweep_over_paths_with_spaces(stockenh, small_run, bars_folder, tmp_path):
    for name in ("a (1)", "b 2"):
        (tmp_path / name).symlink_to(bars_folder)
    arguments = [a for a in small_run if not a.startswith("data.path")]
    answer = stockenh("train", *arguments, "data.path=a (1),b 2", "hydra.sweep.dir=s w", "-m")
    assert answer.code == 0, answer.err
    paths = [yaml.safe_load(Path(f"s w/{n}/config.yaml").read_text())["data"]["path"] for n in (0, 1)]
    assert [Path(path).name for path in paths] == ["a (1)", "b 2"]


def test_multirun_leaves_a_run_folder_for_each_job(stockenh, small_run):
    answer = stockenh("train", "--multirun", *small_run, "seed=1,2", "hydra.sweep.dir=grid")
    assert answer.code == 0, answer.err
    seeds = {yaml.safe_load(path.read_text())["seed"] for path in Path("grid").glob("*/config.yaml")}
    assert seeds == {1, 2}
    assert len(list(Path("grid").glob("*/summary.json"))) == 2


def test_a_failing_job_does_not_stop_the_others(stockenh, small_run):
    answer = stockenh("train", "-m", *small_run, "model.heads=3,2", "hydra.sweep.dir=grid")
    assert answer.code not in (0, None)
    assert "model.d_model=16 is not divisible by model.heads=3" in answer.err
    assert "Traceback" not in answer.err
    assert [path.parent.name for path in Path("grid").glob("*/summary.json")] == ["1"]


@pytest.fixture
def own_options(tmp_path) -> Path:
    """A user's folder of configs with a loss in it."""
    (tmp_path / "own/loss").mkdir(parents=True)
    (tmp_path / "own/loss/mine.yaml").write_text(
        "_target_: stockenh.training.losses.huber_bce.HuberBCE\nreturn_weight: 0.0\n"
    )
    return tmp_path / "own"


def test_config_dir_adds_a_users_options(stockenh, small_run, own_options):
    answer = stockenh("train", *small_run, "--config-dir", str(own_options), "loss=mine", "hydra.run.dir=r")
    assert answer.code == 0, answer.err
    assert yaml.safe_load(Path("r/config.yaml").read_text())["loss"]["return_weight"] == 0
    assert json.loads(Path("r/summary.json").read_text())["epochs"] == 1


@pytest.mark.parametrize("wrong", ["loss=mien", "loss.retrun_weight=1"])
def test_a_users_options_are_offered(stockenh, own_options, wrong):
    chosen = [] if wrong.startswith("loss=") else ["loss=mine"]
    answer = stockenh("train", *chosen, wrong, f"--config-dir={own_options}")
    assert answer.code == 2
    assert ("Nearest: mine" if not chosen else "Nearest: loss.return_weight") in answer.err


def test_broken_yaml_of_a_user_is_named(stockenh, own_options):
    (own_options / "loss/mine.yaml").write_text("_target_: [")
    answer = stockenh("train", "loss=mine", f"--config-dir={own_options}")
    assert answer.code == 2
    assert "mine.yaml" in answer.err
    assert len(answer.err.splitlines()) <= 2


def test_data_check_of_awkward_paths(stockenh, awkward):
    answer = stockenh("data", "check", str(awkward))
    assert answer.code == 0, answer.err
    assert "2 of 2 files usable, 2 symbols, 320 bars" in answer.out


def test_a_column_is_mapped_as_the_fix_says(stockenh, tmp_path, bars_folder, small_run, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bars").mkdir()
    for file in bars_folder.glob("*.csv"):
        (tmp_path / "bars" / file.name).write_text(file.read_text().replace("Close", "Zeta"))
    assert stockenh("data", "check", "bars").code == 2
    answer = stockenh("data", "check", "bars", "data.columns.close=Zeta")
    assert answer.code == 0 and "2 of 2 files usable" in answer.out
    arguments = [word for word in small_run if not word.startswith("data.path")]
    answer = stockenh("train", *arguments, "data.path=bars", "data.columns.close=Zeta")
    assert answer.code == 0, answer.err


def test_a_cache_that_can_not_be_written_is_told_once(stockenh, tmp_path, small_run):
    (tmp_path / "taken").write_text("")
    answer = stockenh("train", *small_run, f"cache_dir={tmp_path / 'taken'}")
    assert answer.code == 0
    assert answer.err.count("can't be written") == 1
    assert answer.err.startswith(f"stockenh: cache {tmp_path / 'taken'} can't be written (Not a directory)")


def test_a_misspelt_column_of_a_file_is_answered_by_data_check_too(stockenh, bars_folder):
    answer = stockenh("data", "check", str(bars_folder), "data.columns.clos=Zeta")
    assert answer.code == 2
    assert "data.columns.clos: no such key. Nearest: data.columns.close" in answer.err


def test_a_path_that_is_no_utf8_is_refused_in_a_line(stockenh, tmp_path):
    (tmp_path / "b\udcffd").mkdir()
    answer = stockenh("data", "check", str(tmp_path / "b\udcffd"))
    assert answer.code == 2
    assert "its name has bytes that are no UTF-8 text; rename it" in answer.err
