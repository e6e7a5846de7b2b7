"""What every network keeps: shapes, separate rows, strict weights, mixed precision, export, settings."""

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch.nn import functional as F

from stockenh.config import schema
from stockenh.config.catalog import option_values
from stockenh.errors import ConfigError
from stockenh.models import InputSpec
from stockenh.models.tft import TftSettings
from stockenh.models.timeformer import TimeFormerSettings

DAILY = InputSpec(lookback=120, price=5, embedding=512, context=29, horizons=3)


@dataclass(frozen=True)
class Network:
    """A network small enough for a test: its settings, and inputs of a lookback and of a longer one."""

    tiny: Any
    inputs: InputSpec
    longer: int

    def build(self, inputs=None, **changes):
        torch.manual_seed(0)
        return replace(self.tiny, **changes).build(inputs or self.inputs)

    def batch(self, size=4, inputs=None):
        inputs = inputs or self.inputs
        generator = torch.Generator().manual_seed(1)
        x_price = torch.rand(size, inputs.lookback, inputs.price, generator=generator) * 2 - 1
        x_embedding = torch.randn(size, inputs.embedding, generator=generator)
        return x_price, x_embedding, torch.randn(size, inputs.context, generator=generator)


TIMEFORMER = Network(
    TimeFormerSettings(patch=5, d_model=16, heads=2, layers=2, ffn=16, head_hidden=8, embedding_tokens=3),
    InputSpec(lookback=30, price=5, embedding=6, context=4, horizons=2),
    longer=60,
)
WITH_RETURNS = replace(TIMEFORMER, tiny=replace(TIMEFORMER.tiny, bar_returns=True))
TFT = Network(
    TftSettings(d_model=8, heads=2, fusion_layers=2, dropout=0.1),
    InputSpec(lookback=7, price=5, embedding=6, context=4, horizons=2),
    longer=30,
)
ALL = ["timeformer", "timeformer_xl", "tft_xl"]


def settings_of(name):
    """The settings that a YAML gives."""
    values = option_values("model", name)
    kind = TftSettings if name == "tft_xl" else TimeFormerSettings
    assert values.pop("_target_") == f"{kind.__module__}.{kind.__name__}"
    return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(kind), values))


@pytest.fixture(params=[TIMEFORMER, WITH_RETURNS, TFT], ids=["timeformer", "with_returns", "tft"])
def network(request):
    return request.param


@pytest.mark.parametrize(
    ("name", "fewest", "most"),
    [("timeformer", 200e3, 310e3), ("timeformer_xl", 5.85e6, 5.95e6), ("tft_xl", 15.5e6, 16.5e6)],
)
def test_a_configuration_has_the_size_that_it_promises_and_the_xl_ones_are_the_class_defaults(
    name, fewest, most
):
    settings = settings_of(name)
    with torch.device("meta"):
        model = settings.build(DAILY)
    assert fewest < sum(p.numel() for p in model.parameters()) < most
    assert (settings == type(settings)()) == name.endswith("_xl")
    if name == "tft_xl":
        assert len(model.lstm) == 2 and all(layer.hidden_size == 256 for layer in model.lstm)


@pytest.mark.parametrize("name", ALL)
def test_forecasts_start_near_zero_or_the_normal_quantiles_and_even_odds_in_the_requested_shape(name):
    smaller = {"d_model": 64} if name == "tft_xl" else {}
    torch.manual_seed(0)
    out = replace(settings_of(name), **smaller).build(DAILY).eval()(*TFT.batch(7, DAILY))
    shapes = {key: tuple(value.shape) for key, value in out.items()}
    quantiles = {"quantiles": (7, 3, 3), "quantile_levels": (3,)} if name == "tft_xl" else {}
    assert shapes == {"ret": (7, 3), "up_logits": (7, 3), "up_prob": (7, 3), **quantiles}
    assert all(value.isfinite().all() for value in out.values())
    if quantiles:
        expected = torch.tensor([-1.2816, 0.0, 1.2816]).expand(7, 3, 3)
        torch.testing.assert_close(out["quantiles"], expected, rtol=0, atol=0.6)
    else:
        assert out["ret"].abs().max() < 0.5
    assert out["ret"].std(0).min() > 0
    assert (out["up_prob"] - 0.5).abs().max() < 0.15
    torch.testing.assert_close(out["up_prob"], out["up_logits"].sigmoid())


def test_rows_of_a_batch_do_not_touch_each_other(network):
    model = network.build().double().eval()
    inputs = [x.double() for x in network.batch(6)]
    order, whole = torch.tensor([3, 0, 5, 1, 4, 2]), model(*inputs)
    for rows in (order, slice(2, 3)):
        for name, value in model(*(x[rows] for x in inputs)).items():
            expected = value if name == "quantile_levels" else whole[name][rows]
            torch.testing.assert_close(value, expected)


def test_evaluation_is_deterministic_and_dropout_is_all_that_training_adds(network):
    model, inputs = network.build(), network.batch()
    assert not torch.equal(model(*inputs)["ret"], model(*inputs)["ret"])
    model.eval()
    assert torch.equal(model(*inputs)["ret"], model(*inputs)["ret"])
    model = network.build(dropout=0.0)
    trained = model(*inputs)["ret"]
    torch.testing.assert_close(model.eval()(*inputs)["ret"], trained)


@pytest.mark.parametrize("changed", [0, 1, 2])
def test_each_input_moves_the_forecast(network, changed):
    model, inputs = network.build().eval(), list(network.batch())
    before = model(*inputs)
    inputs[changed] = inputs[changed].flip(0)
    after = model(*inputs)
    for name in ("ret", "up_logits"):
        assert (before[name] - after[name]).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("network", "changes"), [(TIMEFORMER, {}), (TIMEFORMER, {"learned_task_weights": True}), (TFT, {})]
)
def test_a_gradient_reaches_every_parameter(network, changes):
    model = network.build(**changes)
    out = model(*network.batch(32))
    sum(value.square().sum() + value.sum() for value in out.values()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []
    if changes:  # two log-variances that start at 0
        assert out["task_log_var"].tolist() == [0.0, 0.0]


def test_weights_load_strictly_predict_the_same_and_fit_a_longer_lookback(network):
    model, inputs = network.build().eval(), network.batch()
    torch.manual_seed(99)
    other = network.tiny.build(network.inputs).eval()
    assert not torch.equal(other(*inputs)["ret"], model(*inputs)["ret"])
    other.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(other(*inputs)["ret"], model(*inputs)["ret"])
    longer = network.build(replace(network.inputs, lookback=network.longer))
    longer.load_state_dict(model.state_dict(), strict=True)
    kept = longer.state_dict()
    assert all(torch.equal(kept[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_answers_in_fp32_and_its_gradients_point_the_same_way(network, dtype):
    gradients, answers = [], []
    for enabled in (False, True):
        model = network.build(d_model=32, dropout=0.0)
        with torch.autocast("cpu", dtype, enabled=enabled):
            out = model(*network.batch(16))
        answers.append(out["ret"])
        assert {value.dtype for value in out.values()} == {torch.float32}
        returns = out.get("quantiles", out["ret"])
        (returns.square().mean() + out["up_logits"].square().mean()).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert 0 < (answers[0] - answers[1]).abs().max() < 0.1
    assert F.cosine_similarity(*gradients, dim=0) > 0.99


def test_bf16_autocast_stays_close_to_fp32_at_full_size():
    torch.manual_seed(0)
    model, inputs = settings_of("timeformer").build(DAILY).eval(), TIMEFORMER.batch(16, DAILY)
    exact = model(*inputs)
    with torch.autocast("cpu", torch.bfloat16):
        rough = model(*inputs)
    for key, value in exact.items():
        assert 0 < (rough[key] - value).abs().max() < 0.02


# torch's own RNN base class sets a list of its weights whenever these are swapped, as export does
@pytest.mark.filterwarnings("ignore:The tensor attributes self.lstm:UserWarning")
def test_exported_program_serves_any_batch_size(network):
    model, rows = network.build().eval(), torch.export.Dim("rows", min=1, max=4096)
    program = torch.export.export(model, network.batch(), dynamic_shapes=({0: rows}, {0: rows}, {0: rows}))
    for size in (1, 9):
        inputs = network.batch(size)
        torch.testing.assert_close(program.module()(*inputs), model(*inputs))


TFT_QUANTILES = {
    (0.0, 0.5, 0.9): "must be above 0",
    (0.5, 0.1): "rise .. [0.1, 0.5, 0.9]",
    (0.1, 0.9): "0.5 must be among them",
    (): "0.5 must be among them",
}


@pytest.mark.parametrize(
    ("network", "changes", "says"),
    [
        (TFT, {"d_model": 250, "heads": 8}, "model.heads=8 .. take 248 or 256, or heads 2, 5, 10"),
        (TFT, {"fusion_layers": 0}, "must be at least 1"),
        (TFT, {"lstm_layers": 0}, "must be at least 1"),
        *((TFT, {"quantiles": list(levels)}, says) for levels, says in TFT_QUANTILES.items()),
        (TIMEFORMER, {"d_model": 250, "heads": 8}, "model.heads=8 .. take 240 or 256, or heads 1, 5, 25"),
        (TIMEFORMER, {"d_model": 24, "heads": 8}, "even .. take 16 or 32, or heads 4, 6, 12"),
        (TIMEFORMER, {"layers": 0}, "must be at least 1"),
        (TIMEFORMER, {"embedding_tokens": 1}, "must be at least 2"),
        (TIMEFORMER, {"conv_dilations": [1, 0]}, "must be at least 1"),
        *((network, {"heads": 0}, "must be at least 1") for network in (TFT, TIMEFORMER)),
        *((network, {"dropout": 1.0}, "must be below 1") for network in (TFT, TIMEFORMER)),
    ],
)
def test_wrong_settings_name_the_keys_and_the_way_out(network, changes, says):
    with pytest.raises(ConfigError) as caught:
        schema.settings_of("model", type(network.tiny), changes)
    for words in (f"model.{next(iter(changes))}=", *says.split(" .. ")):
        assert words in str(caught.value)


@pytest.mark.parametrize(("d_model", "heads"), [(240, 8), (256, 8), (250, 1), (250, 5), (250, 25), (24, 6)])
def test_the_way_out_of_a_wrong_head_count_works(d_model, heads):
    out = TIMEFORMER.build(d_model=d_model, heads=heads)(*TIMEFORMER.batch(1))
    assert out["ret"].shape == (1, 2) and out["ret"].isfinite().all()


@pytest.mark.parametrize(
    ("patch", "advice"), [(7, "take patch 6 or 8"), (121, "take patch 120"), (50, "take patch 40 or 60")]
)
def test_a_patch_that_does_not_divide_the_lookback_is_refused(patch, advice):
    with pytest.raises(ConfigError) as caught:
        TimeFormerSettings(patch=patch).build(DAILY)
    for words in (f"model.patch={patch}", "data.lookback=120", advice):
        assert words in str(caught.value)


def test_without_an_embedding_cross_attention_is_left_out():
    inputs = replace(TIMEFORMER.inputs, embedding=0)
    model = TIMEFORMER.build(inputs)
    assert not any(name.startswith("cross_modal") for name, _ in model.named_parameters())
    assert model(*TIMEFORMER.batch(4, inputs))["ret"].shape == (4, 2)


def test_without_convolutions_and_with_one_horizon_it_still_forecasts():
    inputs = replace(TIMEFORMER.inputs, horizons=1)
    model = TIMEFORMER.build(inputs, conv_dilations=[])
    assert model(*TIMEFORMER.batch(4, inputs))["up_prob"].shape == (4, 1)
