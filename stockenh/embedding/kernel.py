"""Random-convolution features of a price window, in the manner of MiniRocket; nothing is fitted.

Dempster, Schmidt and Webb, "MiniRocket", KDD 2021: windows are convolved with the 84 kernels of length 9
whose weights are -1 and, three times, 2; each feature is the share of the outputs above a threshold.

Legend: B windows, T bars in a window, C = 5 channels, K convolutions, Q thresholds of a convolution.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import combinations
from typing import Annotated, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from stockenh.data import Seed
from stockenh.embedding import PriceEmbedding
from stockenh.errors import ConfigError

_CHANNELS = 5
_TAPS = 9
_THRESHOLDS = 4  # features that share a convolution
_EXAMPLES = 64  # synthetic windows from which each convolution's thresholds are taken
_CHUNK = 4096  # windows at a time, which bounds the memory
_CPU_CHUNK = 128  # and on a processor keeps a chunk's convolutions in its cache

# Prices become integers up to 1024 (2048 where an augmentation leaves [-1, 1]). Those have at most 11
# significant bits, which TF32 holds, and no sum reaches 2**24, so float32 convolutions are exact. Algorithms
# that transform their inputs (Winograd, FFT) are not: an error below 0.5 is rounded off.
_GRID = 1024
_LIMIT = 2048


@dataclass(frozen=True)
class KernelEmbedding(PriceEmbedding):
    """Deterministic features in [-1, 1]: bit-identical on every device and in any batch.

    width: number of features, a multiple of 4
    seed:  of kernels, channels and the synthetic windows behind the thresholds
    shuffle: each window gets the features of another (an ablation's control)
    """

    storage: ClassVar[torch.dtype] = torch.float16  # shares of about a hundred outputs: three digits suffice

    width: Annotated[int, Field(ge=1, le=2**16, multiple_of=_THRESHOLDS)] = 512
    seed: Seed = 0
    shuffle: bool = False

    def identity(self) -> object:
        return replace(self, shuffle=False)

    @torch.no_grad()
    def transform(self, x_price: Tensor) -> Tensor:
        """(B, T, 5) window in [-1, 1] -> (B, width) float32, 2 x (share above the threshold) - 1.

        Raises ConfigError where T is below the kernels' 9 bars.
        """
        banks = convolution_banks(self.width, self.seed, x_price.shape[1])
        banks = tuple(bank.to(x_price.device) for bank in banks)
        size = _CPU_CHUNK if x_price.device.type == "cpu" else _CHUNK
        grids = map(quantise, torch.split(x_price, size))
        return torch.cat([torch.cat([bank.features(grid) for bank in banks], dim=1) for grid in grids])


@dataclass(frozen=True)
class ConvolutionBank:
    """All convolutions of one dilation and one kind of padding.

    weights:    (K, C, 9) integers in float32
    thresholds: (K, Q, 1) half-integers
    padded:     zero padding at both ends gives T outputs; without it there are T - 8 x dilation
    """

    weights: Tensor
    thresholds: Tensor
    dilation: int
    padded: bool

    def to(self, device: torch.device) -> ConvolutionBank:
        return replace(self, weights=self.weights.to(device), thresholds=self.thresholds.to(device))

    @property
    def padding(self) -> int:
        """Zeros at each end."""
        return self.dilation * (_TAPS // 2) if self.padded else 0

    def features(self, grid: Tensor) -> Tensor:
        """(B, C, T) integers -> (B, K x Q) features in [-1, 1]."""
        outputs = self.convolve(grid).unsqueeze(2)
        # An output differs from a threshold by at least 0.5, so that this step is exactly 0 or 1.
        above = (outputs - (self.thresholds - 0.5)).clamp_(0.0, 1.0).sum(dim=-1).flatten(1)
        # CUDA divides by a Python number through its rounded reciprocal, by a tensor exactly.
        return 2.0 * (above / torch.full_like(above, outputs.shape[-1])) - 1.0

    def convolve(self, grid: Tensor) -> Tensor:
        """(B, C, T) -> (B, K, outputs) integers, in float32 even within a lower-precision autocast."""
        with torch.autocast(grid.device.type, enabled=False):
            outputs = F.conv1d(grid, self.weights, padding=self.padding, dilation=self.dilation)
        return outputs.round_()


def quantise(x_price: Tensor) -> Tensor:
    """(B, T, C) in [-1, 1] -> (B, C, T) integers of the 1/1024 grid, in float32."""
    scaled = (x_price.float() * _GRID).round_().clamp_(-_LIMIT, _LIMIT)
    return scaled.transpose(1, 2).contiguous()


@lru_cache(maxsize=16)
def convolution_banks(width: int, seed: int, lookback: int) -> tuple[ConvolutionBank, ...]:
    """All convolutions and thresholds, on the CPU; made once per width, seed and window length."""
    if lookback < _TAPS:
        raise ConfigError(
            f"data.lookback={lookback}: embedding=kernel needs at least {_TAPS} bars; "
            "raise data.lookback or choose embedding=none"
        )
    # RandomState's stream never changes between numpy versions (NEP 19), so a saved run gets its features.
    rng = np.random.RandomState(seed)
    count = width // _THRESHOLDS
    weights = _random_weights(rng, count)
    dilations = _dilations(lookback)
    examples = quantise(torch.from_numpy(_random_walks(rng, lookback)))
    order = np.arange(count)
    levels = _spread(width).reshape(count, _THRESHOLDS)
    banks = []
    for place, dilation in enumerate(dilations):
        for padded in (True, False):
            # Neighbours in `order` go to different dilations, and each dilation alternates its padding.
            member = (order % len(dilations) == place) & (order // len(dilations) % 2 == int(not padded))
            if member.any():
                bank = ConvolutionBank(torch.from_numpy(weights[member]), torch.empty(0), dilation, padded)
                banks.append(_with_thresholds(bank, examples, levels[member]))
    return tuple(banks)


def _random_weights(rng: np.random.RandomState, count: int) -> NDArray[np.float32]:
    """(count, C, 9): every kernel in turn, in random order, each on a random subset of the channels."""
    kernels = np.full((84, _TAPS), -1.0, np.float32)
    for kernel, places in zip(kernels, combinations(range(_TAPS), 3), strict=True):
        kernel[list(places)] = 2.0
    rounds = -(-count // len(kernels))
    order = np.concatenate([rng.permutation(len(kernels)) for _ in range(rounds)])[:count]
    weights = np.zeros((count, _CHANNELS, _TAPS), np.float32)
    for row, kernel in zip(weights, kernels[order], strict=True):
        # As in MiniRocket, few channels are more likely than many: 1 to 5, log-uniform.
        channels = int((_CHANNELS + 1) ** rng.random_sample())
        row[rng.permutation(_CHANNELS)[:channels]] = kernel
    return weights


def _dilations(lookback: int) -> tuple[int, ...]:
    """1, 2, 3, 4, 6, 8, 12, ... as long as a kernel's width, 8 x dilation + 1, fits into the window."""
    longest = (lookback - 1) // (_TAPS - 1)
    steps = {factor << power for power in range(longest.bit_length()) for factor in (1, 3)}
    return tuple(sorted(step for step in steps if step <= longest))


def _spread(count: int) -> NDArray[np.float64]:
    """Quantile levels in (0, 1): the golden-ratio sequence, every prefix of which is evenly spread."""
    golden = (5**0.5 + 1) / 2
    return np.arange(1, count + 1, dtype=np.float64) * golden % 1.0


def _with_thresholds(bank: ConvolutionBank, examples: Tensor, levels: NDArray[np.float64]) -> ConvolutionBank:
    """Puts a convolution's thresholds just above the (K, Q) quantile levels of its outputs on examples."""
    outputs = bank.convolve(examples).transpose(0, 1).flatten(1).sort(dim=1).values
    places = torch.from_numpy((levels * outputs.shape[1]).astype(np.int64))
    quantiles = outputs.gather(1, places)
    return replace(bank, thresholds=(quantiles + 0.5).unsqueeze(-1))


def _random_walks(rng: np.random.RandomState, lookback: int) -> NDArray[np.float32]:
    """(64, T, 5) random walks scaled like price windows: OHLC jointly, volume separately, to [-1, 1].

    Built from integers and one division, so that the result depends on no library's log or exp.
    """
    # the overnight gap and 8 steps within a bar
    steps = rng.randint(-100, 101, size=(_EXAMPLES, lookback, 9), dtype=np.int64)
    path = steps.reshape(_EXAMPLES, -1).cumsum(axis=1).reshape(steps.shape)
    ohlc = np.stack([path[..., 0], path.max(axis=-1), path.min(axis=-1), path[..., -1]], axis=-1)
    drift = rng.randint(-20, 21, size=(_EXAMPLES, lookback), dtype=np.int64).cumsum(axis=1)
    noise = rng.randint(-100, 101, size=(_EXAMPLES, lookback, 3), dtype=np.int64).sum(axis=-1)
    return np.concatenate([_to_unit(ohlc), _to_unit((drift + noise)[..., None])], axis=-1)


def _to_unit(x: NDArray[np.int64]) -> NDArray[np.float32]:
    low, high = x.min(axis=(1, 2), keepdims=True), x.max(axis=(1, 2), keepdims=True)
    scaled: NDArray[np.float64] = (2 * x - low - high) / np.maximum(high - low, 1)
    return scaled.astype(np.float32)
