"""Categories of a symbol: an embedding in front of any network, the mean of all where one is unknown."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from random_bars import two_symbols
from torch.nn import functional as F

from stockenh.data.fitted import Fitted
from stockenh.models import InputSpec, Interpretable
from stockenh.models.categories import WithCategories, network, on_embeddings
from stockenh.models.tft import TftSettings
from stockenh.models.timeformer import TimeFormerSettings

SPEC = InputSpec(lookback=20, price=5, embedding=0, context=4, horizons=2, categories=(3, 9))
NETS = [
    TimeFormerSettings(d_model=16, heads=2, layers=1, ffn=16, conv_dilations=[], head_hidden=8),
    TftSettings(d_model=16, heads=2, lstm_layers=1, fusion_layers=1),
]


def made(settings, batch=6):
    torch.manual_seed(0)
    net = network(settings, SPEC).eval()
    index = torch.tensor([[1, 1], [2, 9], [3, 4], [0, 0], [0, 5], [1, 0]])[:batch]
    x_ctx = torch.cat([torch.randn(batch, 4), index.float()], 1)
    return net, (torch.randn(batch, 20, 5), torch.zeros(batch, 0), x_ctx)


def test_without_categories_the_network_is_its_own():
    assert not isinstance(network(NETS[0], replace(SPEC, categories=())), WithCategories)


@pytest.mark.parametrize("settings", NETS, ids=lambda s: type(s).__name__)
def test_the_network_takes_the_embedding_beside_its_features(settings):
    net, inputs = made(settings)
    assert [layer.weight.shape for layer in net.embed] == [(3, 2), (9, 3)]
    first, second = (layer.weight for layer in net.embed)
    ctx = torch.stack([
        torch.cat([inputs[2][0, :4], first[0], second[0]]),
        torch.cat([inputs[2][1, :4], first[1], second[8]]),
        torch.cat([inputs[2][2, :4], first[2], second[3]]),
        torch.cat([inputs[2][3, :4], first.mean(0), second.mean(0)]),
    ])  # fmt: skip
    with torch.no_grad():
        given = net.net(inputs[0][:4], inputs[1][:4], ctx)["ret"]
        torch.testing.assert_close(net(*(x[:4] for x in inputs))["ret"], given)


def test_every_known_category_learns_and_an_unknown_one_is_their_mean():
    net, inputs = made(NETS[0], batch=3)
    F.mse_loss(net(*inputs)["ret"], torch.ones(3, 2)).backward()
    moved = net.embed[1].weight.grad.abs().sum(1) > 0
    assert moved.tolist() == [i in (0, 3, 8) for i in range(9)]


def test_weights_of_a_category_are_one_number():
    net, inputs = made(NETS[1])
    assert isinstance(net, Interpretable)
    why = net.interpret(*inputs)
    assert why.static.shape == (6, 6)
    torch.testing.assert_close(why.static.sum(1), torch.ones(6))
    names = why.static_names(["a", "b", "c", "d", "sector", "country"])
    assert len(names) == 6


@pytest.mark.parametrize("settings", NETS, ids=lambda s: type(s).__name__)
def test_a_network_on_embeddings_forecasts_the_same(settings):
    net, inputs = made(settings)
    opened = on_embeddings(net)
    wide = opened.embedded(inputs[2])
    assert wide.shape == (6, 9) and opened.by_name(wide).shape == (6, 6)
    with torch.no_grad():
        torch.testing.assert_close(opened(*inputs[:2], wide)["ret"], net(*inputs)["ret"])
    assert on_embeddings(net.net) is None


def windows_with_categories(**sectors: str):
    return replace(two_symbols(), static_names=("sector",), static=((sectors["A"], sectors["B"]),))


def test_the_categories_are_those_of_the_symbols_in_train():
    windows = windows_with_categories(A="Tech", B="Energy")
    of_a = np.flatnonzero(windows.symbol == 0)
    fitted = Fitted.fit(windows, of_a)
    assert fitted.categories == {"sector": ["Tech"]}
    assert fitted.indices(windows)[[0, -1]].tolist() == [[1], [0]]
    assert fitted.inputs(windows)[[0, -1], -1].tolist() == [1, 0]
    assert Fitted.from_dict(fitted.to_dict()) == fitted
    whole = Fitted.fit(windows, np.arange(len(windows)))
    assert whole.categories == {"sector": ["Energy", "Tech"]}
    assert Fitted.fit(windows_with_categories(A="", B=""), of_a).categories == {"sector": []}


def test_statistics_without_categories_are_stored_as_they_were():
    stored = Fitted.fit(two_symbols(), np.arange(5)).to_dict()
    assert "categories" not in stored and Fitted.from_dict(stored).categories == {}


def test_missing_values_are_left_out_of_the_scale_and_become_its_mean():
    windows = two_symbols()
    context = windows.context.copy()
    context[:, 2] = np.where(np.arange(len(windows)) % 3 == 0, np.nan, context[:, 2])
    context[:, 3] = np.isnan(context[:, 2])
    names = ("a", "b", "x", "x_missing")
    windows = replace(windows, context=context, context_names=names)
    known = context[~np.isnan(context[:, 2]), 2].astype(np.float64)
    fitted = Fitted.fit(windows, np.arange(len(windows)))
    assert fitted.context_mean[2] == pytest.approx(known.mean())
    assert fitted.context_std[2] == pytest.approx(known.std())
    scaled = fitted.standardise(context)
    assert np.isfinite(scaled).all() and (scaled[np.isnan(context[:, 2]), 2] == 0).all()
    assert len(np.unique(scaled[:, 3])) == 2
    # a mask that never varied on train teaches nothing, so it says nothing later
    never = Fitted.fit(windows, np.flatnonzero(context[:, 3] == 0))
    assert (never.standardise(context)[:, 3] == 0).all()
