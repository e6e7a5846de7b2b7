"""A run on windows streamed from the host is the run on resident ones, to the last bit."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SMALL, Small, resumed_from_file, same
from safetensors.torch import load_file

from stockenh.config import build
from stockenh.data.batches import DeviceWindows
from stockenh.data.placement import StreamedWindows
from stockenh.inference.calibration import Calibration
from stockenh.inference.predict import forecast, predict
from stockenh.report.terminal import SilentProgress
from stockenh.training.loop import Interrupted, Journal, Limits, State, StopRequest, fit

Make = Callable[..., Small]
Command = Callable[..., Any]

STREAMED = "train.resident=false"
RECIPE = ("train.batch_size=16", "train.accumulate=3", "augment=noise", "train.epochs=2")


class AtStep(SilentProgress):
    """Does something once so many steps were made."""

    def __init__(self, steps: int, then: Callable[[], None]) -> None:
        self.left, self.then = steps, then

    def advance(self, windows: int, loss: torch.Tensor) -> None:
        self.left -= 1
        if self.left == 0:
            self.then()


def no_validation() -> dict[str, dict[str, Any]]:
    return {"raw": {"loss": None}}


def run(made: Small, state: State, progress: SilentProgress, stop: StopRequest) -> None:
    limits = Limits(epochs=2, patience=2, checkpoint_seconds=1e9)
    fit(made.learner, made.batches, no_validation, state, limits, Journal(), progress, stop)


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("stockenh-prefetch")]


@pytest.fixture
def whole(small: Make) -> dict[str, torch.Tensor]:
    """The weights that a resident run ends with."""
    made = small(*RECIPE)
    assert isinstance(made.resident, DeviceWindows) and made.batches.steps >= 4
    run(made, State(), SilentProgress(), StopRequest())
    return made.weights()


def test_it_ends_with_the_same_bits(small: Make, whole: dict[str, torch.Tensor]) -> None:
    made = small(*RECIPE, STREAMED)
    assert isinstance(made.resident, StreamedWindows)
    run(made, State(), SilentProgress(), StopRequest())
    assert same(whole, made.weights()) and threads() == []


@pytest.mark.parametrize("after", [1, 3])
@pytest.mark.parametrize("later", [STREAMED, "train.resident=true"])
def test_stopped_within_an_epoch_it_goes_on_to_the_same_bits_held_either_way(
    small: Make, whole: dict[str, torch.Tensor], tmp_path: Path, after: int, later: str
) -> None:
    made, state, stop = small(*RECIPE, STREAMED), State(), StopRequest()
    with pytest.raises(Interrupted):
        run(made, state, AtStep(after, lambda: setattr(stop, "requested", True)), stop)
    assert threads() == [] and state.step_in_epoch == after
    again = resumed_from_file(made, tmp_path / "c.pt", lambda: small(*RECIPE, later))
    run(again, state, SilentProgress(), StopRequest())
    assert same(whole, again.weights())


def test_an_error_of_the_loop_ends_the_thread(small: Make) -> None:
    def fail() -> None:
        assert len(threads()) == 1
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory") as caught:
        run(small(*RECIPE, STREAMED), State(), AtStep(2, fail), StopRequest())
    assert caught.value.__traceback__ is not None and threads() == []


@pytest.mark.parametrize("embedding", ["embedding.shuffle=false", "embedding.shuffle=true"])
def test_forecasts_are_the_same_with_and_without_views(small: Make, embedding: str) -> None:
    resident, streamed = small(embedding), small(embedding, STREAMED)
    rows = resident.prepared.rows["val"]
    calibration, views = Calibration.identity(3), build.views(resident.config)
    found = []
    for made in (resident, streamed):
        net = resident.learner.model
        plain = predict(net, made.resident, rows, made.fitted, made.learner.objective)
        noisy = forecast(net, made.resident, rows, made.fitted, calibration, views)
        found.append((plain.loss, plain.ret, plain.up_logits, noisy.ret, noisy.up_prob, noisy.uncertainty))
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_run_says_how_its_windows_are_held(stockenh: Command, bars: Path, tmp_path: Path) -> None:
    summaries, lines, weights = [], [], []
    for setting in ("true", "false", "auto"):
        run = tmp_path / setting
        answer = stockenh(
            "train", *SMALL, f"data.path={bars}", f"hydra.run.dir={run}", "train.epochs=1",
            f"train.resident={setting}",
        )  # fmt: skip
        assert answer.code == 0, answer.err
        lines.append(next(line for line in answer.out.splitlines() if line.startswith("windows")))
        summary = json.loads((run / "summary.json").read_text())
        summaries.append(summary)
        weights.append(load_file(run / "weights" / "raw.safetensors"))
    assert [summary["resident"] for summary in summaries] == [True, False, True]
    assert lines[0] == "windows  resident on the device, as train.resident=true says"
    assert lines[1] == "windows  streamed from the host, as train.resident=false says"
    assert lines[2].startswith("windows  resident on the device: ") and lines[2].endswith(" free there")
    assert same(weights[0], weights[1]) and same(weights[0], weights[2])
    assert summaries[0]["parts"] == summaries[1]["parts"]


def test_a_setting_that_is_neither_is_refused(stockenh: Command) -> None:
    answer = stockenh("train", "train.resident=maybe")
    assert answer.code == 2 and "train.resident=maybe: take auto, true or false" in answer.err
