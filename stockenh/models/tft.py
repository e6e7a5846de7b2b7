"""TFT: a Temporal Fusion Transformer that weighs every input by name.

Legend: B batch, T bars, E embedding width, F features, V static variables (the features, then the embedding),
H horizons, Q quantiles, D model width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from stockenh.data import Few, Share, ShareOrZero, Width
from stockenh.errors import ConfigError
from stockenh.models import (
    InputSpec,
    Interpretable,
    Interpretation,
    ModelSettings,
    require_heads_divide,
)
from stockenh.models.layers import Dropout, GatedResidualNetwork, initialise_linear
from stockenh.models.tft_layers import GateAddNorm, LastBarAttention, ScalarEmbedding, VariableSelection

MEDIAN = 0.5


@dataclass(frozen=True)
class TftSettings(ModelSettings):
    """Hyper-parameters of the TFT; raises ConfigError where two of them don't fit.

    d_model:       width of every network, of the LSTM too
    heads:         of the attention
    lstm_layers:   LSTM layers over the bars
    fusion_layers: gated residual networks after the attention (the paper has one)
    quantiles:     levels between 0 and 1, rising, the median 0.5 among them: it is the forecast return
    """

    gives_quantiles: ClassVar[bool] = True

    d_model: Width = 256
    heads: Few = 8
    lstm_layers: Few = 2
    fusion_layers: Few = 3
    dropout: ShareOrZero = 0.1
    quantiles: Annotated[list[Share], Field(max_length=99)] = field(default_factory=lambda: [0.1, 0.5, 0.9])

    def __post_init__(self) -> None:
        require_heads_divide(self.d_model, self.heads)
        levels = list(self.quantiles)
        if any(above <= below for below, above in pairwise(levels)):
            raise ConfigError(f"model.quantiles={levels}: they must rise, as in [0.1, 0.5, 0.9]")
        if MEDIAN not in levels:
            raise ConfigError(f"model.quantiles={levels}: 0.5 must be among them, it is the forecast return")

    @property
    def levels(self) -> tuple[float, ...]:
        return tuple(self.quantiles)

    def build(self, inputs: InputSpec) -> TemporalFusionTransformer:
        return TemporalFusionTransformer(self, inputs)


def _in_float32(device: torch.device) -> bool:
    """Whether the LSTM leaves autocast there: torch's form for cuDNN computes in fp16 whatever autocast says,
    and bf16 has no loss scaling that fp16 gradients need. cuDNN's float32 uses TF32."""
    return device.type != "cpu"


class QuantileHead(nn.Module):
    """Quantiles that can't cross: the median, and softplus steps up and down from it; (B, D) to (B, H, Q).

    They start near the quantiles of a standard normal: returns are in train standard deviations.
    """

    levels: Tensor

    def __init__(self, width: int, horizons: int, levels: Sequence[float]) -> None:
        super().__init__()
        self.median = levels.index(MEDIAN)
        self.horizons = horizons
        self.linear = nn.Linear(width, horizons * len(levels))
        # The levels follow from the settings, so they are no part of the weights.
        self.register_buffer("levels", torch.tensor(levels, dtype=torch.float32), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        raw = self.linear(x).float().unflatten(-1, (self.horizons, -1))
        k = self.median
        middle = raw[..., k : k + 1]
        down = F.softplus(raw[..., :k]).flip(-1).cumsum(-1).flip(-1)
        up = F.softplus(raw[..., k + 1 :]).cumsum(-1)
        return torch.cat([middle - down, middle, middle + up], dim=-1)

    @torch.no_grad()
    def start_at_normal(self) -> None:
        """Small weights, and biases that give the quantiles of a standard normal."""
        steps = torch.special.ndtri(self.levels.double()).diff()
        bias = torch.log(torch.expm1(steps))  # softplus of it is the step
        at = torch.zeros(1, dtype=bias.dtype)
        bias = torch.cat([bias[: self.median], at, bias[self.median :]])
        self.linear.bias.copy_(bias.repeat(self.horizons))
        self.linear.weight.mul_(0.1)


class TemporalFusionTransformer(nn.Module, Interpretable):
    """Temporal Fusion Transformer (Lim et al. 2019) that forecasts from the last bar.

    No input is known ahead, so the paper's decoder has one position, the last bar, and what follows the
    attention is computed there alone.
    """

    def __init__(self, settings: TftSettings, inputs: InputSpec) -> None:
        super().__init__()
        s, width = settings, settings.d_model
        static = inputs.context + bool(inputs.embedding)
        self.embed_context = ScalarEmbedding(inputs.context, width)
        self.embed_embedding = nn.Linear(inputs.embedding, width) if inputs.embedding else None
        self.embed_price = ScalarEmbedding(inputs.price, width)
        self.select_static = VariableSelection(static, width, s.dropout)
        self.contexts = nn.ModuleList(GatedResidualNetwork(width, width, s.dropout) for _ in range(4))
        self.select_price = VariableSelection(inputs.price, width, s.dropout, condition=width)
        self.lstm = nn.ModuleList(nn.LSTM(width, width) for _ in range(s.lstm_layers))
        self.between = Dropout(s.dropout)
        self.after_lstm = GateAddNorm(width, s.dropout)
        self.enrich = GatedResidualNetwork(width, width, s.dropout, condition=width)
        self.attention = LastBarAttention(width, s.heads, s.dropout)
        self.after_attention = GateAddNorm(width, s.dropout)
        self.fusion = nn.ModuleList(
            GatedResidualNetwork(width, width, s.dropout) for _ in range(s.fusion_layers)
        )
        self.after_fusion = GateAddNorm(width, 0.0)
        self.quantile_head = QuantileHead(width, inputs.horizons, list(s.quantiles))
        self.up_head = nn.Linear(width, inputs.horizons)
        self._initialise()

    def forward(self, x_price: Tensor, x_embedding: Tensor, x_ctx: Tensor) -> dict[str, Tensor]:
        """Forecasts from x_price (B, T, 5), x_embedding (B, E) and x_ctx (B, F).

        `quantiles` (B, H, Q) of `quantile_levels` (Q,) and their median `ret` (B, H) are in units of each
        horizon's train standard deviation; `up_logits` and `up_prob` are (B, H). All are fp32.
        """
        return self._forward(x_price, x_embedding, x_ctx)[0]

    def interpret(self, x_price: Tensor, x_embedding: Tensor, x_ctx: Tensor) -> Interpretation:
        """See Interpretable."""
        return self._forward(x_price, x_embedding, x_ctx)[1]

    def _forward(
        self, x_price: Tensor, x_embedding: Tensor, x_ctx: Tensor
    ) -> tuple[dict[str, Tensor], Interpretation]:
        static, static_weights = self.select_static(self._static_variables(x_embedding, x_ctx))
        for_selection, for_h, for_c, for_enrichment = (network(static) for network in self.contexts)
        bars = x_price.transpose(0, 1).contiguous()  # time first, as the LSTM takes it
        chosen, price_weights = self.select_price.of_scalars(bars, self.embed_price, for_selection)
        local = self.after_lstm(self._recur(chosen, for_h, for_c), chosen)
        enriched = self.enrich(local, for_enrichment)
        seen, attention = self.attention(enriched)
        fused = self.after_attention(seen, enriched[-1])
        for network in self.fusion:
            fused = network(fused)
        last = self.after_fusion(fused, local[-1])
        weights = Interpretation(price_weights.transpose(0, 1), static_weights, attention)
        return self._heads(last), weights

    def _static_variables(self, x_embedding: Tensor, x_ctx: Tensor) -> Tensor:
        """(V, B, D)"""
        variables: Tensor = self.embed_context(x_ctx)
        if self.embed_embedding is not None:
            embedded = self.embed_embedding(x_embedding).unsqueeze(0)
            variables = torch.cat([variables, embedded.to(variables.dtype)])
        return variables

    def _recur(self, x: Tensor, h: Tensor, c: Tensor) -> Tensor:
        """Every LSTM layer starts from the same static state (B, D); (T, B, D) to (T, B, D)."""
        if not _in_float32(x.device):
            return self._layers(x, h, c)
        with torch.autocast(x.device.type, enabled=False):
            return self._layers(x.float(), h, c)

    def _layers(self, x: Tensor, h: Tensor, c: Tensor) -> Tensor:
        start = (h.unsqueeze(0).to(x.dtype), c.unsqueeze(0).to(x.dtype))
        for number, layer in enumerate(self.lstm):
            x = layer(self.between(x) if number else x, start)[0]
        return x

    def _heads(self, x: Tensor) -> dict[str, Tensor]:
        quantiles = self.quantile_head(x)
        up_logits = self.up_head(x).float()
        return {
            "ret": quantiles[..., self.quantile_head.median],
            "up_logits": up_logits,
            "up_prob": torch.sigmoid(up_logits),
            "quantiles": quantiles,
            "quantile_levels": self.quantile_head.levels,
        }

    @torch.no_grad()
    def _initialise(self) -> None:
        initialise_linear(self)
        self.up_head.weight.mul_(0.1)
        self.quantile_head.start_at_normal()
