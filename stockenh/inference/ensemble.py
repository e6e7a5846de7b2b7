"""Several networks as one: the mean of their returns and of their calibrated logits.

Legend: B windows, K members, H horizons, Q quantiles, F context features.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from stockenh.data.fitted import CLIP, Fitted
from stockenh.inference.calibration import Calibration

MEMBERS = "member_up_prob"  # the output that holds each member's own probabilities


class Ensemble(nn.Module):
    """Takes windows standardised by the first member's statistics; returns come in its unit.

    A deep ensemble (Lakshminarayanan, Pritzel and Blundell 2017) with means of logits in place of those of
    probabilities. Networks run one after another: one pass over stacked weights is slower on a CPU.
    """

    def __init__(
        self,
        nets: Sequence[nn.Module],
        fitted: Sequence[Fitted],
        calibrations: Sequence[Calibration],
        has_quantiles: bool = False,
    ) -> None:
        super().__init__()
        self.outputs = ("ret", "up_logits", *(("quantiles",) if has_quantiles else ()))
        first = fitted[0]
        self.members = nn.ModuleList(
            _Member(net, own, first, calibration)
            for net, own, calibration in zip(nets, fitted, calibrations, strict=True)
        )

    def forward(self, x_price: Tensor, x_embedding: Tensor, x_ctx: Tensor) -> dict[str, Tensor]:
        """`ret` and `up_logits` (B, H), means over the members; `up_prob` (B, H) of that mean;
        `member_up_prob` (B, K, H); the mean `quantiles` (B, H, Q) where all members have those of the same
        levels."""
        outputs = [member(x_price, x_embedding, x_ctx) for member in self.members]
        stacked = {name: torch.stack([output[name] for output in outputs], 1) for name in self.outputs}
        made = {name: values.mean(1) for name, values in stacked.items()}
        up_prob = torch.sigmoid(made["up_logits"])
        return {**made, "up_prob": up_prob, MEMBERS: torch.sigmoid(stacked["up_logits"])}


class _Member(nn.Module):
    """One network between the first member's units and its own."""

    def __init__(self, net: nn.Module, own: Fitted, first: Fitted, calibration: Calibration) -> None:
        super().__init__()
        self.net = net
        self.restandardise = (own.context_mean, own.context_std) != (first.context_mean, first.context_std)
        self.features = len(own.context_mean)  # categories of the user's own columns follow them
        for name, values in (
            ("unit", [a / b for a, b in zip(own.return_std, first.return_std, strict=True)]),
            ("mean", own.context_mean),
            ("std", own.context_std),
            ("first_mean", first.context_mean),
            ("first_std", first.context_std),
            ("temperature", calibration.temperature),
            ("bias", calibration.bias),
        ):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32))

    unit: Tensor
    mean: Tensor
    std: Tensor
    first_mean: Tensor
    first_std: Tensor
    temperature: Tensor
    bias: Tensor

    def forward(self, x_price: Tensor, x_embedding: Tensor, x_ctx: Tensor) -> dict[str, Tensor]:
        if self.restandardise:
            # what the first member's scale clips stays clipped
            raw = x_ctx[:, : self.features] * self.first_std + self.first_mean
            scaled = ((raw - self.mean) / self.std).clamp(-CLIP, CLIP)
            rest = x_ctx[:, self.features :]
            x_ctx = torch.cat([scaled, rest], 1) if rest.shape[1] else scaled
        out = self.net(x_price, x_embedding, x_ctx)
        made = {"ret": out["ret"] * self.unit, "up_logits": out["up_logits"] / self.temperature + self.bias}
        if "quantiles" in out:
            made["quantiles"] = out["quantiles"] * self.unit[:, None]
        return made
