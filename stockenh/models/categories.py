"""Categories of a symbol as inputs of any network: learned embeddings beside its context features.

Legend: B batch, F context features, K categories of a symbol, W widths of all their embeddings together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stockenh.models import InputSpec, Interpretable, Interpretation, ModelSettings

MOST_WIDE = 16


def network(settings: ModelSettings, inputs: InputSpec) -> nn.Module:
    """The network for these inputs, freshly initialised; behind embeddings where there are categories."""
    if not inputs.categories:
        return settings.build(inputs)
    widths = [min(MOST_WIDE, math.ceil(math.sqrt(size))) for size in inputs.categories]
    net = settings.build(replace(inputs, context=inputs.context + sum(widths), categories=()))
    kind = InterpretableWithCategories if isinstance(net, Interpretable) else WithCategories
    return kind(net, inputs.context, inputs.categories, widths)


class WithCategories(nn.Module):
    """A network whose context features are followed by embeddings of the symbol's categories.

    The index 0 stands for a category that train does not have, or none: it gets the mean of all embeddings of
    its column, so that no weight answers that was never trained.
    given: where x_ctx has the embeddings themselves in place of indices, see `OnEmbeddings`
    """

    given: slice | None = None

    def __init__(self, net: nn.Module, context: int, sizes: Sequence[int], widths: Sequence[int]) -> None:
        super().__init__()
        self.net = net
        self.context = context
        self.widths = list(widths)
        self.embed = nn.ModuleList(nn.Embedding(*shape) for shape in zip(sizes, widths, strict=True))

    def forward(self, x_price: Tensor, x_embedding: Tensor, x_ctx: Tensor) -> dict[str, Tensor]:
        """As the network itself; x_ctx (B, F + K) has the features and the index of each category."""
        made: dict[str, Tensor] = self.net(x_price, x_embedding, self.embedded(x_ctx))
        return made

    def embedded(self, x_ctx: Tensor) -> Tensor:
        """(B, F + W) features and embeddings, from features and indices (B, F + K)."""
        parts = [x_ctx[:, : self.context]]
        if self.given is not None:
            return torch.cat([*parts, x_ctx[:, self.given]], 1)
        tables = (layer.weight for layer in self.embed if isinstance(layer, nn.Embedding))
        for index, weight in zip(x_ctx[:, self.context :].long().unbind(1), tables, strict=True):
            # the ONNX exporter folds what .mean() gives into a constant called mean, and the graph has one
            middle = weight.sum(0, keepdim=True) / weight.shape[0]
            table = torch.cat([middle, weight])
            parts.append(F.embedding(index, table).to(x_ctx.dtype))
        return torch.cat(parts, 1)

    def by_name(self, x: Tensor) -> Tensor:
        """(B, F + K) of what belongs to features and embeddings (B, F + W, summed for each category)."""
        features, *each = x.split([self.context, *self.widths], 1)
        return torch.cat([features, *(part.sum(1, keepdim=True) for part in each)], 1)


class OnEmbeddings(nn.Module):
    """A network, or several as one, as a function of embeddings: an index has no slope.

    Its context is (B, F + W): the features, then the embeddings of each network's categories.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.layers = [module for module in net.modules() if isinstance(module, WithCategories)]
        self.context = self.layers[0].context

    @torch.no_grad()
    def embedded(self, x_ctx: Tensor) -> Tensor:
        """(B, F + W) from features and indices (B, F + K)."""
        each = [layer.embedded(x_ctx)[:, self.context :] for layer in self.layers]
        return torch.cat([x_ctx[:, : self.context], *each], 1)

    def forward(self, x_price: Tensor, x_embedding: Tensor, x_ctx: Tensor) -> dict[str, Tensor]:
        """As the network's own."""
        start = self.context
        try:
            for layer in self.layers:
                layer.given = slice(start, start := start + sum(layer.widths))
            made: dict[str, Tensor] = self.net(x_price, x_embedding, x_ctx)
            return made
        finally:
            for layer in self.layers:
                layer.given = None

    def by_name(self, x: Tensor) -> Tensor:
        """(B, F + K) of what belongs to features and embeddings (B, F + W), summed for each category."""
        widths = [sum(layer.widths) for layer in self.layers]
        features, *each = x.split([self.context, *widths], 1)
        summed = [
            layer.by_name(torch.cat([features, part], 1))[:, self.context :]
            for layer, part in zip(self.layers, each, strict=True)
        ]
        return torch.cat([features, torch.stack(summed).sum(0)], 1)


def on_embeddings(net: nn.Module) -> OnEmbeddings | None:
    """The network as a function of its embeddings; None where it has no categories."""
    has_any = any(isinstance(module, WithCategories) for module in net.modules())
    return OnEmbeddings(net) if has_any else None


class InterpretableWithCategories(WithCategories, Interpretable):
    """The same around a network that has weights of its own."""

    def interpret(self, x_price: Tensor, x_embedding: Tensor, x_ctx: Tensor) -> Interpretation:
        """See Interpretable; the weight of a category is the sum over its embedding."""
        assert isinstance(self.net, Interpretable)
        found = self.net.interpret(x_price, x_embedding, self.embedded(x_ctx))
        own, rest = found.static.tensor_split([self.context + sum(self.widths)], 1)
        return replace(found, static=torch.cat([self.by_name(own), rest], 1))
