"""A multirun's folder, a search's and an ablation's alike."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pytest

from stockenh.commands.ablate.folder import AblationFolder
from stockenh.commands.multirun.folder import MultirunFolder
from stockenh.commands.sweep.folder import SweepFolder
from stockenh.errors import RunFolderError

KINDS = pytest.mark.parametrize("kind", [SweepFolder, AblationFolder])


@KINDS
def test_it_is_gone_on_with_by_words_that_a_shell_reads_as_they_are_meant(
    kind: type[MultirunFolder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
def test_what_keeps_no_list_of_words_is_not_read(
    kind: type[MultirunFolder], arguments: object, tmp_path: Path
) -> None:
    folder = kind(tmp_path)
    whole = {"arguments": ["a=1"], "command": "train", "base": {}, "recipes": {}}
    folder.write(whole)
    assert folder.read() == whole
    folder.about.write_text(json.dumps({**whole, "arguments": arguments}))
    with pytest.raises(RunFolderError, match=r"is not readable: its arguments are no list of words"):
        folder.read()
