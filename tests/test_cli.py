"""The command line: help, wrong input, paths, and what Hydra adds."""

import json
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import stockenh as package
from stockenh.config.catalog import groups
from stockenh.config.schema import GROUPS

HEAVY = ("torch", "hydra", "omegaconf", "polars", "matplotlib", "numpy", "yaml")


pytestmark = pytest.mark.usefixtures("here")


@pytest.mark.parametrize(
    ("words", "command"),
    [("trian", ""), ("data bars", " data"), ("data check", " data check"), ("runs --nope", " runs")],
)
def test_a_usage_error_names_the_help_of_its_own_command(words, command):
    done = subprocess.run(
        [sys.executable, "-m", "stockenh", *words.split()], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2
    assert done.stderr.rstrip().endswith(f"See: stockenh{command} --help")


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
    ("train.epochs=abc",): "train.epochs=abc is not a whole number",
    ("train.epochs=null",): "train.epochs=null: it must have a value",
    ("model.dropout=high",): "model.dropout=high is not a number",
    ("optimizer.lr=nan",): "optimizer.lr=nan is not a number",
    ("data.horizons=3",): "data.horizons must be a list: data.horizons=[3]",
    ("train=3",): "train: must be a mapping of settings, not 3",
    ("train.batch_size=0",): "train.batch_size=0 must be at least 1",
    ("train.precision=fp8",): "train.precision=fp8: no such precision. Nearest: fp32",
    ("seed=-1",): "seed=-1 must be at least 0",
    ("optimizer.lr=a(b",): "optimizer.lr=a(b: the value has a character that Hydra's grammar reserves",
    ("train.epochs=[1",): "train.epochs=[1: a bracket is missing",
    ("seed",): "seed: write seed=VALUE",
    ("nonsense",): "nonsense: write GROUP=OPTION or KEY=VALUE",
    ("=3",): "=3: write GROUP=OPTION or KEY=VALUE",
    ("seed=1,2",): "seed=1,2 holds several values: add --multirun",
    ("model.d_model=100", "model.heads=8"): "model.d_model=100 is not divisible by model.heads=8",
    ("device=banana",): "device=banana: write auto, cpu, cuda or cuda:1",
    ("--config-dir", "nowhere"): "nowhere' not found",
    ("--bogus",): "unrecognized arguments: --bogus",
    ("--cfg", "jbo"): "argument --cfg/-c: invalid choice: 'jbo'",
    ("model._target_=os.system",): "model._target_=os.system is no ModelSettings of this package",
    ("model._target_=stockenh.training.losses.huber_bce.HuberBCE",): "is no ModelSettings of this package",
    ("resume=nowhere",): "nowhere: no such folder",
    ("data=files", "data.path=no/where"): "no/where: no such file or folder",
}


@pytest.mark.parametrize(("arguments", "message"), WRONG.items(), ids=[" ".join(w) for w in WRONG])
def test_wrong_input_is_answered_in_two_lines_at_most(stockenh, arguments, message):
    answer = stockenh("train", *arguments, code=2)
    assert answer.err.startswith("stockenh: ") and message in answer.err
    assert len(answer.err.splitlines()) <= 2
    assert answer.out == ""


WRONG_VALUES = [
        "train train.epochs=-1", "train model=nosuch", "train optimizer.lr=abc", "train optimizer.lr=-1",
        "train data.horizons=[0]", "train data.horizons=[5,3]", "train data.lookback=0",
        "train loss.gamma=-1",
        "train model.dropout=high", "train model.layers=0", "train split.val=2", "train train.precision=fp8",
        "train model=tft_xl model.dropout=2", "train model.layrs=2", "train optimizer.betas=1", "train lr=1",
        "train epochs 5", "train init_from=x train.epochs=0", "train train.epochs=-1,-2 --multirun",
        "find-lr finder.steps=0", "evaluate x",
         "evaluate run=nosuch", "tta-predict run=nosuch", "train resume=nosuch",
        "distill teacher=nosuch", "sweep --workers 2", "ablate quick", "sweep sweep.n_trials=0",
        "bench bench.rounds=-1", "evaluate run=x evaluate.resamples=1", "tta-predict run=x tta.views=-1",
        "export run=x export.int8=perhaps", "explain run=x explain.windows=-1", "ablate ablate.seeds=3",
        "distill teacher=x distill.weight=-1", "audit run=x seed=-1",
]  # fmt: skip


def test_a_wrong_value_is_answered_before_torch_is_imported():
    code = (
        "import sys; from stockenh import cli\n"
        f"for words in {WRONG_VALUES!r}:\n"
        "    sys.argv, code = ['stockenh', *words.split()], None\n"
        "    try: cli.main()\n"
        "    except SystemExit as end: code = end.code\n"
        "    loaded = [m for m in ('torch', 'polars', 'scipy') if m in sys.modules]\n"
        "    assert code == 2 and not loaded, (words, code, loaded)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert sum(line.startswith("stockenh: ") for line in lines) == len(WRONG_VALUES)


def test_unknown_cuda_device(stockenh):
    import torch

    number = torch.cuda.device_count()
    assert f"device=cuda:{number}: " in stockenh("train", f"device=cuda:{number}", code=2).err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["tran"], "Did you mean 'train'"), (["--nope"], "--nope"), (["data", "chek"], "'check'?")],
)
def test_unknown_command_or_flag(refused, arguments, message):
    assert message in refused(*arguments)


def test_no_command_shows_the_help(stockenh):
    answer = stockenh()
    assert "train" in answer.out
    assert answer.err == ""


def test_split_without_test_windows_names_the_keys(stockenh, small_run):
    err = stockenh("train", *small_run, "split.test=0.001", code=2).err
    assert "split.test=0.001" in err and "leave no test windows" in err


@pytest.mark.parametrize(
    "target", ["os.system", "stockenh.cli.train", "stockenh.__main__.main", "builtins.exec"]
)
def test_a_target_is_refused_and_not_called(stockenh, target):
    answer = stockenh("train", f"loss._target_={target}", "+loss.command=touch called", code=2)
    assert "is no Loss of this package" in answer.err
    assert not Path("called").exists()


def test_a_wrong_override_in_a_process_of_its_own(shell):
    answer = shell("train", "loss=huber")
    assert answer.code == 2
    assert answer.err.startswith("stockenh: loss=huber: no such loss. Nearest: huber_bce")
    assert len(answer.err.splitlines()) == 1


def test_cfg_prints_the_config_and_trains_nothing(stockenh):
    config = yaml.safe_load(stockenh("train", "seed=5", "--cfg", "job", "train.epochs=7", code=0).out)
    assert (config["seed"], config["train"]["epochs"]) == (5, 7)
    assert not list(Path().rglob("summary.json"))


def test_paths_with_everything_in_them(shell, stockenh, small_run, bars_folder, tmp_path):
    bars = tmp_path / "my (old) bars, 'café' = 5 $ ${x} \"Zürich\" #1"
    shutil.copytree(bars_folder, bars)
    out = tmp_path / "run (1), ü = 'x' $5"
    answer = shell("train", *small_run, f"data.path={bars}", f"hydra.run.dir={out}")
    assert answer.code == 0, answer.err
    assert (out / "summary.json").is_file()
    assert yaml.safe_load((out / "config.yaml").read_text())["data"]["path"] == str(bars)
    checked = stockenh("data", "check", str(bars), code=0)
    assert "2 of 2 files usable, 2 symbols, 320 bars" in checked.out


def test_paths_may_begin_at_home_or_be_quoted(stockenh, small_run, bars_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "bars").symlink_to(bars_folder)
    stockenh("train", *small_run, "data.path=~/bars", "hydra.run.dir=~/run", code=0)
    stockenh("train", *small_run, f"data.path='{bars_folder}'", 'hydra.run.dir="a (b)"', code=0)
    assert (tmp_path / "run/summary.json").is_file() and Path("a (b)/summary.json").is_file()


def test_multirun_over_paths_with_spaces_leaves_a_run_for_each(stockenh, small_run, bars_folder, tmp_path):
    for name in ("a (1)", "b 2"):
        (tmp_path / name).symlink_to(bars_folder)
    arguments = [a for a in small_run if not a.startswith("data.path")]
    stockenh("train", *arguments, "data.path=a (1),b 2", "hydra.sweep.dir=s w", "-m", code=0)
    paths = [yaml.safe_load(Path(f"s w/{n}/config.yaml").read_text())["data"]["path"] for n in (0, 1)]
    assert [Path(path).name for path in paths] == ["a (1)", "b 2"]
    assert len(list(Path("s w").glob("*/summary.json"))) == 2


@pytest.fixture
def own_options(tmp_path):
    """A user's folder of configs with a loss in it."""
    (tmp_path / "own/loss").mkdir(parents=True)
    (tmp_path / "own/loss/mine.yaml").write_text(
        "_target_: stockenh.training.losses.huber_bce.HuberBCE\nreturn_weight: 0.0\n"
    )
    return tmp_path / "own"


def test_config_dir_adds_a_users_options(stockenh, small_run, own_options):
    stockenh("train", *small_run, "--config-dir", str(own_options), "loss=mine", "hydra.run.dir=r", code=0)
    assert yaml.safe_load(Path("r/config.yaml").read_text())["loss"]["return_weight"] == 0
    assert json.loads(Path("r/summary.json").read_text())["epochs"] == 1


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["loss=mien"], "Nearest: mine"),
        (["loss=mine", "loss.retrun_weight=1"], "Nearest: loss.return_weight"),
        (["loss=broken"], "broken.yaml"),
    ],
)
def test_mistakes_about_a_users_options_are_answered(stockenh, own_options, wrong, message):
    (own_options / "loss/broken.yaml").write_text("_target_: [")
    err = stockenh("train", *wrong, f"--config-dir={own_options}", code=2).err
    assert message in err and len(err.splitlines()) <= 2


def test_a_column_is_mapped_as_the_fix_says(stockenh, tmp_path, bars_folder, small_run):
    (tmp_path / "bars").mkdir()
    for file in bars_folder.glob("*.csv"):
        (tmp_path / "bars" / file.name).write_text(file.read_text().replace("Close", "Zeta"))
    stockenh("data", "check", "bars", code=2)
    misspelt = stockenh("data", "check", "bars", "data.columns.clos=Zeta", code=2)
    assert "data.columns.clos: no such key. Nearest: data.columns.close" in misspelt.err
    answer = stockenh("data", "check", "bars", "data.columns.close=Zeta", code=0)
    assert "2 of 2 files usable" in answer.out
    stockenh("train", *small_run, "data.path=bars", "data.columns.close=Zeta", code=0)


def test_a_cache_that_can_not_be_written_is_reported_once(stockenh, tmp_path, small_run):
    (tmp_path / "taken").write_text("")
    err = stockenh("train", *small_run, f"cache_dir={tmp_path / 'taken'}", code=0).err
    assert err.count("can't be written") == 1
    assert err.startswith(f"stockenh: cache {tmp_path / 'taken'} can't be written (Not a directory)")


def test_a_path_that_is_no_utf8_is_refused(stockenh, tmp_path):
    (tmp_path / "b\udcffd").mkdir()
    err = stockenh("data", "check", str(tmp_path / "b\udcffd"), code=2).err
    assert "not UTF-8 text; rename it" in err


@pytest.mark.parametrize("name", ["o'wn (1)", "b$x, c"])
def test_a_folder_of_options_may_have_any_name(stockenh, tmp_path, name):
    (tmp_path / name / "loss").mkdir(parents=True)
    loss = "stockenh.training.losses.huber_bce.HuberBCE"
    (tmp_path / name / "loss/mine.yaml").write_text(f"_target_: {loss}\nreturn_weight: -1.0\n")
    answer = stockenh("train", "--config-dir", str(tmp_path / name), "loss=mine")
    assert answer.code == 2 and "loss.return_weight=-1.0 must be at least 0" in answer.err
