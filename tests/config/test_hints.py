"""What a misspelt key, or one of another command, is answered."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from stockenh.config.compose import compose
from stockenh.config.schema import parse, plain


@pytest.fixture(autouse=True)
def in_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("command", "given", "said"),
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
    ],
)
def test_the_key_of_a_run_may_be_misspelt(
    stockenh: Callable[..., object], command: str, given: list[str], said: str
) -> None:
    answer = stockenh(command, *given)
    assert answer.code == 2 and answer.err.startswith("stockenh: ")
    assert said in answer.err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            ["model=tft_xl", "model.layers=1"],
            "model.layers belongs to model=student or model=timeformer or model=timeformer_xl: add that to "
            "the command. model=tft_xl has model.lstm_layers, model.fusion_layers",
        ),
        (["run_dir=x"], "run_dir: no such key. The folder of a run is hydra.run.dir=DIR"),
        (["output_dir=x"], "hydra.run.dir"),
        (["loss.returns=pinball"], "loss.returns=pinball needs quantiles, and this model gives none"),
    ],
)
def test_a_key_that_is_none_is_answered_with_those_that_are(
    stockenh: Callable[..., object], given: list[str], said: str
) -> None:
    answer = stockenh("train", *given)
    assert answer.code == 2 and said in answer.err
    assert not Path("outputs").exists()


def test_a_model_with_quantiles_may_be_trained_on_them() -> None:
    config = parse(plain(compose(["model=tft_xl", "loss.returns=pinball"])))
    assert config.model.gives_quantiles


def test_what_stands_in_a_run_s_folder_is_not_overwritten_by_another_command(
    stockenh: Callable[..., object], small_run: list[str], bars_folder: Path
) -> None:
    assert stockenh("train", *small_run, "hydra.run.dir=run").code == 0
    for command, name in (
        ("export", "the export"),
        ("explain", "the explanation"),
        ("find-lr", "a range test"),
        ("tta-predict", "the forecast"),
    ):
        runs = [] if command == "find-lr" else ["run=run"]
        answer = stockenh(command, *runs, "hydra.run.dir=run")
        assert answer.code == 2
        assert f"run holds a run: {name} takes a folder of its own" in answer.err
    answer = stockenh("train", *small_run, "hydra.run.dir=run")
    assert answer.code == 2 and "continue it with resume=" in answer.err
    before = sorted(Path().rglob("*"))
    gone = bars_folder.rename(bars_folder.parent / "gone")
    try:
        answer = stockenh("distill", "teacher=run", "data.horizons=[5]")
    finally:
        gone.rename(bars_folder)
    assert answer.code == 2 and "data.horizons=[5]: teacher=" in answer.err
    assert sorted(Path().rglob("*")) == before
    started = ["init_from=run", "model.layers=1", "hydra.run.dir=second"]
    assert stockenh("train", *small_run, *started).code == 0
    for written in ("run", "./run", str(Path("run").absolute())):
        answer = stockenh("runs", ".", f"init_from={written}")
        assert "1 of 2 runs" in answer.out
