"""Folders that somebody else made or damaged: every reader gives one line, whatever the files hold."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mutations import mutated

from stockenh.commands.ablate.cells import AblationFolder
from stockenh.commands.ablate.forecasts import forecast_test_part
from stockenh.commands.ablate.lines import lines_of
from stockenh.commands.ablate.plan import AblateSettings, Plan
from stockenh.commands.ablate.results import collect
from stockenh.commands.multirun import resume_arguments
from stockenh.commands.runs.listing import read
from stockenh.commands.runs.show import comparison, listing
from stockenh.commands.sweep.show import best_of, count_states, ranked, trials_table
from stockenh.commands.sweep.spec import SweepConfig, SweepFolder
from stockenh.commands.sweep.study import SharedStudy
from stockenh.commands.train.resumed import is_finished, resumed_run
from stockenh.commands.train.session import initial_weights
from stockenh.commands.trained import Trained, is_data_of, require_same_weights
from stockenh.config import build
from stockenh.config.schema import config_from, config_of
from stockenh.data.fitted import Fitted
from stockenh.errors import RunFolderError, StockenhError
from stockenh.inference.predict import read_confidences
from stockenh.report.terminal import PlainConsole
from stockenh.storage.run_folder import RunFolder
from stockenh.training.checkpoint import FolderJournal

COUNT = int(os.environ.get("MUTATIONS", "60"))  # of each kind of file
RUN_FILES = ("config.yaml", "summary.json", "metrics.jsonl", "manifest.json", "fitted.json",
"calibration.json",
             "confidence.json")  # fmt: skip
TENSORS = ("checkpoints/last.pt", "checkpoints/best.pt", "weights/raw.safetensors")


def survives(
    folder: Path, file: str, count: int, read_all: Callable[[Path], Iterator[Callable[[], Any]]]
) -> None:
    """Every reader of a folder ends or raises a StockenhError, for `count` mutations of a file."""
    path = folder / file
    content = path.read_bytes()
    for seed in range(count):
        path.write_bytes(mutated(path, content, random.Random(f"{file} {seed}")))
        for reader in read_all(folder):
            try:
                reader()
            except StockenhError as error:
                assert str(error), f"{file}, mutation {seed}: an error without a message"
            except BaseException as error:
                raise AssertionError(f"{file}, mutation {seed}: {path.read_bytes()[:300]!r}") from error
    path.write_bytes(content)


def show(*renderables: Any) -> None:
    console = PlainConsole(file=io.StringIO(), width=100)
    for renderable in renderables:
        console.print(renderable)
    assert "\x1b" not in console.file.getvalue()


@pytest.fixture(scope="module")
def prepared(finished_run: Path) -> Any:
    config = config_of(RunFolder(finished_run))
    return build.data(config, torch.device("cpu"))


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


def readers_of_a_run(path: Path, prepared: Any) -> dict[str, tuple[Callable[[], Any], ...]]:
    """By the name of a file, everything that reads it."""
    folder, cpu = RunFolder(path), torch.device("cpu")

    def calibrated() -> None:
        Trained.open(folder, None)

    def network() -> None:
        Trained.open(folder, None).net(prepared, cpu)

    def listed() -> None:
        show(listing([read(path)], path.parent), *comparison([read(path), read(path)]))

    def resumed() -> None:
        resumed_run([f"resume={path}", "train.epochs=7"])

    embedding = config_of(folder).embedding
    return {
        "config.yaml": (lambda: config_from(folder.config), listed, resumed, network),
        "summary.json": (lambda: is_finished(folder, config_of(folder)), calibrated, listed),
        "metrics.jsonl": (lambda: folder.read_metrics(1), listed, resumed),
        "manifest.json": (
            lambda: is_data_of(folder, prepared.windows),
            lambda: require_same_weights(folder, embedding),
            lambda: initial_weights(str(path), None, folder),
        ),
        "fitted.json": (lambda: build.fitted_of(folder, prepared),),
        "calibration.json": (calibrated,),
        "confidence.json": (lambda: read_confidences(folder.read_json(folder.confidence), 3),),
    }


@pytest.mark.parametrize("file", RUN_FILES)
def test_no_content_of_a_run_s_files_breaks_a_reader(run, prepared, file):
    readers = readers_of_a_run(run, prepared)[file]
    survives(run, file, COUNT, lambda _: iter(readers))


@pytest.mark.parametrize("file", TENSORS)
def test_no_bytes_of_weights_and_checkpoints_do(run, prepared, file):
    config = config_of(RunFolder(run))
    fitted = Fitted.from_dict(RunFolder(run).read_json(RunFolder(run).fitted))

    def readers(path: Path) -> Iterator[Callable[[], Any]]:
        def resume() -> None:
            net = build.model(config, prepared, torch.device("cpu"))
            FolderJournal(
                RunFolder(path), build.learner(config, net, fitted, torch.device("cpu"), 3)
            ).resume()

        yield resume
        yield lambda: Trained.open(RunFolder(path), None).net(prepared, torch.device("cpu"))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        survives(run, file, COUNT // 3, readers)


def test_no_state_of_another_learner_is_restored(run, prepared):
    """Whole checkpoints, with one of their values replaced: what is loaded is what the learner has."""
    folder = RunFolder(run)
    config = config_of(folder)
    fitted = Fitted.from_dict(folder.read_json(folder.fitted))
    content = torch.load(folder.last, weights_only=True)
    nasty = (
        None,
        "x",
        -1,
        10**18,
        torch.zeros(2),
        torch.zeros(1).expand(10**12),
        [],
        {},
        float("nan"),
        [1, 2],
    )
    draw = random.Random(5)
    for number in range(COUNT // 2):
        changed = torch.load(folder.last, weights_only=True) if number else content
        node: Any = changed
        while True:
            key = draw.choice(list(node) if isinstance(node, dict) else range(len(node)))
            if isinstance(node[key], dict | list) and len(node[key]) and draw.random() < 0.9:
                node = node[key]
                continue
            node[key] = draw.choice(nasty)
            break
        copy = RunFolder(run.parent / "copy")
        shutil.copytree(run, copy.path, dirs_exist_ok=True)
        with copy.last.open("wb") as file:
            torch.save(changed, file)
        net = build.model(config, prepared, torch.device("cpu"))
        journal = FolderJournal(copy, build.learner(config, net, fitted, torch.device("cpu"), 3))
        try:
            journal.resume()
        except StockenhError:
            continue
        assert set(journal.best_weights) <= {"raw", "ema", "swa"}


@pytest.mark.parametrize(
    ("key", "value"),
    [("eps", None), ("weight_decay", None), ("amsgrad", True), ("amsgrad", None), ("maximize", 2**200),
     ("maximize", True), ("lr", float("nan")), ("lr", 2**200), ("betas", (0.9,)), ("betas", "ab"),
     ("fused", "x"), ("params", [0])],
)  # fmt: skip
def test_no_optimizer_s_settings_of_another_kind_are_restored(run, prepared, key, value):
    folder = RunFolder(run)
    config = config_of(folder)
    fitted = Fitted.from_dict(folder.read_json(folder.fitted))
    content = torch.load(folder.last, weights_only=True)
    content["learner"]["optimizer"]["param_groups"][0][key] = value
    torch.save(content, folder.last)
    net = build.model(config, prepared, torch.device("cpu"))
    journal = FolderJournal(folder, build.learner(config, net, fitted, torch.device("cpu"), 3))
    with pytest.raises(RunFolderError, match=f"optimizer.{key}"):
        journal.resume()


SPACE = {
    "model.dropout": {"type": "float", "low": 0.1, "high": 0.3},
    "loss": {"type": "categorical", "choices": ["focal"]},
}


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """The folder of a search with trials in every state, as the study's own calls leave it."""
    folder = SweepFolder(tmp_path / "sweep")
    folder.workers.mkdir(parents=True)
    settings = SweepConfig(n_trials=5, params=SPACE)
    study = SharedStudy(settings, folder.path)
    study.require_same({"a": 1, "sweep.params.x": {"low": 1}})
    study.fill()
    for number, value in enumerate((0.6, 0.5, None)):
        study.take()
        trial = study.study._storage.get_trial(study.id_of(number))
        assert trial.number == number
        for name, kept in {"worker": "w-1", "sweep": str(folder.path), "epochs": 2, "seconds": 1.5}.items():
            study.storage.set_trial_user_attr(study.id_of(number), name, kept)
        study.storage.set_trial_intermediate_value(study.id_of(number), 1, 0.7)
        if value is None:
            study.close(number, "no memory")
        else:
            study.study.tell(number, value)
    arguments = ["data=files", "data.path=/bars", "sweep.n_trials=5", "model.d_model=16,32", "loss=focal"]
    looks = [{"trial": 1, "after_trials": 3, "scores": {"h3": SCORES}}]
    folder.write({"arguments": arguments, "command": "train", "test": looks})
    return folder.path


SCORES = {
    "n": 10, "ties": 0, "tie_share": 0.0, "accuracy": 0.5, "accuracy_low": 0.4, "accuracy_high": 0.6,
    "majority": 0.5,
    "log_loss": 0.7, "brier": 0.25, "auc": 0.5, "mae": 0.01,
}  # fmt: skip


def readers_of_a_sweep(path: Path) -> Iterator[Callable[[], Any]]:
    settings = SweepConfig(n_trials=5, params=SPACE)

    def study() -> None:
        found = SharedStudy(settings, path)
        found.require_same({"a": 1, "sweep.params.x": {"low": 1}})
        trials = found.trials()
        found.has_waiting()
        best = best_of(trials, settings)
        show(trials_table(ranked(trials, settings), best, "val_loss", count_states(trials, 5)))
        found.fill()

    yield lambda: resume_arguments([f"resume={path}"], SweepFolder, ["device"])
    yield study


@pytest.mark.parametrize("file", ["sweep.json", "journal.log"])
def test_no_content_of_a_sweep_s_files_does(sweep, file):
    survives(sweep, file, COUNT, readers_of_a_sweep)


@pytest.mark.parametrize("file", ["about.json", "plain/seed1/cell.json", "cost/cell.json",
"plain/seed1/summary.json",
                                  "ema/seed1/metrics.jsonl", "search/seed1/cell.json",
                                  "ema/seed1/forecasts.safetensors"])  # fmt: skip
def test_no_content_of_an_ablation_s_files_does(finished_run, tmp_path, file):
    techniques = {
        "ema": {
            "overrides": ["averaging=ema"],
            "weights": "ema",
            "claims": {
                "accuracy": {"least": 1, "says": "+1"},
                "accuracy_kept": {"least": 0.9},
                "train_speed": {"least": 1},
            },
        },
        "search": {"kind": "search", "overrides": ["sweep.n_trials=3"]},
    }
    plan = Plan.of(AblateSettings.of({"seeds": [1], "techniques": techniques}), True)
    folder, config = AblationFolder(tmp_path / "ablation"), config_of(RunFolder(finished_run))
    tensors = forecast_test_part(RunFolder(finished_run), torch.device("cpu"), None, viewed=False)
    for cell in plan.cells:
        shutil.copytree(finished_run, folder.path / cell.path)
        figures: dict[str, Any] = {"views": False, "weights": "raw", "epochs": 4}
        folder.run(cell).write_tensors(folder.forecasts(cell), tensors)
        if cell.recipe is None:
            speeds = {"plain": [1.0, 1.0], "ema": [0.9, 1.1]}
            figures = {
                "device": "cpu",
                "train_speed": speeds,
                "memory": {"plain": 10, "ema": 11},
                "train_windows": 9,
            }
        folder.close(cell, "done", {"seconds": 1.0, "figures": figures})
    folder.write(
        {"arguments": ["loss=focal", "ablate.seeds=[1]"], "base": {"a": 1}, "recipes": {"plain": ["train"]}}
    )

    def readers(path: Path) -> Iterator[Callable[[], Any]]:
        yield lambda: resume_arguments([f"resume={path}"], AblationFolder, ["device"])
        yield folder.read
        yield lambda: lines_of(plan, collect(folder, plan, (3, 5, 10)), config, {}, 5)

    assert len(lines_of(plan, collect(folder, plan, (3, 5, 10)), config, {}, 5)) == 3
    with np.errstate(all="ignore"):
        survives(folder.path, file, COUNT, readers)


# As processes: a command ends with a line, changes nothing outside the folder and executes nothing.


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    path = tmp_path / "victim"
    path.write_text("three years of work\n")
    return path


LINKED = ("run.log", ".lock", "metrics.jsonl", "config.yaml", "summary.json", "weights/raw.safetensors",
          "checkpoints/last.pt", "checkpoints/best.pt", "report/accuracy.png", "manifest.json",
          "fitted.json")  # fmt: skip


@pytest.mark.parametrize("name", [*LINKED, "weights", "report", "checkpoints", ".hydra"])
@pytest.mark.parametrize(
    "command", ["train resume", "evaluate run", "export run", "explain run", "audit run"]
)
def test_a_link_in_a_run_is_not_followed(refused, run, victim, command, name):
    target = run / name
    if target.is_dir():
        shutil.rmtree(target)
        victim = victim.parent / "victims"
        victim.mkdir()
        (victim / "mine").touch()
    target.unlink(missing_ok=True)
    target.parent.mkdir(exist_ok=True)
    target.symlink_to(os.path.relpath(victim, target.parent))
    before = sorted(p.name for p in victim.iterdir()) if victim.is_dir() else victim.read_text()
    verb, key = command.split()
    assert f"{name} is a link out of the folder" in refused(
        verb, f"{key}={run}", *["train.epochs=9"] * (verb == "train")
    )
    assert before == (sorted(p.name for p in victim.iterdir()) if victim.is_dir() else victim.read_text())


@pytest.mark.parametrize(
    "name", ["sweep.json", "journal.log", ".journal.log.lock", "workers", "report", "0", "best.yaml"]
)
def test_a_link_in_a_sweep_is_not_followed(refused, sweep, victim, name):
    target = sweep / name
    if target.is_dir():
        shutil.rmtree(target)
    target.unlink(missing_ok=True)
    target.symlink_to(victim)
    assert f"{name} is a link out of the folder" in refused("sweep", f"resume={sweep}")
    assert f"{name} is a link out of the folder" in refused(
        "sweep", f"hydra.sweep.dir={sweep}", "data=synthetic_small"
    )
    assert victim.read_text() == "three years of work\n"


@pytest.mark.parametrize("command", ["evaluate run", "train resume", "tta-predict run", "runs"])
@pytest.mark.parametrize("file", ["summary.json", "config.yaml", "metrics.jsonl", ".lock", "run.log"])
def test_a_fifo_is_not_waited_for(stockenh, run, command, file):
    (run / file).unlink(missing_ok=True)
    os.mkfifo(run / file)
    verb, *key = command.split()
    answer = stockenh(verb, *(f"{name}={run}" for name in key), *([str(run.parent)] * (not key)))
    assert answer.code == (2 if key else 0), answer.out + answer.err
    assert not key or f"{file} is no regular file" in answer.err


def test_a_value_can_neither_be_markup_nor_a_line_of_the_log(stockenh, run):
    config = (run / "config.yaml").read_text().replace("device: cpu", 'device: "[/red]\\nid > ran #\\e[2J"')
    assert "[/red]" in config
    (run / "config.yaml").write_text(config)
    answer = stockenh("train", f"resume={run}", "train.epochs=3", code=0)
    assert r"device=[/red]" in answer.out and "\x1b" not in answer.out
    lines = (run / "run.log").read_text().splitlines()
    assert all(line.startswith(("[20", "    | ")) for line in lines)


def test_a_folder_does_not_say_where_this_machine_caches(stockenh, run, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    config = (run / "config.yaml").read_text().replace("cache_dir: null", f"cache_dir: {elsewhere}")
    (run / "config.yaml").write_text(config)
    stockenh("train", f"resume={run}", "train.epochs=3", code=0)
    stockenh("evaluate", f"run={run}", "evaluate.resamples=100", "evaluate.block=10", code=0)
    assert not elsewhere.exists()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{}", "it holds no config"), ("[1]", "it holds no config"), ("", "it holds no config"),
        ("defaults: [{override /model: ../../x}]", "of version 0.1"), ("hydra: {callbacks: {}}",
        "no key of a run"),
        ("model: {_target_: os.system}", "refused"), ("data: {_target_: stockenh.cli.main}", "refused"),
        ("model: {defaults: [/etc/x]}", "_target_"), ("teacher: elsewhere", "name it on the command line"),
        ("train: {epochs: 1, more: 2}", "no such setting"), ("seed: &a 1\nx: *a", "alias"),
    ],
)  # fmt: skip
def test_a_config_that_is_read_as_data_has_a_run_s_keys_only(refused, tmp_path, text, why):
    (tmp_path / "best.yaml").write_text(text)
    assert why in refused("train", f"run_config={tmp_path / 'best.yaml'}")


def test_nothing_that_a_study_stores_is_unpickled(refused, sweep):
    about = json.loads((sweep / "sweep.json").read_text())
    about["arguments"].append("sweep.sampler.name=CmaEsSampler")
    (sweep / "sweep.json").write_text(json.dumps(about))
    about["arguments"] = [a for a in about["arguments"] if not a.startswith("data")] + [
        "data=synthetic_small"
    ]
    (sweep / "sweep.json").write_text(json.dumps(about))
    assert "unpickles" in refused("sweep", f"resume={sweep}")
