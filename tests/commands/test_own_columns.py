"""A run with the user's own columns, from training to export: what it learns, shows, needs and refuses."""

import json
import shutil

import numpy as np
import polars as pl
import processes
import pytest

from stockenh.config.compose import compose
from stockenh.config.schema import parse, plain
from stockenh.data.cache import DiskCache
from stockenh.data.fitted import Fitted

BARS = 400
DAYS = np.busday_offset("2018-01-01", np.arange(BARS), roll="forward")
SECTORS = {"AAA": "Tech", "BBB": "Energy", "CCC": "Tech"}
SMALL = [
    "data=files", "data.lookback=20", "data.horizons=[1,3]", "embedding=none", "device=cpu",
    "train.batch_size=64", "model.layers=1", "model.d_model=16", "model.heads=2", "model.ffn=16",
    "model.dropout=0",
]  # fmt: skip
COLUMNS = ["data.extra.past=[mood,pe]", "data.extra.static=[sector]"]


def write_market(folder, delay=1, tomorrow=0, without=()):
    """Bars whose return follows `mood` by `delay` bars, beside `pe` with gaps, a `sector`, and `ahead`, the
    return `tomorrow` bars later."""
    folder.mkdir()
    for number, (symbol, sector) in enumerate(SECTORS.items()):
        rng = np.random.default_rng(number)
        mood = rng.choice([-1.0, 1.0], BARS)
        moves = 0.01 * np.append(np.zeros(delay), mood[:-delay]) + rng.normal(0, 0.001, BARS)
        close = 100 * np.exp(moves.cumsum())
        pe = np.where(rng.random(BARS) < 0.3, np.nan, rng.normal(15, 3, BARS))
        ahead = np.append(moves[tomorrow:], np.zeros(tomorrow))
        frame = pl.DataFrame(
            {
                "Date": DAYS, "Open": close * 0.999, "High": close * 1.02, "Low": close * 0.98,
                "Close": close, "Volume": rng.integers(1_000, 9_000, BARS), "mood": mood, "pe": pe,
                "sector": [sector] * BARS, "ahead": ahead,
            }
        )  # fmt: skip
        frame = frame.with_columns(pl.col("pe").fill_nan(None)).drop(without)
        frame.write_csv(folder / f"{symbol}.csv")
    return folder


@pytest.fixture(scope="module")
def bars(tmp_path_factory):
    return write_market(tmp_path_factory.mktemp("own") / "bars")


@pytest.fixture(scope="module")
def own_run(bars, tmp_path_factory):
    """Trained on a market whose next return is known from today's mood, seen without a lag."""
    run = tmp_path_factory.mktemp("own") / "run"
    lag = ["data.extra.lag=0", "train.epochs=15", "train.patience=15"]
    done = processes.run("train", *SMALL, *COLUMNS, *lag, f"data.path={bars}", f"hydra.run.dir={run}")
    assert done.returncode == 0, done.stderr
    return run


def accuracy(run):
    return json.loads((run / "summary.json").read_text())["parts"]["test"]["h1"]["accuracy"]


def windows_of(bars, *overrides):
    config = parse(plain(compose([*SMALL, f"data.path={bars}", *overrides])))
    return config.data.load(DiskCache(None)).windows


def test_a_label_that_depends_on_a_column_is_learned(own_run):
    assert accuracy(own_run) > 0.9
    fitted = json.loads((own_run / "fitted.json").read_text())
    assert fitted["context_names"][-4:] == ["mood", "mood_missing", "pe", "pe_missing"]
    assert fitted["categories"] == {"sector": ["Energy", "Tech"]}


def test_with_the_default_lag_the_value_of_the_same_bar_is_not_seen(bars, tmp_path, stockenh):
    today, lagged = (
        windows_of(bars, "data.extra.past=[mood]", f"data.extra.lag={lag}").context[:, -2] for lag in (0, 1)
    )
    per_symbol = len(today) // 3
    for of_symbol in range(3):
        rows = slice(of_symbol * per_symbol, (of_symbol + 1) * per_symbol)
        np.testing.assert_array_equal(lagged[rows][1:], today[rows][:-1])
    default = windows_of(bars, "data.extra.past=[mood]").context[:, -2]
    np.testing.assert_array_equal(default, lagged)
    # so the next return, which today's mood decides, can't be known
    overrides = [*SMALL, f"data.path={bars}", "data.extra.past=[mood]", "train.epochs=3"]
    stockenh("train", *overrides, f"hydra.run.dir={tmp_path / 'run'}", code=0)
    assert accuracy(tmp_path / "run") < 0.65


def test_without_columns_the_inputs_are_the_29(bars):
    windows = windows_of(bars, "data.extra.past=[]", "data.extra.static=[]")
    assert windows.context.shape[1] == 29 and windows.extra is None
    more = windows_of(bars, *COLUMNS)
    assert more.context[:, :29].tobytes() == windows.context.tobytes()
    assert more.input_names[29:] == ("mood", "mood_missing", "pe", "pe_missing", "sector")


def test_a_changed_file_or_lag_is_read_again_from_a_cache(bars, tmp_path):
    own = tmp_path / "own.csv"
    own.write_text("symbol,date,x\nAAA,2018-01-01,1\n")
    cache = DiskCache(tmp_path / "cache")

    def first(*overrides):
        chosen = [f"data.path={bars}", f"data.extra.path={own}", "data.extra.past=[x]", *overrides]
        config = parse(plain(compose([*SMALL, *chosen])))
        return config.data.load(cache).windows.context[0, -2]

    assert first() == first() == 1
    own.write_text("symbol,date,x\nAAA,2018-01-01,2\n")
    assert first() == 2
    assert np.isnan(first("data.extra.max_age=5"))


def test_forecasts_explanations_and_exports_know_the_columns(own_run, bars, stockenh, tmp_path):
    out = stockenh("explain", f"run={own_run}", "explain.windows=16", "explain.outputs=[up]", code=0).out
    assert "own columns" in out and "mood" in out
    explained = json.loads((own_run / "explain" / "explain.json").read_text())
    assert explained["groups"]["sector"] == explained["groups"]["pe_missing"] == "own columns"
    sizes = {k: v["size"] for k, v in explained["attributions"]["up"]["h1"]["inputs"].items()}
    assert max(sizes, key=sizes.get) == "mood" and sizes["sector"] > 0
    stockenh("export", f"run={own_run}", code=0)
    manifest = json.loads((own_run / "export" / "manifest.json").read_text())
    assert manifest["categories"] == {"sector": ["Energy", "Tech"]}
    assert manifest["inputs"]["category"] == {"shape": ["batch", 1], "dtype": "int64"}
    frames = []
    for engine in ("torch", "onnx"):
        where = tmp_path / engine
        data = ["data=files", f"data.path={bars}", f"tta.engine={engine}", "tta.views=2"]
        stockenh("tta-predict", f"run={own_run}", *data, f"hydra.run.dir={where}", code=0)
        frames.append(pl.read_parquet(where / "forecast.parquet"))
    np.testing.assert_allclose(frames[0]["up_prob"], frames[1]["up_prob"], atol=1e-4)


@pytest.mark.parametrize("missing", ["mood", "sector"])
def test_a_forecast_without_a_column_says_which(own_run, tmp_path, refused, missing):
    other = write_market(tmp_path / "other", without=[missing])
    assert f"'{missing}'" in refused("tta-predict", f"run={own_run}", "data=files", f"data.path={other}")
    assert missing in refused("tta-predict", f"run={own_run}", "data=sample")


def test_a_new_symbol_of_an_unknown_sector_is_forecast(own_run, bars, tmp_path, stockenh):
    new = tmp_path / "bars"
    shutil.copytree(bars, new)
    text = (new / "CCC.csv").read_text().replace("Tech", "Space")
    (new / "DDD.csv").write_text(text)
    (new / "CCC.csv").unlink()
    where = tmp_path / "forecast"
    stockenh(
        "tta-predict", f"run={own_run}", "data=files", f"data.path={new}", f"hydra.run.dir={where}", code=0
    )
    frame = pl.read_parquet(where / "forecast.parquet")
    assert "DDD" in frame["symbol"].to_list() and frame["up_prob"].is_finite().all()


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["data.extra.past=[mood]", "data.extra.static=[]"], ["data.extra", "mood", "pe"]),
        (["data.extra.lag=2"], ["data.extra", "lag: 2", "lag: 0"]),
    ],
)
def test_another_choice_of_columns_than_the_runs_is_refused(own_run, refused, overrides, words):
    for command, key in (("tta-predict", "run"), ("distill", "teacher")):
        line = refused(command, f"{key}={own_run}", *overrides)
        assert all(word in line for word in words), line


def test_a_student_learns_from_a_teacher_with_the_same_columns(own_run, tmp_path, stockenh):
    small = ["model.patch=10", "model.layers=1", "model.d_model=8", "model.heads=1", "model.ffn=8"]
    run = f"hydra.run.dir={tmp_path / 'student'}"
    stockenh(
        "distill",
        f"teacher={own_run}",
        "model=timeformer",
        *small,
        "train.epochs=1",
        "device=cpu",
        run,
        code=0,
    )
    fitted = Fitted.from_dict(json.loads((tmp_path / "student" / "fitted.json").read_text()))
    assert fitted.categories == {"sector": ["Energy", "Tech"]}


@pytest.mark.parametrize(
    ("tomorrow", "lag", "code", "words"),
    [
        (1, 0, 1, ["own columns", "FAIL"]),
        (2, 1, 1, ["own columns", "FAIL"]),
        (1, 1, 0, ["own columns", "warn"]),
    ],
)
def test_the_audit_names_a_column_that_equals_tomorrows_return(
    tmp_path, stockenh, tomorrow, lag, code, words
):
    bars, run = write_market(tmp_path / "bars", tomorrow=tomorrow), tmp_path / "run"
    own = ["data.extra.past=[ahead]", f"data.extra.lag={lag}", "train.epochs=1"]
    stockenh("train", *SMALL, *own, f"data.path={bars}", f"hydra.run.dir={run}", code=0)
    few = ["audit.dates=2", "audit.shuffles=2", "audit.windows=200"]
    stockenh("audit", f"run={run}", *few, code=code)
    found = {
        check["name"]: check for check in json.loads((run / "report" / "audit.json").read_text())["checks"]
    }
    assert found[words[0]]["finding"] == words[1]
    assert "ahead (" in found[words[0]]["measured"]
    assert found["later bars"]["finding"] == "pass"


def test_the_baselines_of_evaluate_get_the_columns(own_run, stockenh):
    stockenh("evaluate", f"run={own_run}", "evaluate.block=10", code=0)
    found = json.loads((own_run / "report" / "evaluation.json").read_text())["horizons"]["h1"]
    assert found["forecasts"]["logistic"]["accuracy"] > 0.9


def test_data_check_lists_what_is_wrong_with_a_column(tmp_path, stockenh):
    bars = write_market(tmp_path / "bars")
    text = (bars / "AAA.csv").read_text().splitlines()
    cells = text[5].split(",")
    cells[6] = "happy"
    text[5] = ",".join(cells)
    (bars / "AAA.csv").write_text("\n".join(text) + "\n")
    found = stockenh("data", "check", str(bars), *COLUMNS, code=0).out
    assert "extra-text" in found and "'happy'" in found and "row 5" in found
    unusable = stockenh("data", "check", str(bars), "data.extra.static=[mood]", code=2).out
    assert "extra-categories" in unusable and "symbol AAA" in unusable.replace("\n", " ")


def test_ready_windows_refuse_own_columns(refused, tmp_path):
    line = refused("train", "data=windows", f"data.path={tmp_path}", "data.extra.past=[mood]")
    assert "data=files" in line
