"""A run on windows streamed from the host is the run on resident ones, to the last bit."""

import json
import threading

import numpy as np
import pytest
from conftest import SMALL, After, assemble, fit, resumed_from_file, same
from safetensors.torch import load_file

from stockenh.config import build
from stockenh.data.batches import DeviceWindows
from stockenh.data.placement import StreamedWindows
from stockenh.inference.calibration import Calibration
from stockenh.inference.predict import predict
from stockenh.inference.tta import forecast
from stockenh.training.loop import Interrupted, State

STREAMED = "train.resident=false"
RECIPE = ("train.batch_size=16", "train.accumulate=3", "augment=noise", "train.epochs=2")


def run(made, state=None, **options):
    fit(made, lambda: {"raw": {"loss": None}}, 2, state, **options)


def threads():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("stockenh-prefetch")]


@pytest.fixture(scope="module")
def whole(bars):
    """The weights that a resident run ends with."""
    made = assemble(*SMALL, f"data.path={bars}", *RECIPE)
    assert isinstance(made.resident, DeviceWindows) and made.batches.steps >= 4
    run(made)
    return made.weights()


def test_it_ends_with_the_same_bits(small, whole):
    made = small(*RECIPE, STREAMED)
    assert isinstance(made.resident, StreamedWindows)
    run(made)
    assert same(whole, made.weights()) and threads() == []


@pytest.mark.parametrize("after", [1, 3])
@pytest.mark.parametrize("later", [STREAMED, "train.resident=true"])
def test_stopped_within_an_epoch_it_goes_on_to_the_same_bits_either_way(small, whole, tmp_path, after, later):
    made, state = small(*RECIPE, STREAMED), State()
    with pytest.raises(Interrupted):
        run(made, state, stop=after)
    assert threads() == [] and state.step_in_epoch == after
    again = resumed_from_file(made, tmp_path / "c.pt", lambda: small(*RECIPE, later))
    run(again, state)
    assert same(whole, again.weights())


def test_an_error_of_the_loop_ends_the_thread(small):
    def fail():
        assert len(threads()) == 1
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory") as caught:
        run(small(*RECIPE, STREAMED), progress=After(2, fail))
    assert caught.value.__traceback__ is not None and threads() == []


@pytest.mark.parametrize("embedding", ["embedding.shuffle=false", "embedding.shuffle=true"])
def test_forecasts_are_the_same_with_and_without_views(small, embedding):
    resident, streamed = small(embedding), small(embedding, STREAMED)
    net, rows = resident.learner.model, resident.prepared.rows["val"]
    calibration, views = Calibration.identity(3), build.views(resident.config)
    found = []
    for made in (resident, streamed):
        plain = predict(net, made.resident, rows, made.fitted, made.learner.objective)
        noisy = forecast(net, made.resident, rows, made.fitted, calibration, views)
        found.append((plain.loss, plain.ret, plain.up_logits, noisy.ret, noisy.up_prob, noisy.uncertainty))
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_run_says_how_its_windows_are_held(stockenh, bars, tmp_path):
    summaries, lines, weights = [], [], []
    for setting in ("true", "false", "auto"):
        run = tmp_path / setting
        changes = ("train.epochs=1", f"train.resident={setting}", f"hydra.run.dir={run}")
        answer = stockenh("train", *SMALL, f"data.path={bars}", *changes)
        assert answer.code == 0, answer.err
        lines.append(next(line for line in answer.out.splitlines() if line.startswith("windows")))
        summaries.append(json.loads((run / "summary.json").read_text()))
        (file,) = (run / "weights").iterdir()  # without averages there is one
        assert file.name == "raw.safetensors" and summaries[-1]["weights"] == "raw"
        weights.append(load_file(file))
    assert [summary["resident"] for summary in summaries] == [True, False, True]
    assert lines[0] == "windows  resident on the device, as train.resident=true says"
    assert lines[1] == "windows  streamed from the host, as train.resident=false says"
    assert lines[2].startswith("windows  resident on the device: ") and lines[2].endswith(" free there")
    assert same(weights[0], weights[1]) and same(weights[0], weights[2])
    assert summaries[0]["parts"] == summaries[1]["parts"]


def test_a_setting_that_is_neither_is_refused(stockenh):
    answer = stockenh("train", "train.resident=maybe")
    assert answer.code == 2
    assert all(word in answer.err for word in ("train.resident=maybe", "auto", "true", "false"))
