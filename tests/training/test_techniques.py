"""Mixed precision, accumulation and other techniques: off equals a plain loop, on equals hand numbers.

Of both kinds of network, the patch transformer with the Huber loss and the fusion transformer with pinball.
"""

import contextlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import CPU, SMALL, TFT, assemble, assert_resumes, line_group, line_learner, same
from torch import nn
from torch.nn import functional as F

from stockenh.config import build
from stockenh.data.batches import DeviceWindows
from stockenh.data.prices import BarPrices, RawNoise, normalise
from stockenh.inference.predict import predict
from stockenh.storage.run_folder import RunFolder
from stockenh.training.losses.huber_bce import HuberBCE
from stockenh.training.optimizers import Constant, Schedule
from stockenh.training.precision import MOST_SKIPS_IN_A_ROW, NonFiniteGradient, resolve
from stockenh.training.step import Objective

both = pytest.mark.parametrize("base", [SMALL, TFT], ids=["timeformer", "tft"])


def plain_loop(made, dtype=None, steps=6):
    """The base recipe as a notebook writes it, on the same model and the same batches."""
    torch.manual_seed(made.config.seed)
    model = made.config.model.build(made.prepared.spec).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-5, fused=True)
    total = made.config.train.epochs * made.batches.steps
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 1e-3, total_steps=total, div_factor=10, final_div_factor=100
    )
    levels = torch.tensor([0.1, 0.5, 0.9])
    for step in range(steps):
        batch = made.resident.gather(made.batches.rows_of(0, step), made.config.augment)
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype) if dtype else contextlib.nullcontext():
            out = model(*batch.inputs)
        # with reduction="mean" torch's kernels multiply by a rounded 1 / n where .mean() divides by n
        if "quantiles" in out:
            missed = batch.y_ret[..., None] - out["quantiles"]
            returns = torch.where(missed > 0, levels * missed, (levels - 1) * missed).mean(-1)
        else:
            returns = F.huber_loss(out["ret"].float(), batch.y_ret, reduction="none")
        direction = F.binary_cross_entropy_with_logits(out["up_logits"].float(), batch.y_up, reduction="none")
        (0.6 * returns.mean() + 0.4 * direction.mean()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.state_dict()


@both
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_a_step_equals_a_plain_loop_to_the_last_bit(small, base, dtype):
    precision = "train.precision=bf16" if dtype else "train.precision=fp32"
    made = small(precision, "optimizer=adamw", "schedule=onecycle", base=base)
    assert all(made.batches.group(0, step).count.labels % 3 == 0 for step in range(6))  # no label is missing
    torch.manual_seed(made.config.seed)
    made.config.model.build(made.prepared.spec)  # the random state in which the plain loop begins
    made.steps(0, 6)
    assert same(made.weights(), plain_loop(made, dtype))
    assert same(made.weights(), plain_loop(made)) == (dtype is None)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_step_by_hand_is_unscaled_before_it_is_clipped(precision):
    learner = line_learner(precision, max_norm=1.5)
    rate, state = learner.schedule.lr, learner.precision.state_dict()
    if precision == "fp16":  # a loss scale that this gradient does not overflow
        state["scaler"]["scale"] = 1024.0
    learner.precision.load_state_dict(state)
    # loss = mean of (w x)^2 / 2 over x = 1, 2: the gradient is (1 + 4) / 2 = 2.5, clipped to 1.5
    loss, taken = learner.step(line_group([1.0, 2.0]))
    assert taken and float(loss) == pytest.approx(1.25)
    assert float(learner.model.w.detach()) == pytest.approx(1 - rate * 1.5, rel=1e-5)


def test_fp16_skips_an_overflow_and_neither_schedule_nor_weights_move():
    learner = line_learner("fp16")
    rate, scale = learner.schedule.lr, learner.precision.state_dict()["scaler"]["scale"]
    # the output 30,000 fits fp16, its gradient times a scale of 65,536 does not
    assert not learner.step(line_group([30000.0]))[1]
    assert learner.schedule.lr == rate and learner.schedule.taken == 0
    assert torch.equal(learner.model.w, torch.tensor([[1.0]]))
    again = line_learner("fp16")
    again.restore(learner.checkpoint())
    assert again.precision.state_dict()["skipped_in_a_row"] == 1
    for one in (learner, again):
        assert one.precision.state_dict()["scaler"]["scale"] == scale / 2 == 32768.0
    assert learner.step(line_group([0.01]))[1] and learner.schedule.taken == 1


def test_fp16_that_can_only_skip_gives_up():
    learner, overflowing = line_learner("fp16"), line_group([60000.0, 60000.0])
    learner.model.w.data.fill_(10.0)  # the forward pass itself overflows, which no loss scale mends
    for _ in range(MOST_SKIPS_IN_A_ROW):
        assert learner.step(overflowing)[1] is False
    with pytest.raises(NonFiniteGradient):
        learner.step(overflowing)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_nan_is_refused_before_the_optimizer(precision):
    learner = line_learner(precision)
    with pytest.raises(NonFiniteGradient):
        learner.step(line_group([float("nan")]))
    assert torch.equal(learner.model.w, torch.tensor([[1.0]])) and learner.schedule.taken == 0


@both
@pytest.mark.parametrize(
    "technique",
    [
        *(f"train.precision={p} train.accumulate={n}" for p in ("fp32", "bf16", "fp16") for n in (1, 2)),
        *("averaging=ema_swa averaging.swa_start=0", "loss=focal loss.alpha=auto", "loss=label_smoothing"),
        *("augment=noise", "loss=focal_smoothed augment=noise", "schedule=constant"),
    ],
)
def test_resumed_from_a_file_the_steps_go_on_with_the_same_bits(small, tmp_path, base, technique):
    overrides = (*technique.split(), "train.batch_size=16")
    made = small(*overrides, base=base)
    initial = made.all_weights()
    made.steps(0, 3)
    made.close_epoch(2)
    fresh = lambda: small(*overrides, "seed=1", base=base)  # noqa: E731 (other initial weights)
    assert_resumes(made, tmp_path / "c.pt", fresh, lambda learner: learner.steps(3, 6))
    assert not same(initial, {k: made.all_weights()[k] for k in initial})


def test_auto_is_a_fixed_rule_by_device_and_model(monkeypatch):
    small, large = nn.Linear(4, 4), nn.Linear(1000, 1000)
    monkeypatch.setattr("stockenh.training.precision.has_bf16", lambda device: True)
    assert resolve("auto", CPU, small) == "fp32"
    assert resolve("auto", CPU, large) == "bf16"
    assert resolve("auto", CPU, nn.Linear(499_999, 1, bias=False)) == "fp32"
    assert resolve("auto", CPU, nn.Linear(500_000, 1, bias=False)) == "bf16"
    monkeypatch.setattr("stockenh.training.precision.has_bf16", lambda device: False)
    assert resolve("auto", CPU, large) == "fp32"
    assert resolve("fp16", CPU, small) == "fp16"


@pytest.mark.parametrize(("base", "steps", "atol"), [(SMALL, None, 1e-6), (TFT, 3, 1e-5)])
def test_accumulation_equals_the_big_batch_to_rounding_without_dropout(small, base, steps, atol):
    big = small("model.dropout=0", "train.batch_size=32", "train.accumulate=1", base=base)
    split = small("model.dropout=0", "train.batch_size=8", "train.accumulate=4", base=base)
    assert big.batches.steps == split.batches.steps
    for made in (big, split):
        # plain gradient descent: Adam divides by the gradient's size and blows rounding up where it is near 0
        descent = torch.optim.SGD(made.learner.model.parameters(), lr=0.05)
        schedule = Schedule(descent, Constant().plan(0.05, 99))
        learner = replace(made.learner, optimizer=descent, schedule=schedule)
        # the last group of an epoch is short and its micro batches uneven
        replace(made, learner=learner).steps(0, steps or made.batches.steps)
    for name, tensor in big.weights().items():
        torch.testing.assert_close(split.weights()[name], tensor, rtol=1e-4, atol=atol)


def test_a_short_last_micro_batch_by_hand():
    learner = line_learner()
    rate = learner.schedule.lr
    # windows 1, 2 and 4 in micro batches of two: the gradient is (1 + 4 + 16) / 3, not the mean of two means
    loss, _ = learner.step(line_group([1.0, 2.0], [4.0]))
    assert float(loss) == pytest.approx(3.5)
    assert float(learner.model.w.detach()) == pytest.approx(1 - rate * 7)


def test_the_schedule_counts_optimizer_steps_and_a_constant_rate_stays(small):
    made = small("train.batch_size=8", "train.accumulate=4", "schedule=constant", "optimizer.lr=0.002")
    made.steps(0, made.batches.steps)
    assert made.learner.schedule.taken == made.batches.steps == -(-len(made.batches.rows) // 32)
    assert isinstance(made.config.schedule, Constant) and made.learner.schedule.lr == 0.002


def prices_of(made, rows):
    prices = made.resident.prices
    assert isinstance(prices, BarPrices)
    return prices.bars[prices.end[rows, None] + prices.steps]


def test_without_augmentation_a_batch_is_plain_and_draws_nothing(small):
    made = small("augment=none")
    state = torch.get_rng_state()
    (micro,) = made.batches.group(0, 0).micros
    assert torch.equal(micro.x_price, normalise(prices_of(made, made.batches.rows_of(0, 0))))
    assert torch.equal(state, torch.get_rng_state())


def test_augmentation_adds_noise_to_the_bars_of_training_windows_alone(small):
    made, plain = small("augment=noise", "augment.price=0.01"), small()
    torch.manual_seed(5)
    (micro,) = made.batches.group(0, 0).micros
    raw = prices_of(made, made.batches.rows_of(0, 0))
    noise = torch.randn(raw.shape, generator=torch.Generator().manual_seed(5))
    assert torch.equal(micro.x_price, normalise(RawNoise(0.01, 0.05).apply(raw, noise)))
    (unchanged,) = plain.batches.group(0, 0).micros
    assert not torch.equal(micro.x_price, unchanged.x_price)
    for name in ("x_embedding", "x_ctx", "y_ret", "y_up", "labelled"):
        assert torch.equal(getattr(micro, name), getattr(unchanged, name)), name
    val = made.prepared.rows["val"]
    for a, b in zip(made.resident.sweep(val, 64), plain.resident.sweep(val, 64), strict=True):
        assert torch.equal(a.x_price, b.x_price)


@both
def test_it_learns_what_the_train_part_holds(small, base):
    made = small(
        "model.dropout=0", "schedule=constant", "optimizer.lr=0.01", "train.batch_size=16", base=base
    )
    group = made.batches.group(0, 0)
    losses = [float(made.learner.step(group)[0]) for _ in range(60)]
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("task_weights", ["false", "true"])
def test_the_validation_loss_is_the_plain_loss_of_all_rows_as_one_batch(small, monkeypatch, task_weights):
    made = small(f"model.learned_task_weights={task_weights}", "loss=focal")
    net, rows = made.learner.model, made.prepared.rows["val"]
    y_ret = made.prepared.windows.y_ret
    y_ret[rows[:20]] = 0.0  # ties, and not as many in every chunk
    y_ret[rows[5:9], 1] = np.nan
    if task_weights == "true":
        net.task_log_var.data[:] = torch.tensor([-0.7, 0.4])
    resident = DeviceWindows(made.prepared.windows, made.prepared.embedding, made.fitted, CPU)
    whole = predict(net, resident, rows, made.fitted)
    labels = torch.from_numpy(y_ret[rows].astype(np.float64))
    unit = torch.tensor(made.fitted.return_std, dtype=torch.float64)
    there, moved = labels.isfinite(), labels.isfinite() & (labels != 0)
    ret, logits = torch.from_numpy(whole.ret) / unit, torch.from_numpy(whole.up_logits)
    plain = 0.6 * F.huber_loss(ret[there], (labels / unit)[there])
    plain += 0.4 * F.binary_cross_entropy_with_logits(logits[moved], (labels[moved] > 0).double())
    for chunk in (256, 7):
        monkeypatch.setattr("stockenh.inference.predict.CHUNK", chunk)
        found = predict(net, resident, rows, made.fitted, Objective(HuberBCE(returns="huber")))
        assert found.loss == pytest.approx(float(plain), rel=1e-5)


def test_a_run_with_quantiles_is_validated_by_huber_as_every_other_is(bars, stockenh, tmp_path):
    run = tmp_path / "run"
    overrides = (*TFT, f"data.path={bars}", "train.epochs=1", "train.batch_size=64")
    assert stockenh("train", *overrides, f"hydra.run.dir={run}").code == 0
    (line,) = (json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines())
    made = assemble(*overrides)
    net = build.trained_model(made.config, made.prepared, RunFolder(run), "raw", CPU)

    def val_loss(returns):
        objective = Objective(HuberBCE(returns=returns))
        return predict(net, made.resident, made.prepared.rows["val"], made.fitted, objective).loss

    assert line["val_loss"] == pytest.approx(val_loss("huber"), rel=1e-5)
    assert line["val_loss"] != pytest.approx(val_loss("pinball"), rel=1e-2)
