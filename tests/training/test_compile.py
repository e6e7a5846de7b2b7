"""train.compile: the same steps by another program, and forecasts that know nothing of it."""

import pytest
import torch
from conftest import CPU, same
from torch import nn

from stockenh.config import build
from stockenh.config.compose import compose
from stockenh.config.schema import parse, plain
from stockenh.errors import ConfigError
from stockenh.inference.predict import predict
from stockenh.storage.machine import lacks_compiler


@pytest.fixture
def requested(monkeypatch):
    """What torch is requested to do; a backend that generates no C++ takes a fraction of the time."""
    calls, compile_ = [], nn.Module.compile

    def traced(self, **options):
        calls.append(options)
        compile_(self, backend="aot_eager", dynamic=options["dynamic"])

    monkeypatch.setattr(nn.Module, "compile", traced)
    return calls


def test_compiled_steps_are_the_eager_ones_and_forecasts_and_kept_weights_are_eager(small, requested):
    overrides = ("model.dropout=0", "averaging=ema", "train.accumulate=2", "train.batch_size=16")
    eager, compiled = small(*overrides), small(*overrides, "train.compile=true")
    assert requested == [{"dynamic": False, "mode": "default"}]
    assert list(compiled.weights()) == list(eager.weights())
    averaged = compiled.learner.averages.named(compiled.learner.model)["ema"]
    assert same(averaged.state_dict(), compiled.weights())

    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    eager.steps(0, 3)
    compiled.steps(0, 3)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert graphs > before
    for name, weights in eager.weights().items():
        torch.testing.assert_close(compiled.weights()[name], weights, rtol=1e-4, atol=1e-6)

    eager.learner.model.load_state_dict(compiled.weights())
    rows = compiled.prepared.rows["val"]
    one, other = (predict(made.learner.model, made.resident, rows, made.fitted) for made in (eager, compiled))
    assert (one.ret == other.ret).all() and (one.up_logits == other.up_logits).all()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs  # nothing compiled for them


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA: its graphs")
def test_on_a_gpu_steps_are_cuda_graphs_and_learn_the_same(small):
    found = []
    for compiled in ("false", "true"):
        made = small("device=cuda", "model.dropout=0", "train.accumulate=2", f"train.compile={compiled}")
        made.steps(0, 3)
        found.append(made.weights())
    for name, weights in found[0].items():
        torch.testing.assert_close(found[1][name], weights, rtol=1e-3, atol=1e-5)


def test_without_a_compiler_it_is_refused_before_anything_else(monkeypatch):
    config = parse(plain(compose(["train.compile=true"])))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(ConfigError, match=r"train.compile=true: no compiler \(g\+\+ or clang\+\+\) is found"):
        build.require_compiler(config, CPU)
    build.require_compiler(parse(plain(compose([]))), CPU)
    assert lacks_compiler(torch.device("cuda")) == "no compiler (gcc or clang)"
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    build.require_compiler(config, CPU)
