"""A trained network with all that stands before and after it, as one graph: raw inputs in, forecasts out.

Legend: B windows, T bars, E embedding width, F context features, H horizons, Q quantiles, L tokens, D width.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from stockenh.analysis.calibration import Calibration
from stockenh.data.fitted import CLIP, Fitted
from stockenh.data.windows import normalise
from stockenh.models.layers import CrossAttention, SelfAttention


class Deployed(nn.Module):
    """Normalises prices, standardises context, runs the network, scales returns, calibrates probabilities.

    Its arithmetic is fp32 throughout, where a run's own forecasts scale and calibrate in fp64.
    """

    mean: Tensor
    std: Tensor
    unit: Tensor
    temperature: Tensor
    bias: Tensor

    def __init__(self, net: nn.Module, fitted: Fitted, calibration: Calibration, raw_bars: bool) -> None:
        super().__init__()
        self.net = net
        self.raw_bars = raw_bars
        for name, values in (
            ("mean", fitted.context_mean),
            ("std", fitted.context_std),
            ("unit", fitted.return_std),
            ("temperature", calibration.temperature),
            ("bias", calibration.bias),
        ):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32))

    def forward(self, prices: Tensor, context: Tensor, embedding: Tensor | None = None) -> dict[str, Tensor]:
        """`ret` (B, H) in raw units, `up_prob` (B, H) calibrated; where the network has them, `quantiles`
        (B, H, Q) of returns in raw units.

        prices (B, T, 5): open, high, low, close, volume, or prices that came normalised; context (B, F) raw
        features; embedding (B, E), left out where the network takes none. All fp32.
        """
        x_price = normalise(prices) if self.raw_bars else prices
        x_ctx = ((context - self.mean) / self.std).clamp(-CLIP, CLIP)
        out = self.net(x_price, context[:, :0] if embedding is None else embedding, x_ctx)
        made = {
            "ret": out["ret"] * self.unit,
            "up_prob": torch.sigmoid(out["up_logits"] / self.temperature + self.bias),
        }
        if "quantiles" in out:
            made["quantiles"] = out["quantiles"] * self.unit[:, None]
        return made


def onnx_form(module: nn.Module) -> nn.Module:
    """A copy that says attention and rotary positions in ONNX's own operators (opset 23).

    One operator instead of a dozen: at batch 1 a small network is bound by their number.
    """
    module = copy.deepcopy(module)
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, SelfAttention):
                setattr(parent, name, _OnnxSelfAttention(child))
            elif isinstance(child, CrossAttention):
                setattr(parent, name, _OnnxCrossAttention(child))
    return module


class _OnnxSelfAttention(nn.Module):
    """`SelfAttention` in evaluation; (B, L, D) to (B, L, D)."""

    cos: Tensor
    sin: Tensor

    def __init__(self, plain: SelfAttention) -> None:
        super().__init__()
        self.heads, self.qkv, self.out = plain.heads, plain.qkv, plain.out
        half = plain.rotary.cos.shape[-1] // 2
        self.register_buffer("cos", plain.rotary.cos[None, :, :half].clone())
        self.register_buffer("sin", plain.rotary.sin[None, :, half:].clone())  # its first half is negative

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).split(x.shape[-1], -1)
        cos, sin = (table.expand(x.shape[0], -1, -1) for table in (self.cos, self.sin))
        q, k = (torch.onnx.ops.rotary_embedding(y, cos, sin, num_heads=self.heads) for y in (q, k))
        mixed: Tensor = self.out(_attention(q, k, v, self.heads))
        return mixed


class _OnnxCrossAttention(nn.Module):
    """`CrossAttention` in evaluation; (B, L, D) and a memory (B, M, D) to (B, L, D)."""

    def __init__(self, plain: CrossAttention) -> None:
        super().__init__()
        self.heads, self.q, self.kv, self.out = plain.heads, plain.q, plain.kv, plain.out

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        k, v = self.kv(memory).split(x.shape[-1], -1)
        mixed: Tensor = self.out(_attention(self.q(x), k, v, self.heads))
        return mixed


def _attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    mixed: Tensor = torch.onnx.ops.attention(q, k, v, q_num_heads=heads, kv_num_heads=heads)[0]
    return mixed
