"""A network's inputs from raw bars as one graph: window, context features and embedding of the newest bar.

The same definitions as in `stockenh.data.features` and `stockenh.embedding.kernel`, at the last bar only and
in operators that ONNX has. There a recursion over all bars is a weighted sum of the last 1024: the weights of
older bars are below what float64 resolves. Constants that must be exact are buffers, since the exporter
rounds Python numbers to float32.
Legend: B symbols, T bars, L bars in a window, F features, R = 1024 recent bars, K filters.
"""

from __future__ import annotations

import math
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from stockenh.data.bars import CLOSE, HIGH, LOW, VOLUME
from stockenh.data.features import LARGEST, FeatureSettings
from stockenh.data.features.smart_money import BLOCK_MOVE, SWING_REACH
from stockenh.data.features.technical import BAND, FLAT, LEAST_VOLUME, OBV_BARS, WILDER
from stockenh.data.prices import scale
from stockenh.embedding.kernel import KernelEmbedding, convolution_banks, quantise
from stockenh.inference.bar_timeframes import Timeframes
from stockenh.inference.export import OPSET, ExportError, quietly

RECENT = 1024
_BLOCK = 32  # a recursion over R bars runs in blocks of so many
_DECAY = (WILDER - 1) / WILDER
SHORTEST = 2 * SWING_REACH + 2  # bars that two swing points take; every other feature takes fewer


class BarInputs(nn.Module):
    """What `Deployed` takes, computed from all bars of a symbol so far; fp64 inside."""

    filters: Tensor
    ages: Tensor
    within: Tensor
    across: Tensor
    into: Tensor
    seed: Tensor
    decay: Tensor
    beyond: Tensor

    def __init__(self, settings: FeatureSettings, embedding: KernelEmbedding | None) -> None:
        super().__init__()
        self.lookback = settings.lookback
        self.timeframes = Timeframes(settings.timeframes)
        self.embedding = None if embedding is None else _Kernel(embedding, settings.lookback)
        ages = np.arange(RECENT - 1.0, -1.0, -1.0)
        steps = np.arange(_BLOCK)
        for name, values in {
            "filters": np.stack(_filters(ages), 1),
            "ages": ages,
            "within": np.triu(_DECAY ** np.maximum(steps - steps[:, None], 0)),
            "across": np.triu(_DECAY ** (_BLOCK * np.maximum(steps - 1.0 - steps[:, None], 0)), 1),
            "into": _DECAY ** (steps + 1.0),
            "seed": _DECAY ** (np.arange(WILDER - 1) - (WILDER - 2.0)),
            "decay": np.array(_DECAY),
            "beyond": np.array([1.0 + BLOCK_MOVE, 1.0 - BLOCK_MOVE]),
        }.items():
            self.register_buffer(name, torch.from_numpy(values))

    def forward(self, time: Tensor, bars: Tensor) -> dict[str, Tensor]:
        """`ohlcv` (B, L, 5), `context` (B, F) and, where there is one, `embedding` (B, E), all fp32.

        time (B, T) int64 seconds since 1970-01-01 00:00, strictly increasing; bars (B, T, 5) float64 open,
        high, low, close, volume, adjusted like the run's; T is at least L and `SHORTEST`.
        """
        # padded, or the export would hold for T > L alone: at T = L a slice is all there is
        window = F.pad(bars, (0, 0, 1, 0))[:, -self.lookback :]
        features = torch.cat(
            [self.timeframes(time, bars[..., CLOSE]), self._structure(bars, window), self._technical(bars)],
            -1,
        )
        made = {"ohlcv": window.float(), "context": features.clamp(-LARGEST, LARGEST).float()}
        if self.embedding is not None:
            made["embedding"] = self.embedding(made["ohlcv"])
        return made

    def _technical(self, bars: Tensor) -> Tensor:
        """(B, 12) of `technical`."""
        count = torch.ones_like(bars[0, :, 0]).sum()  # as a tensor: a size would be fixed at export
        close, volume = bars[..., CLOSE], bars[..., VOLUME]
        last = close[:, -1]
        moved = _recent(close - close[:, :1]) @ self.filters  # (B, K)
        ema_9, ema_21, ema_50, macd, signal = (moved / last[:, None]).unbind(-1)
        first = close[:, 0] / last - 1
        change = close[:, 1:] - close[:, :-1]
        gain, loss, spread = self._wilder_mean(
            torch.stack([change.clamp(min=0), (-change).clamp(min=0), _true_range(bars)], 1), count
        ).unbind(-1)
        features = [
            _ratio(gain, gain + loss, 0.5),
            macd,
            signal,
            _bollinger_position(close[:, -BAND:]),
            spread / last,
            self._adx(bars, count),
            _ratio(
                (change.sign() * volume[:, 1:])[:, -OBV_BARS:].sum(-1), volume[:, -OBV_BARS:].mean(-1), 0.0
            ),
            _vwap_distance(bars[:, -BAND:]),
            ema_9 + first,
            ema_21 + first,
            ema_50 + first,
            _ratio(volume[:, -1], volume[:, -BAND:].mean(-1), 1.0).clamp(min=LEAST_VOLUME).log(),
        ]
        return torch.stack(features, -1)

    def _wilder_mean(self, x: Tensor, count: Tensor) -> Tensor:
        """(B, n) from values of the changes between bars (B, n, T - 1): the first 14 weigh the same."""
        return _recent(x) @ (self.decay ** torch.minimum(self.ages, count - 1 - WILDER) / WILDER)

    def _adx(self, bars: Tensor, count: Tensor) -> Tensor:
        up = bars[:, 1:, HIGH] - bars[:, :-1, HIGH]
        down = bars[:, :-1, LOW] - bars[:, 1:, LOW]
        zero = torch.zeros_like(up)
        moves = torch.stack(
            [
                torch.where((up > 0) & (up > down), up, zero),
                torch.where((down > 0) & (down > up), down, zero),
                _true_range(bars),
            ],
            1,
        )
        # the first 13 enter as a plain sum
        head, rest = moves[..., : WILDER - 1] * self.seed, moves[..., WILDER - 1 :]
        plus, minus, spread = self._recursion(_recent(torch.cat([head, rest], -1))).unbind(1)
        plus, minus = _ratio(plus, spread, 0.0), _ratio(minus, spread, 0.0)
        directional = _ratio((plus - minus).abs(), plus + minus, 0.0)
        weights = self.decay ** torch.minimum(self.ages, count - 2 * WILDER) / WILDER
        return directional @ torch.where(self.ages <= count - 1 - WILDER, weights, torch.zeros_like(weights))

    def _recursion(self, x: Tensor) -> Tensor:
        """y_t = 13/14 y_{t-1} + x_t along the last axis, (B, n, R) to the same."""
        blocks = x.unflatten(-1, (RECENT // _BLOCK, _BLOCK))
        inside = blocks @ self.within
        before = inside[..., -1] @ self.across
        joined: Tensor = inside + before.unsqueeze(-1) * self.into
        return joined.flatten(-2)

    def _structure(self, bars: Tensor, window: Tensor) -> Tensor:
        """(B, 12) of `smart_money`."""
        close, last = bars[..., CLOSE], bars[:, -1, CLOSE]
        opening, high, low, closing, _ = window.unbind(-1)
        later = closing[:, 1:]
        bull_ob = (closing < opening)[:, :-1] & (later > self.beyond[0] * high[:, :-1])
        bear_ob = (closing > opening)[:, :-1] & (later < self.beyond[1] * low[:, :-1])
        block = ((high + low) / 2)[:, :-1]
        bull_gap, bear_gap = low[:, 2:] > high[:, :-2], high[:, 2:] < low[:, :-2]
        gap = torch.where(bull_gap, low[:, 2:] + high[:, :-2], high[:, 2:] + low[:, :-2]) / 2
        level = _swing_levels(torch.stack([bars[..., HIGH], -bars[..., LOW]], 1))
        swing_high, swing_low = level[:, 0], -level[:, 1]
        before, now = close[:, :-1], close[:, 1:]
        bull = (before <= swing_high[:, 1:]) & (swing_high[:, 1:] < now)
        bear = (before >= swing_low[:, 1:]) & (swing_low[:, 1:] > now)
        number = torch.arange(1, close.shape[1], dtype=torch.int64)
        none = torch.zeros_like(number)
        last_bull, last_bear = (torch.where(x, number, none)[:, :-1].amax(-1) for x in (bull, bear))
        bull, bear = bull[:, -1], bear[:, -1]
        features = [
            *(found.sum(-1) for found in (bull_ob, bear_ob, bull_gap, bear_gap)),
            _nearest_distance(block, bull_ob | bear_ob, last),
            _nearest_distance(gap, bull_gap | bear_gap, last),
            *(
                torch.where(swing.isinf(), torch.zeros_like(last), (swing - last) / last)
                for swing in (swing_high[:, -1], swing_low[:, -1])
            ),
            bull,
            bear,
            bull & (last_bear > last_bull),
            bear & (last_bull > last_bear),
        ]
        return torch.stack([feature.double() for feature in features], -1)


def _filters(ages: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """K weights (R,) by age: of EMAs over 9, 21 and 50 bars, of MACD and of its signal line, from rest."""

    def kept(span: int) -> float:
        return 1.0 - 2.0 / (span + 1)

    def one(span: int) -> NDArray[np.float64]:
        return (1.0 - kept(span)) * kept(span) ** ages

    def of_both(span: int, other: int) -> NDArray[np.float64]:
        a, b = kept(span), kept(other)
        return (1 - a) * (1 - b) * (a ** (ages + 1.0) - b ** (ages + 1.0)) / (a - b)

    return [one(9), one(21), one(50), one(12) - one(26), of_both(9, 12) - of_both(9, 26)]


def _recent(x: Tensor) -> Tensor:
    """The last R values along the last axis, with zeros before the first."""
    return F.pad(x, (RECENT, 0))[..., -RECENT:]


def _ratio(numerator: Tensor, denominator: Tensor, default: float) -> Tensor:
    known = denominator > 0
    one = torch.ones_like(denominator)
    return torch.where(known, numerator / torch.where(known, denominator, one), default * one)


def _true_range(bars: Tensor) -> Tensor:
    """(B, T - 1) of all bars but the first."""
    high, low, before = bars[:, 1:, HIGH], bars[:, 1:, LOW], bars[:, :-1, CLOSE]
    return torch.maximum(high - low, torch.maximum((high - before).abs(), (low - before).abs()))


def _bollinger_position(close: Tensor) -> Tensor:
    mean = close.mean(-1)
    deviation = (close - mean[:, None]).square().mean(-1).sqrt()
    moves = deviation > FLAT * mean
    one = torch.ones_like(mean)
    return torch.where(moves, 0.5 + (close[:, -1] - mean) / torch.where(moves, 4 * deviation, one), 0.5 * one)


def _vwap_distance(bars: Tensor) -> Tensor:
    volume, close = bars[..., VOLUME], bars[..., CLOSE]
    typical = (bars[..., HIGH] + bars[..., LOW] + close) / 3.0
    vwap = _ratio((typical * volume).sum(-1), volume.sum(-1), 0.0)
    return _ratio(close[:, -1], vwap, 1.0) - 1.0


def _swing_levels(price: Tensor) -> Tensor:
    """(B, 2, T) the last confirmed peak of each row of prices so far, minus infinity before the first."""
    count, inner = price.shape[-1], price[..., SWING_REACH:-SWING_REACH]  # 20 bars on either side
    is_peak = inner == F.max_pool2d(price, (1, 2 * SWING_REACH + 1), 1)
    seen = is_peak.long().cumsum(-1)
    none = torch.full_like(price, -math.inf)
    # the k-th peak goes to place k; what is no peak to place 0, which is read before the first one
    places = seen * is_peak.long()
    levels = none.scatter(-1, places, torch.where(is_peak, inner, none[..., : inner.shape[-1]]))
    return levels.gather(-1, F.pad(seen, (2 * SWING_REACH, 0))[..., -count:])


def _nearest_distance(level: Tensor, found: Tensor, close: Tensor) -> Tensor:
    """(B,) from levels (B, n) where they are found; of two equally near, the later. 0 where there is none."""
    distance = torch.where(found, level, torch.full_like(level, math.inf)).flip(-1) - close[:, None]
    nearest = distance.gather(-1, distance.abs().argmin(-1, keepdim=True))[:, 0]
    return torch.where(found.any(-1), nearest, torch.zeros_like(nearest)) / close


class _Kernel(nn.Module):
    """`KernelEmbedding.transform` of a raw window, rounded as a run's cache rounds it."""

    def __init__(self, settings: KernelEmbedding, lookback: int) -> None:
        super().__init__()
        self.banks = convolution_banks(settings.width, settings.seed, lookback)
        for place, bank in enumerate(self.banks):
            self.register_buffer(f"weights_{place}", bank.weights)
            self.register_buffer(f"thresholds_{place}", bank.thresholds - 0.5)

    def forward(self, window: Tensor) -> Tensor:
        # in fp64, as libraries round the last digit of a logarithm differently
        volume = (window[..., 4:].double() + 1.0).log().float()
        grid = quantise(scale(window[..., :4], volume))
        shares = []
        for place, bank in enumerate(self.banks):
            weights = cast(Tensor, getattr(self, f"weights_{place}"))
            outputs = F.conv1d(grid, weights, padding=bank.padding, dilation=bank.dilation).unsqueeze(2)
            above = (outputs - cast(Tensor, getattr(self, f"thresholds_{place}"))).clamp(0.0, 1.0)
            shares.append(2.0 * (above.sum(-1).flatten(1) / outputs.shape[-1]) - 1.0)
        return torch.cat(shares, 1).half().float()


def write_features(inputs: BarInputs, least: int) -> bytes:
    """`BarInputs` as an ONNX file, for any number of symbols that have the same number of bars.

    least: bars, the fewest that it must take
    """
    count = least + 1
    example = {
        "time": torch.arange(2 * count).view(2, count),
        "bars": torch.ones(2, count, 5, dtype=torch.float64),
    }
    batch, bars = (
        torch.export.Dim("batch", min=1, max=1 << 16),
        torch.export.Dim("bars", min=least, max=1 << 24),
    )
    names = ["ohlcv", "context", *(["embedding"] if inputs.embedding is not None else [])]
    with quietly():
        program = torch.export.export(
            inputs.eval(),
            (),
            example,
            dynamic_shapes={name: {0: batch, 1: bars} for name in example},
            strict=False,
        )
        made = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            input_names=list(example),
            output_names=names,
            verbose=False,
            external_data=False,
        )
    if made is None:
        raise ExportError("torch returned no ONNX program")
    content: bytes = made.model_proto.SerializeToString()
    return content
