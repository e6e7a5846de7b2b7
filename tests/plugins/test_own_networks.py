"""Networks as notebooks have them: whatever PyTorch allows trains, is stored and is loaded again."""

import processes
import pytest
from safetensors.torch import load_file

INITS = {
    "plain": "",
    "tied": "self.other = nn.Linear(inputs.context, inputs.horizons); self.other.weight = self.linear.weight",
    "one head twice": "self.other = self.linear",
    "unused": "self.unused = nn.Linear(3, 3)",
    "frozen": "self.frozen = nn.Linear(3, 3).requires_grad_(False)",
    "batch norm": "self.norm = nn.BatchNorm1d(inputs.horizons)",
    "a schedule of rates": "self.rates = torch.linspace(0, 0.1, 3).tolist()",
    "from numpy": "self.register_buffer('b', torch.from_numpy(__import__('numpy').ones(3, 'float32')))",
    "lazy": "self.linear = nn.LazyLinear(inputs.horizons)",
    "weight norm": "self.linear = nn.utils.parametrizations.weight_norm(self.linear)",
    "state dropped": "self.register_buffer('b', torch.ones(3), persistent=False)",
    "half": "self.linear = nn.Sequential(self.linear, nn.Dropout(0.1))",
}
SOURCE = """
import torch
from torch import nn
import stockenh

class Net(nn.Module):
    def __init__(self, inputs):
        super().__init__()
        self.linear = nn.Linear(inputs.context, inputs.horizons)
        {init}
    def forward(self, price, kron, ctx):
        out = self.linear(ctx)
        if hasattr(self, "norm"):
            out = self.norm(out)
        other = self.other(ctx) if hasattr(self, "other") else out
        return {{"ret": out, "up_logits": other, "weights": [1, 2], "attention": None}}

@stockenh.plugin("model", "mine")
class Mine:
    width: int = 4
    def build(self, inputs):
        return Net(inputs)
"""


@pytest.mark.parametrize(
    "case",
    [
        case if number % 3 == 0 else pytest.param(case, marks=pytest.mark.deep)
        for number, case in enumerate(INITS)
    ],
)
def test_a_network_trains_and_forecasts(case, stockenh, small, here):
    (here / "mine.py").write_text(SOURCE.format(init=INITS[case]))
    train = ["train", "--plugin=mine.py", "model=mine", *small, "train.batch_size=50", "train.epochs=2"]
    stockenh(*train, "averaging=ema_swa", "hydra.run.dir=run", code=0)
    for name in ("raw", "ema", "swa"):
        assert load_file(here / f"run/weights/{name}.safetensors")
        forecast = ["tta-predict", "--plugin=mine.py", "run=run", f"weights={name}", "tta.views=0"]
        stockenh(*forecast, f"hydra.run.dir={name}", code=0)


@pytest.mark.parametrize(
    "init", ["torch.zeros(3, dtype=torch.int32)", "torch.zeros(3, dtype=torch.complex64)"]
)
def test_a_type_that_no_run_stores_is_refused_before_training(init, refused, small, here):
    (here / "mine.py").write_text(SOURCE.format(init=f"self.register_buffer('b', {init})"))
    err = refused("train", "--plugin=mine.py", "model=mine", *small, "hydra.run.dir=run")
    assert "mine.py" in err and "b is of the type torch." in err


def test_a_plugin_of_which_nothing_is_used_is_said(stockenh, small_run, here):
    (here / "mine.py").write_text(SOURCE.format(init=""))
    err = stockenh("train", "--plugin=mine.py", *small_run, "hydra.run.dir=run", code=0).err
    assert "nothing of --plugin mine.py is used; it has model=mine" in err


@pytest.mark.deep
@pytest.mark.parametrize("case", ["unused", "frozen"])
def test_layers_that_learn_nothing_in_two_processes(case, small, here):
    (here / "mine.py").write_text(SOURCE.format(init=INITS[case]))
    train = ["train", "--plugin=mine.py", "model=mine", *small, "train.epochs=2", "train.accumulate=2"]
    pair = processes.start_pair(*train, "hydra.run.dir=run", cwd=here)
    printed = [process.communicate() for process in pair]
    assert [process.returncode for process in pair] == [0, 0], printed
    weights = load_file(here / "run/weights/raw.safetensors")
    assert {f"{case}.weight", "linear.weight"} <= set(weights)
