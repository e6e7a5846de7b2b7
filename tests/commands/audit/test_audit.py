"""`stockenh audit`: each planted leak is named, a clean run passes, bad input gets a line."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from bars import write_bars

from stockenh.commands.audit.checks import _before_last_test
from stockenh.data import features, sources
from stockenh.data.batches import DeviceWindows
from stockenh.data.features import smart_money
from stockenh.data.fitted import Fitted
from stockenh.data.splits import DateSplit

BARS = 300
QUICK = ["audit.dates=2", "audit.shuffles=2", "audit.windows=300"]
TINY = [
    "device=cpu", "data.lookback=20", "data.horizons=[5]", "embedding=none", "train.epochs=1",
    "model.layers=1", "model.d_model=16", "model.heads=2", "model.ffn=16",
]  # fmt: skip
NAMES = features.feature_names(features.FeatureSettings())


@pytest.fixture(scope="module")
def walks(tmp_path_factory):
    """Two random walks."""
    folder = tmp_path_factory.mktemp("walks")
    for seed, symbol in enumerate(("AAA", "BBB")):
        write_bars(folder / f"{symbol}.csv", seed=seed, bars=BARS)
    return folder


@pytest.fixture
def here(here, monkeypatch):
    """With a cache of its own: a planted leak must not find clean features, nor leave its own."""
    monkeypatch.setenv("STOCKENH_CACHE", str(here / "cache"))
    return here


@pytest.fixture
def trained(here, walks, stockenh):
    """Trains on the walks, or as the overrides say, into `run`."""
    data = ["data=files", f"data.path={walks}"]
    return lambda *more: stockenh("train", *TINY, *data, *more, "hydra.run.dir=run", code=0)


@pytest.fixture
def audited(here, trained, stockenh):
    """Trains and audits: the answer and audit.json."""

    def run(*more: str, code: int, audit: tuple[str, ...] = ()):
        trained(*more)
        answer = stockenh("audit", "run=run", *QUICK, *audit, code=code)
        return answer, json.loads((here / "run/report/audit.json").read_text())

    return run


@pytest.fixture
def planted(audited, monkeypatch):
    """Trains and audits where `plant(rows of a series' context, its closes)` changes the context in place."""

    def run(plant):
        clean = features.context_features

        def leaking(bars, settings):
            table = clean(bars, settings).copy()
            for series in range(len(bars.symbols)):
                plant(table[bars.rows(series)], bars.ohlcv[bars.rows(series), 3])
            return table

        monkeypatch.setattr(sources.context, "context_features", leaking)
        return audited(code=1)[1]

    return run


def check(found: dict, name: str) -> dict:
    (one,) = [c for c in found["checks"] if c["name"] == name]
    return one


def test_a_clean_run_passes_and_leaves_its_report(audited, here, pictures):
    answer, found = audited("data.horizons=[3,10]", code=0)
    findings = {c["name"]: c["finding"] for c in found["checks"]}
    assert findings == {
        "later bars": "pass", "standardisers": "pass", "calibration": "pass", "split": "pass",
        "duplicates": "pass", "shared bars": "info", "inputs and labels": "pass", "shuffled labels": "pass",
        "random split": "info",
    }  # fmt: skip
    assert found["leaks"] == [] and "verdict  no leak found by 7 checks" in answer.out
    report = here / "run/report"
    text = (report / "audit.md").read_text()
    assert "**No leak found by 7 checks.**" in text and "| gradient boosting | 10 | random |" in text
    assert (report / "audit.png").stat().st_size > 10_000
    # what the report folder held stays, and the audit's own composed config does not join it
    assert (report / "accuracy.png").exists() and not (report / ".hydra").exists()


@pytest.mark.slow
@pytest.mark.parametrize("data", [["data=sample"], ["data=synthetic", "data.symbols=4", "data.bars=1200"]])
def test_real_bars_and_a_market_with_a_strong_signal_raise_no_alarm(here, stockenh, data):
    recipe = [*TINY, *data, "embedding=kernel", "embedding.width=64", "hydra.run.dir=run"]
    stockenh("train", *recipe, code=0)
    stockenh("audit", "run=run", *QUICK, code=0)
    found = json.loads(Path("run/report/audit.json").read_text())
    of = found["splits"]["gradient boosting"]["h5"]
    assert of["random"]["accuracy"] > of["purged"]["accuracy"] + 0.03


def without_delay(price: np.ndarray, is_swing: np.ndarray) -> np.ndarray:
    last = np.maximum.accumulate(np.where(is_swing, np.arange(len(price)), -1))
    return np.where(last >= 0, price[last], np.nan)


def test_swing_points_without_their_delay_are_caught(audited, monkeypatch):
    monkeypatch.setattr(smart_money, "_last_confirmed", without_delay)
    answer, found = audited(code=1)
    assert found["leaks"] == ["later bars"]
    moved = check(found, "later bars")["figures"]["moved"]
    assert {"swing_high_distance", "swing_low_distance"} <= moved.keys()
    assert not set(moved) & {"rsi_14", "bull_ob_count", "align_1d", "x_price"}
    assert "swing_high_distance" in answer.out and "a leak was found: later bars; see" in answer.err


def test_backfilled_features_are_caught(planted):
    def backfill(context, close):
        rows = context[:, NAMES.index("bos_bull")]
        ahead = np.minimum.accumulate(np.where(rows != 0, np.arange(len(rows)), len(rows) - 1)[::-1])
        rows[:] = rows[ahead[::-1]] * (ahead[::-1] - np.arange(len(rows)))  # bars to the next break

    found = planted(backfill)
    assert found["leaks"][0] == "later bars"
    moved = check(found, "later bars")["figures"]["moved"]
    assert {"bos_bull", "x_ctx"} <= moved.keys() <= {"bos_bull", "x_ctx", "ret", "up_prob"}


def test_a_backfill_of_the_first_bars_alone_is_caught(planted):
    def backfill(context, close):
        rows = context[:, NAMES.index("ema_50")]
        rows[:60] = rows[60]

    assert check(planted(backfill), "later bars")["figures"]["moved"].keys() >= {"ema_50"}


def test_a_label_among_the_features_is_caught(planted):
    def with_label(context, close):
        context[:-5, NAMES.index("macd")] = close[5:] / close[:-5] - 1

    found = planted(with_label)
    assert {"later bars", "inputs and labels"} <= set(found["leaks"])
    assert check(found, "inputs and labels")["figures"]["beyond"] == ["macd"]


def test_a_scaler_fitted_on_all_data_is_caught(audited, monkeypatch):
    fit = Fitted.fit.__func__
    on_all = classmethod(lambda cls, windows, train: fit(cls, windows, np.arange(len(windows))))
    monkeypatch.setattr(Fitted, "fit", on_all)
    _, found = audited(code=1)
    assert found["leaks"] == ["standardisers"]
    assert "fitted.json holds those of all rows" in check(found, "standardisers")["measured"]


def test_a_random_split_is_caught(audited, monkeypatch):
    def random_parts(self, asof, reach):
        return np.random.default_rng(0).choice(3, len(asof), p=[0.7, 0.15, 0.15]).astype(np.int8)

    monkeypatch.setattr(DateSplit, "assign", random_parts)
    _, found = audited(code=1)
    assert {"split", "random split"} <= set(found["leaks"]) <= {"split", "random split", "shuffled labels"}
    split = check(found, "split")
    assert "as in a random split" in split["measured"]
    assert split["figures"]["out_of_order"] > 0.9 * split["figures"]["windows"] * 0.7


def test_a_label_that_reaches_the_model_inside_a_batch_is_caught(audited, monkeypatch):
    clean = DeviceWindows.gather

    def with_label(self, rows, augment):
        micro = clean(self, rows, augment)
        context = micro.x_ctx.clone()
        context[:, 0] = 10 * micro.y_up[:, 0] - 5
        return replace(micro, x_ctx=context)

    monkeypatch.setattr(DeviceWindows, "gather", with_label)
    _, found = audited("optimizer.lr=1e-2", code=1, audit=("audit.epochs=12", "audit.shuffles=3"))
    own = check(found, "shuffled labels")["figures"]["own model"]["h5"]
    assert "shuffled labels" in found["leaks"] and own["low"] > own["majority"] + 0.1


def test_features_of_other_code_in_the_cache_are_reported(trained, stockenh, monkeypatch):
    trained()
    clean = features.context_features
    monkeypatch.setattr(sources.context, "context_features", lambda bars, settings: 2 * clean(bars, settings))
    answer = stockenh("audit", "run=run", *QUICK, code=0)
    assert "the cache holds other values of align_1d" in " ".join(answer.out.split())


NEED_A_TEST_PART = {"split", "duplicates", "calibration", "shared bars", "shuffled labels", "random split"}


@pytest.mark.parametrize(
    ("more", "names"),
    [(["split=all"], NEED_A_TEST_PART), (["data.horizons=[2]", "split=walk_forward", "split.fold=2"], set())],
)
def test_other_splits_are_audited_as_far_as_they_go(audited, more, names):
    _, found = audited(*more, code=0)
    assert {c["name"] for c in found["checks"] if c["finding"] == "n/a"} == names


def test_one_symbol_with_few_bars_is_audited(here, stockenh):
    (here / "one").mkdir()
    write_bars(here / "one" / "A.csv", seed=1, bars=110)
    data = ["data=files", "data.path=one", "data.horizons=[2]", "embedding=kernel", "embedding.width=32"]
    stockenh("train", *TINY, *data, "hydra.run.dir=run", code=0)
    stockenh("audit", "run=run", *QUICK, "hydra.run.dir=there", code=0)
    assert json.loads(Path("there/audit.json").read_text())["leaks"] == []


def test_what_can_not_be_audited_gets_a_line(trained, stockenh, walks, here):
    trained()
    moved = shutil.copytree(walks, here / "moved (1)")
    stockenh("audit", "run=run", *QUICK, f"data.path={moved}", code=0)
    write_bars(moved / "AAA.csv", seed=9, bars=BARS)
    for argument, message in {
        f"data.path={moved}": "these are not the data that the run was trained on",
        "data.path=nowhere": "nowhere: no such file or folder; set data.path to",
        "split.val=0.2": "split.val comes from run=RUN",
        "embedding=kernel": "embedding can't be other",
        "audit.dates=0": "audit.dates=0 must be at least 1",
        "audit.correlation=1.5": "audit.correlation=1.5 must be below 1",
        "audit.date=3": "audit.date: no such key. Nearest: audit.dates",
        "weights=ema": "has no ema weights",
    }.items():
        err = stockenh("audit", "run=run", *QUICK, argument, code=2).err
        assert message in err and err.count("\n") <= 2
    stockenh("audit", code=2)
    config = here / "run/config.yaml"  # which an untrusted folder may have changed
    raw = yaml.safe_load(config.read_text())
    config.write_text(yaml.safe_dump({**raw, "data": {**raw["data"], "path": "elsewhere"}}))
    err = stockenh("audit", "run=run", *QUICK, code=2).err
    assert "are gone: name their folder with data.path=DIR" in err
    raw["split"]["_target_"] = "subprocess.Popen"
    config.write_text(yaml.safe_dump(raw))
    assert "of this package: refused" in stockenh("audit", "run=run", *QUICK, code=2).err


def test_windows_without_dates_of_bars_are_compared_with_train_windows_before_the_last_test_block():
    asof = np.arange(20).astype("datetime64[s]")
    train, test = np.array([0, 1, 8, 9, 15, 16]), np.array([4, 5, 11, 12])
    earlier, later = _before_last_test(asof, train, test)
    assert earlier.tolist() == [0, 1, 8, 9] and later.tolist() == [11, 12]
    in_order = _before_last_test(asof, train[:2], test)
    assert [rows.tolist() for rows in in_order] == [[0, 1], test.tolist()]
    assert [len(rows) for rows in _before_last_test(asof, train[2:], test[:2])] == [0, 2]
