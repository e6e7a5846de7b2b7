"""A tracker can fail, hang or be off: the run never notices."""

from __future__ import annotations

import json
import math
import os
import posixpath
import re
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from stockenh.commands.tracking import describe, warn_once
from stockenh.config.compose import compose
from stockenh.config.schema import parse, plain
from stockenh.errors import ConfigError, StockenhError
from stockenh.report.terminal import PlainConsole
from stockenh.report.trackers import (
    Description,
    NoTracker,
    NotTracked,
    Sent,
    TrackerSettings,
    environment,
    figures_of,
    summary_figures,
    tracked,
)
from stockenh.report.trackers.mlflow import MlflowTracker
from stockenh.report.trackers.mlflow import _plain as mlflow_name
from stockenh.report.trackers.record import id_of, note_sent, sent_of
from stockenh.report.trackers.tracked import Sending, Tracked, following, times_of
from stockenh.report.trackers.wandb import WandbTracker

LINE = {"epoch": 1, "lr": 1e-3, "val": {"h10": {"rank_ic": 0.1, "auc": None}}, "weights": "raw", "best": True}


class Fake:
    """Keeps what it gets; fails in the calls that are named."""

    def __init__(self, *fails: str, known: int = 0) -> None:
        self.fails, self.known = fails, Sent(known)
        self.calls: list[tuple[Any, ...]] = []

    def _call(self, name: str, *what: Any) -> None:
        self.calls.append((name, *what))
        if name in self.fails:
            raise ConnectionError("no\nserver at http://user:secret@127.0.0.1:9/")

    def start(self, run: Description, sent: Sent) -> Sent:
        self._call("start", run.name)
        return self.known

    def log(self, epoch: int, figures: dict[str, float], at: float) -> None:
        self._call("log", epoch, figures)

    def finish(self, result: Any) -> None:
        self._call("finish", result.status)


def names(fake: Fake) -> list[str]:
    return [call[0] for call in fake.calls]


def follow(fake: Fake, folder: Path, lines: int = 2) -> list[str]:
    """Runs a run of so many epochs; returns what was warned of."""
    warned: list[str] = []
    run = Tracked("fake", lambda: fake, warned.append)
    with following(run, ()):
        run.start(lambda: describe(folder, {"model": "tft_xl"}))
        for epoch in range(1, lines + 1):
            run.log({**LINE, "epoch": epoch})
    return warned


def test_figures_are_the_finite_numbers_by_their_path():
    assert figures_of(LINE) == {"epoch": 1, "lr": 1e-3, "val/h10/rank_ic": 0.1}
    assert figures_of({"a": math.nan, "b": math.inf, "c": [1.0]}) == {}
    summary = {"val_loss": 0.5, "parts": {"test": {"h3": {"accuracy": 0.6}}}, "members": [{"seed": 1}]}
    assert summary_figures(summary) == {"summary/val_loss": 0.5, "summary/test/h3/accuracy": 0.6}


def test_what_metrics_jsonl_gets_the_tracker_gets(tmp_path):
    fake = Fake()
    assert follow(fake, tmp_path) == []
    assert names(fake) == ["start", "log", "log", "finish"]
    assert fake.calls[1] == ("log", 1, {"epoch": 1, "lr": 1e-3, "val/h10/rank_ic": 0.1})
    assert fake.calls[-1] == ("finish", "FINISHED")
    assert sent_of(tmp_path, "fake") == Sent(2, "FINISHED")


def test_epochs_that_the_tracker_has_are_not_sent_again(tmp_path):
    fake = Fake(known=2)
    follow(fake, tmp_path, lines=3)
    assert [call[1] for call in fake.calls if call[0] == "log"] == [3]


def test_epochs_from_before_the_tracker_are_sent(tmp_path):
    fake = Fake()
    run = Tracked("fake", lambda: fake, pytest.fail)
    run.start(lambda: describe(tmp_path, {}), [{"epoch": 1}, {"epoch": 2}])
    run.log({"epoch": 3})
    run.finish("FINISHED")
    assert [call[1] for call in fake.calls if call[0] == "log"] == [1, 2, 3]


@pytest.mark.parametrize("call", ["start", "log", "finish"])
def test_a_failing_tracker_warns_once_in_one_line(tmp_path, call):
    fake = Fake(call)
    (warning,) = follow(fake, tmp_path, lines=3)
    assert "\n" not in warning
    assert "tracker=fake failed" in warning and "ConnectionError" in warning
    assert "secret" not in warning
    assert names(fake).count(call) == 1 and names(fake)[-1] == call  # nothing is sent after it


def test_a_tracker_that_can_t_be_opened_warns_once(tmp_path):
    def opened() -> Any:
        raise SystemExit("a package that exits")

    warned: list[str] = []
    run = Tracked("fake", opened, warned.append)
    run.start(lambda: describe(tmp_path, {}))
    run.log(LINE)
    run.finish("FINISHED")
    assert len(warned) == 1


def test_a_tracker_that_hangs_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(tracked, "FINISH_SECONDS", 0.05)
    release = threading.Event()
    fake = Fake()
    fake.log = lambda *_: release.wait() and None  # type: ignore[method-assign]
    (warning,) = follow(fake, tmp_path)
    release.set()
    assert "did not answer" in warning


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (KeyboardInterrupt, "KILLED"),
        (SystemExit, "KILLED"),
        (LookupError, "KILLED"),
        (StockenhError, "FAILED"),
        (ZeroDivisionError, "FAILED"),
    ],
)
def test_a_run_ends_at_its_tracker_as_it_ended(tmp_path, error, status):
    fake = Fake()
    run = Tracked("fake", lambda: fake, pytest.fail)
    with pytest.raises(error), following(run, (LookupError,)):
        run.start(lambda: describe(tmp_path, {}))
        raise error
    assert fake.calls[-1] == ("finish", status)


def test_a_run_that_never_began_is_no_run_of_a_tracker(tmp_path):
    fake = Fake()
    with pytest.raises(ConfigError), following(Tracked("fake", lambda: fake, pytest.fail), ()):
        raise ConfigError("no such bars")
    assert fake.calls == [] and not list(tmp_path.iterdir())


def test_off_is_a_neutral_object(tmp_path):
    run = NotTracked()
    with following(run, ()):
        run.start(lambda: pytest.fail("nothing is described"))
        run.log(LINE)
    assert not list(tmp_path.iterdir())
    assert NoTracker().overrides() == []


def test_several_failures_of_one_command_are_one_line():
    import io

    console = PlainConsole(file=io.StringIO(), width=40)
    warn = warn_once(console)
    for text in ("first " * 20, "second"):
        warn(text)
    assert len(console.file.getvalue().splitlines()) == 1


def test_the_words_that_give_a_tracker_again():
    assert MlflowTracker().overrides() == ["tracker=mlflow"]
    assert WandbTracker(mode="offline").overrides() == ["tracker=wandb", "tracker.mode=offline"]


def test_what_a_folder_and_other_processes_get_of_a_config_has_no_tracker():
    config = parse(plain(compose(["tracker=mlflow", "tracker.uri=http://user:secret@127.0.0.1:9"])))
    assert config.tracker == MlflowTracker(uri="http://user:secret@127.0.0.1:9")
    assert "secret" not in str(config.raw)
    assert parse(config.raw).tracker == NoTracker()


def test_a_missing_package_is_refused_with_the_pip_command():
    @dataclass(frozen=True)
    class Unheard(TrackerSettings):
        name, package = "unheard", "unheard_of"

        def open(self) -> Any:
            raise AssertionError

    with pytest.raises(ConfigError, match=r"pip install 'stockenh\[unheard_of\]'"):
        Unheard()


def test_an_id_is_drawn_once_and_kept(tmp_path):
    one = id_of(tmp_path)
    assert id_of(tmp_path) == id_of(tmp_path, is_shared=True) == one
    other = tmp_path / "other"
    other.mkdir()
    assert id_of(other) != one


OTHER = b"a" * 32
HOSTILE = [
    b"", b"{", b"[]", b"null", b'{"id": 1, "sent": {}}', b'{"id": "x\' OR 1=1", "sent": {}}',
    b'{"id": "../../../../tmp/x", "sent": {}}', b'{"id": "%s", "sent": {}}' % (b"A" * 32),
    b'{"id": "%s"}' % OTHER, b'{"id": "%s", "sent": {"fake": {"epoch": -1, "status": null}}}' % OTHER,
    b'{"id": "%s", "sent": {"fake": {"epoch": 1, "status": "http://127.0.0.1:9"}}}' % OTHER,
]  # fmt: skip


@pytest.mark.parametrize("content", HOSTILE)
def test_a_record_that_no_run_writes_is_no_record(tmp_path, content):
    (tmp_path / "tracker.json").write_bytes(content)
    assert sent_of(tmp_path, "fake") == Sent()
    fake = Fake()
    assert follow(fake, tmp_path) == []
    written = json.loads((tmp_path / "tracker.json").read_text())
    assert written["id"].isalnum() and set(written["id"]) != {"a"}
    assert names(fake) == ["start", "log", "log", "finish"]


def test_a_record_that_is_a_link_is_not_followed(tmp_path):
    target = tmp_path / "target.json"
    target.write_text("untouched")
    run = tmp_path / "run"
    run.mkdir()
    os.symlink("../target.json", run / "tracker.json")
    warned: list[str] = []
    follow_in = Tracked("fake", Fake, warned.append)
    follow_in.start(lambda: describe(run, {}))
    follow_in.finish("FINISHED")
    assert target.read_text() == "untouched"
    assert len(warned) == 1 and "link" in warned[0]


def test_what_was_sent_is_kept_for_each_tracker(tmp_path):
    id_of(tmp_path)
    note_sent(tmp_path, "wandb", Sent(3))
    note_sent(tmp_path, "tensorboard", Sent(2, "KILLED"))
    assert sent_of(tmp_path, "wandb") == Sent(3)
    assert sent_of(tmp_path, "tensorboard") == Sent(2, "KILLED")


def test_variables_are_set_for_as_long_as_a_block_needs_them(monkeypatch):
    monkeypatch.setenv("OWN", "user")
    monkeypatch.delenv("ADDED", raising=False)
    with environment({"OWN": "x", "ADDED": "x"}):
        with environment({"ADDED": "x"}):
            assert (os.environ["OWN"], os.environ["ADDED"]) == ("user", "x")
        assert os.environ["ADDED"] == "x"
    assert os.environ["OWN"] == "user" and "ADDED" not in os.environ


@pytest.mark.parametrize("key", ["val/h10/rank_ic", "../x", "/a", "a//b", ".", "a[0]{'", "x" * 999, "\x1b"])
def test_a_name_is_one_that_mlflow_takes(key):
    found = mlflow_name(key)
    assert posixpath.normpath(found) == found and found not in (".", "..") and found[0] != "/"
    assert re.fullmatch(r"[\w\-. :/]{1,250}", found)


def test_old_epochs_have_times_between_begin_and_end():
    lines = [{"seconds": 10.0}, {"seconds": 20.0}, {"seconds": "x"}, {"seconds": 1e9}]
    assert times_of(lines, 100.0, 150.0) == [110.0, 130.0, 130.0, 150.0]


def make(folder: Path, *files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in files:
        (folder / name).write_text("")
    return folder


def test_the_parent_is_the_folder_that_a_run_is_one_of_many_in(tmp_path):
    sweep = make(tmp_path / "sweep", "multirun.yaml", "sweep.json")
    grid = make(tmp_path / "grid", "multirun.yaml")
    ensemble = make(grid / "0", "config.yaml")
    student = make(tmp_path / "student", "config.yaml")
    kinds = {
        "trial": describe(make(sweep / "3"), {"teacher": "T"}),
        "job": describe(make(grid / "1"), {}),
        "member": describe(make(ensemble / "members" / "42"), {}),
        "ensemble": describe(ensemble, {"train.members": 2}),
        "student": describe(student, {"teacher": "T"}),
        "student alone": describe(make(student / "without_teacher"), {}),
        "run": describe(make(tmp_path / "run"), {}),
    }
    assert [run.kind for run in kinds.values()] == list(kinds)
    parents = {kind: run.parent for kind, run in kinds.items()}
    assert parents["run"] is None
    assert parents["trial"].id == describe(sweep, {}, "sweep").id
    assert parents["member"].id == kinds["ensemble"].id
    assert parents["job"].id == parents["ensemble"].id == parents["member"].parent.id
    assert parents["student"].id == parents["student alone"].id != kinds["student"].id
    assert [parents[kind].follows_its_runs for kind in ("trial", "job", "member", "student")] == [
        False, True, False, True,
    ]  # fmt: skip


def test_names_and_settings_carry_no_control_characters_and_no_address(tmp_path):
    folder = make(tmp_path / "a\x1b[31m")
    run = describe(folder, {"model": "x\ny*", "tracker.uri": "http://user:secret@h", "tracker": "mlflow"})
    assert "\x1b" not in run.name and run.tags["stockenh.model"] == "x y"
    assert set(run.params) == {"model"}


def test_sending_again_knows_what_is_there(tmp_path):
    fake = Fake(known=1)
    sending = Sending("fake", fake, describe(tmp_path, {}))
    sending.log({"epoch": 1}, 0.0)
    sending.log({"epoch": "2"}, 0.0)
    sending.log({"epoch": 2}, 0.0)
    assert [call[1] for call in fake.calls if call[0] == "log"] == [2]
