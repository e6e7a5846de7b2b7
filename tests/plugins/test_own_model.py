"""A network of the user's own goes through everything that a shipped one goes through."""

import hashlib
import json

import numpy as np
import onnxruntime
import pytest
import torch
import yaml
from processes import Hold, start, start_pair
from safetensors.torch import load_file


def weights(run, name="raw"):
    return load_file(run / "weights" / f"{name}.safetensors")


def test_it_trains_and_the_run_says_what_it_was_made_with(own):
    config = yaml.safe_load((own.run / "config.yaml").read_text())
    assert config["model"]["_target_"] == f"{own.file.name}:{own.name}"
    (plugin,) = json.loads((own.run / "manifest.json").read_text())["plugins"]
    digest = hashlib.sha256(own.file.read_bytes()).hexdigest()
    assert (plugin["name"], plugin["sha256"]) == (own.file.name, digest)


def test_its_weights_have_the_names_of_the_notebook(own):
    names = set(weights(own.run))
    assert {"mine": "position", "lstm_attention": "lstm.weight_ih_l0"}[own.name] in names


def test_a_stopped_run_is_resumed_to_the_same_bits(own, here):
    hold = Hold(here / "hold", epochs=1)
    process = start(*own.train, f"hydra.run.dir={here / 'run'}", hold=hold)
    hold.wait_for(process)
    process.kill()
    done = start("train", own.flag, f"resume={here / 'run'}")
    out, err = done.communicate()
    assert done.returncode == 0, out + err
    for name in ("raw", "ema"):
        for key, tensor in weights(own.run, name).items():
            assert torch.equal(weights(here / "run", name)[key], tensor), key


@pytest.mark.parametrize(
    ("command", "file"),
    [
        ("evaluate evaluate.resamples=100", "evaluation.json"),
        ("tta-predict tta.views=2", "forecast.csv"),
        ("explain explain.windows=4 explain.steps=8", "explain.json"),
        ("audit audit.dates=1 audit.shuffles=2", "audit.json"),
    ],
)
def test_commands_on_its_run(command, file, own, stockenh, here):
    verb, *more = command.split()
    stockenh(verb, own.flag, f"run={own.run}", *more, f"hydra.run.dir={here / 'out'}", code=0)
    assert (here / "out" / file).is_file()


@pytest.mark.deep
def test_it_is_exported_for_any_number_of_windows(own, stockenh, here):
    stockenh(
        "export", own.flag, f"run={own.run}", "export.int8=true", f"hydra.run.dir={here / 'out'}", code=0
    )
    example = dict(np.load(here / "out/example.npz"))
    expected = example.pop("expected_up_prob")
    example.pop("expected_ret", None)
    session = onnxruntime.InferenceSession(here / "out/model.onnx", providers=["CPUExecutionProvider"])
    for count in (1, len(expected)):
        given = {name: array[:count] for name, array in example.items()}
        (found,) = session.run(["up_prob"], given)
        assert np.abs(found - expected[:count]).max() < 1e-5
    torch.export.load(here / "out/model.pt2")


def test_phase2_starts_with_its_weights(own, stockenh, here):
    train = [a for a in own.train if a != "averaging=ema"]
    stockenh(
        *train, f"init_from={own.run}", "experiment=phase2", "optimizer.lr=1e-3", "train.epochs=1",
        "train.precision=bf16", f"hydra.run.dir={here / 'run'}", code=0,
    )  # fmt: skip
    manifest = json.loads((here / "run/manifest.json").read_text())
    assert manifest["init_from"]["run"] == str(own.run) and manifest["precision"] == "bf16"
    assert set(weights(here / "run", "swa")) == set(weights(own.run))


@pytest.mark.parametrize("student", ["student", "own"])
def test_it_teaches_and_learns(student, own, stockenh, here, small):
    model = own.train[2:4] if student == "own" else ["model=student", "model.patch=5", "model.d_model=16"]
    stockenh(
        "distill", own.flag, f"teacher={own.run}", *model, "train.epochs=1", "device=cpu",
        f"hydra.run.dir={here / 'run'}", code=0,
    )  # fmt: skip
    assert (here / "run/distillation.json").is_file()


def test_members_of_an_ensemble(own, stockenh, here):
    run = here / "run"
    stockenh(*own.train, "train.epochs=1", "train.members=2", f"hydra.run.dir={run}", code=0)
    assert json.loads((run / "manifest.json").read_text())["plugins"][0]["name"] == own.file.name
    forecast = f"hydra.run.dir={here / 'f'}"
    stockenh("tta-predict", own.flag, f"run=[{run},{own.run}]", "tta.views=0", forecast, code=0)


def search(own, *more):
    return [
        "sweep", *own.train[1:], "sweep=base", f"{own.key}=choice(4,8)", "train.epochs=1", *more,
    ]  # fmt: skip


@pytest.mark.deep
def test_a_search_in_two_processes_is_resumed_with_the_plugin_alone(own, stockenh, refused, here):
    stockenh(*search(own, "sweep.n_trials=2", "sweep.n_workers=2", "hydra.sweep.dir=s"), code=0)
    best = here / "s/best.yaml"
    assert f"train --plugin {own.file} run_config=" in best.read_text()
    kept = json.loads((here / "s/sweep.json").read_text())
    assert [plugin["name"] for plugin in kept["plugins"]] == [own.file.name]
    assert not any("plugin" in argument for argument in kept["arguments"])
    missing = f"the plugin {own.file.name}: add --plugin {own.file.name}"
    assert f"was made with {missing}" in refused("sweep", "resume=s", "sweep.n_trials=3")
    assert f"comes from {missing}" in refused("train", f"run_config={best}")
    out = stockenh("sweep", own.flag, "resume=s", "sweep.n_trials=3", code=0).out
    for name in ("\x1b[2J\nx.py", "x" * 10_000, "json"):
        hostile = {**kept, "plugins": [{"name": name, "sha256": None}]}
        (here / "s/sweep.json").write_text(json.dumps(hostile))
        err = refused("sweep", own.flag, "resume=s")
        assert "was made with the plugin" in err and "\x1b" not in err and len(err) < 1000
    assert f"--plugin {own.file}" in out
    stockenh("train", own.flag, f"run_config={best}", "train.epochs=1", f"hydra.run.dir={here / 'b'}", code=0)


ONE = pytest.mark.parametrize("own", ["lstm_attention"], indirect=True)  # the same whatever the model


@ONE
@pytest.mark.deep
def test_a_grid_of_joblib(own, here):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    process = start(
        *own.train, "--multirun", "train.epochs=1", f"{own.key}=4,8", "hydra/launcher=joblib",
        "hydra.launcher.n_jobs=2", "hydra.sweep.dir=grid", cwd=here,
    )  # fmt: skip
    out, err = process.communicate()
    assert process.returncode == 0, out + err
    assert len(list((here / "grid").glob("*/summary.json"))) == 2


def test_two_processes_of_torchrun(own, here):
    pair = start_pair(*own.train, "train.epochs=1", "hydra.run.dir=run", cwd=here)
    printed = [process.communicate() for process in pair]
    assert [process.returncode for process in pair] == [0, 0], printed
    assert (here / "run/summary.json").is_file()


def test_it_is_listed_by_its_name_without_the_plugin(own, stockenh):
    out = stockenh("runs", str(own.run.parent), f"model={own.name}", code=0).out
    assert "1 of 1 run" in out
