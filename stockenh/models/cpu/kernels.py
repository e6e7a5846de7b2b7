"""Operators with a form of their own for a CPU, where torch's are slow at the sizes of these networks.

Legend: B batch, H attention heads, L and M tokens, d width of one head, S bars of a batch, V variables,
D model width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

EPSILON = 1e-5  # of a layer norm


def runs_eagerly_on_cpu(x: Tensor) -> bool:
    """Whether the operators of this file are the faster ones for x: a compiler fuses better by itself."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


def dropout(x: Tensor, p: float) -> Tensor:
    """Zeroes a share p of the values and scales the others up, so that the mean stays.

    On a CPU in eager mode the share is rounded to a multiple of 1/256, and the scale follows that share.
    """
    if p == 0 or not runs_eagerly_on_cpu(x):
        return F.dropout(x, p)
    # One draw of the generator serves eight values. `bernoulli` draws for each value: 3 times as long.
    dropped = min(max(round(p * 256), 1), 255)
    draws = torch.empty((x.numel() + 7) // 8, dtype=torch.int64).random_(-(2**63), None)
    bytes_ = draws.view(torch.uint8)[: x.numel()].view(x.shape)
    # Written in the type of x at once: a comparison that gives booleans first takes 7 to 10 times as long.
    kept = torch.ge(bytes_, dropped, out=torch.empty(x.shape, dtype=x.dtype))
    return x * kept.mul_(256 / (256 - dropped))


def attention(q: Tensor, k: Tensor, v: Tensor, dropout_p: float = 0.0) -> Tensor:
    """Scaled dot-product attention, softmax(q k^T / sqrt(d)) v (Vaswani et al. 2017).

    q is (B, H, L, d), k and v are (B, H, M, d), the result is (B, H, L, d).
    """
    if q.device.type != "cpu":
        return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout_p)
    # At a dozen tokens two plain products beat the fused kernel: up to 3 times in fp32, 9 times in bf16. The
    # scores are transposed, (B, H, M, L): a softmax along so short a last axis takes twice as long.
    weights = torch.softmax(k @ (q * q.shape[-1] ** -0.5).transpose(-2, -1), dim=-2)
    return dropout(weights, dropout_p).transpose(-2, -1) @ v


class NormMix(torch.autograd.Function):
    """`norm_mix` of tft_layers for many bars of few variables: one variable at a time stays in the cache.

    With n = norm(x_v), g the gradient and p = g n: the softmax weight gets p . scale + g . shift. The means
    that the gradient of the norm needs are among these products, so x_v needs no further reduction.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weights: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            normed, _, rstd = torch.native_layer_norm(x, x.shape[-1:], None, None, EPSILON)
            weights, scale, shift = (t.to(x.dtype) for t in (weights, scale, shift))
            out = weights @ shift
            for v in range(len(x)):
                out.addcmul_(normed[v] * weights[:, v : v + 1], scale[v])
        ctx.save_for_backward(normed, rstd, weights, scale, shift)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        normed, rstd, weights, scale, shift = ctx.saved_tensors
        grad_x, grad_scale = torch.empty_like(normed), torch.empty_like(scale)
        grad_weights = grad @ shift.t()
        means = (grad @ scale.t()) / grad.shape[-1]
        for v in range(len(normed)):
            product = grad * normed[v]
            along = product @ scale[v]
            grad_weights[:, v] += along
            grad_scale[v] = weights[:, v] @ product
            of_x = torch.mul(grad, scale[v], out=grad_x[v]).sub_(means[:, v : v + 1])
            of_x.addcmul_(normed[v], along.unsqueeze(-1), value=-1 / grad.shape[-1])
            of_x.mul_((rstd[v] * weights[:, v : v + 1]).to(grad.dtype))
        return grad_x, grad_weights, grad_scale, weights.t() @ grad


def norm_mix_by_variable(x: Tensor, weights: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """The layer norms (V, S, D), with scale and shift (V, D), summed with weights (S, V); see `NormMix`."""
    mixed: Tensor = NormMix.apply(x, weights, scale, shift)  # type: ignore[no-untyped-call]
    return mixed
