"""Nothing at bar t may depend on a bar after t: from the files to the forecasts, to the last bit."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from kronos_checkpoints import TINY
from random_bars import smooth_series

from stockenh.data.bars import Bars
from stockenh.data.batches import DeviceWindows
from stockenh.data.cache import DiskCache
from stockenh.data.extra import ExtraSettings
from stockenh.data.fitted import Fitted
from stockenh.data.prices import NoAugment
from stockenh.data.sources import files as sample
from stockenh.data.sources.files import FilesData, SampleData, load_sample
from stockenh.data.windows import Windows
from stockenh.embedding.compute import earlier_windows, embed
from stockenh.embedding.kernel import KernelEmbedding
from stockenh.embedding.kronos import KronosEmbedding
from stockenh.inference.predict import predict
from stockenh.models import InputSpec
from stockenh.models.timeformer import TimeFormerSettings

CPU = torch.device("cpu")
N = 300
DAYS = np.busday_offset("2018-01-02", np.arange(N), roll="forward")
SPLIT = 90  # the bar at which B splits two for one
MODEL = TimeFormerSettings(
    d_model=16, heads=2, layers=1, ffn=16, embedding_tokens=2, conv_dilations=[1, 2], head_hidden=8
)

KERNEL = KernelEmbedding(width=64)
KRONOS = KronosEmbedding(checkpoint=str(TINY), precision="fp32")
EMBEDDINGS = {
    "kernel": KERNEL,
    "kernel shuffled": replace(KERNEL, shuffle=True),
    "kronos": KRONOS,
    "kronos in bf16": replace(KRONOS, precision="bf16"),
    "kronos shuffled": replace(KRONOS, shuffle=True),
}


INPUTS = ("x_price", "x_embedding", "x_ctx")
EVERYTHING = (*INPUTS, "ret", "up_prob")


@dataclass(frozen=True)
class Chain:
    """What a model sees of every window, and what it forecasts: EVERYTHING by name, n rows each."""

    windows: Windows
    arrays: dict[str, np.ndarray]


def run(data, cache, fitted=None, embedding=KERNEL):
    """The whole way of a run, with statistics of the first windows unless they are given."""
    store = DiskCache(cache)
    windows = data.load(store).windows
    fitted = fitted or Fitted.fit(windows, np.arange(60))
    vectors = embed(windows, embedding, store, CPU)
    if embedding.shuffle:
        vectors = vectors[earlier_windows(windows, seed=1)]
    resident = DeviceWindows(windows, vectors, fitted, CPU)
    rows = np.arange(len(windows))
    micro = resident.gather(torch.from_numpy(rows), NoAugment())
    torch.manual_seed(0)
    model = MODEL.build(InputSpec(120, 5, 64, windows.context.shape[1], 3))
    forecast = predict(model, resident, rows, fitted)
    arrays = (*(tensor.numpy() for tensor in micro.inputs), forecast.ret, forecast.up_prob)
    return Chain(windows, dict(zip(EVERYTHING, arrays, strict=True))), fitted


def random_bars(seed, n, price):
    bars = smooth_series(seed, n)[1]
    return bars * [*[price / bars[0, 3]] * 4, 1]


def other_after(ohlcv, t, seed):
    """The same bars up to t, and after it others: another path, another level, other volumes."""
    return np.concatenate([ohlcv[: t + 1], random_bars(seed, len(ohlcv) - t - 1, 1.3 * ohlcv[t, 3])])


def write(folder, bars):
    """Files as Yahoo writes them: prices as traded and an adjusted close, for a dividend and a split."""
    folder.mkdir()
    for name, ohlcv in bars.items():
        factor = np.where(np.arange(N) < 60, 0.98, 1.0)
        factor[:SPLIT] *= 0.5 if name == "B" else 1.0
        lines = ["Date,Open,High,Low,Close,Adj Close,Volume"]
        for day, bar, part in zip(DAYS[: len(ohlcv)], ohlcv, factor, strict=False):
            prices = ",".join(f"{price:.6f}" for price in (*bar[:4], bar[3] * part))
            lines.append(f"{day},{prices},{bar[4]:.0f}")
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")
    return folder


def market():
    """A and B over 300 days; B trades at twice the price before its split."""
    bars = {name: random_bars(seed, N, 50) for seed, name in enumerate("AB")}
    bars["B"][:SPLIT, :4] *= 2
    return bars


@pytest.fixture
def files(tmp_path):
    """Data settings for files with these bars."""
    return lambda name, bars: FilesData(path=str(write(tmp_path / name, bars)))


def assert_blind_to_later_bars(before, after, now, noticed=EVERYTHING):
    """The same windows, equal to the last bit where they end at `now` or earlier.

    noticed: what differs in every later window; a shuffled vector may still be an earlier window's.
    """
    np.testing.assert_array_equal(before.windows.asof, after.windows.asof)
    known = np.flatnonzero(before.windows.asof <= now)
    later = np.flatnonzero(before.windows.asof > now)
    assert set(before.windows.symbol[known]) == set(range(len(before.windows.symbols)))
    for name in EVERYTHING:
        one, other = before.arrays[name], after.arrays[name]
        assert one[known].tobytes() == other[known].tobytes(), name
        changed = (one[later] != other[later]).reshape(len(later), -1).any(1)
        assert changed.all() or name not in noticed, f"{name} does not notice other bars at all"


@pytest.mark.parametrize(
    ("t", "name"), [(130, "kernel"), (298, "kernel"), *((219, name) for name in EMBEDDINGS), (130, "kronos")]
)
def test_changing_every_later_bar_of_the_files_changes_nothing_before(tmp_path, files, t, name):
    bars, embedding, cache = market(), EMBEDDINGS[name], tmp_path / "cache"
    changed = {name: other_after(ohlcv, t, seed=t + len(name)) for name, ohlcv in bars.items()}
    before, fitted = run(files("before", bars), cache, embedding=embedding)
    after, _ = run(files("after", changed), cache, fitted, embedding)
    assert len(before.windows) == 2 * (N - 119)
    noticed = [part for part in EVERYTHING if part != "x_embedding" or not embedding.shuffle]
    assert_blind_to_later_bars(before, after, DAYS[t].astype("datetime64[s]"), noticed)


@pytest.mark.parametrize("t", [130, 219])
def test_files_that_end_at_t_give_the_same_inputs(tmp_path, files, t):
    bars, cache = market(), tmp_path / "cache"
    whole, fitted = run(files("whole", bars), cache)
    short, _ = run(files("short", {name: ohlcv[: t + 1] for name, ohlcv in bars.items()}), cache, fitted)
    known = np.flatnonzero(whole.windows.asof <= DAYS[t])
    np.testing.assert_array_equal(whole.windows.asof[known], short.windows.asof)
    np.testing.assert_array_equal(whole.windows.symbol[known], short.windows.symbol)
    for name in INPUTS:
        assert whole.arrays[name][known].tobytes() == short.arrays[name].tobytes(), name
    # Another number of windows makes other chunks, and those may round differently.
    np.testing.assert_allclose(short.arrays["up_prob"], whole.arrays["up_prob"][known], rtol=1e-5)


def test_changing_every_later_bar_of_the_sample_changes_nothing_before(tmp_path, monkeypatch):
    bars = load_sample()
    newest = [slice(end - N, end) for end in bars.offsets[1:]]
    original = [
        (name, bars.time[rows], bars.ohlcv[rows]) for name, rows in zip(bars.symbols, newest, strict=True)
    ]
    t = 200
    assert len({time[t] for _, time, _ in original}) == 1
    changed = [(name, time, other_after(ohlcv, t, seed)) for seed, (name, time, ohlcv) in enumerate(original)]
    monkeypatch.setattr(sample, "load_sample", lambda: Bars.from_series(original))
    before, fitted = run(SampleData(), tmp_path / "cache")
    monkeypatch.setattr(sample, "load_sample", lambda: Bars.from_series(changed))
    after, _ = run(SampleData(), tmp_path / "cache", fitted)
    assert_blind_to_later_bars(before, after, original[0][1][t])


def own_values(seed: int) -> np.ndarray:
    """(N, 2) sentiment with empty cells, and a value for each Monday alone."""
    rng = np.random.default_rng(seed)
    values = rng.normal(0, 1, (N, 2))
    values[rng.random(N) < 0.2, 0] = np.nan
    values[DAYS.astype("datetime64[D]").astype(int) % 7 != 4, 1] = np.nan
    return values


def write_own(path, values):
    """`symbol date sentiment weekly` of both symbols; a row without any value is left out."""
    lines = ["symbol,date,sentiment,weekly"]
    for name, of_symbol in values.items():
        cells = [["" if np.isnan(v) else f"{v:.6f}" for v in row] for row in of_symbol]
        lines += [f"{name},{day},{','.join(row)}" for day, row in zip(DAYS, cells, strict=True) if any(row)]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


@pytest.mark.parametrize("lag", [0, 1, 3])
def test_changing_every_later_value_of_own_columns_changes_nothing_before(tmp_path, lag):
    t, bars = 219, str(write(tmp_path / "bars", market()))
    values = {name: own_values(seed) for seed, name in enumerate("AB")}
    other = {
        name: np.where((np.arange(N) > t)[:, None], own_values(7 + seed), values[name])
        for seed, name in enumerate("AB")
    }
    settings = [
        FilesData(
            path=bars,
            extra=ExtraSettings(
                past=["sentiment", "weekly"], path=write_own(tmp_path / f"{of}.csv", own), lag=lag
            ),
        )
        for of, own in (("before", values), ("after", other))
    ]
    before, fitted = run(settings[0], tmp_path / "cache")
    after, _ = run(settings[1], tmp_path / "cache", fitted)
    seen = t + lag  # the bar at which the first changed value is an input is the next
    known, later = (np.flatnonzero(which) for which in (
        before.windows.asof <= DAYS[seen], before.windows.asof > DAYS[seen],
    ))  # fmt: skip
    for name in EVERYTHING:
        assert before.arrays[name][known].tobytes() == after.arrays[name][known].tobytes(), name
    first = np.flatnonzero(before.windows.asof == DAYS[seen + 1].astype("datetime64[s]"))
    assert (before.arrays["x_ctx"][first] != after.arrays["x_ctx"][first]).any()
    assert (before.arrays["ret"][later] != after.arrays["ret"][later]).any()
    assert before.windows.digest() != after.windows.digest()
    assert before.windows.price_digest() == after.windows.price_digest()


def test_the_labels_of_a_window_are_all_that_looks_ahead(files):
    t, bars = 219, market()
    changed = {name: other_after(ohlcv, t, seed=5) for name, ohlcv in bars.items()}
    before, after = (
        files(name, which).load(DiskCache(None)).windows
        for name, which in (("before", bars), ("after", changed))
    )
    for column, horizon in enumerate(before.horizons):
        same = before.y_ret[:, column] == after.y_ret[:, column]
        assert same[before.asof <= DAYS[t - horizon]].all()
        assert not same[before.asof == DAYS[t].astype("datetime64[s]")].any()
