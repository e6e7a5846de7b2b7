"""A multirun's folder, of a search and of an ablation alike: what it keeps, and what of it is followed."""

import json
import shlex
import sys

import pytest

from stockenh.commands.ablate.cells import AblationFolder
from stockenh.commands.multirun import (
    is_resumed,
    new_arguments,
    resume_arguments,
    stop_message,
)
from stockenh.commands.multirun.folder import differences
from stockenh.commands.multirun.kept import followed
from stockenh.commands.multirun.stops import Stop
from stockenh.commands.sweep.spec import SweepFolder
from stockenh.errors import ConfigError, RunFolderError

WHOLE = {"arguments": ["a=1"], "command": "train", "base": {}, "recipes": {}}
KINDS = pytest.mark.parametrize("kind", [SweepFolder, AblationFolder])


@KINDS
def test_the_command_that_resumes_is_quoted_for_a_shell(kind, tmp_path, monkeypatch):
    folder, own = tmp_path / "it's (one)", f"--config-dir={tmp_path / 'my own'}"
    assert shlex.split(kind(folder).resume_command([own])) == [
        "stockenh", kind.command, f"resume={folder}", own,
    ]  # fmt: skip
    called = tmp_path / "bin" / "stockenh"
    called.parent.mkdir()
    called.touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(called)])
    monkeypatch.setenv("PATH", "")
    assert kind(folder).resume_command().startswith(f"bin/stockenh {kind.command} resume=")


@KINDS
@pytest.mark.parametrize("arguments", ["a=1", {"a": 1}, ["a=1", 2], None])
def test_arguments_that_are_no_list_of_words_are_not_read(kind, arguments, tmp_path):
    folder = kind(tmp_path)
    folder.write(WHOLE)
    assert folder.read() == WHOLE
    folder.about.write_text(json.dumps({**WHOLE, "arguments": arguments}))
    with pytest.raises(RunFolderError, match=r"does not hold what stockenh writes: arguments"):
        folder.read()


@KINDS
@pytest.mark.parametrize("text", ["{", "[]", '{"arguments": [], "base": 1, "command": "rm"}'])
def test_a_folder_of_another_kind_says_so(kind, text, tmp_path):
    with pytest.raises(RunFolderError, match=f"holds no {kind.noun}"):
        kind(tmp_path).read()
    kind(tmp_path).about.write_text(text)
    with pytest.raises(RunFolderError, match=r"not readable|does not hold"):
        kind(tmp_path).read()


def test_a_new_one_has_paths_that_hold_from_everywhere(tmp_path, monkeypatch):
    (tmp_path / "bars").mkdir()
    monkeypatch.chdir(tmp_path)
    given = ["data=files", "data.path=bars", "teacher=nowhere", "hydra.sweep.dir=bars"]
    assert new_arguments(given) == [
        "--multirun", "data=files", f"data.path={tmp_path}/bars", "teacher=nowhere",
        "hydra.sweep.dir=bars",
    ]  # fmt: skip
    assert new_arguments(["-m", "seed=1"]) == ["-m", "seed=1"]
    assert new_arguments(["--cfg", "job"]) == ["--cfg", "job"]


@KINDS
def test_what_is_changed_replaces_what_the_folder_keeps(kind, tmp_path):
    own = f"--config-dir={tmp_path / 'own'}"
    kept = [own, "device=cpu", "model=student", "hydra.sweep.dir=elsewhere"]
    kind(tmp_path).write({**WHOLE, "arguments": kept})
    given = [f"resume={tmp_path}", own, "device=cuda"]
    assert is_resumed(given) and not is_resumed(["resume=null", "device=cuda"])
    assert resume_arguments(given, kind, ["device"]) == [
        "--multirun", own, "model=student", "device=cuda",
        f"hydra.sweep.dir={tmp_path}",
    ]  # fmt: skip
    in_two_words = [f"resume={tmp_path}", "--config-dir", str(tmp_path / "own"), "device=cuda"]
    assert resume_arguments(in_two_words, kind, ["device"]) == resume_arguments(given, kind, ["device"])
    with pytest.raises(ConfigError, match=f"seed can't be given with resume: the {kind.noun} goes on as"):
        resume_arguments([f"resume={tmp_path}", "seed=1"], kind, ["device"])
    with pytest.raises(ConfigError, match="made with options of its own"):
        resume_arguments([f"resume={tmp_path}"], kind, ["device"])


@KINDS
def test_after_a_stop_the_command_that_resumes_is_printed(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = ["--config-dir", "own", "seed=1", "hydra.sweep.dir='some where'"]
    assert stop_message(given, kind, Stop(2).text("jobs")) == (
        f"stopped; 2 jobs saved and given back. Continue with: stockenh {kind.command} "
        f"resume='{tmp_path}/some where' --config-dir={tmp_path}/own"
    )
    unnamed = stop_message(["seed=1"], kind, None)
    assert f"Continue with: stockenh {kind.command} resume=DIR, the folder" in unnamed


def test_overrides_of_the_runs_are_followed_as_they_stand(tmp_path):
    kept = [
        "model=student", "+train.epochs=3", "experiment=null", "~augment", "data.path=/a b/(1)",
        "loss=focal,huber_bce",
        "sweep.params={loss:{type:categorical,choices:[focal,huber_bce]}}", "data.columns={close:Settle}",
        "optimizer.lr=tag(log,interval(1e-5,1e-2))", "ablate.techniques.mine={overrides:['loss=focal']}",
    ]  # fmt: skip
    of_this_machine = ["cache_dir=/tmp", "hydra.sweep.dir=/", "hydra.mode=MULTIRUN"]
    assert followed([*kept, *of_this_machine], [], tmp_path) == kept


@pytest.mark.parametrize(
    "argument",
    [
        "hydra.sweeper._target_=os.system", "hydra.job_logging.handlers.file.class=os.system", "-cd",
        "++hydra.callbacks.mine._target_=os.system", "hydra.searchpath=[file:///tmp]", "--config-path=/tmp",
        "experiment=../../x", "+experiment=../x", "experiment=/tmp/x", "experiment=[../x]",
        "experiment=a,../x",
        "experiment=choice(a,../x)", "experiment@_global_=x", "+experiment@hydra=../x", "++model=a/b",
        "model=a.b",
        "'experiment'=x", "common=folders", "data._target_=x", "data={_target_: os.system}", "nothing=1",
        "sweep.params={a:{_target_:x}}", "data.path='${oc.env:HOME}'", "model={defaults: [../x]}", "device",
        "ablate.techniques.mine={overrides:['experiment=../x']}", "seed=" + "[" * 5000,
        "a" * 200_000 + "=1", "",
        "ablate.techniques={mine:{overrides:['hydra.run.dir=/tmp']}}",
        "ablate.techniques.mine.overrides=['experiment=../x']",
        "++ablate.techniques.mine.overrides=[seed=1,'++hydra.job_logging.handlers.file.filename=/tmp/x']",
        "ablate.techniques.mine.overrides=['cache_dir=/tmp']",
        "ablate.techniques.mine={overrides:['sweep.storage=sqlite:////tmp/x.db']}",
        "ablate.techniques.mine.overrides=${data.columns}", "ablate.techniques.mine.overrides=['${a}=../x']",
        "\x00=1", "seed=\ud800",
    ],
    ids=lambda argument: argument[:40],
)  # fmt: skip
def test_nothing_else_of_an_untrusted_folder_is_followed(argument, tmp_path):
    with pytest.raises(ConfigError, match="it is not followed"):
        followed(["model=student", argument], [], tmp_path)


@pytest.mark.parametrize(
    "argument",
    [
        "sweep.storage=sqlite:////tmp/x.db", "hydra/launcher=submitit_slurm", "hydra.launcher.setup=[id]",
        "+hydra.launcher.more={_target_:os.system}", "hydra.launcher={_target_:os.system}",
        "hydra/launcher=../mine",
    ],
)  # fmt: skip
def test_what_stores_and_what_starts_jobs_is_given_again(argument, tmp_path):
    with pytest.raises(ConfigError, match="add it if you trust it"):
        followed(["model=student", argument], ["device=cpu"], tmp_path)
    assert followed(["model=student", argument], [argument], tmp_path) == ["model=student"]
    SweepFolder(tmp_path).write({**WHOLE, "arguments": ["model=student", argument]})
    assert argument in resume_arguments([f"resume={tmp_path}", argument], SweepFolder, [])
    assert argument in shlex.split(
        stop_message([argument, f"hydra.sweep.dir={tmp_path}"], SweepFolder, "jobs")
    )


@pytest.mark.parametrize("argument", ["sweep.n_workers=100000", "ablate.n_workers=[9]", "sweep.n_workers=x"])
def test_a_folder_does_not_start_far_more_processes_than_there_are_cores(argument, tmp_path):
    key = argument.partition("=")[0]
    with pytest.raises(ConfigError, match=f"add {key}=N"):
        followed([argument], [], tmp_path)
    assert followed([argument], [f"{key}=2"], tmp_path) == []
    assert followed([f"{key}=1"], [], tmp_path) == [f"{key}=1"]


def test_a_folder_of_options_is_followed_where_it_is_given_again(tmp_path, monkeypatch):
    kept, own = ["model=student", f"--config-dir={tmp_path / 'own'}"], f"--config-dir={tmp_path / 'own'}"
    for given in ([], [f"--config-dir={tmp_path / 'owner'}"], ["--config-dir=/"]):
        with pytest.raises(ConfigError, match=f"add {own} if you trust it"):
            followed(kept, given, tmp_path / "sweep")
    monkeypatch.chdir(tmp_path)
    for given in ([own], [own + "/"], ["--config-dir=own"]):
        assert followed(kept, given, tmp_path / "sweep") == ["model=student"]


def test_differences_are_named_by_key_four_of_them_in_full():
    before = {"optimizer.lr": 0.001, "loss": "focal", "gone": 1}
    now = {"optimizer.lr": 0.0001, "loss": "focal", "new": {"low": 1}}
    expected = "(optimizer.lr: 0.0001, was 0.001; gone: nothing, was 1; new: {'low': 1}, was nothing)"
    assert differences(before, now) == expected
    assert differences(before, before) == ""
    assert differences(before, {**before, "finder.seeds": 3}) == ""  # a key that came with a later version
    assert differences(before, {**before, "target": "absolute", "data.stride": 1}) == ""
    assert "target: rank, was nothing" in differences(before, {**before, "target": "rank"})
    assert "finder.seeds: 5, was nothing" in differences(before, {**before, "finder.seeds": 5})
    assert differences({}, {"new": [1, 2]}, lambda value: f"{len(value)} of them") == (
        "(new: 2 of them, was nothing)"
    )
    assert differences({}, dict.fromkeys("abcdef", 1)).endswith("d: 1, was nothing; and 2 more)")
