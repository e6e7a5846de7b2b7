"""The Temporal Fusion Transformer under the techniques that change a training step, small and on bars."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import CPU, Small, assemble, resumed_from_file, same, train_steps
from torch import nn
from torch.nn import functional as F

from stockenh.config import build
from stockenh.inference.predict import predict
from stockenh.storage.run_folder import RunFolder
from stockenh.training import checkpoint
from stockenh.training.losses.huber_bce import HuberBCE
from stockenh.training.lr_finder import range_test
from stockenh.training.optimizers import Constant, Schedule
from stockenh.training.step import Objective

TFT = (
    "data=files",
    "data.lookback=20",
    "embedding.width=16",
    "model=tft_xl",
    "model.d_model=16",
    "model.heads=2",
    "train.batch_size=16",
    "train.epochs=3",
    "device=cpu",
)
Make = Callable[..., Small]


@pytest.fixture
def tft(bars: Path) -> Make:
    return lambda *overrides: assemble(*TFT, f"data.path={bars}", *overrides)


def all_weights(small: Small) -> dict[str, torch.Tensor]:
    """Raw weights and every average, by name."""
    named = small.learner.averages.named(small.learner.model)
    return {f"{of}.{k}": v.clone() for of, net in named.items() for k, v in net.state_dict().items()}


def close_epoch(small: Small) -> None:
    small.learner.averages.close_epoch(small.learner.model, 2, small.batches.inputs)


def test_a_step_equals_a_plain_loop_over_the_pinball_loss_to_the_last_bit(tft: Make) -> None:
    made = tft()
    torch.manual_seed(5)
    model = copy.deepcopy(made.learner.model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-5, fused=True)
    total = made.config.train.epochs * made.batches.steps
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 1e-3, total_steps=total, div_factor=10, final_div_factor=100
    )
    levels = torch.tensor([0.1, 0.5, 0.9])
    for step in range(3):
        batch = made.resident.gather(made.batches.rows_of(0, step), made.config.augment)
        optimizer.zero_grad()
        out = model(*batch.inputs)
        missed = batch.y_ret[..., None] - out["quantiles"]
        returns = torch.where(missed > 0, levels * missed, (levels - 1) * missed).mean(-1)
        direction = F.binary_cross_entropy_with_logits(out["up_logits"], batch.y_up, reduction="none")
        (0.6 * returns.mean() + 0.4 * direction.mean()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    torch.manual_seed(5)
    train_steps(made, 0, 3)
    assert same(made.weights(), model.state_dict())


@pytest.mark.parametrize(
    "technique",
    [
        ["train.precision=fp32"],
        ["train.precision=bf16"],
        ["train.accumulate=2"],
        ["train.precision=bf16", "train.accumulate=2"],
        ["averaging=ema_swa", "averaging.swa_start=0"],
        ["loss=focal", "loss.alpha=auto"],
        ["loss=label_smoothing"],
        ["loss=focal_smoothed", "augment=noise"],
        ["schedule=constant"],
    ],
    ids="-".join,
)
def test_resumed_from_a_file_it_goes_on_with_the_same_bits(
    tft: Make, tmp_path: Path, technique: list[str]
) -> None:
    whole = tft(*technique)
    initial = all_weights(whole)
    train_steps(whole, 0, 2)
    close_epoch(whole)
    resumed = resumed_from_file(whole, tmp_path / "c.pt", lambda: tft(*technique, "seed=1"))
    train_steps(whole, 2, 4)
    checkpoint.set_rng_state(checkpoint.load(tmp_path / "c.pt")["rng"])
    train_steps(resumed, 2, 4)
    assert same(all_weights(whole), all_weights(resumed))
    assert not same(initial, {k: all_weights(whole)[k] for k in initial})


def test_accumulation_equals_the_big_batch_to_rounding_without_dropout(tft: Make) -> None:
    big = tft("model.dropout=0", "train.batch_size=32")
    split = tft("model.dropout=0", "train.batch_size=8", "train.accumulate=4")
    for made in (big, split):
        descent = torch.optim.SGD(made.learner.model.parameters(), lr=0.05)
        schedule = Schedule(descent, Constant().plan(0.05, 99))
        learner = replace(made.learner, optimizer=descent, schedule=schedule)
        for step in range(3):
            learner.step(made.batches.group(0, step))
    for name, tensor in big.weights().items():
        torch.testing.assert_close(split.weights()[name], tensor, rtol=1e-4, atol=1e-5)


def test_the_range_test_leaves_it_as_it_was_to_the_last_bit(tft: Make) -> None:
    made = tft("optimizer.lr=1e-5")
    before, random = made.weights(), torch.get_rng_state()
    curve = range_test(
        made.learner, made.batches, start_lr=1e-5, end_lr=1e-2, steps=10, smoothing=0.9, diverge=4.0
    )
    assert len(curve.lrs) == 10
    assert same(before, made.weights()) and torch.equal(random, torch.get_rng_state())


def test_it_learns_what_the_train_part_holds(tft: Make) -> None:
    made = tft("model.dropout=0", "schedule=constant", "optimizer.lr=0.01")
    group = made.batches.group(0, 0)
    losses = [float(made.learner.step(group)[0]) for _ in range(60)]
    assert losses[-1] < 0.5 * losses[0]


def test_a_run_is_validated_by_huber_as_every_other_is(bars: Path, stockenh, tmp_path: Path) -> None:
    run = tmp_path / "run"
    overrides = (*TFT, f"data.path={bars}", "train.epochs=1", "train.batch_size=64")
    assert stockenh("train", *overrides, f"hydra.run.dir={run}").code == 0
    (line,) = (json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines())
    made = assemble(*overrides)
    net = build.trained_model(made.config, made.prepared, RunFolder(run), "raw", CPU)

    def val_loss(returns: str) -> float | None:
        objective = Objective(HuberBCE(returns=returns))
        return predict(net, made.resident, made.prepared.rows["val"], made.fitted, objective).loss

    assert line["val_loss"] == pytest.approx(val_loss("huber"), rel=1e-5)
    assert line["val_loss"] != pytest.approx(val_loss("pinball"), rel=1e-2)
