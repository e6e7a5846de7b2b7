"""Checkpoints: whole or not at all, and nothing in them can run."""

from __future__ import annotations

import os
import pickle
import resource
import signal
import zipfile
from pathlib import Path

import pytest
import torch

from stockenh.errors import RunFolderError
from stockenh.storage.files import DiskError
from stockenh.training import checkpoint


class Hostile:
    """Unpickled, it would leave a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.path}",)


def test_it_gives_back_what_it_was_given(tmp_path: Path) -> None:
    content = {"weights": {"a": torch.arange(3.0)}, "nested": [1, 2.5, "x", None, (0.9, 0.95)]}
    checkpoint.save(tmp_path / "c.pt", content)
    loaded = checkpoint.load(tmp_path / "c.pt")
    assert torch.equal(loaded["weights"]["a"], torch.arange(3.0))
    assert loaded["nested"] == content["nested"]
    assert os.listdir(tmp_path) == ["c.pt"]


@pytest.mark.parametrize("form", ["torch.save", "pickle"])
def test_a_hostile_one_is_refused_and_nothing_runs(tmp_path: Path, form: str) -> None:
    mark, path = tmp_path / "ran", tmp_path / "c.pt"
    if form == "torch.save":
        torch.save({"version": checkpoint.VERSION, "state": Hostile(mark)}, path)
    else:
        path.write_bytes(pickle.dumps(Hostile(mark)))
    with pytest.raises(RunFolderError, match=r"refused, nothing in it was run|damaged"):
        checkpoint.load(path)
    assert not mark.exists()


@pytest.mark.parametrize("keep", [0, 2, 10, 500, 0.5, 0.99])
def test_one_cut_short_is_refused(tmp_path: Path, keep: float) -> None:
    path = tmp_path / "c.pt"
    checkpoint.save(path, {"weights": {"a": torch.randn(100, 100)}})
    content = path.read_bytes()
    path.write_bytes(content[: int(keep if keep > 1 or keep == 0 else keep * len(content))])
    with pytest.raises(RunFolderError, match=r"c\.pt is .*damaged"):
        checkpoint.load(path)


def test_flipped_bytes_in_the_archive_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    checkpoint.save(path, {"weights": {"a": torch.zeros(50)}})
    with zipfile.ZipFile(path) as archive:
        name = next(n for n in archive.namelist() if n.endswith("data.pkl"))
        at = archive.getinfo(name).header_offset + 30 + len(name) + 200
    content = bytearray(path.read_bytes())
    content[at : at + 40] = b"\xff" * 40
    path.write_bytes(content)
    with pytest.raises(RunFolderError):
        checkpoint.load(path)


def test_another_version_is_refused(tmp_path: Path) -> None:
    torch.save({"version": 999}, tmp_path / "c.pt")
    with pytest.raises(RunFolderError, match="not a checkpoint of this version"):
        checkpoint.load(tmp_path / "c.pt")
    torch.save([1, 2], tmp_path / "c.pt")
    with pytest.raises(RunFolderError, match="not a checkpoint of this version"):
        checkpoint.load(tmp_path / "c.pt")


@pytest.fixture
def tiny_disk() -> object:
    """The kernel refuses to let a file grow beyond 4 KiB, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_on_a_full_disk_the_old_checkpoint_stays_and_nothing_is_left_behind(
    tmp_path: Path, tiny_disk: object
) -> None:
    path = tmp_path / "c.pt"
    checkpoint.save(path, {"epoch": 1})
    with pytest.raises(DiskError, match=r"c\.pt can't be written: File too large"):
        checkpoint.save(path, {"epoch": 2, "weights": torch.zeros(10_000)})
    assert checkpoint.load(path)["epoch"] == 1
    assert os.listdir(tmp_path) == ["c.pt"]


def test_random_generators_go_on_where_they_were() -> None:
    torch.manual_seed(5)
    torch.rand(3)
    state = checkpoint.rng_state()
    expected = torch.rand(4)
    torch.rand(100)
    checkpoint.set_rng_state(state)
    assert torch.equal(torch.rand(4), expected)
