"""`stockenh export`: files with the run's own forecasts, and forecasts by them."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import processes
import pytest
from serving import QUICK

from stockenh.commands import export

pytestmark = pytest.mark.slow


def test_the_manifest_describes_the_files(run):
    folder = run / "export"
    manifest = json.loads((folder / "manifest.json").read_text())
    for name, stored in manifest["files"].items():
        content = (folder / name).read_bytes()
        assert stored == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    assert set(manifest["files"]) == {"features.onnx", "model.onnx", "model.pt2", "model.int8.onnx"}
    weights = (run / "weights/raw.safetensors").read_bytes()
    assert manifest["sha256"] == hashlib.sha256(weights).hexdigest()
    assert manifest["inputs"]["ohlcv"] == {"shape": ["batch", 20, 5], "dtype": "float32"}
    assert manifest["inputs"]["embedding"]["shape"] == ["batch", 32]
    assert len(manifest["context_names"]) == manifest["inputs"]["context"]["shape"][1] == 29
    assert manifest["horizons"] == [3, 5, 10]
    for of_file in manifest["parity"]["largest_difference"].values():
        assert all(0 <= difference <= 1e-5 for difference in of_file.values())
    assert {int(batch) for batch in manifest["speed"]} == {1, 256}
    assert (folder / "parity.png").stat().st_size > 10_000


@pytest.mark.deep
def test_killed_midway_it_leaves_no_unchecked_file_and_the_next_one_cleans_up(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    moment = processes.Hold(tmp_path / "hold", "parity.png")  # both models are written, and not yet compared
    process = processes.start("export", f"run={copy}", "weights=raw", hold=moment)
    moment.wait_for(process)
    process.kill()
    folder = copy / "export"
    assert not list(folder.glob("model*")) and not (folder / "manifest.json").exists()
    assert list(folder.glob(".part-*/model.pt2"))
    done = processes.run("export", f"run={copy}", "weights=raw")
    assert done.returncode == 0, done.stderr
    assert (folder / "model.pt2").is_file() and not list(folder.glob(".part-*"))


def predicted(stockenh, run: Path, directory: Path, *arguments: str) -> pl.DataFrame:
    stockenh("tta-predict", f"run={run}", *arguments, f"hydra.run.dir={directory}", code=0)
    return pl.read_parquet(directory / "forecast.parquet")


@pytest.mark.parametrize("views", [0, 4])
def test_a_forecast_by_the_files_is_that_of_torch(run, stockenh, here, views):
    moved = Path(shutil.copytree(run, here / "moved"))
    given = (f"tta.views={views}", "weights=raw", "tta.from=2020-07-01")
    torch, onnx, int8 = (
        predicted(stockenh, moved, here / engine, *given, f"tta.engine={engine}")
        for engine in ("torch", "onnx", "int8")
    )
    assert len(torch) > 20 and onnx["symbol"].equals(torch["symbol"])
    for column in ("ret", "up_prob"):
        np.testing.assert_allclose(onnx[column], torch[column], atol=1e-5)
        assert 0 < np.abs(int8[column] - torch[column]).max() < 0.05
    if views:
        np.testing.assert_allclose(onnx["uncertainty"], torch["uncertainty"], atol=1e-5)
        assert (onnx["confident"] == torch["confident"]).mean() > 0.9


@pytest.mark.parametrize(
    ("arguments", "damage", "message"),
    [
        (["weights=ema"], None, "is of other weights than ema; make it anew with stockenh export run="),
        (["weights=raw"], "model.onnx missing", "is not there; make it with stockenh export run="),
        (["weights=raw"], "model.onnx changed", "is not the file that was exported"),
        (["weights=raw"], "manifest.json missing", "lacks manifest.json"),
        (["weights=raw"], "manifest.json changed", "is not readable JSON"),
        (["weights=raw", "tta.engine=tensorrt"], None, "no such engine. Options: int8, onnx"),
    ],
)
def test_a_forecast_by_other_files_is_refused_in_a_line(run, refused, here, arguments, damage, message):
    copy = Path(shutil.copytree(run, here / "copy"))
    if damage:
        name, what = damage.split()
        (copy / "export" / name).unlink()
        if what == "changed":
            (copy / "export" / name).write_bytes(b"something else")
    assert message in refused("tta-predict", f"run={copy}", "tta.engine=onnx", *arguments)


def test_files_with_other_forecasts_are_not_exported(run, refused, here, monkeypatch):
    monkeypatch.setattr(export, "PARITY", 1e-12)
    copy = Path(shutil.copytree(run, here / "copy"))

    def as_before(deployed, inputs, directory, console):
        for file in (run / "export").glob("model.*"):
            shutil.copy(file, directory)

    monkeypatch.setattr(export, "_write_both", as_before)
    err = refused("export", f"run={copy}", "weights=raw", code=1)
    assert "away from the run, more than 1e-12: not exported" in err
    assert not list((copy / "export").glob("model.*"))


@pytest.mark.deep
def test_an_export_of_other_weights_leaves_no_file_of_the_earlier_ones(run, stockenh, refused, here):
    copy = Path(shutil.copytree(run, here / "copy"))
    assert (copy / "export/model.int8.onnx").is_file()
    assert "nowhere" in refused("export", f"run={copy}", "data.path=nowhere")
    answer = stockenh("export", f"run={copy}", "weights=ema", code=0)
    manifest = json.loads((copy / "export/manifest.json").read_text())
    assert set(manifest["files"]) == {"features.onnx", "model.onnx", "model.pt2"} and "int8" not in answer.out
    err = refused("tta-predict", f"run={copy}", "weights=ema", "tta.engine=int8")
    assert "is not there; make it with stockenh export run=" in err


@pytest.mark.deep
def test_a_run_that_holds_nothing_out_is_checked_on_train_in_the_folder_named(small_run, stockenh, here):
    kept = (w for w in small_run if not w.startswith(("split.", "embedding.")))
    stockenh("train", *kept, *QUICK, "split=all", "embedding=none", "hydra.run.dir=run", code=0)
    stockenh("export", "run=run", "hydra.run.dir=mine", code=0)
    assert {p.name for p in Path("mine").glob("model.*")} == {"model.onnx", "model.pt2"}
    assert not Path("run/export").exists()
    manifest = json.loads(Path("mine/manifest.json").read_text())
    assert manifest["parity"]["part"] == "train" and not manifest["calibrated"]
    assert set(manifest["inputs"]) == {"ohlcv", "context"}
