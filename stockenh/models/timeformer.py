"""TimeFormer: a patch transformer over price bars, an embedding of the window and context features.

Legend: B batch, T bars, P bars per patch, L = T / P patches, E embedding width, F features, H horizons,
D model width.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from stockenh.data import Few, ShareOrZero, Width
from stockenh.models import (
    InputSpec,
    ModelSettings,
    require_heads_divide,
    require_patch_divides,
)
from stockenh.models.layers import (
    BarReturns,
    CausalConv,
    CrossAttention,
    EncoderLayer,
    GatedResidualNetwork,
    Head,
    initialise_linear,
)


@dataclass(frozen=True)
class TimeFormerSettings(ModelSettings):
    """Hyper-parameters of TimeFormer; raises ConfigError where two of them don't fit.

    patch:                bars per token
    embedding_tokens:     tokens that the embedding is projected to for cross-attention: attention to a single
                          one learns nothing
    conv_dilations:       one causal convolution for each, in tokens; may be empty
    head_hidden:          hidden width of the head of each task
    bar_returns:          also give each token what its bars brought, see `BarReturns`
    learned_task_weights: weigh the tasks by learned uncertainty (Kendall et al. 2018)
    """

    patch: Width = 10
    d_model: Width = 256
    heads: Few = 8
    layers: Few = 6
    ffn: Width = 512
    dropout: ShareOrZero = 0.2
    embedding_tokens: Annotated[int, Field(ge=2, le=2**16)] = 8
    conv_dilations: Annotated[list[Width], Field(max_length=64)] = field(default_factory=lambda: [1, 2, 4])
    conv_kernel: Width = 3
    head_hidden: Width = 512
    learned_task_weights: bool = False
    bar_returns: bool = False

    def __post_init__(self) -> None:
        require_heads_divide(self.d_model, self.heads, even=True)

    def build(self, inputs: InputSpec) -> TimeFormer:
        require_patch_divides(inputs.lookback, self.patch)
        return TimeFormer(self, inputs)


class CrossModal(nn.Module):
    """Adds to each token (B, L, D) what it attends to in the embedding (B, E), projected to tokens."""

    def __init__(self, settings: TimeFormerSettings, embedding: int) -> None:
        super().__init__()
        self.project = nn.Linear(embedding, settings.embedding_tokens * settings.d_model)
        self.d_model = settings.d_model
        self.memory_norm = nn.LayerNorm(settings.d_model)
        self.token_norm = nn.LayerNorm(settings.d_model)
        self.attention = CrossAttention(settings.d_model, settings.heads, settings.dropout)

    def forward(self, tokens: Tensor, x_embedding: Tensor) -> Tensor:
        memory = self.memory_norm(self.project(x_embedding).unflatten(-1, (-1, self.d_model)))
        mixed: Tensor = self.attention(self.token_norm(tokens), memory)
        return tokens + mixed


class TimeFormer(nn.Module):
    """Patch transformer (Nie et al. 2023) with rotary positions, cross-modal attention and a context token.

    The context token stands at position 0 and the patches follow it in time.
    """

    def __init__(self, settings: TimeFormerSettings, inputs: InputSpec) -> None:
        super().__init__()
        s, width = settings, settings.d_model
        self.patches = inputs.lookback // s.patch
        self.bar_returns = BarReturns() if s.bar_returns else nn.Identity()
        series = 2 * inputs.price if s.bar_returns else inputs.price
        self.embed_patch = nn.Linear(s.patch * series, width)
        self.cross_modal = CrossModal(s, inputs.embedding) if inputs.embedding else None
        self.convs = nn.ModuleList(CausalConv(width, s.conv_kernel, d, s.dropout) for d in s.conv_dilations)
        self.embed_context = GatedResidualNetwork(inputs.context, width, s.dropout)
        self.layers = nn.ModuleList(
            EncoderLayer(width, s.heads, s.ffn, self.patches + 1, s.dropout) for _ in range(s.layers)
        )
        self.norm = nn.LayerNorm(width)
        self.pooled = GatedResidualNetwork(width, width, s.dropout, condition=width)
        self.ret_head = Head(width, s.head_hidden, inputs.horizons, s.dropout)
        self.up_head = Head(width, s.head_hidden, inputs.horizons, s.dropout)
        self.task_log_var = nn.Parameter(torch.zeros(2)) if s.learned_task_weights else None
        self._initialise()

    def forward(self, x_price: Tensor, x_embedding: Tensor, x_ctx: Tensor) -> dict[str, Tensor]:
        """Forecasts from x_price (B, T, 5), x_embedding (B, E) and x_ctx (B, F).

        `ret` (B, H) is in units of each horizon's train standard deviation: the caller multiplies by it
        to get raw returns. `up_logits` and `up_prob` are (B, H). With learned task weights, `task_log_var`
        (2,) holds the log variances of returns and direction. All are fp32, whatever autocast takes inside.
        """
        tokens = self.embed_patch(self.bar_returns(x_price).reshape(x_price.shape[0], self.patches, -1))
        if self.cross_modal is not None:
            tokens = self.cross_modal(tokens, x_embedding)
        for conv in self.convs:
            tokens = conv(tokens)
        context = self.embed_context(x_ctx)
        tokens = torch.cat([context.unsqueeze(1).to(tokens.dtype), tokens], dim=1)
        for layer in self.layers:
            tokens = layer(tokens)
        pooled = self.pooled(self.norm(tokens).mean(dim=1), context)
        up_logits = self.up_head(pooled).float()
        out = {
            "ret": self.ret_head(pooled).float(),
            "up_logits": up_logits,
            "up_prob": torch.sigmoid(up_logits),
        }
        if self.task_log_var is not None:
            out["task_log_var"] = self.task_log_var
        return out

    @torch.no_grad()
    def _initialise(self) -> None:
        initialise_linear(self)
        # Two branches of each layer add up on the residual stream; the factor keeps its variance at any depth
        # (Radford et al. 2019). Small last weights start the forecasts near 0 and the odds near even.
        for name, parameter in self.named_parameters():
            if name.endswith(("attention.out.weight", "ffn_out.weight")) and name.startswith("layers."):
                parameter.mul_((2 * len(self.layers)) ** -0.5)
        self.ret_head.last.weight.mul_(0.1)
        self.up_head.last.weight.mul_(0.1)
