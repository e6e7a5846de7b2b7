"""The learning-rate range test: its rates, its readings, that it leaves no trace, and its command."""

import copy
import json
import math
import re
from dataclasses import asdict, replace

import numpy as np
import processes
import pytest
import torch
from conftest import CPU, SMALL, TFT, line_group, line_learner
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from stockenh.commands.train.range_test import lr_curve
from stockenh.config.schema import FinderConfig
from stockenh.storage.run_folder import RunFolder
from stockenh.training import checkpoint, lr_finder
from stockenh.training.averaging import Averages, Ema
from stockenh.training.lr_finder import Curve, Suggestions, suggest
from stockenh.training.optimizers import OneCycle, Schedule, ramp


def range_test(learner, batches, **settings):
    """A range test whose other settings are the defaults."""
    given = asdict(replace(FinderConfig(), **settings))
    del given["seeds"]
    return lr_finder.range_test(learner, batches, **given)


class Same:
    """A window of the same x again and again; remembers which steps of which epochs were requested."""

    steps = 7

    def __init__(self, x=1.0):
        self.x, self.requested = x, []

    def group(self, epoch, step):
        self.requested.append((epoch, step))
        return line_group([self.x])


def curve_of(changes, logs, smoothing=0.0):
    """A curve whose losses changed by this much from 0.5 at the rates of these powers of ten."""
    arrays = (tuple(values) for values in (10.0**logs, 0.5 + changes, np.full(len(changes), 0.5)))
    return Curve(*arrays, smoothing, diverged=False, skipped=0)


def equal(a, b):
    """Equal to the last bit, however nested."""
    (ours, shape), (theirs, other) = tree_flatten(a), tree_flatten(b)
    pairs = zip(ours, theirs, strict=False)
    return shape == other and all(torch.equal(x, y) if isinstance(x, Tensor) else x == y for x, y in pairs)


def test_the_rates_are_these_and_the_batches_begin_anew_after_an_epoch():
    batches = Same(0.0)  # no gradient at all: the ramp runs to its end
    curve = range_test(line_learner(), batches, start_lr=1e-4, end_lr=1e-1, steps=13)
    assert curve.lrs == pytest.approx([10 ** (-4 + step / 4) for step in range(13)], rel=1e-12)
    assert batches.requested == [(0, step) for step in range(7)] + [(1, step) for step in range(6)]
    found = suggest(range_test(line_learner(), Same(0.0)))
    assert (found.valley, found.steepest, found.minimum, found.lr) == (None, None, None, None)
    assert "the curve is flat" in found.reason


def test_every_parameter_group_rises_at_its_own_ratio_and_with_the_optimizer_s_momentum():
    groups = [{"params": [nn.Parameter(torch.zeros(1))]}, {"params": [nn.Parameter(torch.zeros(1))]}]
    optimizer = torch.optim.AdamW(groups, lr=1.0, betas=(0.9, 0.99))
    Schedule(optimizer, OneCycle().plan(1.0, 10))
    optimizer.param_groups[0]["lr"], optimizer.param_groups[1]["lr"] = 0.2, 0.05
    schedule = Schedule(optimizer, ramp(1e-3, 1e-1, steps=3))
    for expected in (1e-3, 1e-2, 1e-1):
        assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([expected, expected / 4])
        assert [g["betas"] for g in optimizer.param_groups] == [(0.9, 0.99)] * 2
        schedule.step()


def test_on_a_parabola_the_loss_falls_until_twice_the_best_rate():
    curve = range_test(line_learner(), Same(), smoothing=0.0)
    rates = np.geomspace(1e-7, 1, 100)
    assert not curve.diverged  # rates end at 1, and descent is stable below 2
    weights = np.concatenate([[1.0], np.cumprod(1 - rates[:-1])])
    assert curve.losses == pytest.approx(weights**2 / 2, rel=1e-4)
    assert curve.untouched == (0.5,) * 100
    found = suggest(curve)
    assert found.minimum == pytest.approx(0.1)
    # with d the distance of two log rates, rates up to r add up to r / d, and the loss is exp(-2 r / d) / 2
    distance = math.log(1e7) / 99
    begin = -math.log(0.9) / 2 * distance  # a tenth of the fall is made
    assert found.valley == pytest.approx(math.sqrt(begin * 1), rel=0.1)
    assert found.steepest == pytest.approx(distance / 2, rel=0.1)  # the extreme of -r / d exp(-2 r / d)


def test_it_stops_where_the_mean_is_four_times_its_best():
    curve = range_test(line_learner(), Same(), end_lr=1e3, steps=100, smoothing=0.0, diverge=4.0)
    losses = np.array(curve.losses)
    assert curve.diverged and len(losses) < 100
    assert losses[-1] > 4 * losses.min() and all(losses[:-1] <= 4 * np.minimum.accumulate(losses[:-1]))
    lowest = int(losses.argmin())
    assert curve.lrs[lowest - 1] < 2 <= curve.lrs[lowest]  # the first step that made it worse
    assert suggest(curve).minimum == pytest.approx(curve.lrs[lowest] / 10)


def test_a_loss_is_averaged_with_the_same_weights_as_its_log_rate():
    logs = np.linspace(-7, 0, 100)
    rates, smoothed = curve_of(-0.01 * (logs + 7), logs, smoothing=0.9).smooth
    # so a straight line is kept to its very ends, where an exponential mean lies 0.6 of a decade behind it
    np.testing.assert_allclose(smoothed, -0.01 * (rates / math.log(10) + 7), atol=1e-12)
    np.testing.assert_allclose(rates[25:75], math.log(10) * logs[25:75], atol=1e-3)
    # an impulse shows the weights: those of one side equal those of the other, and as little noise is left
    _, weights = curve_of((np.arange(100) == 50).astype(float), logs, smoothing=0.9).smooth
    np.testing.assert_allclose(weights[25:50], weights[51:76][::-1], rtol=1e-9)
    assert (weights**2).sum() == pytest.approx((1 - 0.9) / (1 + 0.9), rel=0.01)


@pytest.mark.parametrize("smoothing", [0.0, 0.5, 0.9, 0.95])
def test_smoothing_does_not_move_the_steepest_point(smoothing):
    logs = np.linspace(-7, 0, 141)
    changes = -1 / (1 + np.exp(-4 * (logs + 3)))  # steepest at 1e-3 by symmetry
    found = suggest(curve_of(changes, logs, smoothing))
    assert found.steepest == pytest.approx(1e-3, rel=0.03)


def test_the_median_of_several_seeds_is_that_of_each_reading():
    flat, a, b = Suggestions(reason="flat"), Suggestions(1e-4, 1e-3, 1e-5), Suggestions(1e-2, None, 1e-3)
    found = lr_finder.median([a, flat, b])
    assert (found.valley, found.steepest, found.minimum) == pytest.approx((1e-3, 1e-3, 1e-4))
    assert lr_finder.median([a, b, Suggestions(2e-4, 1e-3, 1e-5)]).valley == pytest.approx(2e-4)
    assert lr_finder.median([flat, a, flat]) == flat
    assert lr_finder.median([a]).valley == pytest.approx(a.valley)


def test_the_valley_is_the_middle_of_the_longest_descent_in_log_rate():
    logs = np.linspace(-7, 0, 71)
    # flat to 1e-5, down to 1e-2 with a bump that a contiguous descent would end at, then up
    changes = -np.clip(logs + 5, 0, 3) * 0.1 + np.clip(logs + 2, 0, None) * 0.5
    changes[35] += 0.02
    found = suggest(curve_of(changes, logs))
    # the descent counts from a tenth of its depth, 10**-4.7
    assert found.valley == pytest.approx(10**-3.35, rel=0.15)
    assert found.minimum == pytest.approx(1e-3)
    assert found.lr == float(f"{found.valley:.2e}")


def test_the_steepest_is_per_factor_of_the_rate():
    logs = np.linspace(-7, 0, 141)
    changes = -1 / (1 + np.exp(-4 * (logs + 3))) + 2 * np.clip(logs + 1, 0, None)
    # against the rate itself the slope would be greatest far to the left of 1e-3
    assert suggest(curve_of(changes, logs)).steepest == pytest.approx(1e-3, rel=0.1)


@pytest.mark.parametrize("seed", range(20))
def test_noise_is_no_descent(seed):
    changes = np.random.default_rng(seed).normal(0, 0.01, 300) + np.linspace(0, 1, 300)
    found = suggest(curve_of(changes, np.linspace(-7, 0, 300), smoothing=0.9))
    assert found.lr is None and "the curve is flat" in found.reason


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_loss_that_is_never_finite_gives_no_suggestion(precision):
    learner = line_learner(precision)
    before = copy.deepcopy(learner.checkpoint())
    curve = range_test(learner, Same(math.nan))
    assert curve.diverged and curve.lrs == ()
    assert "the loss diverged within 1 steps" in suggest(curve).reason
    assert equal(learner.checkpoint(), before)
    learner.step(Same().group(0, 0))  # fp16's scaler has forgotten the step that was refused halfway


def test_fp16_tries_the_rate_of_a_skipped_step_again():
    learner = line_learner("fp16")
    # a gradient of 300 x 300 times the scale of 65,536 overflows, and fits after some halvings
    batches = Same(300.0)
    curve = range_test(learner, batches, start_lr=1e-9, end_lr=1e-8, steps=10)
    assert curve.skipped > 0 and len(batches.requested) == 10 + curve.skipped
    assert curve.lrs == pytest.approx(np.geomspace(1e-9, 1e-8, 10))
    assert learner.precision.state_dict()["scaler"]["scale"] == 65536.0


@pytest.mark.parametrize(
    ("base", "precision", "steps_before"),
    [(SMALL, precision, steps) for precision in ("fp32", "bf16", "fp16") for steps in (0, 3)]
    + [(TFT, "fp32", 0)],
)
def test_it_leaves_everything_as_it_was_to_the_last_bit(small, base, precision, steps_before):
    techniques = (f"train.precision={precision}", "train.accumulate=2", "averaging=ema_swa")
    made = small("train.batch_size=16", *techniques, base=base)
    learner, batches = made.learner, made.batches
    made.steps(0, steps_before)
    learner.model.train()
    next(iter(learner.model.children())).eval()  # a mode of its own, as a frozen part would have

    def everything():
        return copy.deepcopy(
            {
                "learner": learner.checkpoint(),
                "random": checkpoint.rng_state(CPU),
                "modes": [m.training for m in learner.model.modules()],
                "gradients": [p.grad for p in learner.model.parameters()],
                "rates": (learner.schedule.lr, learner.optimizer.state_dict()),
                "order": batches.rows_of(1, 0),
            }
        )

    before = everything()
    curve = range_test(learner, batches, steps=30, end_lr=10.0)
    assert len(set(curve.losses)) > 10 and max(np.abs(curve.changes)) > 1e-3  # it did train
    assert equal(everything(), before)
    assert bool(learner.optimizer.state) == bool(steps_before)


def test_the_losses_are_those_of_training_at_these_rates(small):
    made = small()
    curve = range_test(made.learner, made.batches, steps=12)
    made = small()
    ramped = replace(made.learner, schedule=Schedule(made.learner.optimizer, ramp(1e-7, 1.0, 12)))
    groups = (made.batches.group(*divmod(step, made.batches.steps)) for step in range(12))
    # dropout included: the comparison takes no random number away
    assert list(curve.losses) == [float(ramped.step(group)[0]) for group in groups]
    assert curve.untouched[0] == curve.losses[0]


def test_an_error_within_leaves_everything_as_it_was_too():
    learner = line_learner(averages=Averages())
    learner.averages.kept["ema"] = Ema(learner.model, 0.5)
    before = copy.deepcopy(learner.checkpoint())
    batches = Same()
    group, batches.group = batches.group, lambda epoch, step: group(epoch, step) if not epoch else 1 / 0
    with pytest.raises(ZeroDivisionError):
        range_test(learner, batches, start_lr=0.01)
    assert equal(learner.checkpoint(), before)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("finder.start_lr=1 finder.end_lr=0.1", "finder.start_lr=1.0 finder.end_lr=0.1 rise"),
        ("finder.start_lr=1 finder.end_lr=1", "finder.start_lr=1.0 finder.end_lr=1.0 rise"),
        ("finder.start_lr=0", "finder.start_lr=0 above 0"),
        ("finder.steps=9", "finder.steps=9 at least 10"),
        ("finder.seeds=0", "finder.seeds=0 at least 1"),
        ("finder.smoothing=1", "finder.smoothing=1 below 1"),
        ("finder.diverge=1", "finder.diverge=1 above 1"),
        ("finder.step=9", "finder.step: no such key Nearest finder.steps"),
        ("optimizer.lr=high", "optimizer.lr=high number auto"),
        ("optimizer.lr=0", "optimizer.lr=0 above 0"),
        ("optimizer.lr=true", "optimizer.lr=True number"),
        ("optimizer.lr=null", "optimizer.lr=null value"),
        ("resume=x", "resume: no such key"),
    ],
)
def test_wrong_input_is_a_line_that_names_the_keys(stockenh, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    answer = stockenh("find-lr", *arguments.split())
    assert answer.code == 2 and all(word in answer.err for word in words.split())
    assert len(answer.err.splitlines()) == 1


@pytest.fixture(scope="module")
def telling_run(small_run, tmp_path_factory):
    """A run on a market whose returns the last bar tells: a hundred small steps give a curve."""
    folder = tmp_path_factory.mktemp("telling")
    for number in range(2):
        rng = np.random.default_rng(number)
        drift = np.repeat(rng.choice([-0.01, 0.01], 40), 10)
        close = 100 * np.exp(np.cumsum(drift + rng.normal(0, 0.001, 400)))
        day = np.busday_offset("2015-01-05", np.arange(400))
        rows = [f"{d},{c},{c * 1.001},{c * 0.999},{c},1000" for d, c in zip(day, close, strict=True)]
        (folder / f"S{number}.csv").write_text("\n".join(["Date,Open,High,Low,Close,Volume", *rows]) + "\n")
    return [f"data.path={folder}" if word.startswith("data.path") else word for word in small_run]


def test_the_command_leaves_figures_and_a_picture_and_prints_what_to_paste(
    stockenh, telling_run, tmp_path, pictures
):
    run = tmp_path / "run"
    answer = stockenh("find-lr", *telling_run, f"hydra.run.dir={run}")
    assert answer.code == 0, answer.err
    found = json.loads((run / "lr_finder.json").read_text())
    for text in (f"optimizer.lr={found['lr']}\n", "valley", "steepest", "minimum / 10"):
        assert text in answer.out
    rates = [one["lr"] for one in found["seeds"]]
    assert found["lr"] == pytest.approx(sorted(rates)[1], rel=0.01)
    flat = " ".join(answer.out.split())
    assert f"by seed {', '.join(map(str, rates))}" in flat and re.search(r"steps in \d+\.\d s", flat)
    curves = [one["curve"] for one in found["seeds"]]
    assert all(len(curve["lrs"]) == len(curve["losses"]) > 50 for curve in curves)
    assert len({tuple(curve["untouched"]) for curve in curves}) == 3
    assert (run / "lr_finder.png").read_bytes().startswith(b"\x89PNG")
    assert "the range test suggests" in (run / "run.log").read_text()
    resumed = stockenh("train", f"resume={run}")  # it is no run
    assert resumed.code == 2 and "no run folder" in resumed.err


def test_a_flat_curve_ends_in_a_line_and_exit_code_1(stockenh, telling_run, tmp_path):
    for command in (["find-lr"], ["train", "optimizer.lr=auto"]):
        run = tmp_path / command[0]
        answer = stockenh(*command, *telling_run, "finder.end_lr=1e-6", f"hydra.run.dir={run}")
        assert answer.code == 1 and "the curve is flat" in answer.err and len(answer.err.splitlines()) == 1
    assert json.loads((tmp_path / "find-lr" / "lr_finder.json").read_text())["lr"] is None


def weights(run):
    return dict(checkpoint.load(run / "checkpoints" / "last.pt")["learner"])


def test_auto_trains_as_the_rate_it_finds_would_and_a_resume_uses_that(stockenh, telling_run, tmp_path):
    auto, given = tmp_path / "auto", tmp_path / "given"
    found = stockenh("train", *telling_run, "optimizer.lr=auto", f"hydra.run.dir={auto}")
    assert found.code == 0, found.err
    assert "optimizer.lr=auto" in found.out
    lr = RunFolder(auto).read_config()["optimizer"]["lr"]
    assert lr == json.loads((auto / "lr_finder.json").read_text())["lr"]
    assert stockenh("train", *telling_run, f"optimizer.lr={lr}", f"hydra.run.dir={given}").code == 0
    assert equal(weights(auto), weights(given))

    (auto / "lr_finder.json").unlink()
    for run in (auto, given):
        assert stockenh("train", f"resume={run}", "train.epochs=2").code == 0
    assert not (auto / "lr_finder.json").exists()  # it did not look again
    assert RunFolder(auto).read_config()["optimizer"]["lr"] == lr
    assert equal(weights(auto), weights(given))

    before = {p: p.read_bytes() for p in given.rglob("*") if p.is_file()}
    answer = stockenh("find-lr", *telling_run, f"hydra.run.dir={given}")
    assert answer.code == 2 and "holds a run" in answer.err
    assert {p: p.read_bytes() for p in given.rglob("*") if p.is_file()} == before


@pytest.mark.deep
def test_auto_killed_while_it_looks_looks_again(telling_run, tmp_path):
    run = tmp_path / "run"
    kill = (
        "import os; from stockenh.commands.train import range_test as find\n"
        "find.suggest = lambda curve: os._exit(9)"
    )
    arguments = ["train", *telling_run, "optimizer.lr=auto", "finder.steps=40", f"hydra.run.dir={run}"]
    assert processes.run(*arguments, first=kill).returncode == 9
    assert RunFolder(run).read_config()["optimizer"]["lr"] == "auto"
    done = processes.run("train", f"resume={run}")
    assert done.returncode == 0, done.stderr
    assert isinstance(RunFolder(run).read_config()["optimizer"]["lr"], float)


def test_the_picture_marks_the_three_suggestions(tmp_path, monkeypatch, pictures):
    from matplotlib.figure import Figure

    drawn, save = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda f, path, **o: (drawn.append(f), save(f, path, **o)))
    found = Suggestions(valley=1e-3, steepest=2e-3, minimum=5e-4)
    curves = [curve_of(-np.linspace(0, end, 50), np.linspace(-7, 0, 50)) for end in (0.1, 0.2)]
    lr_curve(curves, found, tmp_path / "c.png")
    (axes,) = drawn[0].axes
    marks = {line.get_label(): line.get_xdata()[0] for line in axes.lines if len(set(line.get_xdata())) == 1}
    assert marks == {"valley: 0.001": 1e-3, "steepest: 0.002": 2e-3, "minimum / 10: 0.0005": 5e-4}
    assert axes.xaxis.get_major_formatter()(1e-3) == "0.001"
    assert axes.get_xscale() == "log" and "optimizer.lr=0.001" in drawn[0].get_suptitle()
    lr_curve([Curve((), (), (), 0.9, True, 0)], Suggestions(reason="x"), tmp_path / "empty.png")
    assert "no suggestion" in drawn[1].get_suptitle()
