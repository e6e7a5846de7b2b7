"""The Temporal Fusion Transformer against the paper's equations, variable by variable and bar by bar."""

import math
from dataclasses import replace

import pytest
import torch
from test_networks import TFT
from torch import Tensor, nn

from stockenh.models import tft_layers
from stockenh.models.cpu.kernels import norm_mix_by_variable
from stockenh.models.layers import GatedResidualNetwork
from stockenh.models.tft import QuantileHead, TemporalFusionTransformer
from stockenh.models.tft_layers import (
    GateAddNorm,
    LastBarAttention,
    ScalarEmbedding,
    VariableNetworks,
    VariableSelection,
    norm_mix,
)

SHORT = TFT.inputs
EXACT = {"rtol": 1e-9, "atol": 1e-10}


def built(inputs=SHORT, **changes):
    model = TFT.build(inputs, **changes)
    with torch.no_grad():  # biases and norms away from 0 and 1, where a mistake in them would not show
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def batch(inputs=SHORT, size=3):
    return TFT.batch(size, inputs)


def double(inputs):
    return tuple(x.double() for x in inputs)


# The reference: plain functions of one vector, one variable, one bar at a time.


def norm(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    spread = ((x - x.mean()) ** 2).mean()
    return (x - x.mean()) / torch.sqrt(spread + 1e-5) * scale + shift


def elu(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, torch.exp(x) - 1)


def glu(layer: nn.Linear, x: Tensor) -> Tensor:
    both = layer.weight @ x + layer.bias
    half = len(both) // 2
    return both[:half] / (1 + torch.exp(-both[half:]))


def grn(net: GatedResidualNetwork, a: Tensor, c: Tensor | None = None) -> Tensor:
    """Equations 2 to 5."""
    eta2 = net.hidden.weight @ a + net.hidden.bias
    if c is not None:
        eta2 = eta2 + net.condition.weight @ c
    eta1 = net.linear.weight @ elu(eta2) + net.linear.bias
    skip = a if isinstance(net.skip, nn.Identity) else net.skip.weight @ a + net.skip.bias
    return norm(skip + glu(net.gate, eta1), net.norm.weight, net.norm.bias)


def variable_grn(nets: VariableNetworks, v: int, xi: Tensor) -> Tensor:
    """Equation 7, of variable v alone."""

    def affine(layer: nn.Module, x: Tensor) -> Tensor:
        return x @ layer.weight[v] + layer.bias[v, 0]

    eta1 = affine(nets.linear, elu(affine(nets.hidden, xi)))
    gated = affine(nets.value, eta1) / (1 + torch.exp(-affine(nets.gate, eta1)))
    return norm(xi + gated, nets.norm_weight[v], nets.norm_bias[v])


def select(net: VariableSelection, xis: list[Tensor], c: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Equations 6 to 8."""
    scores = torch.exp(grn(net.weigh, torch.cat(xis), c))
    weights = scores / scores.sum()
    chosen = [weights[v] * variable_grn(net.networks, v, xi) for v, xi in enumerate(xis)]
    return torch.stack(chosen).sum(0), weights


def embedded(net: ScalarEmbedding, x: Tensor) -> list[Tensor]:
    return [x[v] * net.weight[v] + net.bias[v] for v in range(len(x))]


def lstm(layer: nn.LSTM, xs: list[Tensor], h: Tensor, c: Tensor) -> list[Tensor]:
    """Hochreiter and Schmidhuber 1997, gates in torch's order: input, forget, cell, output."""
    out = []
    for x in xs:
        gates = layer.weight_ih_l0 @ x + layer.bias_ih_l0 + layer.weight_hh_l0 @ h + layer.bias_hh_l0
        i, f, g, o = gates.chunk(4)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        out.append(h)
    return out


def gate_add_norm(net: GateAddNorm, x: Tensor, skip: Tensor) -> Tensor:
    return norm(skip + glu(net.gate, x), net.norm.weight, net.norm.bias)


def attend(net: LastBarAttention, xs: list[Tensor]) -> tuple[list[Tensor], Tensor]:
    """Equations 13 to 16 at every bar, which sees itself and the bars before; and the last bar's weights."""
    d = len(xs[0]) // net.heads
    out = []
    for t in range(len(xs)):
        by_head = []
        for head in range(net.heads):
            rows = slice(head * d, (head + 1) * d)
            query = net.q.weight[rows] @ xs[t]
            scores = torch.stack([query @ (net.k.weight[rows] @ xs[s]) for s in range(t + 1)]) / math.sqrt(d)
            by_head.append(torch.exp(scores) / torch.exp(scores).sum())
        values = [net.v.weight @ xs[s] for s in range(t + 1)]
        heads = [sum(w * value for w, value in zip(of, values, strict=True)) for of in by_head]
        out.append(net.out.weight @ (sum(heads) / net.heads))
    return out, torch.stack(by_head)


def reference(model: TemporalFusionTransformer, x_price: Tensor, x_embedding: Tensor, x_ctx: Tensor) -> dict:
    """One window: prices (T, 5), embedding (E,), features (F,)."""
    statics = embedded(model.embed_context, x_ctx)
    if model.embed_embedding is not None:
        statics.append(model.embed_embedding.weight @ x_embedding + model.embed_embedding.bias)
    static, static_weights = select(model.select_static, statics)
    c_s, c_h, c_c, c_e = (grn(net, static) for net in model.contexts)
    selected = [select(model.select_price, embedded(model.embed_price, bar), c_s) for bar in x_price]
    chosen = [out for out, _ in selected]
    local = chosen
    for layer in model.lstm:
        local = lstm(layer, local, c_h, c_c)
    local = [gate_add_norm(model.after_lstm, x, skip) for x, skip in zip(local, chosen, strict=True)]
    enriched = [grn(model.enrich, x, c_e) for x in local]
    seen, attention = attend(model.attention, enriched)
    fused = gate_add_norm(model.after_attention, seen[-1], enriched[-1])
    for net in model.fusion:
        fused = grn(net, fused)
    last = gate_add_norm(model.after_fusion, fused, local[-1])
    head = model.quantile_head
    raw = (head.linear.weight @ last + head.linear.bias).view(head.horizons, -1)
    step = torch.log(1 + torch.exp(raw))
    quantiles = [torch.stack([r[1] - s[0], r[1], r[1] + s[2]]) for r, s in zip(raw, step, strict=True)]
    return {
        "quantiles": torch.stack(quantiles),
        "up_logits": model.up_head.weight @ last + model.up_head.bias,
        "price": torch.stack([weights for _, weights in selected]),
        "static": static_weights,
        "attention": attention,
    }


@pytest.mark.parametrize("embedding", [6, 0])
def test_the_whole_network_equals_the_paper_written_out_and_so_do_its_weights(embedding):
    inputs = replace(SHORT, embedding=embedding)
    model = built(inputs=inputs).double().eval()
    windows = double(batch(inputs))
    out, why = model(*windows), model.interpret(*windows)
    for row in range(3):
        expected = reference(model, *(x[row] for x in windows))
        torch.testing.assert_close(out["quantiles"][row], expected["quantiles"].float())
        torch.testing.assert_close(out["up_logits"][row], expected["up_logits"].float())
        for name in ("price", "static", "attention"):
            torch.testing.assert_close(getattr(why, name)[row], expected[name], **EXACT)
    assert why.static.shape == (3, 4 + (embedding > 0))
    assert why.static_names(["a", "b", "c", "d"]) == ["a", "b", "c", "d", *["embedding"] * (embedding > 0)]


def test_selection_of_scalars_equals_that_of_their_embeddings_and_so_do_its_gradients():
    torch.manual_seed(0)
    net = VariableSelection(5, 6, dropout_p=0.0, condition=6).double()
    embedding = ScalarEmbedding(5, 6).double()
    nn.init.normal_(embedding.bias)
    x, c = torch.randn(4, 3, 5, dtype=torch.float64), torch.randn(3, 6, dtype=torch.float64)
    parameters = [*net.parameters(), *embedding.parameters()]
    out, weights = net.of_scalars(x, embedding, c)
    rows = [select(net, embedded(embedding, x[t, b]), c[b]) for t in range(4) for b in range(3)]
    expected = torch.stack([row for row, _ in rows]).view(4, 3, 6)
    torch.testing.assert_close(out, expected, **EXACT)
    torch.testing.assert_close(weights.flatten(0, 1), torch.stack([w for _, w in rows]), **EXACT)
    direction = torch.randn_like(out)
    found = torch.autograd.grad((out * direction).sum(), parameters)
    by_variable = torch.autograd.grad((expected * direction).sum(), parameters)
    torch.testing.assert_close(found, by_variable, **EXACT)


def test_mixing_norms_by_variable_equals_mixing_them_at_once_and_so_do_its_gradients():
    torch.manual_seed(0)
    inputs = [torch.randn(*shape, dtype=torch.float64) for shape in ((3, 7, 4), (7, 3), (3, 4), (3, 4))]
    ours = [x.clone().requires_grad_() for x in inputs]
    theirs = [x.clone().requires_grad_() for x in inputs]
    torch.testing.assert_close(norm_mix_by_variable(*ours), norm_mix(*theirs), **EXACT)
    assert torch.autograd.gradcheck(norm_mix_by_variable, ours)


def test_quantiles_by_hand():
    head = QuantileHead(2, horizons=1, levels=[0.05, 0.25, 0.5, 0.9])
    with torch.no_grad():
        head.linear.weight.zero_()
        # softplus(log(e^s - 1)) = s: steps of 1 and 2 below the median of 0.3, and of 4 above
        steps = [math.log(math.expm1(s)) for s in (1, 2, 4)]
        head.linear.bias.copy_(torch.tensor([steps[0], steps[1], 0.3, steps[2]]))
    expected = torch.tensor([[[-2.7, -1.7, 0.3, 4.3]]])
    torch.testing.assert_close(head(torch.randn(1, 2)), expected)


@pytest.mark.parametrize("levels", [[0.05, 0.3, 0.5, 0.95], [0.5]])
def test_quantiles_never_cross_and_the_forecast_is_the_median(levels):
    model = built(quantiles=levels)
    with torch.no_grad():
        model.quantile_head.linear.weight.mul_(100)
    out = model(*batch(size=50))
    assert out["quantiles"].shape == (50, 2, len(levels))
    assert (out["quantiles"].diff(dim=-1) >= 0).all()
    assert torch.equal(out["ret"], out["quantiles"][..., levels.index(0.5)])
    assert out["quantile_levels"].tolist() == pytest.approx(levels)


def test_a_weight_is_named_after_the_variable_that_moves_it():
    model = built().eval()
    why = model.interpret(*batch(size=20))
    for weights in (why.price, why.static, why.attention):
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
    names = ["rsi_14", "macd", "atr", "volume_ratio"]
    assert why.static_names(names) == [*names, "embedding"]
    with torch.no_grad():  # the logit of the third feature goes far up
        model.select_static.weigh.norm.bias[2] += 20
        model.select_price.weigh.norm.bias[3] += 20
    pushed = model.interpret(*batch(size=20))
    assert pushed.static[:, 2].mean() > 0.99 and pushed.price[..., 3].mean() > 0.99


def test_selection_over_bars_never_loops_over_the_static_variables(monkeypatch):
    """The Function that goes variable by variable serves the five price series alone."""
    seen = []
    original = tft_layers.norm_mix_by_variable
    monkeypatch.setattr(
        tft_layers, "norm_mix_by_variable", lambda x, *rest: seen.append(len(x)) or original(x, *rest)
    )
    built()(*batch())
    assert seen == [5]
