"""The plain recipe: training as a notebook writes it, the yardstick of every speed ratio.

A DataLoader over five tensors in memory, float32, eager, AdamW as it comes, batch by batch to the device, and
the loss read at every step. Legend: B batch, L tokens, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from stockenh.models.layers import CausalConv, CrossAttention, Dropout, SelfAttention, in_other_forms
from stockenh.training.precision import DTYPES

LR, MAX_NORM = 1e-4, 1.0


class PlainRecipe:
    """One optimizer step per call; every argument besides the first three is one technique alone."""

    def __init__(
        self,
        net: nn.Module,
        batches: Iterator[Sequence[Tensor]],
        device: torch.device,
        *,
        fused: bool | None = None,
        precision: str = "fp32",
        accumulate: int = 1,
    ) -> None:
        self.net, self.batches, self.device = net.to(device).train(), batches, device
        self.optimizer = torch.optim.AdamW(net.parameters(), lr=LR, fused=fused)
        self.dtype, self.accumulate = DTYPES[precision], accumulate
        self.total = 0.0

    def __call__(self) -> None:
        self.optimizer.zero_grad()
        for _ in range(self.accumulate):
            x_price, x_embedding, x_ctx, y_ret, y_up = (x.to(self.device) for x in next(self.batches))
            with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
                out = self.net(x_price, x_embedding, x_ctx)
            direction = F.binary_cross_entropy_with_logits(out["up_logits"].float(), y_up)
            loss = 0.6 * F.huber_loss(out["ret"].float(), y_ret) + 0.4 * direction
            (loss / self.accumulate).backward()
            self.total += loss.item()
        nn.utils.clip_grad_norm_(self.net.parameters(), MAX_NORM)
        self.optimizer.step()


def loaded(tensors: Sequence[Tensor], batch_size: int) -> Iterator[Sequence[Tensor]]:
    """Epoch after epoch of a shuffling DataLoader."""
    loader = DataLoader(TensorDataset(*tensors), batch_size=batch_size, shuffle=True, drop_last=True)
    while True:
        yield from loader


def torch_layers(net: nn.Module) -> nn.Module:
    """A copy with torch's own dropout, attention and convolution: the same function and the same weights."""
    return in_other_forms(
        net,
        {
            Dropout: lambda plain: nn.Dropout(plain.p),
            SelfAttention: _SelfAttention,
            CrossAttention: _CrossAttention,
            CausalConv: _CausalConv,
        },
    )


class _SelfAttention(nn.Module):
    """(B, L, D) to (B, L, D)."""

    def __init__(self, own: SelfAttention) -> None:
        super().__init__()
        self.heads, self.p = own.heads, own.dropout_p
        self.qkv, self.rotary, self.out = own.qkv, own.rotary, own.out

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in self.qkv(x).chunk(3, -1))
        p = self.p if self.training else 0.0
        y = F.scaled_dot_product_attention(self.rotary(q), self.rotary(k), v, dropout_p=p)
        mixed: Tensor = self.out(y.transpose(1, 2).flatten(2))
        return mixed


class _CrossAttention(nn.Module):
    """(B, L, D) and a memory (B, M, D) to (B, L, D)."""

    def __init__(self, own: CrossAttention) -> None:
        super().__init__()
        self.heads, self.p = own.heads, own.dropout_p
        self.q, self.kv, self.out = own.q, own.kv, own.out

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        q, k, v = (
            y.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for y in (self.q(x), *self.kv(memory).chunk(2, -1))
        )
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=self.p if self.training else 0.0)
        mixed: Tensor = self.out(y.transpose(1, 2).flatten(2))
        return mixed


class _CausalConv(nn.Module):
    """(B, L, D) to (B, L, D)."""

    def __init__(self, own: CausalConv) -> None:
        super().__init__()
        width = own.taps.out_features
        self.norm, self.reach = own.norm, (own.kernel - 1) * own.dilation
        self.conv = nn.Conv1d(width, width, own.kernel, dilation=own.dilation)
        self.conv.weight.data = (
            own.taps.weight.data.view(width, own.kernel, width).transpose(1, 2).contiguous()
        )
        self.conv.bias = own.taps.bias
        self.dropout = nn.Dropout(own.dropout.p)

    def forward(self, x: Tensor) -> Tensor:
        padded = F.pad(self.norm(x).transpose(1, 2), (self.reach, 0))
        y: Tensor = x + self.dropout(F.gelu(self.conv(padded).transpose(1, 2)))
        return y
