"""Test-time augmentation and forecasts: off equals plain, on by hand, and a moved run says the same."""

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch
import yaml
from bars import write_bars, write_ready_windows
from processes import run as command
from torch import nn

from stockenh.config import build
from stockenh.config.compose import compose
from stockenh.config.schema import TtaPredictConfig, parse, plain
from stockenh.data.batches import DeviceWindows
from stockenh.data.fitted import Fitted
from stockenh.data.prices import RawNoise, normalise
from stockenh.errors import ConfigError, RunFolderError
from stockenh.evaluation.metrics import calibration_metrics, part_metrics
from stockenh.inference.calibration import Calibration
from stockenh.inference.predict import Confidence, Views, forecast, predict, read_confidences

CPU = torch.device("cpu")


class Close(nn.Module):
    """Forecasts the normalised last close, and twice it as the logit of up."""

    def forward(self, x_price, x_embedding, x_ctx):
        assert len(x_price) == len(x_embedding) == len(x_ctx)
        ret = x_price[:, -1, 3:4].repeat(1, 3)
        return {"ret": ret, "up_logits": 2 * ret, "up_prob": torch.sigmoid(2 * ret)}


@pytest.fixture(scope="module")
def small(small_run):
    """The small run's data on the device, with a network."""
    config = parse(plain(compose(small_run)))
    prepared = build.data(config, CPU)
    fitted = Fitted.fit(prepared.windows, prepared.rows["train"])
    resident = DeviceWindows(prepared.windows, prepared.embedding, fitted, CPU)
    return SimpleNamespace(
        net=build.model(config, prepared, CPU), prepared=prepared, rows=prepared.rows["val"], fitted=fitted,
        resident=resident, windows=prepared.windows,
    )  # fmt: skip


def forecast_of(small, views, rows=None, net=None, calibration=None):
    rows = small.rows if rows is None else rows
    calibration = calibration or Calibration.identity(3)
    return forecast(net or small.net, small.resident, rows, small.fitted, calibration, views)


def test_without_views_it_is_the_plain_forecast_to_the_last_bit(small):
    small.net.train()
    calibration = Calibration((1.7, 0.6, 1.0), (0.3, -0.2, 0.0))
    state = torch.get_rng_state()
    found = forecast_of(small, Views(0, RawNoise(), 1), calibration=calibration)
    plainly = predict(small.net, small.resident, small.rows, small.fitted)
    assert (found.ret == plainly.ret).all()
    assert (found.up_prob == calibration.apply(plainly.up_logits)).all()
    assert found.uncertainty is None
    assert small.net.training and torch.equal(state, torch.get_rng_state())


def test_views_by_hand(small):
    views = Views(2, RawNoise(price=0.05, volume=0.3), seed=11)
    found = forecast_of(small, views, net=Close(), calibration=Calibration((2.0, 1.0, 1.0), (0.0, 0.5, 0.0)))

    lookback, end = small.windows.lookback, small.windows.end[small.rows[7]]
    raw = torch.from_numpy(small.windows.bars.ohlcv[end - lookback + 1 : end + 1].astype(np.float32))
    draws = torch.randn(2, 1, lookback, 5, generator=torch.Generator().manual_seed(11))
    seen = [normalise(raw[None]), *(normalise(views.noise.apply(raw, draw)) for draw in draws)]
    close = np.array([float(window[0, -1, 3]) for window in seen])
    assert len(set(close.tolist())) == 3
    up = 1 / (1 + np.exp(-np.stack([2 * close / 2, 2 * close + 0.5, 2 * close])))
    assert found.ret[7] == pytest.approx(close.mean() * np.array(small.fitted.return_std), rel=1e-6)
    assert found.up_prob[7] == pytest.approx(up.mean(1), rel=1e-6)
    assert found.uncertainty[7] == pytest.approx(up.std(1), rel=1e-4)


def test_a_window_s_forecast_depends_on_its_seed_and_on_no_other_window(small):
    def run(rows, seed):
        return forecast_of(small, Views(4, RawNoise(), seed), rows).up_prob

    together = run(small.rows, 1)
    assert (together == run(small.rows, 1)).all() and (together != run(small.rows, 2)).any()
    np.testing.assert_allclose(run(small.rows[5:6], 1), together[5:6], rtol=1e-5)
    np.testing.assert_allclose(run(small.rows[::-1].copy(), 1), together[::-1], rtol=1e-5)


def test_views_in_bf16_are_those_of_autocast_and_a_window_by_itself_is_not(small):
    class Low(nn.Module):
        def forward(self, *inputs):
            with torch.autocast("cpu", torch.bfloat16):
                return small.net(*inputs)

    def run(count, precision, net=None):
        return forecast_of(small, Views(count, RawNoise(), 3, precision), small.rows[:20], net).up_prob

    assert (run(0, "bf16") == run(0, "fp32")).all()
    small.net.eval()
    expected = run(4, "fp32", Low())
    assert (run(4, "bf16") == expected).all()
    assert (expected != run(4, "fp32")).any()
    np.testing.assert_allclose(expected, run(4, "fp32"), atol=0.02)


def test_the_cutoff_is_the_margin_that_the_coverage_exceeds():
    margin = np.stack([np.arange(101.0) / 1000, np.arange(101.0) / 500], 1)
    sides = np.where(np.arange(101) % 2, 1, -1)[:, None]  # a forecast of 40% is as sure as one of 60%
    made = Confidence.of(0.5 + sides * margin)
    np.testing.assert_allclose(made.cutoff(0.2), [0.08, 0.16])
    np.testing.assert_allclose(made.cutoff(0.205), [0.0795, 0.159])
    assert read_confidences(json.loads(json.dumps({"raw": made.to_dict()})), 2) == {"raw": made}


@pytest.mark.parametrize(
    "values",
    [
        [],
        {"margin": [[0.0] * 101]},
        {"margin": [[0.0] * 100] * 2},
        {"margin": [[0.4, *[0.0] * 100]] * 2},
        {"margin": [[0.6] * 101] * 2},
        {"margin": [[float("nan")] * 101] * 2},
        {"margin": {}},
        {"margin": [[0.0] * 101] * 2, "tta": {}},
        {"tta": {}},
    ],
)
def test_untrusted_margins_are_checked(values):
    with pytest.raises(RunFolderError, match=r"confidence\.json"):
        read_confidences({"raw": values}, 2)


def test_the_spreads_that_version_0_1_kept_are_no_margins():
    made = Confidence.of(np.full((5, 2), 0.6))
    old = {"tta": {"views": 4, "price": 0.002}, "levels": [[0.0] * 101] * 2}
    assert read_confidences({"ema": old, "raw": made.to_dict()}, 2) == {"raw": made}


def parsed(*settings):
    config = plain(compose(settings, "tta_predict"))
    return parse({**plain(compose([])), **{k: v for k, v in config.items() if k != "run"}}, TtaPredictConfig)


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("tta.views=-1", "at least 0"),
        ("tta.views=two", "a whole number"),
        ("tta.price=-1", ""),
        ("tta.coverage=0", ""),
        ("tta.precision=fp16", ""),
        ("tta.precision=bf16 tta.engine=onnx", "tta.engine=torch"),
        ("tta.from=yesterday", "not a date"),
        ("tta.to=2020-13-01", "not a date"),
        ("tta.from=2020-02-01 tta.to=2020-01-01", "lies after tta.to=2020-01-01"),
        ("+tta.since=2020-01-01", "no such setting"),
        ("+tta.wievs=3", "no such setting"),
    ],
)
def test_wrong_settings_name_their_key(setting, says):
    with pytest.raises(ConfigError) as raised:
        parsed(*setting.split())
    key = setting.split()[0].removeprefix("+")
    assert (key.split("=")[0] if setting[0] == "+" else key) in str(raised.value)
    assert says in str(raised.value)


@pytest.fixture(scope="module")
def run(small_run, tmp_path_factory):
    """A finished run with raw and EMA weights, trained in a process of its own."""
    folder = tmp_path_factory.mktemp("run") / "a run (1)"
    done = command("train", *small_run, "averaging=ema", "train.epochs=2", f"hydra.run.dir={folder}")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def tta_predict(stockenh, here):
    """Runs the command; the forecast that it left in out/, and what it printed."""

    def made(*arguments):
        answer = stockenh("tta-predict", *arguments, "device=cpu", "hydra.run.dir=out")
        assert answer.code == 0, answer.err
        return pl.read_parquet("out/forecast.parquet"), answer.out

    return made


@pytest.fixture
def refusal(stockenh, here):
    """Runs the command, which must refuse in one line, and returns that line."""

    def made(*arguments, command="tta-predict"):
        answer = stockenh(command, *arguments)
        assert answer.code == 2 and answer.err.startswith("stockenh: "), answer
        assert len(answer.err.splitlines()) == 1
        return answer.err

    return made


def moved(run, folder, bars_folder):
    """A copy of the run whose data is not where it was."""
    copy = shutil.copytree(run, folder)
    config = (copy / "config.yaml").read_text()
    (copy / "config.yaml").write_text(config.replace(str(bars_folder), "/nowhere/bars"))
    return copy


def dates(asof):
    """Settings for a forecast of every date from the first to the last."""
    return [f"tta.from={str(asof.min())[:10]}", f"tta.to={str(asof.max())[:10]}"]


def test_the_newest_bar_of_every_symbol(run, tta_predict, here, pictures):
    frame, _ = tta_predict(f"run={run}")
    own = ["symbol", "date", "horizon", "ret", "up_prob", "uncertainty", "confident"]
    assert frame.columns == [*own, "score", "rank"]
    assert frame.select("symbol", "horizon").rows() == [(s, h) for s in ("AAA", "BBB") for h in (3, 5, 10)]
    newest = np.busday_offset("2020-01-01", 159, roll="forward").astype(object)
    assert frame["date"].unique().to_list() == [newest]
    assert frame["up_prob"].is_between(0, 1).all() and (frame["uncertainty"] > 0).all()
    assert frame["confident"].dtype == pl.Boolean and frame["confident"].null_count() == 0
    assert frame.equals(pl.read_csv("out/forecast.csv", try_parse_dates=True))
    assert (here / "out/forecast.png").read_bytes().startswith(b"\x89PNG")
    assert yaml.safe_load(Path("out/.hydra/config.yaml").read_text())["data"]["lookback"] == 20


def test_moved_without_its_data_it_forecasts_what_the_training_process_did(run, bars_folder, small, here):
    copy, data = moved(run, here / "run", bars_folder), shutil.copytree(bars_folder, here / "bars")
    rows, windows = small.prepared.rows["test"], small.windows
    settings = (f"data.path={data}", "tta.views=0", *dates(windows.asof[rows]), "hydra.run.dir=out")
    done = command("tta-predict", f"run={copy}", *settings)
    assert done.returncode == 0, done.stderr
    frame = pl.read_parquet("out/forecast.parquet")
    assert frame["uncertainty"].null_count() == len(frame) and frame["confident"].null_count() == 0
    ret, up_prob = (frame[name].to_numpy().reshape(-1, 3) for name in ("ret", "up_prob"))
    assert len(ret) == len(rows)
    found = part_metrics(ret, up_prob, windows.y_ret[rows], windows.asof[rows], (3, 5, 10), None)
    scores = calibration_metrics(up_prob, up_prob, windows.y_ret[rows], (3, 5, 10))
    expected = json.loads((run / "summary.json").read_text())["parts"]["test"]
    for horizon, figures in found.items():  # sums of all forecasts, equal to the last bit
        assert figures["mae"] == expected[horizon]["mae"]
        for name in ("log_loss_calibrated", "brier_calibrated"):
            assert scores[horizon][name] == expected[horizon][name]


@pytest.mark.parametrize("views", [0, 4])
def test_confident_is_the_requested_share_of_validation_that_is_farthest_from_even(
    run, tta_predict, small, views
):
    asof = small.windows.asof[small.rows]
    # the cut-off is that of plain forecasts, which views move a little
    few = (1.5 if views == 0 else 6) / len(asof)
    for coverage in (0.2, 0.7):
        given = (*dates(asof), f"tta.coverage={coverage}", f"tta.views={views}")
        frame, printed = tta_predict(f"run={run}", *given)
        assert f"farther from 50% than {1 - coverage:.0%} of the validation forecasts" in printed
        for _, horizon in frame.group_by("horizon"):
            assert horizon["confident"].mean() == pytest.approx(coverage, abs=few)
            margin = (horizon["up_prob"] - 0.5).abs()
            sure, unsure = (margin.filter(horizon["confident"] == c) for c in (True, False))
            assert sure.min() > unsure.max()


def test_symbols_that_training_never_saw_too_short_ones_and_one_after_a_gap(run, tta_predict, refusal, here):
    folder = here / "mine"
    folder.mkdir()
    for seed, (name, bars) in enumerate({"NEW": 20, "SHORT": 19, "GAP": 160}.items(), start=7):
        write_bars(folder / f"{name}.csv", seed=seed, bars=bars)  # NEW: one window, and no bar for a label
    head, *lines = (folder / "GAP.csv").read_text().splitlines()
    (folder / "GAP.csv").write_text("\n".join([head, *lines[:100], *lines[145:]]) + "\n")
    mine, too_short = [f"run={run}", "data=files", f"data.path={folder}"], "where data.lookback is 20"
    frame, printed = tta_predict(*mine)
    assert f"left out SHORT: 19 bars up to 2020-01-27, {too_short}" in printed
    assert f"left out GAP: 15 bars since its last gap up to 2020-08-11, {too_short}" in printed
    assert frame["symbol"].unique().to_list() == ["NEW"]  # no old forecast for GAP
    assert str(frame["date"][0]) == (folder / "NEW.csv").read_text().splitlines()[-1].split(",")[0]
    config = yaml.safe_load(Path("out/.hydra/config.yaml").read_text())["data"]
    assert (config["lookback"], config["horizons"], config["path"]) == (20, [3, 5, 10], str(folder))

    early = ["tta.from=2020-01-01", "tta.to=2020-01-27"]
    assert f"{' '.join(early)}: no bar of these dates" in refusal(*mine, *early, "hydra.run.dir=then")
    _, printed = tta_predict(*mine, "tta.from=2020-03-02")
    assert f"left out SHORT: 19 bars up to 2020-01-27, {too_short}" in printed
    only = "no window ends on these dates; the first ends on 2020-01-28, the last on 2020-01-28"
    assert f"left out NEW: {only}" in printed and "left out GAP" not in printed


def test_weights_are_chosen_by_name(run, tta_predict):
    raw, ema = (tta_predict(f"run={run}", f"weights={name}")[0]["ret"].to_list() for name in ("raw", "ema"))
    assert raw != ema
    chosen = json.loads((run / "summary.json").read_text())["weights"]
    assert tta_predict(f"run={run}")[0]["ret"].to_list() == {"raw": raw, "ema": ema}[chosen]


def test_a_moved_run_has_its_cutoff_for_any_views_and_one_of_version_0_1_has_none(
    run, tta_predict, here, bars_folder
):
    elsewhere = [f"run={moved(run, here / 'moved', bars_folder)}", f"data.path={bars_folder}", "tta.views=2"]
    frame, printed = tta_predict(*elsewhere)
    assert frame["confident"].null_count() == 0 and "confident is unknown" not in printed
    old = {"tta": {"views": 4}, "levels": [[0.0] * 101] * 3}
    (here / "moved/confidence.json").write_text(json.dumps({"raw": old, "ema": old}))
    frame, printed = tta_predict(*elsewhere)
    assert frame["confident"].null_count() == len(frame) and frame["uncertainty"].null_count() == 0
    assert "confident is unknown: an older version" in " ".join(printed.split())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
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
        (["run={run}", "weights=../raw"], "weights=../raw: no such weights"),
        (["run={run}", "los=focal"], "los: no such key"),
        (["run={run}", "data.path=/nowhere"], "/nowhere: no such file or folder"),
        (["run={run}", "hydra.run.dir={run}"], "holds a run: the forecast takes"),
        (["run=nowhere"], "nowhere: no such folder"),
        (["tta.views=3"], "run= must be given"),
        ([], "run= must be given"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_clear_line(run, refusal, here, arguments, says):
    (here / "short").mkdir()
    write_bars(here / "short" / "AAA.csv", seed=0, bars=15)
    assert says.format(run=run) in refusal(*(a.format(run=run, short=here / "short") for a in arguments))


@pytest.mark.parametrize("command", ["train", "find-lr"])
def test_what_trains_does_not_take_a_finished_run(refusal, command):
    line = refusal("run=x", command=command)
    assert f"run is not a key of stockenh {command}" in line
    assert ("init_from=RUN" in line) == (command == "train")  # which alone has that key


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("summary.json", None, "is not finished: continue it with stockenh train resume="),
        ("summary.json", "[]", "summary.json does not hold what stockenh writes"),
        ("summary.json", '{"weights": "../../x"}', "summary.json does not hold what stockenh writes"),
        ("calibration.json", None, "lacks calibration.json"),
        ("calibration.json", "{}", "says nothing of the"),
        ("calibration.json", '{"raw": {"temperature": [0.0], "bias": [0.0]}}', "calibration.json"),
        ("confidence.json", '{"raw": 1}', "confidence.json"),
        ("config.yaml", "seed: ${oc.env:HOME}", "config.yaml"),
        ("weights/raw.safetensors", "nonsense", "is cut short or damaged"),
    ],
)
def test_an_untrusted_folder_is_refused_in_a_line(run, refusal, here, file, content, says):
    copy = shutil.copytree(run, here / "copy")
    (copy / file).unlink()
    if content is not None:
        (copy / file).write_text(content)
    weights = [] if file == "summary.json" else ["weights=raw"]
    assert says in refusal(f"run={copy}", *weights)


def test_a_dollar_in_an_untrusted_config_is_a_dollar(run, refusal, here):
    copy = shutil.copytree(run, here / "copy")
    config = yaml.safe_load((copy / "config.yaml").read_text())
    config["data"]["path"] = "${oc.env:HOME}/${now:%Y}'\"[x"
    (copy / "config.yaml").write_text(yaml.safe_dump(config))
    line = refusal(f"run={copy}")
    assert "${oc.env:HOME}/${now:%Y}'\"[x: no such file or folder" in line
    assert os.environ["HOME"] not in line.replace(str(here), "")


def test_ready_windows_are_forecast_plainly_and_it_is_reported(stockenh, tta_predict, refusal, small_run):
    write_ready_windows("w.parquet")
    shape = [a for a in small_run if a.startswith(("model", "train", "split", "device"))]
    ready = ["data=windows", "data.path=w.parquet", *shape]
    answer = stockenh("train", *ready, "hydra.run.dir=run")
    assert answer.code == 0, answer.err
    frame, printed = tta_predict("run=run")
    assert "data=windows has no raw bars to add noise to" in printed
    assert len(frame) == 6 and frame["uncertainty"].null_count() == 6
    assert frame["confident"].null_count() == 0
    line = refusal(*ready, "augment=noise", command="train")
    assert "augment needs raw bars, and data=windows has none" in line


def test_a_grid_of_forecasts(run, stockenh, here):
    answer = stockenh("tta-predict", f"run={run}", "weights=raw,ema", "-m", "hydra.sweep.dir=grid")
    assert answer.code == 0, answer.err
    assert len(list(Path("grid").glob("*/forecast.csv"))) == 2
