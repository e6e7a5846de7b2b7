"""An export takes raw bars: its forecasts from a file are those of `tta-predict` from the same file."""

import json
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest
from bars import write_bars, write_windows
from random_bars import plain_windows, smooth_series
from serving import EXAMPLES, QUICK, command, example

from stockenh.commands.export_bars import unavailable
from stockenh.data.bars import Bars
from stockenh.data.sources.files import FilesData
from stockenh.embedding import NoEmbedding, StoredEmbedding
from stockenh.embedding.kernel import KernelEmbedding

pytestmark = pytest.mark.slow


def changed(path: Path, source: Path, *columns: pl.Expr, keep: slice = slice(None)) -> None:
    """A CSV file with some rows and columns of another."""
    frame = pl.read_csv(source).with_columns(*columns)
    frame[keep].write_csv(path)


@pytest.fixture(scope="module")
def bars(tmp_path_factory) -> Path:
    """Files of one symbol each, with the oddities that an export has to treat like the package."""
    folder = tmp_path_factory.mktemp("odd")
    write_bars(folder / "PLAIN.csv", seed=5)
    plain, row = folder / "PLAIN.csv", pl.int_range(pl.len())
    paid = 1 - 0.004 * (row < 50) - 0.003 * (row < 120)  # two dividends
    changed(folder / "PAID.csv", plain, (pl.col("Close") * paid).alias("Adj Close"))
    unsplit = pl.when(row < 100).then(2.0).otherwise(1.0)  # 2:1 at row 100
    prices = [(pl.col(name) * unsplit).alias(name) for name in ("Open", "High", "Low", "Close")]
    volume = (pl.col("Volume") / unsplit).round().cast(pl.Int64)
    changed(folder / "SPLIT.csv", plain, *prices, volume, pl.col("Close").alias("Adj Close"))
    changed(
        folder / "QUIET.csv", plain, pl.when(row > 130).then(0).otherwise(pl.col("Volume")).alias("Volume")
    )
    write_bars(folder / "LONG.csv", seed=6, bars=1300)
    late = pl.col("Date").str.to_date()
    moved = pl.when(row < 70).then(late - pl.duration(days=90)).otherwise(late).dt.to_string("%Y-%m-%d")
    changed(folder / "GAP.csv", plain, moved.alias("Date"))
    changed(folder / "TIMES.csv", plain, (pl.col("Date") + " 16:00:00").alias("Date"))
    return folder


def predicted(stockenh, run, source, directory) -> dict[tuple[str, int], dict[str, object]]:
    stockenh(
        "tta-predict", f"run={run}", "data=files", f"data.path={source}", "tta.views=0",
        f"hydra.run.dir={directory}", code=0,
    )  # fmt: skip
    rows = pl.read_parquet(directory / "forecast.parquet").to_dicts()
    return {(row["symbol"], row["horizon"]): row for row in rows}


def assert_same(found, expected):
    """Forecasts of an export against rows of forecast.parquet."""
    assert len(found) > 0
    for row in found:
        want = expected[row["symbol"], row["horizon"]]
        assert row["date"] == str(want["date"])[:10]
        for name in set(row) - {"symbol", "date", "horizon"}:
            assert row[name] == pytest.approx(want[name], abs=1e-6), (row, name)


def as_json(path: Path) -> bytes:
    frame = pl.read_csv(path)
    return json.dumps({"symbol": path.stem, "bars": frame.to_dicts()}).encode()


def as_columns(path: Path) -> bytes:
    return json.dumps({"symbol": path.stem, "bars": pl.read_csv(path).to_dict(as_series=False)}).encode()


def test_raw_bars_give_the_run_s_own_forecast(run, bars, stockenh, here):
    forecaster = example("serve").Forecaster(run / "export")
    expected = predicted(stockenh, run, bars, here / "forecast")
    files = sorted(bars.glob("*.csv"))
    assert len({symbol for symbol, _ in expected}) == len(files) == 7
    for path in files:
        assert_same(forecaster(path.read_bytes(), path.stem), expected)
        for content in (as_json(path), as_columns(path)):
            assert forecaster(content) == forecaster(path.read_bytes(), path.stem)
    both = pl.concat(
        pl.read_csv(bars / f"{name}.csv").with_columns(symbol=pl.lit(name)) for name in ("PLAIN", "GAP")
    )
    together = forecaster(both.write_csv().encode())
    assert [row["symbol"] for row in together] == ["PLAIN"] * 3 + ["GAP"] * 3
    assert_same(together, expected)


def test_the_programs_print_these_forecasts_without_torch(run, bars):
    path = bars / "PAID.csv"
    done = subprocess.run(command("serve", run / "export", path), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert rows == example("serve").Forecaster(run / "export")(path.read_bytes(), "PAID")
    wrong = subprocess.run(
        command("serve", run / "export", path.with_name("none.csv")), capture_output=True, text=True
    )
    assert wrong.returncode == 1 and "none.csv" in wrong.stderr and "Traceback" not in wrong.stderr


@pytest.fixture(scope="session")
def node() -> str:
    """Node, where it has the package that runs ONNX files."""
    program = shutil.which("node")
    if program is None:
        pytest.skip("needs node")
    found = subprocess.run([program, "-e", "require('onnxruntime-node')"], capture_output=True, cwd=EXAMPLES)
    if found.returncode:
        pytest.skip("needs onnxruntime-node: npm install --ignore-scripts onnxruntime-node, and NODE_PATH")
    return program


def test_node_gives_the_same_numbers(run, bars, node):
    forecaster = example("serve").Forecaster(run / "export")
    for path in sorted(bars.glob("*.csv")):
        program = [node, str(EXAMPLES / "serve.mjs"), str(run / "export"), str(path)]
        done = subprocess.run(program, capture_output=True, text=True, cwd=EXAMPLES)
        assert done.returncode == 0, done.stderr
        rows = [json.loads(line) for line in done.stdout.splitlines()]
        assert_same(
            rows, {(row["symbol"], row["horizon"]): row for row in forecaster(path.read_bytes(), path.stem)}
        )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("2020-09-01,100,101,99,abc,5", "close is 'abc'"),
        ("2020-09-01,100,101,-99,100,5", "0 or below"),
        ("2020-01-02,100,101,99,100,5", "must increase"),
        ("2020-02-30,100,101,99,100,5", "date is '2020-02-30'"),
    ],
)
def test_node_refuses_bad_bars_in_a_line(run, bars, node, here, line, message):
    Path("X.csv").write_text((bars / "PLAIN.csv").read_text() + line + "\n")
    program = [node, str(EXAMPLES / "serve.mjs"), str(run / "export"), str(here / "X.csv")]
    done = subprocess.run(program, capture_output=True, text=True, cwd=EXAMPLES)
    assert done.returncode == 1 and message in done.stderr and len(done.stderr.splitlines()) == 1


def test_the_8_bit_file_takes_the_same_features(run, bars):
    forecaster = example("serve").Forecaster(run / "export")
    exact = forecaster((bars / "PLAIN.csv").read_bytes())
    import onnxruntime

    forecaster.model = onnxruntime.InferenceSession(run / "export" / "model.int8.onnx")
    rough = forecaster((bars / "PLAIN.csv").read_bytes())
    moved = [abs(a["up_prob"] - b["up_prob"]) for a, b in zip(exact, rough, strict=True)]
    assert 0 < max(moved) < 0.05


def test_the_manifest_says_what_the_features_take(run):
    about = json.loads((run / "export/manifest.json").read_text())["bars"]
    assert about["columns"] == ["open", "high", "low", "close", "volume"]
    assert about["inputs"]["time"]["dtype"] == "int64" and about["inputs"]["bars"]["dtype"] == "float64"
    assert about["history_bars"]["least"] == 42  # above the lookback of 20: so many take swing points
    assert 2500 < about["history_bars"]["enough"] < 3500  # 48 quarters
    assert (about["adjust"], about["daily"], about["max_gap_days"]) == (True, True, 30)
    assert about["parity"]["windows"] > 20
    assert all(difference <= 1e-5 for difference in about["parity"]["largest_difference"].values())


@pytest.mark.deep
@pytest.mark.parametrize(
    ("settings", "more"),
    [
        (
            ["model=tft_xl", "model.d_model=8", "model.lstm_layers=1", "model.fusion_layers=1"],
            {"ret_p10", "ret_p90"},
        ),
        pytest.param([*QUICK, "train.members=2"], set()),
        pytest.param(
            [
                "model=student",
                "model.patch=5",
                "embedding=none",
                "target=volatility_scaled",
                "target.bars=10",
                "data.timeframes=[]",
            ],
            set(),
        ),
    ],
)
def test_every_kind_of_model_forecasts_from_bars(small_run, bars, stockenh, here, settings, more):
    kept = [
        word for word in small_run
        if not (word.startswith("model.") and settings[0].startswith("model="))
        and not (word.startswith("embedding.") and "embedding=none" in settings)
    ]  # fmt: skip
    stockenh("train", *kept, *settings, "hydra.run.dir=run", code=0)
    stockenh("export", "run=run", code=0)
    expected = predicted(stockenh, "run", bars, here / "forecast")
    forecaster = example("serve").Forecaster("run/export")
    for name in ("PLAIN", "LONG"):
        found = forecaster((bars / f"{name}.csv").read_bytes(), name)
        assert_same(found, expected)
        scale = "score" if "target=volatility_scaled" in settings else "ret"
        assert set(found[0]) == {"symbol", "date", "horizon", "up_prob", scale} | more


def loaded(data=None, embedding=None, names=(), static=()):
    windows = plain_windows(Bars.from_series([("A", *smooth_series(1, 60))]))
    config = SimpleNamespace(data=data or FilesData(path="."), embedding=embedding or KernelEmbedding())
    changed = SimpleNamespace(config=config, prepared=SimpleNamespace(windows=windows))
    object.__setattr__(windows, "context_names", tuple(names))
    object.__setattr__(windows, "static_names", tuple(static))
    return changed


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (loaded(data=FilesData(path=".", market=True)), "all symbols"),
        (loaded(embedding=StoredEmbedding()), "another model"),
        (loaded(embedding=KernelEmbedding(shuffle=True)), "another"),
        (loaded(names=["rsi_14", "sentiment"]), "sentiment"),
        (loaded(names=["rsi_14"], static=["sector"]), "sector"),
        (loaded(), None),
        (loaded(embedding=NoEmbedding()), None),
    ],
)
def test_it_says_where_bars_do_not_suffice(run, message):
    reason = unavailable(run)
    assert reason is message is None or message in reason


def test_without_bars_the_model_alone_is_exported(stockenh, here):
    write_windows(here / "windows.parquet", 300, 1, planted=3)
    stockenh(
        "train", "data=windows", "data.path=windows.parquet", "embedding=stored", "train.epochs=1",
        "device=cpu", "model.layers=1", "model.d_model=16", "model.heads=2", "model.ffn=16", *QUICK,
        "hydra.run.dir=run", code=0,
    )  # fmt: skip
    answer = stockenh("export", "run=run", code=0)
    assert "not exported: the run's data are ready windows" in answer.out
    manifest = json.loads(Path("run/export/manifest.json").read_text())
    assert manifest["bars"] is None and "ready windows" in manifest["bars_unavailable"]
    assert not Path("run/export/features.onnx").exists()
    with pytest.raises(ValueError, match="ready windows"):
        example("serve").Forecaster("run/export")
