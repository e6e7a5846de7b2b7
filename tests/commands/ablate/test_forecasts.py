"""The forecasts that a cell leaves, and what is refused of a file of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from stockenh.commands.ablate.cells import FORECASTS, AblationFolder
from stockenh.commands.ablate.forecasts import forecast_test_part, read_test_part
from stockenh.commands.ablate.plan import AblateSettings, Plan
from stockenh.commands.ablate.results import collect
from stockenh.errors import RunFolderError
from stockenh.storage.run_folder import RunFolder

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tensors(finished_run) -> dict[str, torch.Tensor]:
    return forecast_test_part(RunFolder(finished_run), CPU, None, viewed=True)


def test_the_table_s_scores_are_those_of_the_run(finished_run, tensors, tmp_path):
    """Of the weights that validation chose, whatever the summary says of them, calibrated or not."""
    RunFolder(tmp_path).write_tensors(tmp_path / FORECASTS, tensors)
    summary = json.loads((finished_run / "summary.json").read_text())
    found = read_test_part(RunFolder(tmp_path), [3, 5, 10])
    assert set(found.shares) == {"raw", "ema", "swa", "views"}
    for horizon, expected in summary["parts"]["test"].items():
        shares = found.shares[summary["weights"]][horizon]
        for name in (
            "accuracy",
            "majority",
            "log_loss",
            "auc",
            "ece",
            "log_loss_calibrated",
            "ece_calibrated",
        ):
            assert shares[name].sum() == pytest.approx(expected[name], abs=1e-6), name
        assert len(shares) == 7
    assert found.shares["ema"]["h5"]["log_loss"].sum() != found.shares["raw"]["h5"]["log_loss"].sum()


def changed(tensors, **new):
    return {k: v.clone() for k, v in {**tensors, **new}.items() if v is not None}


HALF = torch.full((4, 3), 0.5)
FEW = {"date": torch.arange(4), "y_dir": HALF - 1, "up_prob.raw": HALF, "calibrated.raw": HALF}


def test_a_small_file_is_read(tmp_path):
    RunFolder(tmp_path).write_tensors(tmp_path / FORECASTS, changed(FEW))
    assert read_test_part(RunFolder(tmp_path), [3, 5, 10]).shares["raw"]["h5"]["accuracy"].sum() == 1.0


@pytest.mark.parametrize(
    "new",
    [
        {"date": None},
        {"y_dir": None},
        {"calibrated.raw": None},
        {"up_prob.raw": None},
        {"up_prob.raw": None, "calibrated.raw": None},
        {"up_prob.ema": HALF},
        {"other": HALF},
        {"date": torch.tensor([0, 1, 2, 10**12])},  # an array of so many dates
        {"date": torch.tensor([-1, 0, 1, 2])},
        {"date": torch.arange(5)},
        {"date": torch.arange(4).float()},
        {"date": torch.arange(4)[:, None]},
        {"y_dir": HALF * float("inf")},
        {"y_dir": HALF[:, :2]},
        {"up_prob.raw": HALF + 1},
        {"up_prob.raw": HALF * float("nan")},
        {"up_prob.raw": HALF.double()},
        {"up_prob.raw": HALF.bfloat16()},
        {"up_prob.raw": HALF[0]},
        {"best_prob": HALF - 1},
        {"best_prob": HALF[:2]},
        {name: tensor[:0] for name, tensor in FEW.items()},
    ],
)
def test_what_no_cell_writes_is_refused(tmp_path, new):
    RunFolder(tmp_path).write_tensors(tmp_path / FORECASTS, changed(FEW, **new))
    with pytest.raises(RunFolderError, match="does not hold forecasts of 3 horizons"):
        read_test_part(RunFolder(tmp_path), [3, 5, 10])


@pytest.fixture
def ablation(finished_run, tensors, tmp_path) -> tuple[AblationFolder, Plan]:
    """Two finished cells of a plain recipe and of EMA."""
    settings = {"seeds": [1], "techniques": {"ema": {"overrides": ["averaging=ema"], "weights": "ema"}}}
    plan, folder = Plan.of(AblateSettings.of(settings), True), AblationFolder(tmp_path / "ab")
    for cell in plan.cells[:2]:
        shutil.copytree(finished_run, folder.path / cell.path)
        folder.run(cell).write_tensors(folder.forecasts(cell), tensors)
        folder.close(cell, "done", {"seconds": 1.0, "figures": {"views": True, "weights": "raw"}})
    return folder, plan


def test_only_the_same_rows_are_paired(ablation, tensors):
    folder, plan = ablation
    assert len(collect(folder, plan, [3, 5, 10]).runs) == 2
    for new in ({"date": tensors["date"].flip(0)}, {"y_dir": -tensors["y_dir"]}):
        folder.run(plan.cells[1]).write_tensors(folder.forecasts(plan.cells[1]), changed(tensors, **new))
        found = collect(folder, plan, [3, 5, 10])
        assert list(found.runs) == [("plain", 1)]
        assert "its test rows are not those of the plain recipe" in found.failed["ema/seed1"]


def test_a_link_in_place_of_forecasts_is_not_followed(ablation):
    folder, plan = ablation
    path: Path = folder.forecasts(plan.cells[0])
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")
    assert folder.state(plan.cells[0]) == {}


def test_weights_that_the_file_lacks_are_named(ablation):
    folder, plan = ablation
    folder.close(plan.cells[0], "done", {"seconds": 1.0, "figures": {"views": True, "weights": "sma"}})
    with pytest.raises(RunFolderError, match="no forecasts of the sma weights"):
        collect(folder, plan, [3, 5, 10])


def test_views_are_averaged(tensors):
    difference = (tensors["up_prob.views"] - tensors["up_prob.raw"]).abs().max()
    assert 0 < difference < 0.2
