"""The plain recipe in torch's own layers, the floor of a step, and the project's loop as it is measured."""

import itertools
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stockenh.commands.bench.setup import PlainRecipe, ProjectLoop, Setup, loaded, torch_layers
from stockenh.commands.bench.training import Peaks, floor
from stockenh.config.compose import compose
from stockenh.config.schema import plain
from stockenh.models import InputSpec
from stockenh.models.layers import Dropout
from stockenh.models.tft import TftSettings
from stockenh.models.timeformer import TimeFormerSettings

CPU = torch.device("cpu")
TINY = ["model.layers=1", "model.d_model=16", "model.heads=2", "model.ffn=16", "model.head_hidden=8"]
SPEC = InputSpec(lookback=20, price=5, embedding=16, context=29, horizons=3)
SMALL = TimeFormerSettings(patch=5, d_model=16, heads=2, layers=2, ffn=16, dropout=0.0, head_hidden=8)


def batch(size: int = 6) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((20, 5), (16,), (29,), (3,))
    x_price, x_embedding, x_ctx, y_ret = (torch.randn(size, *shape, generator=generator) for shape in shapes)
    return x_price, x_embedding, x_ctx, y_ret, (y_ret > 0).float()


@pytest.mark.parametrize("settings", [SMALL, TftSettings(d_model=16, heads=2, dropout=0.0)])
def test_torch_s_layers_are_the_same_function_with_the_same_gradients(settings):
    torch.manual_seed(0)
    own = settings.build(SPEC).train()
    other = torch_layers(own)
    for net in (own, other):
        out = net(*batch()[:3])
        (out["ret"].square().sum() + out["up_logits"].sum()).backward()
    torch.testing.assert_close(other(*batch()[:3]), own(*batch()[:3]))
    assert sum(p.numel() for p in own.parameters()) == sum(p.numel() for p in other.parameters())
    squares = [sum(float(p.grad.square().sum()) for p in net.parameters()) for net in (own, other)]
    assert squares[1] == pytest.approx(squares[0], rel=1e-4)


def test_torch_s_layers_have_no_dropout_of_the_project():
    own = TimeFormerSettings(dropout=0.2).build(InputSpec(120, 5, 16, 29, 3))
    assert any(isinstance(m, Dropout) for m in own.modules())
    assert not any(isinstance(m, Dropout) for m in torch_layers(own).modules())


def test_a_step_by_hand():
    torch.manual_seed(0)
    net = SMALL.build(SPEC)
    by_hand = torch_layers(net)
    PlainRecipe(net, itertools.repeat(batch()), CPU)()
    optimizer = torch.optim.AdamW(by_hand.parameters(), lr=1e-4)
    *inputs, y_ret, y_up = batch()
    out = by_hand(*inputs)
    loss = 0.6 * F.huber_loss(out["ret"], y_ret) + 0.4 * F.binary_cross_entropy(out["up_prob"], y_up)
    loss.backward()
    nn.utils.clip_grad_norm_(by_hand.parameters(), 1.0)
    optimizer.step()
    torch.testing.assert_close(net.embed_patch.weight, by_hand.embed_patch.weight)
    torch.testing.assert_close(net.up_head.last.bias, by_hand.up_head.last.bias)


def test_two_halves_accumulated_are_one_whole_batch():
    whole = batch(8)
    halves = [tuple(x[:4] for x in whole), tuple(x[4:] for x in whole)]
    steps = []
    for batches, accumulate in ((itertools.repeat(whole), 1), (itertools.cycle(halves), 2)):
        torch.manual_seed(0)
        step = PlainRecipe(SMALL.build(SPEC), batches, CPU, accumulate=accumulate)
        step.optimizer = torch.optim.SGD(step.net.parameters(), lr=1.0)
        step()
        steps.append(step)
    for a, b in zip(*(step.net.parameters() for step in steps), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    assert steps[1].total == pytest.approx(2 * steps[0].total, rel=1e-5)


def test_the_loader_gives_every_window_once_an_epoch_in_a_new_order():
    source = loaded([torch.arange(8)], batch_size=4)
    epochs = [torch.cat([next(source)[0] for _ in range(2)]).tolist() for _ in range(3)]
    assert all(sorted(epoch) == list(range(8)) for epoch in epochs)
    assert len(set(map(tuple, epochs))) > 1


def test_the_floor_is_the_slower_of_arithmetic_and_memory():
    peaks = Peaks({"fp32": 100.0, "bf16": 400.0}, bandwidth=10.0)
    assert peaks.floor(operations=1000, moved=20, precision="fp32") == 10.0
    assert peaks.floor(operations=1000, moved=50, precision="bf16") == 5.0


class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.ret, self.up = nn.Linear(10, 3, bias=False), nn.Linear(10, 3, bias=False)

    def forward(self, x):
        return {"ret": self.ret(x), "up_logits": self.up(x)}


def test_the_floor_counts_the_products_of_both_passes_or_the_bytes_of_the_weights():
    setup = SimpleNamespace(net=TwoHeads, inputs=lambda n: (torch.ones(n, 10),), batch_size=4)
    products = 2 * 2 * (2 * 10 * 3)  # two heads of 10 by 3, forward and weights' gradients, a window
    assert floor(setup, Peaks({"fp32": 1.0}, bandwidth=1e12), "fp32") == products
    passes = 11 * 4 * 60 / 4  # so many passes over 60 weights of 4 bytes, by 4 windows
    assert floor(setup, Peaks({"fp32": 1e12}, bandwidth=1.0), "fp32") == passes


@pytest.fixture(scope="module")
def setup():
    raw = plain(compose([*TINY, "embedding=none"]))
    return Setup.make(raw, raw["model"], CPU)


def test_the_project_s_loop_learns_and_never_has_a_short_group(setup):
    step = ProjectLoop(setup.with_train(batch_size=32, accumulate=2))
    assert {step.batches.group(0, n).windows for n in range(step.batches.steps)} == {step.windows} == {64}
    before = [p.clone() for p in step.learner.model.parameters()]
    for _ in range(step.batches.steps + 1):  # into a second epoch
        step()
    moved = [not torch.equal(a, b) for a, b in zip(before, step.learner.model.parameters(), strict=True)]
    assert sum(moved) > len(moved) / 2


def test_auto_is_settled_once_and_a_step_is_one_batch(setup):
    train = setup.with_train(precision="auto", accumulate=4).with_fixed_precision().config.train
    assert (train.precision, train.accumulate) == ("fp32", 1)  # a small model
