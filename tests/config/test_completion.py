"""Completion as the shells ask for it: bash by its words, split at "=", zsh and fish by the line."""

import os
import shutil
import subprocess
import sys

import pytest

from stockenh.config.catalog import complete, groups

SCRIPT = """
PATH={bin}:$PATH
eval "$(_STOCKENH_COMPLETE=source_bash stockenh)"
COMP_WORDS=("$@")
COMP_CWORD=$(( $# - 1 ))
_stockenh_completion stockenh
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture(scope="module")
def console_script(tmp_path_factory):
    """A folder with a `stockenh` command in it, as an installation leaves one."""
    folder = tmp_path_factory.mktemp("bin")
    script = folder / "stockenh"
    script.write_text(f"#!{sys.executable}\nfrom stockenh.cli import main\nmain()\n")
    script.chmod(0o755)
    return folder


@pytest.fixture
def bash(console_script):
    """What bash puts into COMPREPLY for words of which the last is being typed."""
    program = shutil.which("bash") or pytest.skip("no bash on this machine")

    def run(*words: str) -> list[str]:
        command = [program, "--norc", "-c", SCRIPT.format(bin=console_script), "bash", "stockenh", *words]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    return run


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("tr", ["train", "track"]),
        ("train lo", ["loss=", *(f"loss={option}" for option in groups()["loss"])]),
        ("train loss =", groups()["loss"]),
        ("train seed = 3 loss = hub", ["huber_bce"]),  # the group is not doubled
        ("train optimizer.lr", ["optimizer.lr=", "optimizer.lr=2e-3", "optimizer.lr=auto"]),
        ("train data = files data.path = /t", []),  # paths are left to bash's own completion
    ],
)
def test_bash_completes_words(bash, words, found):
    assert bash(*words.split()) == found


def completion(console_script, **environment):
    command = [console_script / "stockenh"]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)


@pytest.mark.parametrize("name", ["zsh", "fish"])
@pytest.mark.parametrize(
    ("line", "wanted", "unwanted"),
    [
        ("stockenh tr", "train", "data"),
        ("stockenh train loss=hu", "loss=huber_bce", "model="),
        ("stockenh train seed=3 model=timeformer_", "model=timeformer_xl", "loss="),
    ],
)
def test_zsh_and_fish_protocols(console_script, name, line, wanted, unwanted):
    protocol = {"_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    done = completion(console_script, _STOCKENH_COMPLETE=f"complete_{name}", **protocol)
    assert wanted in done.stdout and unwanted not in done.stdout, done.stderr


@pytest.mark.parametrize("name", ["bash", "zsh", "fish"])
def test_every_shell_gets_a_script(console_script, name):
    done = completion(console_script, _STOCKENH_COMPLETE=f"source_{name}")
    assert done.returncode == 0 and "_STOCKENH_COMPLETE" in done.stdout


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("optimizer.lr=", ["optimizer.lr=2e-3", "optimizer.lr=auto"]),
        ("train.compile=", ["train.compile=false", "train.compile=true"]),
        ("nonsense=", []),
        ("zzz", []),
    ],
)
def test_values_of_a_key(word, found):
    assert complete("train", [], word) == found


def test_keys_of_a_group_wait_for_the_dot():
    assert "loss.delta=" not in complete("train", [], "")
    assert "loss.delta=" in complete("train", [], "loss.")
    assert {"train.epochs=", "seed=", "model="} <= set(complete("train", [], ""))
