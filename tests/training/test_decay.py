"""Weight decay: of all parameters, or of matrices alone."""

import pytest
import torch
from torch import nn

from stockenh.training.optimizers import AdamW


@pytest.mark.parametrize("decay_vectors", [True, False])
def test_biases_and_norms_decay_only_where_they_are_to(decay_vectors):
    net = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2))
    nn.init.ones_(net[0].bias)
    before = [p.detach().clone() for p in net.parameters()]
    optimizer = AdamW(lr=0.1, weight_decay=0.5, decay_vectors=decay_vectors).build(net.parameters())
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    weight, *vectors = net.parameters()
    torch.testing.assert_close(weight, before[0] * (1 - 0.1 * 0.5))
    factor = 1 - 0.1 * 0.5 if decay_vectors else 1.0
    for now, then in zip(vectors, before[1:], strict=True):
        torch.testing.assert_close(now, then * factor)
