"""Kronos against the reference's answers on a tiny checkpoint, and what an embedding may depend on."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from kronos_checkpoints import (
    BASE_TOKENIZER,
    SMALL_DECODER,
    TINY,
    decoder_layout,
    tokenizer_layout,
    write_random,
)
from random_bars import plain_windows
from safetensors.torch import load_file

from stockenh.config.schema import settings_of
from stockenh.data.bars import Bars
from stockenh.data.cache import DiskCache
from stockenh.data.windows import BarWindows
from stockenh.embedding import kronos
from stockenh.embedding.compute import embed
from stockenh.embedding.kronos import KronosEmbedding, normalise, time_stamps
from stockenh.embedding.kronos_net import Decoder, DecoderShape, Tokenizer, TokenizerShape
from stockenh.errors import ConfigError

CPU = torch.device("cpu")
SETTINGS = KronosEmbedding(checkpoint=str(TINY), precision="fp32")
KNOWN = dict(np.load(TINY / "bars.npz"))


def tiny_nets() -> tuple[Decoder, Tokenizer]:
    decoder_shape, tokenizer_shape = SETTINGS.shapes()
    decoder, tokenizer = Decoder(decoder_shape), Tokenizer(tokenizer_shape)
    decoder.load_state_dict(load_file(TINY / "model" / "model.safetensors"))
    tokenizer.load_state_dict(load_file(TINY / "tokenizer" / "model.safetensors"))
    return decoder.requires_grad_(False), tokenizer.requires_grad_(False)


def known_windows() -> BarWindows:
    """The six known windows as bars of six symbols; the amount is not among a bar's columns."""
    time = KNOWN["dates"].astype("datetime64[s]")
    series = [(f"S{i}", time, raw[:, :5].astype(np.float64)) for i, raw in enumerate(KNOWN["raw"])]
    return plain_windows(Bars.from_series(series), 120)


def walk(seed: int, bars: int = 160) -> np.ndarray:
    rng = np.random.default_rng(seed)
    close = 50 * np.exp(rng.normal(0, 0.02, bars).cumsum())[:, None]
    return np.hstack([close, close * 1.01, close * 0.99, close, np.exp(rng.normal(13, 1, close.shape))])


def days(bars: int) -> np.ndarray:
    return np.busday_offset("2024-07-01", np.arange(bars), roll="forward").astype("datetime64[s]")


def test_the_reference_s_tokens_and_embedding_come_out() -> None:
    s1, s2 = tiny_nets()[1].encode(normalise(torch.from_numpy(KNOWN["raw"])))
    np.testing.assert_array_equal(s1.numpy(), KNOWN["s1"])
    np.testing.assert_array_equal(s2.numpy(), KNOWN["s2"])
    found = SETTINGS.load(CPU)(torch.from_numpy(KNOWN["raw"]), torch.from_numpy(KNOWN["stamp"]))
    np.testing.assert_allclose(found.numpy(), KNOWN["embedding"], rtol=0, atol=1e-5)


def test_bars_with_dates_and_no_amount_give_the_reference_s_embedding_too(tmp_path: Path) -> None:
    found = embed(known_windows(), SETTINGS, DiskCache(tmp_path), CPU)
    np.testing.assert_allclose(found, KNOWN["embedding"], rtol=0, atol=1e-5)


def test_the_known_names_and_shapes_are_the_published_layout() -> None:
    for part, layout in (("model", decoder_layout), ("tokenizer", tokenizer_layout)):
        config = json.loads((TINY / part / "config.json").read_text())
        tensors = load_file(TINY / part / "model.safetensors")
        assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == layout(config)


def test_the_last_position_alone_is_that_of_the_whole_pass() -> None:
    decoder, _ = tiny_nets()
    tokens = torch.from_numpy(KNOWN["s1"]), torch.from_numpy(KNOWN["s2"]), torch.from_numpy(KNOWN["stamp"])
    whole = decoder(*tokens)[:, -1]
    torch.testing.assert_close(decoder.last(*tokens), whole, rtol=0, atol=2e-6)
    decoder.embedding.project()
    torch.testing.assert_close(decoder.last(*tokens), whole, rtol=0, atol=5e-6)


def test_states_depend_on_no_later_token() -> None:
    decoder, _ = tiny_nets()
    s1, s2, stamp = (torch.from_numpy(KNOWN[name][:2].copy()) for name in ("s1", "s2", "stamp"))
    before = decoder(s1, s2, stamp)
    s1[:, 80:], s2[:, 80:], stamp[:, 80:, 3] = 15 - s1[:, 80:], 15 - s2[:, 80:], 1
    after = decoder(s1, s2, stamp)
    assert torch.equal(before[:, :80], after[:, :80])
    assert (before[:, 80:] != after[:, 80:]).any(-1).all()


def test_a_token_is_the_number_of_the_signs_of_its_bits() -> None:
    # signs + - and - +: s1 has its first bit (1), s2 its second (2)
    tokenizer = Tokenizer(TokenizerShape(6, 8, 2, 8, 1, 1, 2, 2, 2)).requires_grad_(False)
    # the four numbers before quantization are the bars' own, through maps that copy four of them
    for layer, shape in ((tokenizer.embed, (8, 6)), (tokenizer.quant_embed, (4, 8))):
        layer.weight.copy_(torch.eye(*shape))
        layer.bias.zero_()
    s1, s2 = tokenizer.encode(torch.tensor([[[0.1, -2.0, 0.0, 3.0, 0.0, 0.0]]]))
    assert (s1.item(), s2.item()) == (1, 2)


def test_normalisation_by_hand() -> None:
    # open 1, 3: mean 2, deviation 1 -> -1, 1. high 4, 4: constant -> 0. volume 0, 2, mean prices 2 and
    # 2.5: amount 0, 5 -> mean 2.5, deviation 2.5.
    bars = torch.tensor([[[1.0, 4.0, 1.0, 2.0, 0.0], [3.0, 4.0, 1.0, 2.0, 2.0]]])
    scaled = normalise(bars)
    assert scaled.dtype == torch.float32
    unit = 1 / (1 + 1e-5)
    assert scaled[0, :, 0].tolist() == pytest.approx([-unit, unit], rel=1e-6)
    assert scaled[0, :, 1:4].abs().max() == 0
    assert scaled[0, :, 4].tolist() == pytest.approx([-unit, unit], rel=1e-6)
    assert scaled[0, :, 5].tolist() == pytest.approx([-2.5 / 2.50001, 2.5 / 2.50001], rel=1e-6)


def test_extreme_values_are_clipped_and_do_not_overflow() -> None:
    bars = torch.ones(1, 120, 6)
    bars[0, 7] = 1e6
    assert normalise(bars)[0, 7].tolist() == [5.0] * 6
    huge = walk(0, 120) * np.array([1e7, 1e7, 1e7, 1e7, 1e9])
    assert math.isfinite(float(normalise(torch.from_numpy(huge)[None]).abs().max()))


@pytest.mark.parametrize("price", [0.1, 179.68, 1e9 / 3])
def test_a_window_of_no_trades_or_one_price_has_zeros_and_a_finite_embedding(price: float) -> None:
    ohlcv = np.full((120, 5), price)
    flat = normalise(torch.from_numpy(ohlcv)[None])
    assert flat.abs().max() == 0
    untraded = walk(0, 120)
    untraded[:, 4] = 0
    scaled = normalise(torch.from_numpy(untraded)[None])
    assert scaled[..., 4:].abs().max() == 0
    assert scaled[..., :4].std() > 0.5
    stamps = torch.from_numpy(time_stamps(days(120)))[None].long()
    for bars in (ohlcv, untraded):
        assert torch.isfinite(SETTINGS.load(CPU)(torch.from_numpy(bars)[None], stamps)).all()


def test_time_stamps_are_minute_hour_weekday_day_and_month() -> None:
    times = ["1970-01-01", "2024-07-01", "2024-02-29T23:59:58", "2023-12-31T09:30", "1969-12-31T00:01"]
    found = time_stamps(np.array(times, "datetime64[s]"))
    assert found.tolist() == [
        [0, 0, 3, 1, 1], [0, 0, 0, 1, 7], [59, 23, 3, 29, 2], [30, 9, 6, 31, 12], [1, 0, 2, 31, 12],
    ]  # fmt: skip
    np.testing.assert_array_equal(time_stamps(KNOWN["dates"].astype("datetime64[s]")), KNOWN["stamp"][0])


def test_a_window_has_the_embedding_it_has_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KronosEmbedding, "batch", lambda self, device: 7)
    windows = plain_windows(Bars.from_series([("A", days(160), walk(0)), ("B", days(160), walk(1))]), 120)
    together = embed(windows, SETTINGS, DiskCache(None), CPU)
    assert together.shape == (82, 64)
    rows = SETTINGS.rows(windows, CPU)
    for row in (0, 6, 7, 81):
        alone = rows(torch.tensor([row]))[0].numpy()
        np.testing.assert_allclose(alone, together[row], rtol=0, atol=2e-6)


def test_only_the_window_s_own_bars_count() -> None:
    bars = walk(0, 200)
    other = bars.copy()
    other[140:] = walk(5, 60) * 3
    other[:20] = walk(6, 20) * 2
    before, after = (
        embed(plain_windows(Bars.from_series([("A", days(200), ohlcv)]), 120), SETTINGS, DiskCache(None), CPU)
        for ohlcv in (bars, other)
    )
    same = (before == after).all(1)
    # window w holds the bars w to w + 119
    assert same.tolist() == [w == 20 for w in range(81)]


def test_bf16_is_near_fp32_and_the_callers_autocast_changes_nothing() -> None:
    raw, stamp = torch.from_numpy(KNOWN["raw"]), torch.from_numpy(KNOWN["stamp"])
    rough = KronosEmbedding(checkpoint=str(TINY), precision="bf16").load(CPU)(raw, stamp)
    assert rough.dtype == torch.float32
    assert 1e-6 < (rough - torch.from_numpy(KNOWN["embedding"])).abs().max() < 0.05
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = SETTINGS.load(CPU)(raw, stamp)
    np.testing.assert_allclose(found.numpy(), KNOWN["embedding"], rtol=0, atol=1e-5)


def test_auto_is_a_fixed_rule_by_device_and_size(monkeypatch: pytest.MonkeyPatch) -> None:
    auto = KronosEmbedding(checkpoint=str(TINY))
    monkeypatch.setattr(kronos, "has_bf16", lambda device: True)
    assert auto.resolve(CPU).precision == "fp32"  # 0.1 million parameters
    assert auto.resolve(torch.device("cuda")).precision == "bf16"
    large = DecoderShape(10, 10, 8, 512, 8, 1024)
    monkeypatch.setattr(KronosEmbedding, "shapes", lambda self: (large, None))
    assert auto.resolve(CPU).precision == "bf16"
    monkeypatch.setattr(kronos, "has_bf16", lambda device: False)
    assert auto.resolve(CPU).precision == "fp32"
    assert KronosEmbedding(precision="bf16").resolve(CPU).precision == "bf16"
    with pytest.raises(ConfigError, match=r"embedding\.precision=fp16: .*auto, bf16, fp32"):
        settings_of("embedding", KronosEmbedding, {"precision": "fp16"})


def test_the_width_follows_the_checkpoint_and_reads_no_weights(tmp_path: Path) -> None:
    shutil.copytree(TINY, tmp_path / "tiny", ignore=shutil.ignore_patterns("*.safetensors"))
    assert KronosEmbedding(checkpoint=str(tmp_path / "tiny")).width_of(known_windows()) == 64


def test_where_the_weights_lie_is_no_setting_of_the_vectors_but_the_precision_is() -> None:
    apart = KronosEmbedding(str(TINY / "model"), "", str(TINY / "tokenizer"), "", precision="fp32")
    assert apart.agrees_with(SETTINGS)
    assert apart.identity() == SETTINGS.identity()
    assert not KronosEmbedding(checkpoint=str(TINY), precision="bf16").agrees_with(SETTINGS)
    assert not KronosEmbedding(checkpoint=str(TINY), precision="fp32", shuffle=True).agrees_with(SETTINGS)
    weights = (TINY / "model" / "model.safetensors").read_bytes()
    of_model = {"from": str(TINY / "model"), "revision": None, "sha256": hashlib.sha256(weights).hexdigest()}
    assert SETTINGS.provenance()["model"] == of_model


@pytest.mark.parametrize(
    ("begins", "count"), [("2011-05-12", 1), ("2024-05-31", 1), ("2024-06-01", 0), (None, 0)]
)
def test_a_test_part_that_the_published_weights_have_seen_is_warned_of(
    begins: str | None, count: int
) -> None:
    date = None if begins is None else np.datetime64(begins, "s")
    found = SETTINGS.warnings(date)
    assert len(found) == count
    assert all("before June 2024" in line and str(begins) in line for line in found)
    assert KronosEmbedding(checkpoint=str(TINY), shuffle=True).warnings(date) == ()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Kronos-small and its tokenizer in full size, with random weights."""
    folder = tmp_path_factory.mktemp("small")
    write_random(folder / "model", SMALL_DECODER, decoder_layout(SMALL_DECODER))
    write_random(folder / "tokenizer", BASE_TOKENIZER, tokenizer_layout(BASE_TOKENIZER))
    return folder


def test_kronos_small_has_24_7_million_parameters() -> None:
    sizes = {name: int(np.prod(shape)) for name, shape in decoder_layout(SMALL_DECODER).items()}
    assert sum(size for name, size in sizes.items() if "inv_freq" not in name) == 24_741_376


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_kronos_small_loads_runs_and_sees_no_later_bar(small: Path, precision: str) -> None:
    embed = KronosEmbedding(checkpoint=str(small), precision=precision).load(CPU)
    bars, stamps = walk(0, 160), torch.ones(2, 120, 5, dtype=torch.int64)
    windows = np.stack([bars[:120], bars[40:]])
    found = embed(torch.from_numpy(windows), stamps)
    assert found.shape == (2, 512) and found.dtype == torch.float32 and torch.isfinite(found).all()
    windows[1] *= 1.5  # the other window's bars, among them all that come after the first one's
    windows[1, 80:] += np.random.default_rng(0).normal(0, 1, (40, 5))
    again = embed(torch.from_numpy(windows), stamps)
    assert torch.equal(found[0], again[0])
    assert not torch.equal(found[1], again[1])
