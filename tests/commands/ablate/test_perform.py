"""What recipes cost beside each other."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from stockenh.commands.ablate import perform
from stockenh.commands.ablate.plan import Cell, Recipe, Row
from stockenh.commands.multirun.folder import CONFIG_DIR
from stockenh.config.compose import compose
from stockenh.config.schema import RunConfig, parse, plain
from stockenh.errors import StockenhError
from stockenh.models import InputSpec

SPEC = InputSpec(lookback=20, price=5, embedding=16, context=29, horizons=3)
CPU = torch.device("cpu")
ROWS = [Row("plain", "plain", "plain"), Row("tta", "TTA", "plain", True), Row("small", "small", "small")]


def config(*overrides: str) -> RunConfig:
    tiny = ["model.layers=1", "model.d_model=16", "model.heads=2", "model.ffn=16", "data.lookback=20"]
    return parse(plain(compose([*tiny, *overrides])))


@pytest.fixture(scope="module")
def found() -> dict:
    configs = {
        "plain": config("model.layers=4", "model.ffn=256"),
        "four": config("model.layers=4", "model.ffn=256", "train.accumulate=4", "optimizer.lr=auto"),
        "small": config(),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(perform, "training_memory", lambda *_: None)
        return perform.measure(configs, ["plain", "four"], ROWS, SPEC, CPU, rounds=3)


def test_speeds_are_ratios_to_the_plain_recipe_round_by_round(found):
    assert found["train_speed"]["plain"] == [1.0, 1.0, 1.0]
    assert len(found["train_speed"]["four"]) == 3
    assert all(windows > 0 for windows in found["train_windows_per_second"].values())


def test_five_views_take_longer_and_a_smaller_model_less(found):
    speeds = {name: sorted(ratios)[1] for name, ratios in found["inference_speed"].items()}
    assert speeds["tta"] < 0.5 and speeds["small"] > 1.0
    assert found["weights_bytes"]["tta"] == found["weights_bytes"]["plain"] > found["weights_bytes"]["small"]


def test_what_was_not_measured_is_null(found):
    assert found["memory"] == {"plain": None, "four": None}


def test_a_round_has_as_many_windows_for_every_recipe():
    seen: list[int] = []

    def counted(*overrides: str) -> int:
        seen.clear()
        given = config("train.batch_size=8", *overrides)
        perform.training_steps(given, SPEC, CPU)(4)
        return sum(seen)

    with pytest.MonkeyPatch.context() as patch:
        step = perform._step
        patch.setattr(perform, "_step", lambda net, micro, n: (seen.append(n), step(net, micro, n)))
        assert counted() == counted("train.accumulate=4") == 4


@pytest.mark.deep
def test_accumulating_takes_less_memory_than_the_big_batch():
    wide = ["model.ffn=512", "model.layers=2", "model.patch=2", "model.d_model=64"]
    parts, whole = (
        perform.training_memory(config(*wide, *setting), SPEC, CPU)
        for setting in (["train.batch_size=64", "train.accumulate=8"], ["train.batch_size=512"])
    )
    if parts is None or whole is None:
        pytest.skip("this system does not count the peak memory of a process")
    assert parts < 0.5 * whole


def test_a_search_finds_its_recipe_outside_the_ablation_and_the_user_s_own_options_with_it(
    tmp_path, monkeypatch
):
    """What somebody else left in the folder must not stand in for Hydra's own options."""
    mine, cell = tmp_path / "mine", tmp_path / "ablation/optuna/seed1"
    for path, text in {
        mine / "loss/own.yaml": "delta: 2\n",
        mine / "hydra/launcher/own.yaml": "n: 1\n",
        mine / "outputs/a/b/c/run.yaml": "left: out\n",
        mine / "loss/notes.txt": "no option\n",
        cell / "conf/hydra/sweeper/stockenh_optuna.yaml": "_target_: os.system\n",
    }.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    recipe = config("train.batch_size=8", "loss.delta=3")
    seen = {}

    def run(command, log, ablation):
        (folder,) = (Path(word.removeprefix(CONFIG_DIR)) for word in command if word.startswith(CONFIG_DIR))
        seen["inside"] = folder.resolve().is_relative_to((tmp_path / "ablation").resolve())
        seen["files"] = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
        seen["config"] = parse(plain(compose([w for w in command if "plain_recipe" in w], "sweep", [folder])))

    monkeypatch.setattr(perform, "_run", run)
    folder, flags = SimpleNamespace(path=tmp_path / "ablation"), [f"{CONFIG_DIR}{mine}"]
    spec = SimpleNamespace(base=recipe, configs={"plain": recipe.raw}, flags=flags, folder=folder)
    (cell / "search").mkdir()
    (cell / "search/sweep.json").write_text("{}")
    with pytest.raises(StockenhError):  # nothing ran, so there is no best trial
        perform.search(Cell(0, Recipe("optuna", kind="search"), 1), spec, cell)
    assert not seen["inside"] and {"loss/own.yaml", "hydra/launcher/own.yaml"} < seen["files"]
    assert not seen["files"] & {
        "loss/notes.txt",
        "outputs/a/b/c/run.yaml",
        "hydra/sweeper/stockenh_optuna.yaml",
    }
    assert seen["config"] == recipe
