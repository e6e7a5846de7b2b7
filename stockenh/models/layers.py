"""Layers that several networks share.

Legend: B batch, L tokens, D model width, H attention heads, d = D / H width of one head.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stockenh.models.cpu.kernels import attention, dropout

Net = TypeVar("Net", bound=nn.Module)
SMALLEST_SCALE = 1e-6  # of a window in [-1, 1]: a flat one is all zeros, whatever it is divided by


class Dropout(nn.Module):
    """Dropout (Srivastava et al. 2014) in training, the identity in evaluation."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.p) if self.training else x


class BarReturns(nn.Module):
    """Adds to price windows (B, T, 5) what each bar brought, in the window's own units; (B, T, 10).

    Open, high, low and close less the close before, and volume less its mean, each divided by its root mean
    square over the window. Levels scaled to [-1, 1] hide these numbers: with 120 bars a usual day moves the
    close by a twentieth of the range, and by another share of it in each window.
    """

    def forward(self, x: Tensor) -> Tensor:
        price, volume = x[..., :4], x[..., 4:]
        close = x[..., 3:4]
        before = torch.cat([close[:, :1], close[:, :-1]], 1)
        moves = torch.cat([price - before, volume - volume.mean(1, True)], -1)
        scale = moves.square().mean(1, True).sqrt() + SMALLEST_SCALE
        return torch.cat([x, moves / scale], -1)


class Rotary(nn.Module):
    """Rotary positions (Su et al. 2021): scores then depend on the distance of two tokens alone.

    Coordinates i and i + d/2 of the token at position m turn by the angle m * base^(-2i/d).
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, tokens: int, width: int, base: float = 10_000.0) -> None:
        super().__init__()
        frequency = base ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
        angle = torch.outer(torch.arange(tokens, dtype=torch.float64), frequency)
        # The tables follow from the settings, so weights of one lookback load into a model of another.
        self.register_buffer("cos", torch.cat([angle.cos(), angle.cos()], -1).float(), persistent=False)
        self.register_buffer("sin", torch.cat([-angle.sin(), angle.sin()], -1).float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """x is (..., L, d), with the token at position 0 first."""
        partner = x.roll(x.shape[-1] // 2, dims=-1)
        return torch.addcmul(x * self.cos.to(x.dtype), partner, self.sin.to(x.dtype))


class SelfAttention(nn.Module):
    """Multi-head self-attention with rotary positions on queries and keys; (B, L, D) to (B, L, D)."""

    def __init__(self, d_model: int, heads: int, tokens: int, dropout_p: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout_p = dropout_p
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.rotary = Rotary(tokens, d_model // heads)
        self.out = nn.Linear(d_model, d_model)

    def forward(self, x: Tensor) -> Tensor:
        # One copy into (3, B, H, L, d) here saves a copy for each product inside attention.
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).contiguous()
        qk, v = qkv.split((2, 1))
        q, k = self.rotary(qk).unbind()
        y = attention(q, k, v[0], self.dropout_p if self.training else 0.0)
        mixed: Tensor = self.out(y.transpose(1, 2).flatten(2))
        return mixed


class CrossAttention(nn.Module):
    """Multi-head attention from tokens (B, L, D) to a memory (B, M, D); M must be above 1.

    With a single memory token the softmax is 1 everywhere: each token receives the same and neither queries
    nor keys get a gradient.
    """

    def __init__(self, d_model: int, heads: int, dropout_p: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout_p = dropout_p
        self.q = nn.Linear(d_model, d_model)
        self.kv = nn.Linear(d_model, 2 * d_model)
        self.out = nn.Linear(d_model, d_model)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        q = self.q(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = self.kv(memory).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind()
        y = attention(q, k, v, self.dropout_p if self.training else 0.0)
        mixed: Tensor = self.out(y.transpose(1, 2).flatten(2))
        return mixed


class EncoderLayer(nn.Module):
    """Pre-norm transformer encoder layer (Xiong et al. 2020); (B, L, D) to (B, L, D)."""

    def __init__(self, d_model: int, heads: int, ffn: int, tokens: int, dropout_p: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(d_model)
        self.attention = SelfAttention(d_model, heads, tokens, dropout_p)
        self.ffn_norm = nn.LayerNorm(d_model)
        self.ffn_in = nn.Linear(d_model, ffn)
        self.ffn_out = nn.Linear(ffn, d_model)
        self.dropout = Dropout(dropout_p)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.dropout(self.attention(self.attention_norm(x)))
        hidden = self.dropout(F.gelu(self.ffn_in(self.ffn_norm(x))))
        y: Tensor = x + self.dropout(self.ffn_out(hidden))
        return y


class CausalConv(nn.Module):
    """Residual dilated causal convolution over tokens (Bai et al. 2018); (B, L, D) to (B, L, D).

    Output i sees the tokens i, i - dilation, i - 2 * dilation and so on, zeros before the first.
    """

    def __init__(self, d_model: int, kernel: int, dilation: int, dropout_p: float) -> None:
        super().__init__()
        self.kernel = kernel
        self.dilation = dilation
        self.norm = nn.LayerNorm(d_model)
        self.taps = nn.Linear(kernel * d_model, d_model)
        self.dropout = Dropout(dropout_p)

    def forward(self, x: Tensor) -> Tensor:
        length, reach = x.shape[1], (self.kernel - 1) * self.dilation
        padded = F.pad(self.norm(x), (0, 0, reach, 0))
        # Shifted copies and one product: on a CPU up to twice as fast as conv1d at a dozen tokens.
        shifted = [padded.narrow(1, tap * self.dilation, length) for tap in range(self.kernel)]
        y: Tensor = x + self.dropout(F.gelu(self.taps(torch.cat(shifted, dim=-1))))
        return y


class GatedResidualNetwork(nn.Module):
    """Gated residual network (Lim et al. 2019, equations 2 to 5); (..., inputs) to (..., width).

    LayerNorm(skip(a) + GLU(dropout(W1 ELU(W2 a + W3 c)))); without a condition where its width is 0.
    The two inner layers are `inner` wide, by default as wide as the output.
    """

    def __init__(
        self, inputs: int, width: int, dropout_p: float, condition: int = 0, inner: int | None = None
    ) -> None:
        super().__init__()
        inner = inner or width
        self.skip = nn.Linear(inputs, width) if inputs != width else nn.Identity()
        self.hidden = nn.Linear(inputs, inner)
        self.condition = nn.Linear(condition, inner, bias=False) if condition else None
        self.linear = nn.Linear(inner, inner)
        self.dropout = Dropout(dropout_p)
        self.gate = nn.Linear(inner, 2 * width)
        self.norm = nn.LayerNorm(width)

    def forward(self, a: Tensor, c: Tensor | None = None) -> Tensor:
        return self.gated(self.skip(a), self.hidden(a), c)

    def gated(self, skip: Tensor, hidden: Tensor, c: Tensor | None = None) -> Tensor:
        """The network after its first two layers: from skip(a) and W2 a that are computed elsewhere."""
        if self.condition is not None and c is not None:
            hidden = hidden + self.condition(c)
        gate = F.glu(self.gate(self.dropout(self.linear(F.elu(hidden)))), dim=-1)
        normed: Tensor = self.norm(skip + gate)
        return normed


class Head(nn.Module):
    """Two-layer head, (B, inputs) to (B, outputs)."""

    def __init__(self, inputs: int, hidden: int, outputs: int, dropout_p: float) -> None:
        super().__init__()
        self.first = nn.Linear(inputs, hidden)
        self.dropout = Dropout(dropout_p)
        self.last = nn.Linear(hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(self.dropout(F.gelu(self.first(x))))
        return y


@torch.no_grad()
def initialise_linear(net: nn.Module) -> None:
    """Draws the weights of all linear layers (Glorot and Bengio 2010, uniform); their biases become 0."""
    for module in net.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def copied(net: Net) -> Net:
    """A deep copy, with the weights of each LSTM in one block of memory again, as cuDNN needs them."""
    return compacted(copy.deepcopy(net))


def compacted(net: Net) -> Net:
    """The network, with the weights of each LSTM in one block; on a CPU as it is.

    A deep copy scatters them: cuDNN would warn, and copy them together at every forward pass.
    """
    for module in net.modules():
        if isinstance(module, nn.RNNBase):
            module.flatten_parameters()
    return net


def in_other_forms(net: Net, forms: Mapping[type, Callable[[Any], nn.Module]]) -> Net:
    """A copy of a network in which `forms` replaces each layer whose class, subclasses excluded, it names."""
    net = copied(net)
    for parent in list(net.modules()):
        for name, child in list(parent.named_children()):
            if type(child) in forms:
                setattr(parent, name, forms[type(child)](child))
    return net
