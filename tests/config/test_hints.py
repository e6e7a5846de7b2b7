"""What a misspelt key, or one of another command, is answered, and which folders a command refuses."""

import shutil
from pathlib import Path

import pytest

from stockenh.config.compose import compose
from stockenh.config.schema import parse, plain

pytestmark = pytest.mark.usefixtures("here")


@pytest.mark.parametrize(
    ("command", "words", "write"),
    [
        ("train", "lr=1e-3", "optimizer.lr=1e-3"),
        ("train", "train.lr=1e-3", "optimizer.lr=1e-3"),
        ("train", "model.lr=1e-3", "optimizer.lr=1e-3"),
        ("train", "--lr=1e-3", "optimizer.lr=1e-3"),
        ("train", "-lr 1e-3", "optimizer.lr=1e-3"),
        ("train", "lr = 1e-3", "optimizer.lr=1e-3"),
        ("train", "learning_rate=1e-3", "optimizer.lr=1e-3"),
        ("train", "lrr=1e-3", "optimizer.lr=1e-3"),
        ("train", "lr=1e-3,1e-4 --multirun", "optimizer.lr=1e-3,1e-4"),
        ("train", "--epochs 5", "train.epochs=5"),
        ("train", "model=student --max-epochs=5 loss=focal", "train.epochs=5"),
        ("train", "epochs=5", "train.epochs=5"),
        ("train", "epochs 5", "train.epochs=5"),
        ("train", "batch_size=64", "train.batch_size=64"),
        ("train", "--batch-size 64", "train.batch_size=64"),
        ("train", "--train.batch-size 64", "train.batch_size=64"),
        ("train", "--compile", "train.compile=true"),
        pytest.param("train", "--compile device=cpu", "train.compile=true", marks=pytest.mark.deep),
        ("train", "--model timeformer", "model=timeformer"),
        ("train", "model timeformer", "model=timeformer"),
        ("train", "timeformer", "model=timeformer"),
        ("train", "focal", "loss=focal"),
        ("train", "--data-path dir", "data.path=dir"),
        ("train", "symbols=[A,B]", "data.symbols=[A,B]"),
        ("train", "horizons=[5]", "data.horizons=[5]"),
        ("train", "--output-dir x", "hydra.run.dir=x"),
        ("train", "--resume x", "resume=x"),
        ("train", "--config x.yaml", "run_config=x.yaml"),
        ("train", "x.yaml", "run_config=x.yaml"),
        ("train", "dat=files", "data=files"),
        ("train", "modle=studnt", "model=student"),
        ("train", "los=focal", "loss=focal"),
        ("train", "data=bars", "data=files data.path=bars"),
        ("train", "data=bars/A.csv", "data=files data.path=bars/A.csv"),
        ("train", "--data bars", "data=files data.path=bars"),
        ("tta-predict", "run=x --data bars", "data=files data.path=bars"),
        ("train", "--data files", "data=files"),
        ("train", "data.horizons=[3,5", "data.horizons=[3,5]"),
        ("track", "x.parquet", "ledger=x.parquet"),
        ("train", "bars", "data=files data.path=bars"),
        ("find-lr", "epochs=2", "train.epochs=2"),
        ("sweep", "trials=3", "sweep.n_trials=3"),
        ("sweep", "--workers 3", "sweep.n_workers=3"),
        ("bench", "quick", "bench=quick"),
        ("ablate", "quick", "ablate=quick"),
        ("distill", "outputs/x", "teacher=outputs/x"),
        ("distill", "--teacher outputs/x", "teacher=outputs/x"),
        *((command, "outputs/x", "run=outputs/x")
          for command in ("evaluate", "export", "tta-predict", "audit", "explain")),
        ("evaluate", "x", "run=x"),
        ("evaluate", "--run x", "run=x"),
        ("evaluate", "run=x bars", "data=files data.path=bars"),
        ("tta-predict", "run=x --views 8", "tta.views=8"),
    ],
)  # fmt: skip
def test_words_of_other_programs_are_answered_with_the_key_to_write(stockenh, command, words, write):
    Path("bars").mkdir()
    err = stockenh(command, *words.split(), code=2).err
    assert err.rstrip().endswith(f"write {write}"), err
    assert len(err.splitlines()) == 1 and not Path("outputs").exists()


@pytest.mark.parametrize(
    ("command", "words", "message"),
    [
        ("train", "n_trials=3", "sweep.n_trials is a key of stockenh sweep"),
        ("train", "--views 3", "write tta.views=3"),
        ("train", "timeformr", "Nearest: model=timeformer"),
        ("data check", "bars bars", "bars: one file or folder at a time"),
        ("train", "--config-dir bars --cfg jbo", "invalid choice: 'jbo'"),
    ],
)
def test_other_words_are_answered_too(stockenh, command, words, message):
    Path("bars").mkdir()
    assert message in stockenh(*command.split(), *words.split(), code=2).err


@pytest.mark.parametrize(
    ("words", "right"),
    [
        ("path=bars", "bars"),
        ("data.path=bars", "bars"),
        ("--path bars", "bars"),
        ("--path=bars", "bars"),
        ("-p bars data.adjust=false", "bars data.adjust=false"),
        ("data.adjust=false bars", "bars data.adjust=false"),
        ("data.adjust=false", "DIR data.adjust=false"),
    ],
)
def test_data_check_takes_its_path_first_and_without_a_key(stockenh, words, right):
    Path("bars").mkdir()
    err = stockenh("data", "check", *words.split(), code=2).err
    assert err.rstrip().endswith(f": stockenh data check {right}"), err


@pytest.mark.parametrize(
    ("command", "words", "right"),
    [
        ("train", "data.horizons=[3, 5, 10]", "data.horizons=[3,5,10]"),
        ("train", "data.horizons=[3, 5 train.epochs=1", "data.horizons=[3,5]"),
        ("train", "data=yahoo data.symbols=[AAPL, MSFT] train.epochs=1", "data.symbols=[AAPL,MSFT]"),
        ("evaluate", "run=[a, b]", "run=[a,b]"),
    ],
)
def test_a_list_that_the_shell_split_at_its_spaces(stockenh, command, words, right):
    err = stockenh(command, *words.split(), code=2).err
    assert err.rstrip().endswith(f"write a list without spaces: {right}"), err


@pytest.mark.parametrize(
    ("command", "argument"),
    [
        ("train", "hydra.run.dir="),
        ("train", "resume="),
        ("train", "data.path="),
        ("evaluate", "run="),
        ("evaluate", "run=''"),
        ("distill", "teacher="),
        ("track", "ledger="),
        ("sweep", "hydra.sweep.dir="),
    ],
)
def test_an_empty_path_is_not_the_working_folder(stockenh, command, argument):
    err = stockenh(command, argument, code=2).err
    assert f"{argument.partition('=')[0]}= is empty: write" in err and len(err.splitlines()) == 1
    assert not list(Path().iterdir())


@pytest.mark.parametrize("path", ["~nobody/bars", "x" * 5000], ids=["no such home", "long"])
@pytest.mark.parametrize(
    "words",
    [
        "data check PATH", "train PATH", "train --data PATH", "train data=PATH",
        "train data=files data.path=PATH",
        "evaluate PATH", "evaluate run=PATH", "track PATH",
    ],
)  # fmt: skip
def test_a_path_that_no_system_has_is_a_line(stockenh, words, path):
    answer = stockenh(*words.replace("PATH", path).split())
    assert answer.code in (1, 2)  # 1: no such run folder
    assert answer.err.startswith("stockenh: ") and len(answer.err.splitlines()) <= 2, answer.err[-500:]


def test_a_misspelt_path_is_answered_with_the_name_that_is_there(stockenh):
    Path("bars").mkdir()
    for command in (["data", "check", "barz"], ["train", "data=files", "data.path=barz"]):
        err = stockenh(*command, code=2).err
        assert "barz: no such file or folder (but bars is there)" in err and len(err.splitlines()) == 1


def test_one_number_for_a_list_is_answered_with_the_list(stockenh):
    assert "data.horizons=[5]" in stockenh("train", "data.horizons=5", code=2).err


def test_a_run_that_is_no_setting_is_to_be_resumed_or_started_from(stockenh):
    Path("a run").mkdir()
    Path("a run/config.yaml").touch()
    err = stockenh("train", "a run", code=2).err
    assert "resume='a run' to continue it, or init_from='a run'" in err


@pytest.mark.parametrize(
    ("command", "given", "message"),
    [
        ("export", ["rnu=x"], "rnu: no such key. Nearest: run"),
        ("explain", ["seed=1", "runs=x"], "runs: no such key. Nearest: run"),
        ("distill", ["teachr=x"], "teachr: no such key. Nearest: teacher"),
        ("distill", ["resum=x"], "resum: no such key. Nearest: resume"),
        ("distill", ["run=x"], "run= names no run for this command: write teacher=RUN"),
        ("tta-predict", ["teacher=x"], "teacher= names no run for this command: write run=RUN"),
        ("tta-predict", ["seed=1"], "run= must be given: run=RUN, a folder that stockenh train left"),
        ("train", ["resum=x"], "resum: no such key. Nearest: resume"),
        ("train", ["run=x"], "to start with a run's weights write init_from=RUN"),
        (
            "train",
            ["model=tft_xl", "model.layers=1"],
            "model.layers belongs to model=student or model=timeformer or model=timeformer_xl: add that to "
            "the command. model=tft_xl has model.lstm_layers, model.fusion_layers",
        ),
        ("train", ["run_dir=x"], "run_dir: no such key. The folder of a run is hydra.run.dir=DIR"),
        ("train", ["output_dir=x"], "hydra.run.dir"),
        ("train", ["loss.returns=pinball"], "has none: use model=tft_xl or loss.returns=auto"),
    ],
)
def test_a_wrong_key_is_answered_with_the_right_one(stockenh, command, given, message):
    err = stockenh(command, *given, code=2).err
    assert err.startswith("stockenh: ") and message in err
    assert not Path("outputs").exists()


def test_a_model_with_quantiles_may_be_trained_on_them():
    config = parse(plain(compose(["model=tft_xl", "loss.returns=pinball"])))
    assert config.model.gives_quantiles


def test_the_folder_of_a_run_is_not_overwritten(stockenh, finished_run, small_run, bars_folder):
    shutil.copytree(finished_run, "run")
    for command, name, *run in (
        ("export", "the export", "run=run"),
        ("explain", "the explanation", "run=run"),
        ("find-lr", "a range test"),
        ("tta-predict", "the forecast", "run=run"),
    ):
        answer = stockenh(command, *run, "hydra.run.dir=run", code=2)
        assert f"run holds a run: {name} takes a folder of its own" in answer.err
    assert "continue it with resume=" in stockenh("train", *small_run, "hydra.run.dir=run", code=2).err
    before = sorted(Path().rglob("*"))
    gone = bars_folder.rename(bars_folder.parent / "gone")
    try:
        answer = stockenh("distill", "teacher=run", "data.horizons=[5]", code=2)
    finally:
        gone.rename(bars_folder)
    assert "data.horizons=[5]: teacher=" in answer.err
    assert sorted(Path().rglob("*")) == before
    stockenh("train", *small_run, "init_from=run", "model.layers=1", "hydra.run.dir=second", code=0)
    for written in ("run", "./run", str(Path("run").absolute())):
        assert "1 of 2 runs" in stockenh("runs", ".", f"init_from={written}").out
