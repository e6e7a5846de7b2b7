"""Real trackers behind the commands: MLflow in SQLite, TensorBoard's event files, wandb's offline files."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import processes
import pytest
from processes import Hold

from stockenh.commands.tracking import describe
from stockenh.config.schema import config_from, config_of
from stockenh.report.trackers import NoTracker
from stockenh.report.trackers.tracked import Tracked
from stockenh.report.trackers.wandb import WandbTracker
from stockenh.storage.run_folder import RunFolder

pytestmark = [
    pytest.mark.slow,
    # mlflow's use of sqlalchemy
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated"),
]
EPOCHS = "train.epochs=3"


class Store:
    """An MLflow database, an experiment of it for each test."""

    def __init__(self, folder: Path) -> None:
        from mlflow.tracking import MlflowClient

        self.uri = f"sqlite:///{folder / 'runs.db'}"
        self.client = MlflowClient(tracking_uri=self.uri)

    def words(self, experiment: str) -> list[str]:
        return ["tracker=mlflow", f"tracker.uri={self.uri}", f"tracker.experiment={experiment}"]

    def runs(self, experiment: str) -> list[Any]:
        found = self.client.get_experiment_by_name(experiment)
        return list(self.client.search_runs([found.experiment_id])) if found else []

    def by_kind(self, experiment: str) -> dict[str, list[Any]]:
        kinds: dict[str, list[Any]] = {}
        for run in self.runs(experiment):
            kinds.setdefault(run.data.tags["stockenh.kind"], []).append(run)
        return kinds

    def history(self, run: Any, metric: str) -> list[tuple[int, float]]:
        points = self.client.get_metric_history(run.info.run_id, metric)
        return sorted((point.step, point.value) for point in points)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


def train(run: Path, *words: str, code: int = 0, **more: Any) -> str:
    done = processes.run("train", *words, f"hydra.run.dir={run}", **more)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def weights(run: Path) -> bytes:
    return (run / "weights" / "raw.safetensors").read_bytes()


def lines_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def plain(small_run: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run without a tracker, in a process that imports none."""
    run = tmp_path_factory.mktemp("plain") / "run"
    names = "[n for n in ('mlflow', 'wandb', 'tensorboard') if n in sys.modules]"
    first = f"import atexit, sys; atexit.register(lambda: print('imported', {names}))"
    assert "imported []" in train(run, *small_run, EPOCHS, first=first)
    assert not (run / "tracker.json").exists()
    return run


@pytest.fixture(scope="module")
def tracked(store: Store, small_run: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A finished run that MLflow has, and what the command printed."""
    run = tmp_path_factory.mktemp("tracked") / "run"
    return run, train(run, *small_run, EPOCHS, *store.words("one"))


def test_mlflow_has_what_the_folder_has(store, tracked, plain):
    folder, printed = tracked
    (run,) = store.runs("one")
    assert run.info.status == "FINISHED" and run.info.start_time <= run.info.end_time
    for metric, path in {"train_loss": ["train_loss"], "lr": ["lr"], "val/h10/auc": ["val", "h10", "auc"],
                         "by_weights/raw/loss": ["by_weights", "raw", "loss"]}.items():  # fmt: skip
        expected = []
        for line in lines_of(folder):
            value: Any = line
            for key in path:
                value = value[key]
            expected.append((line["epoch"], value))
        assert store.history(run, metric) == expected
    summary = json.loads((folder / "summary.json").read_text())
    assert run.data.metrics["summary/val_loss"] == summary["val_loss"]
    assert run.data.metrics["summary/test/h3/accuracy"] == summary["parts"]["test"]["h3"]["accuracy"]
    assert run.data.params["optimizer.lr"] == "0.002" and run.data.params["model.d_model"] == "16"
    assert run.data.params["loss"] == "huber_bce"
    tags = run.data.tags
    assert tags["stockenh.run"].endswith("/run") and tags["stockenh.version"]
    assert (tags["stockenh.model"], tags["stockenh.data"]) == ("timeformer", "files")
    files = {file.path for file in store.client.list_artifacts(run.info.run_id, "report")}
    assert {"report/curves.png", "report/accuracy.png"} <= files
    assert weights(folder) == weights(plain)
    assert "tracker" not in (folder / "config.yaml").read_text() and "tracker" not in printed


def test_an_unreachable_server_warns_once_and_the_run_is_the_same(small_run, plain, tmp_path):
    printed = train(tmp_path / "run", *small_run, EPOCHS, "tracker=mlflow", "tracker.uri=http://127.0.0.1:9")
    assert printed.count("tracker=mlflow failed") == 1 and "Traceback" not in printed
    assert len([line for line in printed.splitlines() if "127.0.0.1" in line]) == 1
    assert weights(tmp_path / "run") == weights(plain)


@pytest.mark.parametrize("name", ["mlflow", "tensorboard", "wandb"])
def test_a_missing_package_is_refused_before_anything_is_made(small_run, tmp_path, name):
    hides = f"lambda n, *a, found=u.find_spec: None if n == '{name}' else found(n, *a)"
    first = f"import importlib.util as u; u.find_spec = {hides}"
    printed = train(tmp_path / "run", *small_run, f"tracker={name}", code=2, first=first)
    assert len(printed.splitlines()) == 1 and f"pip install 'stockenh[{name}]'" in printed
    assert not (tmp_path / "run").exists()


@pytest.mark.deep
def test_a_failed_run_is_failed(store, small_run, tmp_path):
    train(tmp_path / "run", *small_run, EPOCHS, "optimizer.lr=1e30", *store.words("failed"), code=1)
    assert [run.info.status for run in store.runs("failed")] == ["FAILED"]


def held(folder: Path, run: Path, *words: str, epochs: int = 1) -> processes.Process:
    """A run that waits where it has trained `epochs` epochs and is about to write the next line."""
    hold = Hold(folder / "held", epochs=epochs)
    process = processes.start("train", *words, f"hydra.run.dir={run}", hold=hold)
    hold.wait_for(process)
    return process


@pytest.mark.deep
def test_a_stopped_run_is_killed_and_goes_on_as_the_same(store, small_run, plain, tmp_path):
    run, words = tmp_path / "run", store.words("stopped")
    process = held(tmp_path, run, *small_run, EPOCHS, *words)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate()
    assert process.returncode == 130
    assert all(word in err for word in words), err  # of the command that continues
    (before,) = store.runs("stopped")
    assert before.info.status == "KILLED"
    done = processes.run("train", f"resume={run}", *words)
    assert done.returncode == 0, done.stderr
    (after,) = store.runs("stopped")
    assert (after.info.run_id, after.info.status) == (before.info.run_id, "FINISHED")
    assert [step for step, _ in store.history(after, "train_loss")] == [1, 2, 3]
    assert weights(run) == weights(plain)


@pytest.mark.deep
def test_a_killed_run_is_closed_by_runs_and_goes_on_as_the_same(store, small_run, tmp_path):
    run, words = tmp_path / "run", store.words("killed")
    held(tmp_path, run, *small_run, EPOCHS, *words, epochs=2).kill()
    send = ["runs", str(run), "--to", "mlflow", *words[1:]]
    assert processes.run(*send).returncode == 0
    (closed,) = store.runs("killed")
    assert closed.info.status == "KILLED"
    assert [step for step, _ in store.history(closed, "val_loss")] == [1, 2]
    assert processes.run("train", f"resume={run}", EPOCHS, *words).returncode == 0
    (after,) = store.runs("killed")
    assert (after.info.run_id, after.info.status) == (closed.info.run_id, "FINISHED")
    assert [step for step, _ in store.history(after, "val_loss")] == [1, 2, 3]


@pytest.mark.deep
def test_the_trials_of_a_search_are_children_of_one_run(store, small_run, tmp_path):
    space = ["sweep=base", "model.dropout=interval(0.1,0.3)", "sweep.n_trials=3", "sweep.n_workers=2"]
    pruner = ["sweep.pruner.n_startup_trials=1", "sweep.pruner.n_warmup_steps=0"]
    folder, words = tmp_path / "sweep", store.words("sweep")
    size = [*space, *pruner, "train.epochs=2", f"hydra.sweep.dir={folder}"]
    done = processes.run("sweep", *small_run, *size, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    kinds = store.by_kind("sweep")
    (parent,) = kinds.pop("sweep")
    assert parent.info.status == "FINISHED" and parent.data.metrics["summary/best"] > 0
    (trials,) = kinds.values()
    assert {trial.data.tags["mlflow.parentRunId"] for trial in trials} == {parent.info.run_id}
    assert len(trials) == 3 and {trial.info.status for trial in trials} == {"FINISHED"}
    for trial in trials:
        number = trial.data.tags["stockenh.run"].rpartition("/")[2]
        summary = json.loads((folder / number / "summary.json").read_text())
        assert (trial.data.tags.get("stockenh.pruned") == "true") == summary["pruned"]
    sent = processes.run("runs", str(folder), "--to", "mlflow", *words[1:])
    assert "0 sent, 4 already there" in sent.stdout


@pytest.mark.deep
def test_members_and_students_are_children_of_one_run(store, small_run, finished_run, tmp_path):
    words = store.words("groups")
    train(tmp_path / "ensemble", *small_run, "train.members=2", *words)
    student = ["model=timeformer", "model.layers=1", "model.d_model=8", "model.heads=2", "model.ffn=8"]
    size = ["device=cpu", "train.epochs=1", f"hydra.run.dir={tmp_path}/student"]
    distilled = processes.run("distill", f"teacher={finished_run}", *student, *size, *words)
    assert distilled.returncode == 0, distilled.stderr
    kinds = store.by_kind("groups")
    assert {run.info.status for runs in kinds.values() for run in runs} == {"FINISHED"}
    children = {"member": "ensemble", "student": "distillation", "student alone": "distillation"}
    for kind, group in children.items():
        (parent,) = kinds[group]
        assert {run.data.tags["mlflow.parentRunId"] for run in kinds[kind]} == {parent.info.run_id}
    assert [len(kinds[kind]) for kind in children] == [2, 1, 1]


@pytest.mark.deep
def test_old_runs_are_sent_once(store, plain, tmp_path):
    finished, stopped, empty = (tmp_path / "old" / name for name in ("finished", "stopped", "empty"))
    for run in (finished, stopped, empty):
        shutil.copytree(plain, run)
    (stopped / "summary.json").unlink()
    (empty / "config.yaml").unlink()
    words = ["runs", str(tmp_path / "old"), "--to", "mlflow", *store.words("old")[1:]]
    for expected in ("2 sent, 0 already there, 1 left out", "0 sent, 2 already there, 1 left out"):
        done = processes.run(*words)
        assert done.returncode == 0 and expected in done.stdout, done.stdout + done.stderr
    runs = {run.data.tags["stockenh.run"].rpartition("/")[2]: run for run in store.runs("old")}
    assert {name: run.info.status for name, run in runs.items()} == {
        "finished": "FINISHED", "stopped": "KILLED",
    }  # fmt: skip
    old = runs["finished"]
    assert store.history(old, "val_loss") == [(line["epoch"], line["val_loss"]) for line in lines_of(plain)]
    assert old.info.end_time == int(1000 * (finished / "summary.json").stat().st_mtime)
    assert old.info.start_time == int(1000 * (finished / ".hydra/overrides.yaml").stat().st_mtime)
    assert (
        "summary/test/h3/auc" in old.data.metrics
        and "summary/test/h3/auc" not in runs["stopped"].data.metrics
    )
    assert old.data.params["model"] == "timeformer*"


def test_runs_says_where_a_tracker_fails(plain, tmp_path):
    shutil.copytree(plain, tmp_path / "run")
    done = processes.run("runs", str(tmp_path), "--to", "mlflow", "tracker.uri=http://127.0.0.1:9")
    assert done.returncode == 1 and "tracker=mlflow failed" in done.stderr
    unknown = processes.run("runs", str(tmp_path), "--to", "mlfow")
    assert unknown.returncode == 2 and "mlflow" in unknown.stderr


def scalars(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder), size_guidance={"tensors": 0, "scalars": 0})
    found.Reload()
    return found


@pytest.mark.deep
def test_tensorboard_has_an_epoch_once_also_after_a_kill(small_run, plain, tmp_path):
    run = tmp_path / "run"
    held(tmp_path, run, *small_run, EPOCHS, "tracker=tensorboard", epochs=1).kill()
    assert processes.run("train", f"resume={run}", "tracker=tensorboard").returncode == 0
    found = scalars(run / "tensorboard")
    for tag in ("train_loss", "val/h10/auc"):
        assert [event.step for event in found.Scalars(tag)] == [1, 2, 3]
    expected = [line["val"]["h10"]["auc"] for line in lines_of(run)]
    assert [event.value for event in found.Scalars("val/h10/auc")] == pytest.approx(expected)
    assert "summary/val_loss" in found.Tags()["scalars"]
    assert weights(run) == weights(plain)
    sent = processes.run("runs", str(run), "--to", "tensorboard")
    assert "0 sent, 1 already there" in sent.stdout
    elsewhere = ["runs", str(run), "--to", "tensorboard", f"tracker.dir={tmp_path / 'board'}"]
    assert "1 sent, 0 already there" in processes.run(*elsewhere).stdout
    (folder,) = (tmp_path / "board").iterdir()
    assert [event.step for event in scalars(folder).Scalars("lr")] == [1, 2, 3]


def records(path: Path) -> Iterator[Any]:
    """The records of wandb's file: a log of LevelDB, whose blocks of 32 KiB hold parts of records."""
    from wandb.proto import wandb_internal_pb2

    data, at, content = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        _, size, kind = struct.unpack("<IHB", data[at : at + 7])
        content += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(content)
            content = b""
            yield record


@pytest.mark.deep
def test_wandb_keeps_a_run_in_files(small_run, plain, tmp_path):
    run, words = tmp_path / "run", ["tracker=wandb", "tracker.mode=offline", f"tracker.dir={tmp_path}"]
    printed = train(run, *small_run, EPOCHS, *words)
    assert "wandb:" not in printed
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    found = list(records(file))
    history = [
        {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for record in found
        if record.WhichOneof("record_type") == "history"
    ]
    epochs = {item["epoch"]: item["val/h10/auc"] for item in history if "epoch" in item}
    assert epochs == {line["epoch"]: line["val"]["h10"]["auc"] for line in lines_of(run)}
    (about,) = [record.run for record in found if record.WhichOneof("record_type") == "run"]
    assert about.run_id == json.loads((run / "tracker.json").read_text())["id"]
    assert [r.exit.exit_code for r in found if r.WhichOneof("record_type") == "exit"] == [0]
    assert weights(run) == weights(plain)
    sent = processes.run("runs", str(run), "--to", "wandb", *words[1:])
    assert "0 sent, 1 already there" in sent.stdout


def test_wandb_without_a_key_never_asks_for_one(monkeypatch, tmp_path):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it asks"))
    settings, warned = WandbTracker(mode="online", dir=str(tmp_path)), list[str]()
    run = Tracked("wandb", settings.open, warned.append)
    run.start(lambda: describe(tmp_path, {}))
    run.finish("FINISHED")
    assert len(warned) == 1 and "tracker.mode=offline" in warned[0]


def test_a_folder_does_not_say_where_to_send(plain, tmp_path):
    """Its config names a server: whoever resumes it, forecasts with it or lists it sends nothing there."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0)
        uri = f"http://127.0.0.1:{server.getsockname()[1]}"
        run = Path(shutil.copytree(plain, tmp_path / "run"))
        target = "stockenh.report.trackers.mlflow.MlflowTracker"
        config = (run / "config.yaml").read_text()
        (run / "config.yaml").write_text(f"{config}tracker:\n  _target_: {target}\n  uri: {uri}\n")
        (run / "tracker.json").write_text(
            json.dumps({"id": "a" * 32, "sent": {}, "uri": uri, "tracker": "mlflow", "dir": "/tmp/x"})
        )
        assert config_of(RunFolder(run)).tracker == NoTracker()
        done = processes.run("train", f"resume={run}", "train.epochs=4")
        assert done.returncode == 0 and "add tracker=NAME" in done.stdout, done.stdout + done.stderr
        assert "tracker" not in config_from(run / "config.yaml")
        with pytest.raises(BlockingIOError):
            server.accept()


@pytest.mark.deep
def test_an_id_in_a_folder_is_no_other_run_s(store, tracked, plain, tmp_path):
    """The id of MLflow's own that somebody wrote into a folder is not followed."""
    (victim,) = store.runs("one")
    run = Path(shutil.copytree(plain, tmp_path / "run"))
    (run / "tracker.json").write_text(json.dumps({"id": victim.info.run_id, "sent": {}}))
    words = store.words("one")
    assert "1 sent" in processes.run("runs", str(run), "--to", "mlflow", *words[1:]).stdout
    unchanged = store.client.get_run(victim.info.run_id)
    assert unchanged.data.metrics == victim.data.metrics
    assert unchanged.info.end_time == victim.info.end_time


@pytest.mark.parametrize("kept", ["tracker=mlflow", "tracker.uri=http://127.0.0.1:9", "+tracker.dir=/tmp/x"])
def test_a_search_s_folder_does_not_say_where_to_send(refused, tmp_path, kept):
    folder = tmp_path / "sweep"
    folder.mkdir()
    (folder / "sweep.json").write_text(json.dumps({"arguments": ["model=student", kept], "command": "train"}))
    assert "tracker=none" in refused("sweep", f"resume={folder}")
    other = "tracker=wandb" if kept != "tracker=mlflow" else "tracker.uri=http://127.0.0.1:9"
    assert kept.lstrip("+") in refused("sweep", f"resume={folder}", other)


@pytest.mark.parametrize(
    ("words", "needed"),
    [
        (["tracker=mlfow"], "mlflow"),
        (["tracker=mlflow", "tracker.url=x"], "tracker.uri"),
        (["tracker=wandb", "tracker.mode=of"], "offline"),
    ],
)
def test_a_wrong_setting_is_answered_in_one_line(refused, plain, words, needed):
    assert needed in refused("train", *words)
    assert needed in refused("train", f"resume={plain}", *words)
