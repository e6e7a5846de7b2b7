"""Checkpoints: whole or not at all, and nothing in them can run."""

import os
import pickle
import zipfile

import pytest
import torch
from conftest import Hostile

from stockenh.errors import RunFolderError
from stockenh.training import checkpoint


@pytest.fixture
def path(tmp_path):
    return tmp_path / "c.pt"


def test_it_gives_back_what_it_was_given(path):
    content = {"weights": {"a": torch.arange(3.0)}, "nested": [1, 2.5, "x", None, (0.9, 0.95)]}
    checkpoint.save(path, content)
    loaded = checkpoint.load(path)
    assert torch.equal(loaded["weights"]["a"], torch.arange(3.0))
    assert loaded["nested"] == content["nested"]
    assert os.listdir(path.parent) == ["c.pt"]


@pytest.mark.parametrize("form", ["torch.save", "pickle"])
def test_a_hostile_one_is_refused_and_nothing_runs(path, form):
    mark = path.with_name("ran")
    if form == "torch.save":
        torch.save({"version": checkpoint.VERSION, "state": Hostile(mark)}, path)
    else:
        path.write_bytes(pickle.dumps(Hostile(mark)))
    with pytest.raises(RunFolderError, match=r"refused, nothing in it was run|damaged"):
        checkpoint.load(path)
    assert not mark.exists()


@pytest.mark.parametrize("keep", [0, 2, 10, 500, 0.5, 0.99])
def test_one_cut_short_is_refused(path, keep):
    checkpoint.save(path, {"weights": {"a": torch.randn(100, 100)}})
    content = path.read_bytes()
    path.write_bytes(content[: int(keep if keep > 1 else keep * len(content))])
    with pytest.raises(RunFolderError, match=r"c\.pt is .*damaged"):
        checkpoint.load(path)


def test_flipped_bytes_in_the_archive_are_refused(path):
    checkpoint.save(path, {"weights": {"a": torch.zeros(50)}})
    with zipfile.ZipFile(path) as archive:
        name = next(n for n in archive.namelist() if n.endswith("data.pkl"))
        start = archive.getinfo(name).header_offset + 30 + len(name) + 200
    content = bytearray(path.read_bytes())
    content[start : start + 40] = b"\xff" * 40
    path.write_bytes(content)
    with pytest.raises(RunFolderError):
        checkpoint.load(path)


@pytest.mark.parametrize("content", [{"version": 999}, [1, 2]])
def test_another_version_is_refused(path, content):
    torch.save(content, path)
    with pytest.raises(RunFolderError, match="not a checkpoint of this version"):
        checkpoint.load(path)
