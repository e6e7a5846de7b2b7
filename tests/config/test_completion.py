"""Completion as the shells ask for it: bash by its words, split at "=", zsh and fish by the line."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

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
def console_script(tmp_path_factory) -> Path:
    """A folder with a `stockenh` command in it, as an installation leaves one."""
    folder = tmp_path_factory.mktemp("bin")
    script = folder / "stockenh"
    script.write_text(f"#!{sys.executable}\nfrom stockenh.cli import main\nmain()\n")
    script.chmod(0o755)
    return folder


@pytest.fixture
def bash(console_script):
    """What bash puts into COMPREPLY for words of which the last is being typed."""
    program = shutil.which("bash")
    if program is None:
        pytest.skip("no bash on this machine")

    def run(*words: str) -> list[str]:
        script = SCRIPT.format(bin=console_script)
        command = [program, "--norc", "-c", script, "bash", "stockenh", *words]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    return run


def test_bash_completes_commands(bash):
    assert bash("tr") == ["train"]


def test_bash_completes_a_group_and_shows_its_options(bash):
    assert bash("train", "lo") == ["loss=", *(f"loss={option}" for option in groups()["loss"])]


def test_bash_completes_the_options_behind_the_equals_sign(bash):
    assert bash("train", "loss", "=") == groups()["loss"]


def test_bash_completes_a_half_typed_option_without_doubling_the_group(bash):
    assert bash("train", "seed", "=", "3", "loss", "=", "hub") == ["huber_bce"]


def test_bash_completes_a_key_and_its_default(bash):
    found = bash("train", "optimizer.l")
    assert found[0] == "optimizer.lr="
    assert float(found[1].partition("=")[2]) == 1e-3


def test_bash_leaves_paths_to_its_own_completion(bash):
    assert bash("train", "data", "=", "files", "data.path", "=", "/t") == []


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
    environment = {
        **os.environ,
        "_STOCKENH_COMPLETE": f"complete_{name}",
        "_TYPER_COMPLETE_ARGS": line,
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    done = subprocess.run([console_script / "stockenh"], env=environment, capture_output=True, text=True)
    assert wanted in done.stdout, done.stderr
    assert unwanted not in done.stdout


@pytest.mark.parametrize("name", ["bash", "zsh", "fish"])
def test_every_shell_gets_a_script(console_script, name):
    environment = {**os.environ, "_STOCKENH_COMPLETE": f"source_{name}"}
    done = subprocess.run([console_script / "stockenh"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0
    assert "_STOCKENH_COMPLETE" in done.stdout


def test_a_key_that_takes_a_word_offers_it():
    assert complete("train", [], "optimizer.lr=") == ["optimizer.lr=1e-3", "optimizer.lr=auto"]


def test_keys_of_a_group_wait_for_the_dot():
    assert "loss.delta=" not in complete("train", [], "")
    assert "loss.delta=" in complete("train", [], "loss.")
    assert {"train.epochs=", "seed=", "model="} <= set(complete("train", [], ""))


def test_a_switch_offers_both_values():
    assert complete("train", [], "train.compile=") == ["train.compile=false", "train.compile=true"]


def test_an_unknown_word_offers_nothing():
    assert complete("train", [], "nonsense=") == []
    assert complete("train", [], "zzz") == []
