"""Test-time augmentation and forecasts: off equals plain, on by hand, and a moved run says the same."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
import yaml
from bars import write_bars
from processes import run as command
from torch import nn

from stockenh.config import build
from stockenh.config.compose import compose
from stockenh.config.schema import RunConfig, TtaPredictConfig, parse, plain
from stockenh.data.batches import DeviceWindows
from stockenh.data.fitted import Fitted
from stockenh.data.prices import RawNoise, normalise
from stockenh.errors import ConfigError, RunFolderError
from stockenh.evaluation.metrics import part_metrics
from stockenh.inference.calibration import Calibration
from stockenh.inference.predict import Confidence, Views, forecast, predict, read_confidences

CPU = torch.device("cpu")
COLUMNS = ["symbol", "date", "horizon", "ret", "up_prob", "uncertainty", "confident"]


class Close(nn.Module):
    """Forecasts the normalised last close, and twice it as the logit of up."""

    def forward(
        self, x_price: torch.Tensor, x_embedding: torch.Tensor, x_ctx: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        assert len(x_price) == len(x_embedding) == len(x_ctx)
        ret = x_price[:, -1, 3:4].repeat(1, 3)
        return {"ret": ret, "up_logits": 2 * ret, "up_prob": torch.sigmoid(2 * ret)}


class Prepared:
    """The small run's data on the device."""

    def __init__(self, small_run: list[str]) -> None:
        self.config: RunConfig = parse(plain(compose(small_run)))
        self.prepared = build.data(self.config, CPU)
        self.rows = self.prepared.rows["val"]
        self.fitted = Fitted.fit(self.prepared.windows, self.prepared.rows["train"])
        self.resident = DeviceWindows(self.prepared.windows, self.prepared.embedding, self.fitted, CPU)


@pytest.fixture(scope="module")
def small(small_run: list[str]) -> Prepared:
    return Prepared(small_run)


def test_without_views_it_is_the_plain_forecast_to_the_last_bit(small: Prepared) -> None:
    net = build.model(small.config, small.prepared, CPU)
    calibration = Calibration((1.7, 0.6, 1.0), (0.3, -0.2, 0.0))
    state = torch.get_rng_state()
    found = forecast(net, small.resident, small.rows, small.fitted, calibration, Views(0, RawNoise(), 1))
    plainly = predict(net, small.resident, small.rows, small.fitted)
    assert (found.ret == plainly.ret).all()
    assert (found.up_prob == calibration.apply(plainly.up_logits)).all()
    assert found.uncertainty is None
    assert net.training and torch.equal(state, torch.get_rng_state())


def test_views_by_hand(small: Prepared) -> None:
    views = Views(2, RawNoise(price=0.05, volume=0.3), seed=11)
    calibration = Calibration((2.0, 1.0, 1.0), (0.0, 0.5, 0.0))
    found = forecast(Close(), small.resident, small.rows, small.fitted, calibration, views)

    windows, lookback = small.prepared.windows, small.prepared.windows.lookback
    end = windows.end[small.rows[7]]
    raw = torch.from_numpy(windows.bars.ohlcv[end - lookback + 1 : end + 1].astype(np.float32))
    draws = torch.randn(2, 1, lookback, 5, generator=torch.Generator().manual_seed(11))
    seen = [normalise(raw[None]), *(normalise(views.noise.apply(raw, draw)) for draw in draws)]
    close = np.array([float(window[0, -1, 3]) for window in seen])
    assert len(set(close.tolist())) == 3
    for horizon, logits in enumerate((2 * close / 2, 2 * close + 0.5, 2 * close)):
        up = 1 / (1 + np.exp(-logits))
        assert found.ret[7, horizon] == pytest.approx(
            close.mean() * small.fitted.return_std[horizon], rel=1e-6
        )
        assert found.up_prob[7, horizon] == pytest.approx(up.mean(), rel=1e-6)
        assert found.uncertainty is not None
        assert found.uncertainty[7, horizon] == pytest.approx(up.std(), rel=1e-4)


def test_a_window_s_forecast_depends_on_its_seed_and_on_no_other_window(small: Prepared) -> None:
    net = build.model(small.config, small.prepared, CPU)
    identity = Calibration.identity(3)

    def run(rows: np.ndarray, seed: int) -> np.ndarray:
        views = Views(4, RawNoise(), seed)
        return forecast(net, small.resident, rows, small.fitted, identity, views).up_prob

    together = run(small.rows, 1)
    assert (together == run(small.rows, 1)).all()
    assert (together != run(small.rows, 2)).any()
    np.testing.assert_allclose(run(small.rows[5:6], 1), together[5:6], rtol=1e-5)
    np.testing.assert_allclose(run(small.rows[::-1].copy(), 1), together[::-1], rtol=1e-5)


def test_views_in_bf16_are_those_of_autocast_and_a_window_by_itself_is_not(small: Prepared) -> None:
    net = build.model(small.config, small.prepared, CPU)
    identity, rows = Calibration.identity(3), small.rows[:20]

    class Low(torch.nn.Module):
        def forward(self, *inputs: torch.Tensor) -> dict[str, torch.Tensor]:
            with torch.autocast("cpu", torch.bfloat16):
                return net(*inputs)

    def run(count: int, precision: str, by: torch.nn.Module = net) -> np.ndarray:
        views = Views(count, RawNoise(), 3, precision)
        return forecast(by, small.resident, rows, small.fitted, identity, views).up_prob

    assert (run(0, "bf16") == run(0, "fp32")).all()
    net.eval()
    expected = run(4, "fp32", Low())
    assert (run(4, "bf16") == expected).all()
    assert (expected != run(4, "fp32")).any()
    np.testing.assert_allclose(expected, run(4, "fp32"), atol=0.02)


def test_cutoffs_of_bf16_are_not_those_of_fp32() -> None:
    assert Views(4, RawNoise(), 1).to_dict() != Views(4, RawNoise(), 1, "bf16").to_dict()


def test_the_cutoff_is_the_quantile_at_the_coverage() -> None:
    uncertainty = np.stack([np.arange(101.0), 10 * np.arange(101.0)], 1)
    made = Confidence.of(uncertainty, Views(4, RawNoise(), 1))
    np.testing.assert_allclose(made.cutoff(0.2), [20, 200])
    np.testing.assert_allclose(made.cutoff(0.205), [20.5, 205])
    assert read_confidences(json.loads(json.dumps({"raw": made.to_dict()})), 2) == {"raw": made}


@pytest.mark.parametrize(
    "values",
    [
        [],
        {"tta": {}, "levels": [[0.0] * 101]},
        {"tta": {}, "levels": [[0.0] * 100] * 2},
        {"tta": {}, "levels": [[1.0, *[0.0] * 100]] * 2},
        {"tta": {}, "levels": [[float("nan")] * 101] * 2},
        {"tta": [], "levels": [[0.0] * 101] * 2},
    ],
)
def test_a_stranger_s_levels_are_checked(values: object) -> None:
    with pytest.raises(RunFolderError, match=r"confidence\.json"):
        read_confidences({"raw": values}, 2)


def parsed(*settings: str) -> TtaPredictConfig:
    config = plain(compose(settings, "tta_predict"))
    return parse({**plain(compose([])), **{k: v for k, v in config.items() if k != "run"}}, TtaPredictConfig)


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("tta.views=-1", "tta.views=-1 must be at least 0"),
        ("tta.views=two", "tta.views=two is not a whole number"),
        ("tta.price=-1", "tta.price=-1"),
        ("tta.coverage=0", "tta.coverage=0"),
        ("tta.precision=fp16", "tta.precision=fp16"),
        ("tta.precision=bf16 tta.engine=onnx", "tta.precision=bf16 is for tta.engine=torch"),
        ("tta.from=yesterday", "tta.from=yesterday is not a date"),
        ("tta.to=2020-13-01", "tta.to=2020-13-01 is not a date"),
        ("+tta.since=2020-01-01", "tta.since: no such setting"),
        ("+tta.wievs=3", "tta.wievs: no such setting"),
    ],
)
def test_wrong_settings_name_their_key(setting: str, says: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parsed(*setting.split())
    assert says in str(raised.value)


def test_dates_in_the_wrong_order() -> None:
    with pytest.raises(ConfigError, match=r"tta\.from=2020-02-01 lies after tta\.to=2020-01-01"):
        parsed("tta.from=2020-02-01", "tta.to=2020-01-01")


@pytest.fixture(scope="module")
def run(small_run: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with raw and EMA weights, trained in a process of its own."""
    folder = tmp_path_factory.mktemp("run") / "a run (1)"
    done = command("train", *small_run, "averaging=ema", "train.epochs=2", f"hydra.run.dir={folder}")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


Predict = Callable[..., pl.DataFrame]


@pytest.fixture
def tta_predict(stockenh: Callable[..., object], here: Path) -> Predict:
    """Runs the command, and reads what it left."""

    def made(*arguments: str) -> pl.DataFrame:
        answer = stockenh("tta-predict", *arguments, "device=cpu", "hydra.run.dir=out")
        assert answer.code == 0, answer.err
        return pl.read_parquet("out/forecast.parquet")

    return made


def test_the_newest_bar_of_every_symbol(run: Path, tta_predict: Predict, here: Path, pictures: None) -> None:
    frame = tta_predict(f"run={run}")
    assert frame.columns == COLUMNS
    assert frame.select("symbol", "horizon").rows() == [(s, h) for s in ("AAA", "BBB") for h in (3, 5, 10)]
    newest = np.busday_offset("2020-01-01", 159, roll="forward").astype(object)
    assert frame["date"].unique().to_list() == [newest]
    assert frame["up_prob"].is_between(0, 1).all() and (frame["uncertainty"] > 0).all()
    assert frame["confident"].dtype == pl.Boolean and frame["confident"].null_count() == 0
    assert frame.equals(pl.read_csv("out/forecast.csv", try_parse_dates=True))
    assert (here / "out/forecast.png").read_bytes().startswith(b"\x89PNG")
    assert yaml.safe_load(Path("out/.hydra/config.yaml").read_text())["data"]["lookback"] == 20


def test_moved_without_its_data_it_forecasts_what_the_training_process_did(
    run: Path, bars_folder: Path, small: Prepared, tmp_path: Path
) -> None:
    moved = Path(shutil.copytree(run, tmp_path / "elsewhere" / "run"))
    data = Path(shutil.copytree(bars_folder, tmp_path / "elsewhere" / "bars"))
    config = (moved / "config.yaml").read_text()
    (moved / "config.yaml").write_text(config.replace(str(bars_folder), "/nowhere/bars"))
    rows, windows = small.prepared.rows["test"], small.prepared.windows
    first, last = (str(time)[:10] for time in (windows.asof[rows].min(), windows.asof[rows].max()))
    asked = [f"run={moved}", f"data.path={data}", "tta.views=0", f"tta.from={first}", f"tta.to={last}"]
    done = command("tta-predict", *asked, f"hydra.run.dir={tmp_path}/out")
    assert done.returncode == 0, done.stderr

    frame = pl.read_parquet(tmp_path / "out" / "forecast.parquet")
    assert frame["uncertainty"].null_count() == frame["confident"].null_count() == len(frame)
    ret, up_prob = (frame[name].to_numpy().reshape(-1, 3) for name in ("ret", "up_prob"))
    assert len(ret) == len(rows)
    found = part_metrics(ret, up_prob, windows.y_ret[rows], windows.asof[rows], (3, 5, 10), resamples=0)
    told = json.loads((run / "summary.json").read_text())["parts"]["test"]
    for horizon, figures in found.items():  # sums of all forecasts, equal to the last bit
        assert figures["mae"] == told[horizon]["mae"]
        assert figures["log_loss"] == told[horizon]["log_loss_calibrated"]
        assert figures["brier"] == told[horizon]["brier_calibrated"]


def test_confident_is_the_share_of_validation_that_was_asked_for(
    run: Path, tta_predict: Predict, small: Prepared
) -> None:
    asof = small.prepared.windows.asof[small.rows]
    dates = [f"tta.from={str(asof.min())[:10]}", f"tta.to={str(asof.max())[:10]}"]
    seed = "seed=42"
    for coverage in (0.2, 0.7):
        frame = tta_predict(f"run={run}", *dates, seed, f"tta.coverage={coverage}")
        for _, of_horizon in frame.group_by("horizon"):
            assert of_horizon["confident"].mean() == pytest.approx(coverage, abs=1.5 / len(asof))
            sure, unsure = (of_horizon.filter(pl.col("confident") == c)["uncertainty"] for c in (True, False))
            assert sure.max() <= unsure.min()


def test_symbols_that_training_never_saw_and_too_short_ones(
    run: Path, stockenh: Callable[..., object], here: Path
) -> None:
    folder = here / "mine"
    folder.mkdir()
    write_bars(folder / "NEW.csv", seed=7, bars=20)  # one window, and no bar for a label
    write_bars(folder / "SHORT.csv", seed=8, bars=19)
    lines = (folder / "NEW.csv").read_text().splitlines()
    answer = stockenh("tta-predict", f"run={run}", "data=files", f"data.path={folder}", "hydra.run.dir=out")
    assert answer.code == 0, answer.err
    assert "left out SHORT: 19 bars up to 2020-01-27, where data.lookback is 20" in answer.out
    frame = pl.read_parquet("out/forecast.parquet")
    assert frame["symbol"].unique().to_list() == ["NEW"]
    write_bars(folder / "OLD.csv", seed=9)
    mine = [f"run={run}", "data=files", f"data.path={folder}"]
    ranged = stockenh("tta-predict", *mine, "tta.from=2020-01-01", "tta.to=2020-01-27", "hydra.run.dir=then")
    assert ranged.code == 2 and "tta.from=2020-01-01 tta.to=2020-01-27: no bar of these dates" in ranged.err
    ranged = stockenh("tta-predict", *mine, "tta.from=2020-03-02", "hydra.run.dir=then")
    assert ranged.code == 0, ranged.err
    assert "left out SHORT: 19 bars up to 2020-01-27, where data.lookback is 20" in ranged.out
    told = "left out NEW: no window ends on these dates; the first ends on 2020-01-28, the last on 2020-01-28"
    assert told in ranged.out and "left out OLD" not in ranged.out
    assert str(frame["date"][0]) == lines[-1].split(",")[0]
    log = yaml.safe_load(Path("out/.hydra/config.yaml").read_text())["data"]
    assert (log["lookback"], log["horizons"], log["path"]) == (20, [3, 5, 10], str(folder))


def test_a_symbol_whose_newest_bars_follow_a_gap_gets_no_old_forecast(
    run: Path, stockenh: Callable[..., object], here: Path
) -> None:
    folder = here / "mine"
    folder.mkdir()
    write_bars(folder / "GAP.csv", seed=7)
    write_bars(folder / "OK.csv", seed=8)
    head, *lines = (folder / "GAP.csv").read_text().splitlines()
    (folder / "GAP.csv").write_text("\n".join([head, *lines[:100], *lines[145:]]) + "\n")
    answer = stockenh("tta-predict", f"run={run}", "data=files", f"data.path={folder}", "hydra.run.dir=out")
    assert answer.code == 0, answer.err
    assert (
        "left out GAP: 15 bars since its last gap up to 2020-08-11, where data.lookback is 20" in answer.out
    )
    assert pl.read_csv("out/forecast.csv")["symbol"].unique().to_list() == ["OK"]


def test_weights_are_chosen_by_name(run: Path, tta_predict: Predict) -> None:
    raw, ema = (tta_predict(f"run={run}", f"weights={name}")["ret"].to_list() for name in ("raw", "ema"))
    assert raw != ema
    chosen = json.loads((run / "summary.json").read_text())["weights"]
    assert tta_predict(f"run={run}")["ret"].to_list() == {"raw": raw, "ema": ema}[chosen]


def test_other_views_measure_the_cutoff_anew_and_without_the_data_do_not_guess(
    run: Path, stockenh: Callable[..., object], here: Path, bars_folder: Path
) -> None:
    answer = stockenh("tta-predict", f"run={run}", "tta.views=2", "hydra.run.dir=out")
    assert answer.code == 0, answer.err
    assert pl.read_parquet("out/forecast.parquet")["confident"].null_count() == 0
    moved = Path(shutil.copytree(run, here / "moved"))
    (moved / "config.yaml").write_text(
        (moved / "config.yaml").read_text().replace(str(bars_folder), "/nowhere/bars")
    )
    asked = [f"run={moved}", f"data.path={bars_folder}"]
    answer = stockenh("tta-predict", *asked, "tta.views=2", "hydra.run.dir=out")
    assert answer.code == 0 and "confident is unknown" in answer.out and "/nowhere/bars" in answer.out
    assert pl.read_parquet("out/forecast.parquet")["confident"].null_count() == 6
    answer = stockenh("tta-predict", *asked, "hydra.run.dir=out")
    assert answer.code == 0 and "unknown" not in answer.out
    assert pl.read_parquet("out/forecast.parquet")["confident"].null_count() == 0


def short(folder: Path, bars: int) -> Path:
    folder.mkdir()
    write_bars(folder / "AAA.csv", seed=0, bars=bars)
    return folder


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run={run}", "tta.views=-1"], "tta.views=-1 must be at least 0"),
        (["run={run}", "data.path={short}"], "AAA has 15 bars up to 2020-01-21, where data.lookback is 20"),
        (["run={run}", "tta.to=2020-01-10"], "no bar of these dates has the 20 bars of data.lookback"),
        (["run={run}", "tta.from=2031-01-01"], "no bar of these dates has the 20 bars of data.lookback"),
        (
            ["run={run}", "data.horizons=[1,2,3]"],
            "data.horizons=[1, 2, 3]: run={run} was trained with [3, 5, 10]",
        ),
        (["run={run}", "data=sample", "data.lookback=40"], "data.lookback=40: run={run} was trained with 20"),
        (["run={run}", "model=timeformer_xl"], "model comes from run=RUN"),
        (["run={run}", "experiment=plain"], "experiment comes from run=RUN"),
        (["run={run}", "weights=swa"], "{run} has no swa weights; it has ema, raw"),
        (["run={run}", "weights=../raw"], "has no ../raw weights; it has ema, raw"),
        (["run={run}", "los=focal"], "los: no such key"),
        (["run={run}", "data.path=/nowhere"], "/nowhere: no such file or folder"),
        (["run={run}", "hydra.run.dir={run}"], "holds a run: the forecast takes"),
        (["run=nowhere"], "nowhere: no such folder"),
        (["tta.views=3"], "run= must be given"),
        ([], "run= must be given"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_clear_line(
    run: Path, stockenh: Callable[..., object], here: Path, arguments: list[str], says: str
) -> None:
    folder = short(here / "short", 15)
    answer = stockenh("tta-predict", *(a.format(run=run, short=folder) for a in arguments))
    assert answer.code == 2
    assert says.format(run=run) in answer.err
    assert answer.err.startswith("stockenh: ") and len(answer.err.splitlines()) == 1


@pytest.mark.parametrize("command", ["train", "find-lr"])
def test_what_trains_does_not_take_a_finished_run(
    stockenh: Callable[..., object], here: Path, command: str
) -> None:
    answer = stockenh(command, "run=x")
    assert answer.code == 2 and "run is not a key of stockenh" in answer.err
    assert "init_from=RUN" in answer.err and len(answer.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("summary.json", None, "is not finished: continue it with stockenh train resume="),
        ("summary.json", "[]", "names no weights; choose them with weights=raw"),
        ("summary.json", '{"weights": "../../x"}', "has no ../../x weights"),
        ("calibration.json", None, "lacks calibration.json"),
        ("calibration.json", "{}", "says nothing of the"),
        ("calibration.json", '{"raw": {"temperature": [0.0], "bias": [0.0]}}', "calibration.json"),
        ("confidence.json", '{"raw": 1}', "confidence.json"),
        ("config.yaml", "seed: ${oc.env:HOME}", "config.yaml"),
        ("weights/raw.safetensors", "nonsense", "is cut short or damaged"),
    ],
)
def test_a_stranger_s_folder_is_refused_in_a_line(
    run: Path, stockenh: Callable[..., object], here: Path, file: str, content: str | None, says: str
) -> None:
    copy = Path(shutil.copytree(run, here / "copy"))
    (copy / file).unlink()
    if content is not None:
        (copy / file).write_text(content)
    weights = [] if file == "summary.json" else ["weights=raw"]
    answer = stockenh("tta-predict", f"run={copy}", *weights)
    assert answer.code == 2 and says in answer.err, answer.err
    assert len(answer.err.splitlines()) == 1


def test_a_dollar_in_a_stranger_s_config_is_a_dollar(
    run: Path, stockenh: Callable[..., object], here: Path
) -> None:
    copy = Path(shutil.copytree(run, here / "copy"))
    config = yaml.safe_load((copy / "config.yaml").read_text())
    config["data"]["path"] = "${oc.env:HOME}/${now:%Y}'\"[x"
    (copy / "config.yaml").write_text(yaml.safe_dump(config))
    answer = stockenh("tta-predict", f"run={copy}")
    assert answer.code == 2
    assert "${oc.env:HOME}/${now:%Y}'\"[x: no such file or folder" in answer.err
    assert os.environ["HOME"] not in answer.err.replace(str(here), "")


def test_ready_windows_are_forecast_plainly_and_it_is_said(
    stockenh: Callable[..., object], here: Path, small_run: list[str]
) -> None:
    rng, rows = np.random.default_rng(0), 120
    returns = rng.normal(0, 0.02, (rows, 3))
    days = np.busday_offset("2020-01-01", np.arange(rows), roll="forward").astype("datetime64[ms]")
    columns = {"ohlcv_norm": rng.uniform(-1, 1, (rows, 100)), "kronos_emb": rng.normal(size=(rows, 16))}
    columns |= {"context": rng.normal(size=(rows, 29)), "y_ret": returns, "y_up": (returns > 0).astype(float)}
    pl.DataFrame(
        {"symbol": ["AAA"] * rows, "asof": days, **{k: v.tolist() for k, v in columns.items()}}
    ).write_parquet("w.parquet")
    shape = [a for a in small_run if a.startswith(("model", "train", "split", "device"))]
    answer = stockenh("train", "data=windows", "data.path=w.parquet", *shape, "hydra.run.dir=run")
    assert answer.code == 0, answer.err
    answer = stockenh("tta-predict", "run=run", "hydra.run.dir=out")
    assert answer.code == 0, answer.err
    assert "data=windows has no raw bars to add noise to" in answer.out
    frame = pl.read_parquet("out/forecast.parquet")
    assert len(frame) == 3 and frame["uncertainty"].null_count() == 3
    answer = stockenh("train", "data=windows", "data.path=w.parquet", *shape, "augment=noise")
    assert answer.code == 2 and "augment needs raw bars, and data=windows has none" in answer.err


def test_a_grid_of_forecasts(run: Path, stockenh: Callable[..., object], here: Path) -> None:
    answer = stockenh("tta-predict", f"run={run}", "weights=raw,ema", "-m", "hydra.sweep.dir=grid")
    assert answer.code == 0, answer.err
    assert len(list(Path("grid").glob("*/forecast.csv"))) == 2
