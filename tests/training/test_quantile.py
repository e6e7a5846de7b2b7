"""The pinball loss by hand, and which loss of returns a model gets."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from stockenh.data.batches import Micro
from stockenh.errors import ConfigError
from stockenh.training.losses.base import pinball
from stockenh.training.losses.huber_bce import HuberBCE

LEVELS = torch.tensor([0.1, 0.5, 0.9])


def micro(y: torch.Tensor) -> Micro:
    empty = torch.zeros(len(y), 0)
    return Micro(empty, empty, empty, y, (y > 0).float(), torch.ones_like(y))


def answer(quantiles: torch.Tensor | None, ret: torch.Tensor) -> dict[str, torch.Tensor]:
    out = {"ret": ret, "up_logits": torch.zeros_like(ret), "up_prob": torch.full_like(ret, 0.5)}
    return out if quantiles is None else {**out, "quantiles": quantiles, "quantile_levels": LEVELS}


def test_pinball_by_hand():
    quantiles = torch.tensor([[[-1.0, 0.0, 2.0]], [[0.0, 3.0, 4.0]]])
    y = torch.tensor([[1.0], [-2.0]])
    # above a forecast of level q it costs q a unit, below it 1 - q
    expected = [[(0.1 * 2 + 0.5 * 1 + 0.1 * 1) / 3], [(0.9 * 2 + 0.5 * 5 + 0.1 * 6) / 3]]
    torch.testing.assert_close(pinball(quantiles, y, LEVELS), torch.tensor(expected))


@pytest.mark.parametrize(("level", "best"), [(0.1, 10), (0.5, 50), (0.9, 90)])
def test_the_quantile_of_the_data_is_the_cheapest_forecast(level, best):
    y = torch.arange(1.0, 100.0)[:, None]  # 1 to 99
    grid = torch.arange(0.0, 101.0)
    cost = [pinball(torch.full((99, 1, 1), f), y, torch.tensor([level])).mean() for f in grid.tolist()]
    assert int(torch.stack(cost).argmin()) == best


def test_auto_takes_quantiles_where_there_are_some_and_huber_else():
    torch.manual_seed(0)
    quantiles, ret, y = torch.randn(4, 2, 3), torch.randn(4, 2), torch.randn(4, 2)
    huber = F.huber_loss(ret, y, reduction="none")
    of = {name: HuberBCE(returns=name) for name in ("auto", "huber", "pinball")}
    for name, expected in (("auto", pinball(quantiles, y, LEVELS)), ("huber", huber)):
        assert torch.equal(of[name].elements(answer(quantiles, ret), micro(y))[0], expected)
    assert torch.equal(of["auto"].elements(answer(None, ret), micro(y))[0], huber)
    both = [of[name].elements(answer(quantiles, ret), micro(y))[0] for name in ("auto", "pinball")]
    assert torch.equal(*both)


def test_pinball_without_quantiles_names_loss_and_model():
    with pytest.raises(ConfigError) as caught:
        HuberBCE(returns="pinball").elements(answer(None, torch.zeros(1, 1)), micro(torch.zeros(1, 1)))
    assert str(caught.value) == (
        "loss.returns=pinball needs quantiles, and this model gives none: "
        "take model=tft_xl or loss.returns=auto"
    )


def test_pinball_without_quantiles_ends_a_run_with_that_line(stockenh, small_run, tmp_path):
    done = stockenh("train", *small_run, "loss.returns=pinball", f"hydra.run.dir={tmp_path / 'run'}")
    assert done.code == 2
    assert "loss.returns=pinball needs quantiles" in done.err and "Traceback" not in done.err


def test_a_wrong_name_is_refused():
    with pytest.raises(ConfigError, match=r"loss\.returns=mse must be auto, huber or pinball"):
        HuberBCE(returns="mse")
