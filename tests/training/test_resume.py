"""A run that was stopped, killed, moved or tampered with goes on with the same bits, or is refused.

With averages, so that every epoch names the weights that it has, and all of them are saved.
"""

import json
import pickle
import shutil
import signal

import processes
import pytest
import torch
from conftest import SMALL, Hostile, same, write_folder
from processes import Hold
from safetensors.torch import load_file

from stockenh.storage.run_folder import RunFolder
from stockenh.training import checkpoint

NAMES = ("raw", "ema", "swa")
FIRST = 4  # epoch from 1 that SWA averages, of 6
RUN = (*SMALL, "train.epochs=6", "train.accumulate=2", "train.batch_size=16", "averaging=ema_swa",
       "averaging.swa_start=0.5", "seed=1")  # fmt: skip


def metrics(run):
    """metrics.jsonl without what it took."""
    return [
        {key: value for key, value in line.items() if "second" not in key}
        for line in RunFolder(run).read_metrics()
    ]


def summary(run):
    return json.loads((run / "summary.json").read_text())


def files(run):
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def saved(run):
    return {path.stem: load_file(path) for path in (run / "weights").iterdir()}


def last(run):
    return checkpoint.load(run / "checkpoints" / "last.pt")


def assert_same_run(run, whole):
    """The same weights and averages to the last bit, and the same figures."""
    ends = [last(one)["learner"] for one in (run, whole)]
    assert same(ends[0]["model"], ends[1]["model"])
    for name in ("ema", "swa"):
        both = [{k: v for k, v in end["averages"][name].items() if k != "first"} for end in ends]
        assert all(isinstance(v, torch.Tensor) for v in both[0].values())
        assert same(*both), name
    weights, expected = saved(run), saved(whole)
    assert weights.keys() == expected.keys() == set(NAMES)
    assert all(same(weights[name], expected[name]) for name in NAMES)
    figures = [{k: v for k, v in summary(one).items() if "second" not in k} for one in (run, whole)]
    assert figures[0] == figures[1] and metrics(run) == metrics(whole)


@pytest.fixture(scope="module")
def whole(bars, tmp_path_factory):
    """A run that nobody disturbed."""
    run = tmp_path_factory.mktemp("whole") / "run"
    done = processes.run("train", *RUN, f"data.path={bars}", f"hydra.run.dir={run}")
    assert done.returncode == 0, done.stderr
    return run


@pytest.fixture
def copy(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "copy")


@pytest.fixture
def unfinished(copy):
    """A finished run that looks like one that has work left."""
    (copy / "summary.json").unlink()
    return copy


def test_a_run_folder_holds_what_it_should(whole):
    there = {str(p.relative_to(whole)) for p in whole.rglob("*") if p.is_file()} - {".lock"}
    assert there == {
        ".hydra/config.yaml", ".hydra/hydra.yaml", ".hydra/overrides.yaml", "config.yaml", "run.log",
        "metrics.jsonl", "summary.json", "manifest.json", "fitted.json", "checkpoints/last.pt",
        "checkpoints/best.pt", *(f"weights/{name}.safetensors" for name in NAMES), "report/curves.png",
        "report/accuracy.png", "report/reliability.png", "calibration.json", "confidence.json",
        "report.html", "report/details.json",
    }  # fmt: skip
    found, calibrated = summary(whole), {"log_loss_calibrated", "brier_calibrated", "ece", "ece_calibrated"}
    assert set(found["parts"]) == {"train", "val", "test"}
    for name, part in found["parts"].items():
        assert set(part) == {"h3", "h5", "h10"}
        for figures in part.values():
            assert {"n", "ties", "accuracy", "majority", "log_loss", "brier", "auc", "mae"} <= set(figures)
            assert name == "train" or calibrated <= set(figures)
    assert found["precision"] == "fp32" and found["device"] == "cpu"
    assert found["windows"] == sum(part["h3"]["n"] for part in found["parts"].values())
    manifest = json.loads((whole / "manifest.json").read_text())
    assert {"stockenh", "libraries", "git_commit", "data", "device"} <= set(manifest)
    assert manifest["libraries"]["torch"] == torch.__version__
    assert [line["epoch"] for line in metrics(whole)] == [1, 2, 3, 4, 5, 6]
    assert "epoch 6: train loss" in (whole / "run.log").read_text()
    assert int(last(whole)["learner"]["averages"]["swa"]["n_averaged"]) == 6 - FIRST + 1


def test_every_epoch_names_the_weights_that_there_are(whole):
    for line in metrics(whole):
        assert set(line["by_weights"]) == set(NAMES if line["epoch"] >= FIRST else NAMES[:2])
        for figures in line["by_weights"].values():
            assert {"loss", "h3", "h5", "h10"} == set(figures) and figures["h3"]["n"] > 0
        # of equals the first: after its first epoch the average is the raw weights themselves
        chosen = min(line["by_weights"], key=lambda name: line["by_weights"][name]["loss"])
        assert line["weights"] == chosen and line["val_loss"] == line["by_weights"][chosen]["loss"]
        assert line["val"]["h3"] == line["by_weights"][chosen]["h3"]


def test_the_summary_is_that_of_the_best_epoch_and_weights_on_validation(whole):
    lines, found = metrics(whole), summary(whole)
    best = min(lines, key=lambda line: line["val_loss"])
    assert found["best_epoch"] == best["epoch"] and found["val_loss"] == best["val_loss"]
    losses = {
        name: min(line["by_weights"][name]["loss"] for line in lines if name in line["by_weights"])
        for name in NAMES
    }
    assert {name: figures["val_loss"] for name, figures in found["by_weights"].items()} == losses
    assert found["weights"] == best["weights"] == min(losses, key=losses.__getitem__)
    for horizon, figures in best["val"].items():
        for name in ("accuracy", "log_loss"):
            assert found["parts"]["val"][horizon][name] == figures[name]
    kept, weights = checkpoint.load(whole / "checkpoints" / "best.pt")["weights"], saved(whole)
    assert all(same(kept[name], weights[name]) for name in NAMES)
    assert not same(weights["raw"], weights["ema"]) and not same(weights["raw"], weights["swa"])


@pytest.mark.deep
def test_killed_at_any_moment_it_goes_on_to_the_same_bits(stockenh, whole, bars, tmp_path):
    run = tmp_path / "run"
    first = [*RUN, f"data.path={bars}", f"hydra.run.dir={run}", "train.checkpoint_minutes=1e-9"]
    moments = [
        (None, Hold(tmp_path / "a", "last.pt")),  # before anything was learnt
        (True, Hold(tmp_path / "b", "last.pt", write=3)),  # within the first epoch
        (True, Hold(tmp_path / "c", "last.pt", epochs=FIRST - 1, write=3)),  # within the first of SWA
        (True, Hold(tmp_path / "d", "metrics.jsonl", epochs=FIRST - 1)),  # at its end
        (True, Hold(tmp_path / "e", "last.pt", epochs=FIRST, write=3)),  # within the next
        (False, Hold(tmp_path / "f", "last.pt", epochs=FIRST + 1, write=2)),  # after that one
    ]
    for within, moment in moments:
        process = processes.start("train", *(first if within is None else [f"resume={run}"]), hold=moment)
        moment.wait_for(process)
        assert len(metrics(run)) == moment.epochs
        process.kill()
        assert (run / "checkpoints/last.pt").exists() == (within is not None)
        if within is not None:
            state = last(run)["state"]
            assert state["epoch"] == moment.epochs and (state["step_in_epoch"] > 0) == within
    hydra = files(run / ".hydra")
    (run / "checkpoints" / ".last.pt.x.part").touch()  # as a kill within a write leaves one
    done = stockenh("train", f"resume={run}")
    assert done.code == 0, done.err
    assert_same_run(run, whole)
    assert files(run / ".hydra") == hydra
    assert not [p for p in run.rglob(".*") if p.name not in (".hydra", ".lock")]


@pytest.mark.slow
@pytest.mark.parametrize(
    "sent",
    [signal.SIGTERM, *(pytest.param(n, marks=pytest.mark.deep) for n in (signal.SIGINT, signal.SIGUSR2))],
)
def test_interrupted_it_saves_says_how_to_go_on_and_does(stockenh, whole, bars, tmp_path, sent):
    run = tmp_path / "a run (1)"
    moment = Hold(tmp_path / "hold", epochs=2)
    process = processes.start("train", *RUN, f"data.path={bars}", f"hydra.run.dir={run}", hold=moment)
    moment.wait_for(process)
    process.send_signal(sent)
    _, errors = process.communicate()
    assert process.returncode == 130
    assert "Traceback" not in errors and f"resume='{run}'" in errors
    assert not (run / "summary.json").exists()
    done = stockenh("train", f"resume={run}")
    assert done.code == 0, done.err
    assert_same_run(run, whole)


def test_a_finished_run_says_so_with_its_table_and_stays_as_it_is(stockenh, copy):
    before, found = files(copy), summary(copy)
    done = stockenh("train", f"resume={copy}")
    assert done.code == 0
    assert "is finished (all epochs done)" in done.out and "majority" in done.out
    printed = " ".join(done.out.split())
    assert f"{found['weights']} weights of epoch {found['best_epoch']} of 6, the best on" in printed
    for name in set(NAMES) - {found["weights"]}:
        assert f"{name} {found['by_weights'][name]['val_loss']:.4f}" in printed
    assert files(copy) == before


def test_more_epochs_go_on_from_the_last(stockenh, copy):
    done = stockenh("train", f"resume={copy}", "train.epochs=7")
    assert done.code == 0, done.err
    assert [line["epoch"] for line in metrics(copy)] == [1, 2, 3, 4, 5, 6, 7]
    assert RunFolder(copy).read_config()["train"]["epochs"] == 7 == summary(copy)["epochs"]


@pytest.mark.slow
def test_moved_with_its_data_it_judges_the_same_and_goes_on(stockenh, whole, unfinished, bars, tmp_path):
    data = shutil.copytree(bars, tmp_path / "bars")
    config = (unfinished / "config.yaml").read_text().replace(str(bars), "/nowhere/bars")
    (unfinished / "config.yaml").write_text(config.replace("device: auto", "device: cuda:3"))
    lost = stockenh("train", f"resume={unfinished}")
    assert lost.code == 2 and "/nowhere/bars" in lost.err and "data.path" in lost.err
    done = stockenh("train", f"resume={unfinished}", f"data.path={data}")
    assert done.code == 0, done.err
    assert "device=cuda:3 of the run is not available here" in done.out
    assert_same_run(unfinished, whole)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("train.epochs=5", "{run} has done 6 epochs of 6 already"),
        ("data.path={other}", "not those that this run was trained on"),
        ("loss=huber_bce", "loss can't be given with resume"),
        ("train.epoch=9", "Nearest: train.epochs"),
        ("--multirun", "--multirun can't be given with resume"),
        ("device=cuda", "device=cuda"),
        ("train.epochs=many", "train.epochs"),
    ],
)
def test_only_three_things_may_change_or_nothing_does(stockenh, unfinished, tmp_path, override, says):
    places = {"run": unfinished, "other": write_folder(tmp_path / "other", bars=201)}
    before = (unfinished / "config.yaml").read_bytes()
    done = stockenh("train", f"resume={unfinished}", override.format(**places))
    assert done.code == 2 and says.format(**places) in done.err
    assert override.startswith("data.path") or len(done.err.splitlines()) == 1
    assert (unfinished / "config.yaml").read_bytes() == before


def test_a_folder_that_holds_a_run_is_not_trained_over(stockenh, whole, bars):
    before = files(whole / ".hydra")
    done = stockenh("train", *RUN, f"data.path={bars}", f"hydra.run.dir={whole}")
    assert done.code == 2 and "already holds a run" in done.err
    assert files(whole / ".hydra") == before


def test_two_processes_do_not_train_in_one_folder(unfinished):
    with RunFolder(unfinished).lock():
        done = processes.run("train", f"resume={unfinished}")
    assert done.returncode == 2 and "another process is training" in done.stderr


DAMAGE = {
    "short": lambda content, mark: content[: len(content) // 2],
    "hostile": lambda content, mark: pickle.dumps({"version": 1, "state": Hostile(mark)}),
    "target": lambda content, mark: content.replace(
        b"stockenh.training.losses.huber_bce.HuberBCE", b"os.system"
    ),
    "interpolation": lambda content, mark: content.replace(b"seed: 1\n", b"seed: ${oc.env:SECRET}\n"),
    "python tag": lambda content, mark: f"seed: !!python/object/apply:os.system ['touch {mark}']\n".encode(),
    "list": lambda content, mark: b"[1, 2]",
}


@pytest.mark.parametrize(
    ("file", "damage", "says"),
    [
        ("checkpoints/last.pt", "short", "damaged"),
        ("checkpoints/last.pt", "hostile", "damaged"),
        ("checkpoints/last.pt", "other model", "does not fit"),
        ("config.yaml", "short", "config.yaml"),
        ("config.yaml", "target", "_target_"),
        ("config.yaml", "interpolation", "seed=${oc.env:SECRET}"),
        ("config.yaml", "python tag", "config.yaml"),
        ("fitted.json", "short", "fitted.json"),
        ("fitted.json", "list", "fitted.json"),
        ("manifest.json", "short", "manifest.json"),
        ("config.yaml", "gone", "config.yaml"),
    ],
)
def test_an_untrusted_folder_is_refused_in_a_line_and_nothing_runs(
    stockenh, unfinished, tmp_path, file, damage, says
):
    mark, path = tmp_path / "ran", unfinished / file
    if damage == "gone":
        path.unlink()
    elif damage == "other model":
        state = checkpoint.load(path)
        state["learner"]["model"] = {"w": torch.zeros(1)}
        torch.save(state, path)
    else:
        before = path.read_bytes()
        path.write_bytes(DAMAGE[damage](before, mark))
        assert path.read_bytes() != before
    done = stockenh("train", f"resume={unfinished}")
    assert done.code == 2, done.err
    assert says in done.err and "Traceback" not in done.err
    assert len(done.err.strip().splitlines()) <= 2
    assert not mark.exists()


def test_a_full_disk_is_reported_and_the_last_checkpoint_stays(stockenh, whole, bars, tmp_path):
    run = tmp_path / "run"
    limited = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))"
    )
    done = processes.run("train", *RUN, f"data.path={bars}", f"hydra.run.dir={run}", first=limited)
    assert done.returncode == 1
    assert "can't be written" in done.stderr and "Traceback" not in done.stderr
    assert not list((run / "checkpoints").glob(".*"))
    again = stockenh("train", f"resume={run}")  # there is room again
    assert again.code == 0, again.err
    assert_same_run(run, whole)


@pytest.mark.parametrize(
    "moment",
    ["last.pt", *(pytest.param(name, marks=pytest.mark.deep) for name in ("metrics.jsonl", "best.pt"))],
)
def test_a_folder_that_is_deleted_meanwhile_is_a_line_and_is_not_made_again(bars, tmp_path, moment):
    run, hold = tmp_path / "run", Hold(tmp_path / "hold", moment)
    process = processes.start("train", *RUN, f"data.path={bars}", f"hydra.run.dir={run}", hold=hold)
    hold.wait_for(process)
    shutil.rmtree(run)
    hold.release()
    _, errors = process.communicate()
    assert process.returncode == 1 and len(errors.splitlines()) == 1, errors
    assert str(run) in errors and not run.exists()


def test_an_exploding_run_stops_with_advice(stockenh, bars, tmp_path):
    exploding = ("optimizer.lr=1e30", "schedule=constant", f"hydra.run.dir={tmp_path / 'run'}")
    done = stockenh("train", *RUN, f"data.path={bars}", *exploding)
    assert done.code == 1 and len(done.err.strip().splitlines()) <= 2
    for word in ("epoch", "step", "windows end", "optimizer.lr"):
        assert word in done.err
