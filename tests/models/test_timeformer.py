"""The patch transformer: what goes in, what comes out, and which settings it refuses."""

from dataclasses import replace

import pytest
import torch

from stockenh.config.catalog import option_values
from stockenh.config.schema import group_settings, settings_of
from stockenh.errors import ConfigError
from stockenh.models import InputSpec
from stockenh.models.timeformer import TimeFormer, TimeFormerSettings

DAILY = InputSpec(lookback=120, price=5, embedding=512, context=29, horizons=3)
TINY = TimeFormerSettings(patch=5, d_model=16, heads=2, layers=2, ffn=16, head_hidden=8, embedding_tokens=3)
SHORT = InputSpec(lookback=30, price=5, embedding=6, context=4, horizons=2)


def shipped(name: str) -> TimeFormerSettings:
    settings = group_settings("model", option_values("model", name))
    assert isinstance(settings, TimeFormerSettings)
    return settings


def built(settings: TimeFormerSettings, inputs: InputSpec) -> TimeFormer:
    torch.manual_seed(0)
    return settings.build(inputs)


def batch(inputs: InputSpec, size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x_price = torch.rand(size, inputs.lookback, inputs.price, generator=generator) * 2 - 1
    x_embedding = torch.randn(size, inputs.embedding, generator=generator)
    return x_price, x_embedding, torch.randn(size, inputs.context, generator=generator)


def parameter_count(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_timeformer_xl_has_5_9_million_parameters():
    count = parameter_count(shipped("timeformer_xl").build(DAILY))
    assert 5_700_000 < count < 6_100_000
    assert round(count / 1e6, 1) == 5.9


def test_timeformer_is_a_twentieth_of_it():
    assert 200_000 < parameter_count(shipped("timeformer").build(DAILY)) < 310_000


def test_timeformer_xl_yaml_says_the_class_defaults():
    assert shipped("timeformer_xl") == TimeFormerSettings()


@pytest.mark.parametrize("name", ["timeformer", "timeformer_xl"])
def test_forecasts_start_near_zero_and_even_odds_in_the_asked_shape(name):
    out = built(shipped(name), DAILY).eval()(*batch(DAILY, 7))
    assert set(out) == {"ret", "up_logits", "up_prob"}
    assert all(value.shape == (7, 3) and value.isfinite().all() for value in out.values())
    assert out["ret"].abs().max() < 0.5
    assert (out["up_prob"] - 0.5).abs().max() < 0.15
    torch.testing.assert_close(out["up_prob"], out["up_logits"].sigmoid())
    assert out["ret"].std(0).min() > 0


def test_same_seed_same_weights_other_seed_others():
    weights = []
    for seed in (7, 7, 8):
        torch.manual_seed(seed)
        weights.append(torch.cat([p.flatten() for p in TINY.build(SHORT).parameters()]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_rows_of_a_batch_do_not_touch_each_other():
    model = built(TINY, SHORT).double().eval()
    inputs = [x.double() for x in batch(SHORT, 6)]
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    whole = model(*inputs)["ret"]
    torch.testing.assert_close(model(*(x[order] for x in inputs))["ret"], whole[order])
    torch.testing.assert_close(model(*(x[2:3] for x in inputs))["ret"], whole[2:3])


def test_evaluation_is_deterministic_and_training_drops_out():
    model, inputs = built(TINY, SHORT), batch(SHORT, 4)
    assert not torch.equal(model(*inputs)["ret"], model(*inputs)["ret"])
    model.eval()
    assert torch.equal(model(*inputs)["ret"], model(*inputs)["ret"])


@pytest.mark.parametrize("changed", [0, 1, 2])
def test_each_input_moves_the_forecast(changed):
    model, inputs = built(TINY, SHORT).eval(), list(batch(SHORT, 4))
    before = model(*inputs)
    inputs[changed] = inputs[changed].flip(0)
    after = model(*inputs)
    assert (before["ret"] - after["ret"]).abs().max() > 1e-4
    assert (before["up_logits"] - after["up_logits"]).abs().max() > 1e-4


@pytest.mark.parametrize("learned", [False, True])
def test_a_gradient_reaches_every_parameter(learned):
    model = built(replace(TINY, learned_task_weights=learned), SHORT)
    out = model(*batch(SHORT, 32))
    sum(value.square().sum() + value.sum() for value in out.values()).backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


def test_learned_task_weights_add_two_log_variances_that_start_at_0():
    out = built(replace(TINY, learned_task_weights=True), SHORT)(*batch(SHORT, 4))
    assert out["task_log_var"].tolist() == [0.0, 0.0]


def test_without_an_embedding_cross_attention_is_left_out():
    inputs = replace(SHORT, embedding=0)
    model = built(TINY, inputs)
    assert not any(name.startswith("cross_modal") for name, _ in model.named_parameters())
    assert model(*batch(inputs, 4))["ret"].shape == (4, 2)


def test_without_convolutions_and_with_one_horizon_it_still_forecasts():
    inputs = replace(SHORT, horizons=1)
    model = built(replace(TINY, conv_dilations=[]), inputs)
    assert model(*batch(inputs, 4))["up_prob"].shape == (4, 1)


def test_weights_load_strictly_and_predict_the_same():
    model = built(TINY, SHORT).eval()
    torch.manual_seed(99)
    other = TINY.build(SHORT).eval()
    inputs = batch(SHORT, 4)
    assert not torch.equal(other(*inputs)["ret"], model(*inputs)["ret"])
    other.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(other(*inputs)["ret"], model(*inputs)["ret"])


def test_weights_load_strictly_into_a_longer_lookback():
    longer = built(TINY, replace(SHORT, lookback=60))
    shorter = built(TINY, SHORT)
    longer.load_state_dict(shorter.state_dict(), strict=True)
    kept = longer.state_dict()
    assert all(torch.equal(kept[name], tensor) for name, tensor in shorter.state_dict().items())


def test_bf16_autocast_stays_close_to_fp32_and_returns_fp32():
    model, inputs = built(shipped("timeformer"), DAILY).eval(), batch(DAILY, 16)
    exact = model(*inputs)
    with torch.autocast("cpu", torch.bfloat16):
        rough = model(*inputs)
    for key, value in exact.items():
        assert rough[key].dtype == torch.float32
        assert 0 < (rough[key] - value).abs().max() < 0.02


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_gradients_are_finite_and_point_the_same_way(dtype):
    settings = replace(TINY, dropout=0.0)
    gradients = []
    for enabled in (False, True):
        model = built(settings, SHORT)
        with torch.autocast("cpu", dtype, enabled=enabled):
            out = model(*batch(SHORT, 16))
        (out["ret"].square().mean() + out["up_logits"].square().mean()).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert torch.nn.functional.cosine_similarity(*gradients, dim=0) > 0.99


def test_exported_program_serves_any_batch_size():
    model = built(shipped("timeformer"), DAILY).eval()
    rows = torch.export.Dim("rows", min=1, max=4096)
    program = torch.export.export(model, batch(DAILY, 4), dynamic_shapes=({0: rows}, {0: rows}, {0: rows}))
    for size in (1, 9):
        inputs = batch(DAILY, size)
        torch.testing.assert_close(program.module()(*inputs), model(*inputs))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"d_model": 250},
            "model.d_model=250 is not divisible by model.heads=8: take 240 or 256, or heads 1, 5, 25",
        ),
        (
            {"d_model": 24, "heads": 8},
            "model.d_model=24 over model.heads=8 gives heads of odd width 3, "
            "but rotary positions need it even: take 16 or 32, or heads 4, 6, 12",
        ),
        ({"dropout": 1.0}, "model.dropout=1.0 must be below 1"),
        ({"layers": 0}, "model.layers=0 must be at least 1"),
        ({"heads": 0}, "model.heads=0 must be at least 1"),
        ({"embedding_tokens": 1}, "model.embedding_tokens=1 must be at least 2"),
        ({"conv_dilations": [1, 0]}, "model.conv_dilations=0 must be at least 1"),
    ],
)
def test_wrong_settings_name_the_keys_and_the_way_out(changes, message):
    with pytest.raises(ConfigError) as caught:
        settings_of("model", TimeFormerSettings, changes)
    assert str(caught.value) == message


def test_the_way_out_of_a_wrong_head_count_works():
    for d_model, heads in ((240, 8), (256, 8), (250, 1), (250, 5), (250, 25), (24, 6)):
        out = replace(TINY, d_model=d_model, heads=heads).build(SHORT)(*batch(SHORT, 1))
        assert out["ret"].shape == (1, SHORT.horizons) and out["ret"].isfinite().all()


@pytest.mark.parametrize(
    ("patch", "advice"), [(7, "take patch 6 or 8"), (121, "take patch 120"), (50, "take patch 40 or 60")]
)
def test_a_patch_that_does_not_divide_the_lookback_is_refused(patch, advice):
    with pytest.raises(ConfigError) as caught:
        TimeFormerSettings(patch=patch).build(DAILY)
    assert str(caught.value) == f"model.patch={patch} does not divide data.lookback=120: {advice}"
