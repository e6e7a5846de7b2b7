"""Kronos against the reference's answers on a tiny checkpoint, and what an embedding may depend on."""

import hashlib
import json
import math
import shutil
from dataclasses import replace

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
from random_bars import plain_windows, smooth_series
from safetensors.torch import load_file

from stockenh.config.schema import settings_of
from stockenh.data.bars import Bars
from stockenh.data.cache import DiskCache
from stockenh.embedding import kronos
from stockenh.embedding.compute import embed
from stockenh.embedding.kronos import KronosEmbedding, normalise, time_stamps
from stockenh.embedding.kronos_net import Decoder, DecoderShape, Tokenizer, TokenizerShape
from stockenh.errors import ConfigError

CPU = torch.device("cpu")
SETTINGS = KronosEmbedding(checkpoint=str(TINY), precision="fp32")
KNOWN = dict(np.load(TINY / "bars.npz"))
RAW, STAMP = torch.from_numpy(KNOWN["raw"]), torch.from_numpy(KNOWN["stamp"])


def tiny_nets():
    decoder_shape, tokenizer_shape = SETTINGS.shapes()
    decoder, tokenizer = Decoder(decoder_shape), Tokenizer(tokenizer_shape)
    decoder.load_state_dict(load_file(TINY / "model" / "model.safetensors"))
    tokenizer.load_state_dict(load_file(TINY / "tokenizer" / "model.safetensors"))
    return decoder.requires_grad_(False), tokenizer.requires_grad_(False)


def walk(seed, bars=160):
    return smooth_series(seed, bars)[1]


def known_windows():
    """The six known windows as bars of six symbols; the amount is not among a bar's columns."""
    return windows_of(*KNOWN["raw"][..., :5].astype(np.float64), time=KNOWN["dates"].astype("datetime64[s]"))


def windows_of(*series, time=None):
    time = smooth_series(0, len(series[0]))[0] if time is None else time
    named = [(f"S{number}", time, ohlcv) for number, ohlcv in enumerate(series)]
    return plain_windows(Bars.from_series(named), 120)


def test_the_reference_s_tokens_and_embedding_come_out_and_bf16_is_near(tmp_path):
    s1, s2 = tiny_nets()[1].encode(normalise(RAW))
    np.testing.assert_array_equal(s1.numpy(), KNOWN["s1"])
    np.testing.assert_array_equal(s2.numpy(), KNOWN["s2"])
    of_bars = embed(known_windows(), SETTINGS, DiskCache(tmp_path), CPU)  # with dates and without amounts
    with torch.autocast("cpu", dtype=torch.bfloat16):
        of_callers_autocast = SETTINGS.load(CPU)(RAW, STAMP).numpy()
    for found in (SETTINGS.load(CPU)(RAW, STAMP).numpy(), of_bars, of_callers_autocast):
        np.testing.assert_allclose(found, KNOWN["embedding"], rtol=0, atol=1e-5)
    rough = KronosEmbedding(checkpoint=str(TINY), precision="bf16").load(CPU)(RAW, STAMP)
    assert rough.dtype == torch.float32
    assert 1e-6 < (rough - torch.from_numpy(KNOWN["embedding"])).abs().max() < 0.05


def test_names_and_shapes_are_the_published_layout():
    for part, layout in (("model", decoder_layout), ("tokenizer", tokenizer_layout)):
        config = json.loads((TINY / part / "config.json").read_text())
        tensors = load_file(TINY / part / "model.safetensors")
        assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == layout(config)
    sizes = {name: int(np.prod(shape)) for name, shape in decoder_layout(SMALL_DECODER).items()}
    assert sum(size for name, size in sizes.items() if "inv_freq" not in name) == 24_741_376


def test_the_last_position_is_that_of_the_whole_pass_and_no_state_depends_on_later_tokens():
    decoder, _ = tiny_nets()
    tokens = [torch.from_numpy(KNOWN[name]) for name in ("s1", "s2", "stamp")]
    whole = decoder(*tokens)[:, -1]
    torch.testing.assert_close(decoder.last(*tokens), whole, rtol=0, atol=2e-6)
    decoder.embedding.project()
    torch.testing.assert_close(decoder.last(*tokens), whole, rtol=0, atol=5e-6)
    decoder, _ = tiny_nets()
    s1, s2, stamp = (torch.from_numpy(KNOWN[name][:2].copy()) for name in ("s1", "s2", "stamp"))
    before = decoder(s1, s2, stamp)
    s1[:, 80:], s2[:, 80:], stamp[:, 80:, 3] = 15 - s1[:, 80:], 15 - s2[:, 80:], 1
    same = before == decoder(s1, s2, stamp)
    assert same[:, :80].all() and not same[:, 80:].all(-1).any()


def test_a_token_is_the_number_of_the_signs_of_its_bits():
    # signs + - and - +: s1 has its first bit (1), s2 its second (2)
    tokenizer = Tokenizer(TokenizerShape(6, 8, 2, 8, 1, 1, 2, 2, 2)).requires_grad_(False)
    # the four numbers before quantization are the bars' own, through maps that copy four of them
    for layer, shape in ((tokenizer.embed, (8, 6)), (tokenizer.quant_embed, (4, 8))):
        layer.weight.copy_(torch.eye(*shape))
        layer.bias.zero_()
    s1, s2 = tokenizer.encode(torch.tensor([[[0.1, -2.0, 0.0, 3.0, 0.0, 0.0]]]))
    assert (s1.item(), s2.item()) == (1, 2)


def test_normalisation_by_hand_and_of_extreme_values():
    # 2.5: amount 0, 5 -> mean 2.5, deviation 2.5.
    scaled = normalise(torch.tensor([[[1.0, 4.0, 1.0, 2.0, 0.0], [3.0, 4.0, 1.0, 2.0, 2.0]]]))
    unit, amount = 1 / (1 + 1e-5), 2.5 / 2.50001
    expected = torch.tensor([[[-unit, 0, 0, 0, -unit, -amount], [unit, 0, 0, 0, unit, amount]]])
    torch.testing.assert_close(scaled, expected, rtol=1e-6, atol=0)
    bars = torch.ones(1, 120, 6)
    bars[0, 7] = 1e6
    assert normalise(bars)[0, 7].tolist() == [5.0] * 6
    huge = walk(0, 120) * np.array([1e7, 1e7, 1e7, 1e7, 1e9])
    assert math.isfinite(float(normalise(torch.from_numpy(huge)[None]).abs().max()))


@pytest.mark.parametrize("price", [0.1, 179.68, 1e9 / 3])
def test_a_window_of_no_trades_or_one_price_has_zeros_and_a_finite_embedding(price):
    flat, untraded = np.full((120, 5), price), walk(0, 120)
    untraded[:, 4] = 0
    bars = torch.from_numpy(np.stack([flat, untraded]))
    scaled = normalise(bars)
    assert scaled[0].abs().max() == scaled[1, :, 4:].abs().max() == 0
    assert scaled[1, :, :4].std() > 0.5
    stamps = torch.from_numpy(time_stamps(smooth_series(0, 120)[0])).long().expand(2, -1, -1)
    assert torch.isfinite(SETTINGS.load(CPU)(bars, stamps)).all()


def test_time_stamps_are_minute_hour_weekday_day_and_month():
    expected = {
        "1970-01-01": [0, 0, 3, 1, 1],
        "2024-07-01": [0, 0, 0, 1, 7],
        "2024-02-29T23:59:58": [59, 23, 3, 29, 2],
        "2023-12-31T09:30": [30, 9, 6, 31, 12],
        "1969-12-31T00:01": [1, 0, 2, 31, 12],
    }
    assert time_stamps(np.array([*expected], "datetime64[s]")).tolist() == [*expected.values()]
    np.testing.assert_array_equal(time_stamps(KNOWN["dates"].astype("datetime64[s]")), KNOWN["stamp"][0])


def test_a_window_has_the_embedding_it_has_alone_and_only_its_own_bars_count(monkeypatch):
    monkeypatch.setattr(KronosEmbedding, "batch", lambda self, device: 7)
    windows = windows_of(walk(0), walk(1))
    together, rows = embed(windows, SETTINGS, DiskCache(None), CPU), SETTINGS.rows(windows, CPU)
    assert together.shape == (82, 64)
    for row in (0, 6, 7, 81):
        np.testing.assert_allclose(rows(torch.tensor([row]))[0].numpy(), together[row], rtol=0, atol=2e-6)
    bars = walk(0, 200)
    other = bars.copy()
    other[140:], other[:20] = walk(5, 60) * 3, walk(6, 20) * 2
    before, after = (embed(windows_of(ohlcv), SETTINGS, DiskCache(None), CPU) for ohlcv in (bars, other))
    # window w holds the bars w to w + 119
    assert (before == after).all(1).tolist() == [w == 20 for w in range(81)]


def test_auto_is_a_fixed_rule_by_device_and_size(monkeypatch):
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


def test_width_and_identity_follow_the_checkpoint_and_not_where_it_lies(tmp_path):
    shutil.copytree(TINY, tmp_path / "tiny", ignore=shutil.ignore_patterns("*.safetensors"))
    assert KronosEmbedding(checkpoint=str(tmp_path / "tiny")).width_of(known_windows()) == 64
    apart = KronosEmbedding(str(TINY / "model"), "", str(TINY / "tokenizer"), "", precision="fp32")
    assert apart.agrees_with(SETTINGS) and apart.identity() == SETTINGS.identity()
    for change in ({"precision": "bf16"}, {"shuffle": True}):
        assert not replace(SETTINGS, **change).agrees_with(SETTINGS)
    weights = (TINY / "model" / "model.safetensors").read_bytes()
    of_model = {"from": str(TINY / "model"), "revision": None, "sha256": hashlib.sha256(weights).hexdigest()}
    assert SETTINGS.provenance()["model"] == of_model


@pytest.mark.parametrize(
    ("begins", "count"), [("2011-05-12", 1), ("2024-05-31", 1), ("2024-06-01", 0), (None, 0)]
)
def test_a_test_part_that_the_published_weights_have_seen_is_warned_of(begins, count):
    date = None if begins is None else np.datetime64(begins, "s")
    found = SETTINGS.warnings(date)
    assert len(found) == count
    assert all("before June 2024" in line and begins in line for line in found)
    assert replace(SETTINGS, shuffle=True).warnings(date) == ()


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Kronos-small and its tokenizer in full size, with random weights."""
    folder = tmp_path_factory.mktemp("small")
    write_random(folder / "model", SMALL_DECODER, decoder_layout(SMALL_DECODER))
    write_random(folder / "tokenizer", BASE_TOKENIZER, tokenizer_layout(BASE_TOKENIZER))
    return folder


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_kronos_small_loads_runs_and_sees_no_later_bar(small, precision):
    embed = KronosEmbedding(checkpoint=str(small), precision=precision).load(CPU)
    bars, stamps = walk(0, 160), torch.ones(2, 120, 5, dtype=torch.int64)
    windows = np.stack([bars[:120], bars[40:]])
    found = embed(torch.from_numpy(windows), stamps)
    assert found.shape == (2, 512) and found.dtype == torch.float32 and torch.isfinite(found).all()
    windows[1] *= 1.5  # the other window's bars, among them all that come after the first one's
    windows[1, 80:] += np.random.default_rng(0).normal(0, 1, (40, 5))
    again = embed(torch.from_numpy(windows), stamps)
    assert torch.equal(found[0], again[0]) and not torch.equal(found[1], again[1])
