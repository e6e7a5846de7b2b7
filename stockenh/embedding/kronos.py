"""The embedding of a window by Kronos: the decoder's normed state at the window's last bar.

Shi et al., "Kronos: A Foundation Model for the Language of Financial Markets", AAAI 2026. The embedding and
its normalisation depend on the window's own bars alone.

Legend: B windows, T bars in a window, N bars of all series, C = 6 columns, E the decoder's width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stockenh.data.bars import VOLUME
from stockenh.data.windows import BarWindows, Windows
from stockenh.embedding import Embedding, Rows
from stockenh.embedding.checkpoint import Checkpoint, load_weights, locate, read_shape
from stockenh.embedding.kronos_net import (
    DEPENDENCY_HEADS,
    Decoder,
    DecoderShape,
    Tokenizer,
    TokenizerShape,
)
from stockenh.errors import ConfigError
from stockenh.storage.machine import has_bf16

NEEDS_BARS = "embedding=kronos needs raw bars, and data=windows has none: take embedding=stored"
CLIP = 5.0
EPS = 1e-5
_ROUNDING = 1e-12  # relative: the spread of a constant column in double precision

# The published weights were trained on data up to February 2024; the months after it are a safety margin.
SEEN_UNTIL = np.datetime64("2024-06-01")

# Smaller models on a CPU are bound by the overhead of operator calls, to which casts add.
CPU_BF16_PARAMETERS = 1_000_000

_CPU_ACTIVATIONS = 4096  # windows x width: at 120 bars they stay in a processor's cache
_BATCH = 512


@dataclass(frozen=True)
class KronosEmbedding(Embedding):
    """Settings. A checkpoint is a Hub id, whose revision is pinned, or a folder.

    checkpoint: the decoder; a folder with `model/` and `tokenizer/` in it sets both
    precision:  of the decoder (tokens are always computed in fp32): fp32, bf16, or auto, a fixed rule by
                device and model
    shuffle:    each window gets the vector of another (an ablation's control)
    """

    needs_bars: ClassVar[bool] = True

    checkpoint: str = "NeoQuasar/Kronos-small"
    revision: str = "901c26c1332695a2a8f243eb2f37243a37bea320"
    tokenizer: str = "NeoQuasar/Kronos-Tokenizer-base"
    tokenizer_revision: str = "0e0117387f39004a9016484a186a908917e22426"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    shuffle: bool = False

    def checkpoints(self) -> tuple[Checkpoint, Checkpoint]:
        """Decoder and tokenizer. Raises ConfigError where a setting names neither a folder nor a Hub id."""
        both = Path(self.checkpoint).expanduser()
        model, tokenizer = self.checkpoint, self.tokenizer
        if self.checkpoint and (both / "model").is_dir():
            model = str(both / "model")
            tokenizer = str(both / "tokenizer") if (both / "tokenizer").is_dir() else self.tokenizer
        return (
            locate("embedding.checkpoint", model, self.revision),
            locate("embedding.tokenizer", tokenizer, self.tokenizer_revision),
        )

    def shapes(self) -> tuple[DecoderShape, TokenizerShape]:
        """The shapes in both config.json. Raises ConfigError where they are invalid or don't match."""
        model, tokenizer = self.checkpoints()
        decoder, tokens = read_shape(model, DecoderShape), read_shape(tokenizer, TokenizerShape)
        _check(model, decoder)
        _check(tokenizer, tokens)
        for name in ("s1_bits", "s2_bits"):
            ours, theirs = getattr(decoder, name), getattr(tokens, name)
            if ours != theirs:
                raise ConfigError(
                    f"embedding.checkpoint={model} has {name}={ours} and embedding.tokenizer={tokenizer} has "
                    f"{theirs}: they must be the same"
                )
        return decoder, tokens

    def width_of(self, windows: Windows) -> int:
        return self.shapes()[0].d_model

    def batch(self, device: torch.device) -> int:
        if device.type == "cpu":
            return max(_CPU_ACTIVATIONS // self.shapes()[0].d_model, 1)
        return _BATCH

    def rows(self, windows: Windows, device: torch.device) -> Rows:
        if not isinstance(windows, BarWindows):
            raise ConfigError(NEEDS_BARS)
        ohlcv = torch.from_numpy(windows.bars.ohlcv).to(device)
        stamps = torch.from_numpy(time_stamps(windows.bars.time)).to(device)
        end = torch.from_numpy(windows.end).to(device)
        steps = torch.arange(1 - windows.lookback, 1, device=device)
        embed = self.load(device)

        def embed_rows(rows: Tensor) -> Tensor:
            bars = end[rows, None] + steps
            return embed(ohlcv[bars], stamps[bars].long())

        return embed_rows

    def load(self, device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
        """The function from raw bars (B, T, 5 or 6) and time stamps (B, T, 5) to vectors (B, E) in float32.

        Raises ConfigError where the weights are not available or not of this architecture.
        """
        decoder_shape, tokenizer_shape = self.shapes()
        model, tokens = self.checkpoints()
        with torch.device("meta"):
            decoder, tokenizer = Decoder(decoder_shape), Tokenizer(tokenizer_shape)
        load_weights(decoder, model)
        load_weights(tokenizer, tokens)
        tokenizer = tokenizer.requires_grad_(False).eval().to(device)
        decoder = decoder.requires_grad_(False).eval().to(device)
        with torch.autocast(device.type, enabled=False):
            decoder.embedding.project()
        if self.resolve(device).precision == "bf16":
            _to_bf16(decoder)

        def embed(bars: Tensor, stamps: Tensor) -> Tensor:
            # even within the caller's autocast: tokens depend on the signs of float32 numbers
            with torch.autocast(device.type, enabled=False):
                return decoder.last(*tokenizer.encode(normalise(bars)), stamps)

        return embed

    def identity(self) -> object:
        shapes, weights = self.shapes(), [checkpoint.sha256() for checkpoint in self.checkpoints()]
        return "kronos", shapes, weights, self.precision

    def resolve(self, device: torch.device) -> Self:
        """`auto`: bf16 where the device computes it natively, except for small models on a CPU; else fp32."""
        if self.precision != "auto":
            return self
        worthwhile = device.type != "cpu" or _parameters(self.shapes()[0]) >= CPU_BF16_PARAMETERS
        return replace(self, precision="bf16" if worthwhile and has_bf16(device) else "fp32")

    def provenance(self) -> dict[str, Any]:
        names = ("model", "tokenizer")
        return {
            name: {"from": checkpoint.where, "revision": checkpoint.revision, "sha256": checkpoint.sha256()}
            for name, checkpoint in zip(names, self.checkpoints(), strict=True)
        }

    def agrees_with(self, other: Embedding) -> bool:
        if not isinstance(other, KronosEmbedding):
            return False
        return (self.precision, self.shuffle) == (other.precision, other.shuffle)

    def warnings(self, test_begins: np.datetime64 | None) -> tuple[str, ...]:
        if self.shuffle or test_begins is None or test_begins >= SEEN_UNTIL:
            return ()
        day = test_begins.astype("datetime64[D]")
        begins = f"the test part begins on {day}, before June 2024, and"
        doubt = "its scores may be too good"
        model, _ = self.checkpoints()
        if model.revision is not None:
            return (
                f"{begins} the published Kronos weights have seen market data up to February 2024: {doubt}",
            )
        seen = f"the weights in {model} may have seen market data of that time"
        published = "as the published Kronos weights have up to February 2024"
        return (f"{begins} {seen}, {published}: unless you know that yours have not, {doubt}",)


def normalise(bars: Tensor) -> Tensor:
    """(B, T, 5 or 6) raw bars -> (B, T, 6) float32, each column by the window's own mean and deviation.

    A missing amount is volume times the mean of open, high, low and close. (x - mean) / (std + 1e-5), clipped
    to 5. A constant column becomes 0 instead of amplified rounding.
    """
    bars = bars.double()
    if bars.shape[-1] == VOLUME + 1:
        amount = bars[..., VOLUME] * bars[..., :VOLUME].mean(-1)
        bars = torch.cat([bars, amount[..., None]], -1)
    mean = bars.mean(1, keepdim=True)
    std = bars.std(1, correction=0, keepdim=True)
    flat = std <= _ROUNDING * mean.abs()
    return ((bars - mean) / (std + EPS)).clamp(-CLIP, CLIP).masked_fill(flat, 0).float()


def time_stamps(time: NDArray[np.datetime64]) -> NDArray[np.int8]:
    """(N,) -> (N, 5) minute, hour, weekday (Monday is 0), day of the month from 1, month from 1."""
    seconds = time.astype("datetime64[s]")
    day, month = seconds.astype("datetime64[D]"), seconds.astype("datetime64[M]")
    minutes = (seconds - day).astype(np.int64) // 60
    parts = (
        minutes % 60,
        minutes // 60,
        (day.astype(np.int64) + 3) % 7,  # 1970-01-01 was a Thursday
        (day - month).astype(np.int64) + 1,
        month.astype(np.int64) % 12 + 1,
    )
    return np.stack(parts, -1).astype(np.int8)


def _check(checkpoint: Checkpoint, shape: DecoderShape | TokenizerShape) -> None:
    width, heads = shape.d_model, shape.n_heads
    wrong = ""
    if width % (2 * heads):
        wrong = f"d_model={width} must be a multiple of 2 x n_heads={heads}"
    elif isinstance(shape, DecoderShape):
        if width % (2 * DEPENDENCY_HEADS):
            wrong = f"d_model={width} must be a multiple of {2 * DEPENDENCY_HEADS}"
    elif (shape.s1_bits + shape.s2_bits) % shape.group_size:
        bits = f"s1_bits={shape.s1_bits} + s2_bits={shape.s2_bits}"
        wrong = f"{bits} must be a multiple of group_size={shape.group_size}"
    if wrong:
        raise ConfigError(f"{checkpoint}: {wrong} in config.json")


def _parameters(shape: DecoderShape) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in Decoder(shape).parameters())


def _to_bf16(decoder: Decoder) -> None:
    """Converts the blocks' matrices, which take almost all the time; norms and sums stay in float32."""
    for module in decoder.transformer.modules():
        if isinstance(module, nn.Linear):
            module.to(torch.bfloat16)
