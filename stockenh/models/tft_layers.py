"""Layers of the Temporal Fusion Transformer (Lim et al. 2019), batched over variables.

Legend: B batch, T bars, S = T * B bars of a batch (time first), V variables, D model width,
H attention heads, d = D / H width of one head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stockenh.models.cpu.kernels import dropout, norm_mix_by_variable, runs_eagerly_on_cpu
from stockenh.models.layers import Dropout, GatedResidualNetwork


class ScalarEmbedding(nn.Module):
    """An affine map of its own from each scalar variable to width D; (B, V) to (V, B, D)."""

    def __init__(self, variables: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(variables, width))
        self.bias = nn.Parameter(torch.zeros(variables, width))
        nn.init.uniform_(self.weight, -1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.bias.unsqueeze(1), x.t().unsqueeze(-1), self.weight.unsqueeze(1))

    def map(self) -> Tensor:
        """(V, 2, D): the rows (x, 1) times it are the embedding."""
        return torch.stack([self.weight, self.bias], dim=1)


class VariableNetworks(nn.Module):
    """A gated residual network for each variable, all at once, and their weighted sum.

    Weights are (V, inputs, outputs), so that variable v computes x_v W_v + b_v.
    """

    def __init__(self, variables: int, width: int, dropout_p: float) -> None:
        super().__init__()
        self.hidden = VariableLinear(variables, width, width)
        self.linear = VariableLinear(variables, width, width)
        self.dropout = Dropout(dropout_p)
        # Two layers, not one split in two: the halves of a wide result are not contiguous, twice as slow.
        self.value = VariableLinear(variables, width, width)
        self.gate = VariableLinear(variables, width, width)
        self.norm_weight = nn.Parameter(torch.ones(variables, width))
        self.norm_bias = nn.Parameter(torch.zeros(variables, width))

    def forward(self, xi: Tensor, weights: Tensor) -> Tensor:
        """The networks' outputs for variables (V, S, D), summed with weights (S, V); (S, D)."""
        return norm_mix(xi + self._gated(self.hidden(xi)), weights, self.norm_weight, self.norm_bias)

    def of_scalars(self, x: Tensor, weights: Tensor, embedding: ScalarEmbedding) -> Tensor:
        """The same for variables that `embedding` makes from scalars x (S, V).

        An affine map of an affine map is an affine map: the first layer takes 2 D products a bar, not D^2.
        """
        scalars = torch.stack([x, torch.ones_like(x)], dim=-1).transpose(0, 1)  # (V, S, 2)
        to_xi = embedding.map()
        to_hidden = torch.baddbmm(F.pad(self.hidden.bias, (0, 0, 1, 0)), to_xi, self.hidden.weight)
        gated = self._gated(torch.bmm(scalars, to_hidden))
        summed = torch.baddbmm(gated, scalars, to_xi)
        mix = norm_mix_by_variable if runs_eagerly_on_cpu(x) else norm_mix
        return mix(summed, weights, self.norm_weight, self.norm_bias)

    def _gated(self, hidden: Tensor) -> Tensor:
        inner = self.dropout(self.linear(F.elu(hidden)))
        gated: Tensor = self.value(inner) * torch.sigmoid(self.gate(inner))
        return gated


def norm_mix(x: Tensor, weights: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """The layer norms (V, S, D) of each variable, with scale and shift (V, D), summed with weights (S, V)."""
    normed = F.layer_norm(x, x.shape[-1:])
    scaled = torch.addcmul(shift.unsqueeze(1), normed, scale.unsqueeze(1))
    return (scaled * weights.t().unsqueeze(-1)).sum(0)


class VariableLinear(nn.Module):
    """A linear layer of its own for each variable; (V, S, inputs) to (V, S, outputs)."""

    def __init__(self, variables: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(variables, inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(variables, 1, outputs))
        bound = (6 / (inputs + outputs)) ** 0.5  # Glorot and Bengio 2010
        nn.init.uniform_(self.weight, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, x, self.weight)


class VariableSelection(nn.Module):
    """Variable selection (Lim et al. 2019, equations 6 to 8), optionally conditioned on (B, D).

    A softmax over variables weighs the output of each variable's own gated residual network.
    """

    def __init__(self, variables: int, width: int, dropout_p: float, condition: int = 0) -> None:
        super().__init__()
        self.width = width
        self.networks = VariableNetworks(variables, width, dropout_p)
        self.weigh = GatedResidualNetwork(
            variables * width, variables, dropout_p, condition=condition, inner=width
        )

    def forward(self, xi: Tensor) -> tuple[Tensor, Tensor]:
        """Of variables (V, B, D): the selection (B, D) and the weights (B, V)."""
        weights = torch.softmax(self.weigh(xi.transpose(0, 1).flatten(1)), dim=-1)
        return self.networks(xi, weights), weights

    def of_scalars(self, x: Tensor, embedding: ScalarEmbedding, c: Tensor) -> tuple[Tensor, Tensor]:
        """Of scalars (T, B, V) at each bar: the selection (T, B, D) and the weights (T, B, V)."""
        skip, hidden = (self._folded(layer, x, embedding) for layer in (self.weigh.skip, self.weigh.hidden))
        weights = torch.softmax(self.weigh.gated(skip, hidden, c), dim=-1)
        chosen = self.networks.of_scalars(x.flatten(0, 1), weights.flatten(0, 1), embedding)
        return chosen.unflatten(0, x.shape[:2]), weights

    def _folded(self, layer: nn.Module, x: Tensor, embedding: ScalarEmbedding) -> Tensor:
        """`layer` of the flattened embeddings, as one map from the scalars themselves."""
        assert isinstance(layer, nn.Linear)
        by_variable = layer.weight.unflatten(1, (-1, self.width))  # (outputs, V, D)
        weight = (by_variable * embedding.weight).sum(-1)
        return F.linear(x, weight, layer.bias + (by_variable * embedding.bias).sum((1, 2)))


class LastBarAttention(nn.Module):
    """Interpretable multi-head attention (Lim et al. 2019, equations 13 to 16), with the last bar's query.

    Heads have their own queries and keys and share one projection of values, so that the mean of their
    weights shows what the output came from. No bias, as in the authors' code.
    """

    def __init__(self, width: int, heads: int, dropout_p: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout_p = dropout_p
        self.q = nn.Linear(width, width, bias=False)
        self.k = nn.Linear(width, width, bias=False)
        self.v = nn.Linear(width, width // heads, bias=False)
        self.out = nn.Linear(width // heads, width, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Of (T, B, D): the last bar's output (B, D), and its attention (B, H, T) before dropout.

        The last bar sees every other bar, so there is no mask. Keys and values are linear in x: the query and
        the weighted sum are projected once, instead of x at every bar.
        """
        q = self.q(x[-1]).unflatten(-1, (self.heads, 1, -1))  # (B, H, 1, d)
        projected = (q @ self.k.weight.unflatten(0, (self.heads, -1)).to(q.dtype)).squeeze(2)  # (B, H, D)
        scale = (q.shape[-1]) ** -0.5
        weights = torch.softmax(torch.bmm(projected * scale, x.permute(1, 2, 0)), dim=-1)
        used = dropout(weights, self.dropout_p) if self.training else weights
        seen = torch.bmm(used.mean(1, keepdim=True), x.transpose(0, 1)).squeeze(1)
        mixed: Tensor = self.out(self.v(seen))
        return mixed, weights


class GateAddNorm(nn.Module):
    """LayerNorm(skip + GLU(dropout(x))); (..., D) to (..., D)."""

    def __init__(self, width: int, dropout_p: float) -> None:
        super().__init__()
        self.dropout = Dropout(dropout_p)
        self.gate = nn.Linear(width, 2 * width)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        normed: Tensor = self.norm(skip + F.glu(self.gate(self.dropout(x)), dim=-1))
        return normed
