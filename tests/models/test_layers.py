"""Attention, rotary positions, dropout, causal convolution and layers in other forms (the GRN: test_tft)."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from stockenh.models.cpu.kernels import attention, dropout
from stockenh.models.layers import (
    BarReturns,
    CausalConv,
    CrossAttention,
    EncoderLayer,
    Rotary,
    SelfAttention,
    in_other_forms,
)


def test_rotary_turns_by_one_radian_per_position_and_a_second_pair_100_times_slower():
    turned = Rotary(tokens=3, width=2)(torch.tensor([[1.0, 0.0]] * 3))
    torch.testing.assert_close(turned, torch.tensor([[math.cos(m), math.sin(m)] for m in range(3)]))
    turned = Rotary(tokens=2, width=4)(torch.tensor([[0.0, 1.0, 0.0, 0.0]] * 2))
    expected = [[0.0, 1.0, 0.0, 0.0], [0.0, math.cos(0.01), 0.0, math.sin(0.01)]]
    torch.testing.assert_close(turned, torch.tensor(expected))


@settings(max_examples=20)
@given(seed=st.integers(0, 2**31), width=st.sampled_from([2, 4, 16]))
def test_rotary_scores_depend_on_distance_alone_and_lengths_stay(seed, width):
    generator = torch.Generator().manual_seed(seed)
    q, k = torch.randn(2, 1, width, generator=generator)
    rotary = Rotary(tokens=9, width=width)
    turned_q, turned_k = rotary(q.expand(9, width)), rotary(k.expand(9, width))
    scores = turned_q @ turned_k.T
    for distance in range(-8, 9):
        same = scores.diagonal(distance)
        torch.testing.assert_close(same, same[:1].expand_as(same), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(turned_q.norm(dim=-1), q.norm().expand(9), rtol=1e-5, atol=1e-6)


def test_self_attention_knows_the_order_of_tokens():
    torch.manual_seed(0)
    layer = SelfAttention(d_model=8, heads=2, tokens=5, dropout_p=0.0)
    x = torch.randn(1, 5, 8)
    assert not torch.allclose(layer(x.flip(1)).flip(1), layer(x), atol=1e-3)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.bfloat16, 3e-2)])
def test_attention_and_its_gradients_equal_the_reference(dtype, tolerance):
    torch.manual_seed(0)
    inputs = [torch.randn(3, 2, length, 8, dtype=dtype, requires_grad=True) for length in (6, 4, 4)]
    reference = [x.detach().double().requires_grad_() for x in inputs]
    ours = attention(*inputs)
    theirs = F.scaled_dot_product_attention(*reference)
    torch.testing.assert_close(ours.double(), theirs, rtol=tolerance, atol=tolerance)
    ours.square().sum().backward()
    theirs.square().sum().backward()
    for x, y in zip(inputs, reference, strict=True):
        torch.testing.assert_close(x.grad.double(), y.grad, rtol=tolerance, atol=3 * tolerance)


def test_attention_drops_weights_and_keeps_their_mean():
    torch.manual_seed(0)
    q, k = torch.zeros(2, 200, 4, 50, 4).unbind()
    dropped = attention(q, k, torch.ones(200, 4, 50, 4), dropout_p=0.5)
    assert dropped.std() > 0.05
    assert dropped.mean().item() == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("p", [0.1, 0.2, 0.5, 0.001, 0.999])
def test_dropout_on_cpu_rounds_the_share_to_256ths_and_keeps_the_mean(p):
    torch.manual_seed(0)
    dropped = dropout(torch.ones(1_000_003), p)
    share = min(max(round(p * 256), 1), 255) / 256
    assert (dropped == 0).double().mean().item() == pytest.approx(share, abs=0.002)
    assert dropped.unique().tolist() == pytest.approx([0.0, 1 / (1 - share)])
    # Every position is dropped alike: the eight values that share one draw do not repeat each other.
    eight = (dropped[:1_000_000].view(-1, 8) == 0).double()
    assert eight.mean(0).tolist() == pytest.approx([share] * 8, abs=0.004)
    both = (eight[:, 0] * eight[:, 7]).mean().item()
    assert both == pytest.approx(share**2, abs=0.004)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_on_cpu_keeps_what_the_bytes_of_the_draws_say(dtype):
    x = torch.randn(5, 7).to(dtype)
    torch.manual_seed(4)
    found = dropout(x, 0.5)
    torch.manual_seed(4)
    draws = torch.empty(5, dtype=torch.int64).random_(-(2**63), None).view(torch.uint8)[:35].view(5, 7)
    assert torch.equal(found, torch.where(draws >= 128, 2 * x, 0 * x))


def test_dropout_repeats_with_the_seed_and_hands_back_its_scale_as_gradient():
    x = torch.randn(5, 7, requires_grad=True)
    torch.manual_seed(3)
    first = dropout(x, 0.25)
    torch.manual_seed(3)
    torch.testing.assert_close(dropout(x, 0.25), first, rtol=0, atol=0)
    first.sum().backward()
    torch.testing.assert_close(x.grad * x.detach(), first.detach())
    assert 0 < (x.grad == 0).sum() < 35


def test_cross_attention_to_8_tokens_moves_queries_and_keys_and_to_1_token_does_not():
    torch.manual_seed(0)
    layer = CrossAttention(d_model=16, heads=2, dropout_p=0.0)
    x = torch.randn(2, 12, 16)

    def query_and_key_gradient(memory_tokens: int) -> tuple[float, float]:
        layer.zero_grad()
        layer(x, torch.randn(2, memory_tokens, 16)).square().sum().backward()
        return layer.q.weight.grad.abs().max().item(), layer.kv.weight.grad[:16].abs().max().item()

    assert min(query_and_key_gradient(8)) > 1e-3
    assert max(query_and_key_gradient(1)) < 1e-5


@pytest.mark.parametrize("dilation", [1, 2, 4])
def test_causal_conv_equals_conv1d_of_the_dilated_past(dilation):
    torch.manual_seed(0)
    conv = CausalConv(d_model=4, kernel=3, dilation=dilation, dropout_p=0.0).double()
    x = torch.randn(2, 12, 4, dtype=torch.float64)
    weight = conv.taps.weight.view(4, 3, 4).transpose(1, 2)
    padded = F.pad(conv.norm(x).transpose(1, 2), (2 * dilation, 0))  # on the left alone
    expected = x + F.gelu(F.conv1d(padded, weight, conv.taps.bias, dilation=dilation).transpose(1, 2))
    torch.testing.assert_close(conv(x), expected)


def test_encoder_layer_is_the_identity_where_its_branches_end_in_zero_weights():
    layer = EncoderLayer(d_model=8, heads=2, ffn=16, tokens=5, dropout_p=0.2)
    for linear in (layer.attention.out, layer.ffn_out):
        torch.nn.init.zeros_(linear.weight)
        torch.nn.init.zeros_(linear.bias)
    x = torch.randn(2, 5, 8)
    torch.testing.assert_close(layer(x), x)


def test_layers_of_a_class_but_not_of_its_subclasses_take_another_form_in_a_copy():
    class Own(torch.nn.Linear):
        pass

    inner = torch.nn.Sequential(Rotary(3, 2), torch.nn.Linear(3, 4), Own(2, 3))
    net = torch.nn.Sequential(torch.nn.Linear(2, 3), inner)
    swapped = in_other_forms(net, {torch.nn.Linear: lambda own: torch.nn.Flatten(own.out_features)})
    kinds = [type(part).__name__ for part in (swapped[0], *swapped[1])]
    assert kinds == ["Flatten", "Rotary", "Flatten", "Own"] and swapped[1][1].start_dim == 4
    assert isinstance(net[0], torch.nn.Linear) and isinstance(net[1][1], torch.nn.Linear)


def test_bar_returns_are_moves_since_the_close_before_in_units_of_the_window():
    bars = torch.tensor([[0.0, 0.2, -0.2, 0.1, 0.5], [0.3, 0.6, 0.1, 0.4, -0.5]])
    both = BarReturns()(bars[None])[0]
    assert torch.equal(both[:, :5], bars)
    moves = torch.tensor([[-0.1, 0.1, -0.3, 0.0, 0.5], [0.2, 0.5, 0.0, 0.3, -0.5]])
    expected = moves / moves.square().mean(0).sqrt()
    torch.testing.assert_close(both[:, 5:], expected, rtol=1e-4, atol=1e-5)


def test_bar_returns_do_not_depend_on_the_scale_of_the_window_and_a_flat_one_has_none():
    torch.manual_seed(0)
    window = torch.randn(3, 20, 5)
    returns, half = BarReturns()(window)[..., 5:], BarReturns()(window / 2)[..., 5:]
    torch.testing.assert_close(returns, half, rtol=1e-4, atol=1e-4)
    assert not BarReturns()(torch.zeros(2, 20, 5)).any()
