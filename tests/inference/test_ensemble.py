"""The mean of several networks as one module."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from stockenh.data.fitted import Fitted
from stockenh.inference.calibration import Calibration
from stockenh.inference.ensemble import MEMBERS, Ensemble
from stockenh.inference.predict import of_members

FITTED = Fitted(["a", "b"], [1.0, -2.0], [2.0, 0.5], [0.1, 0.2], [0.5, 0.5])
OTHER = replace(FITTED, context_mean=[0.0, 1.0], context_std=[1.0, 3.0], return_std=[0.2, 0.1])
INPUTS = (torch.zeros(3, 4, 5), torch.zeros(3, 0), torch.tensor([[0.1, 0.2], [-1.0, 2.0], [0.5, -0.3]]))


class Net(nn.Module):
    """Returns and logits that are sums of the context, two horizons; quantiles on demand."""

    def __init__(self, factor: float, quantiles: bool = False) -> None:
        super().__init__()
        self.factor, self.quantiles = nn.Parameter(torch.tensor(factor)), quantiles

    def forward(self, x_price, x_embedding, x_ctx):
        ret = self.factor * x_ctx.cumsum(1)
        out = {"ret": ret, "up_logits": 2 * ret, "up_prob": torch.sigmoid(2 * ret)}
        return out | (
            {"quantiles": ret[:, :, None] + torch.tensor([-1.0, 0.0, 1.0])} if self.quantiles else {}
        )


def test_returns_and_calibrated_logits_are_averaged():
    nets = [Net(1.0), Net(3.0)]
    calibrations = [Calibration((2.0, 1.0), (0.1, 0.0)), Calibration.identity(2)]
    out = Ensemble(nets, [FITTED, FITTED], calibrations)(*INPUTS)
    one, two = (net(*INPUTS) for net in nets)
    torch.testing.assert_close(out["ret"], (one["ret"] + two["ret"]) / 2)
    first = one["up_logits"] / torch.tensor([2.0, 1.0]) + torch.tensor([0.1, 0.0])
    torch.testing.assert_close(out["up_logits"], (first + two["up_logits"]) / 2)
    torch.testing.assert_close(out["up_prob"], torch.sigmoid(out["up_logits"]))
    torch.testing.assert_close(out[MEMBERS], torch.sigmoid(torch.stack([first, two["up_logits"]], 1)))


def test_a_member_of_another_train_part_gets_and_gives_its_own_units():
    raw = np.array([[0.3, 0.2], [2.0, -1.5], [1.0, 0.1]], np.float32)  # none that a scale clips
    first, second = (torch.from_numpy(fitted.standardise(raw)) for fitted in (FITTED, OTHER))
    identity = Calibration.identity(2)
    out = Ensemble([Net(0.0), Net(1.0)], [FITTED, OTHER], [identity, identity])(*INPUTS[:2], first)
    own = Net(1.0)(*INPUTS[:2], second)
    torch.testing.assert_close(
        2 * out["ret"] * torch.tensor(FITTED.return_std), own["ret"] * torch.tensor(OTHER.return_std)
    )
    torch.testing.assert_close(2 * out["up_logits"], own["up_logits"])


def test_one_network_alone_is_itself():
    out = Ensemble([Net(2.0)], [FITTED], [Calibration.identity(2)])(*INPUTS)
    assert torch.equal(out["ret"], Net(2.0)(*INPUTS)["ret"])


@pytest.mark.parametrize("both", [True, False])
def test_quantiles_are_averaged_where_all_have_them(both):
    identity = Calibration.identity(2)
    nets = [Net(1.0, quantiles=True), Net(3.0, quantiles=both)]
    out = Ensemble(nets, [FITTED, FITTED], [identity, identity], has_quantiles=both)(*INPUTS)
    assert ("quantiles" in out) == both
    if both:
        torch.testing.assert_close(out["quantiles"][..., 1], out["ret"])


def test_probabilities_of_members_are_ordered_by_view_and_member():
    given = np.arange(2 * 3 * 4 * 5, dtype=np.float64).reshape(2 * 3, 4, 5)  # 2 views of 3 windows, 4 members
    found = of_members(given, 2)
    assert found.shape == (8, 3, 5)
    assert (found[4 + 1, 2] == given[3 + 2, 1]).all()  # view 1, member 1, window 2
