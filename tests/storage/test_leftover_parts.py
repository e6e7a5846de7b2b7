"""What a killed writer has left of a file goes when the run is taken up; nothing else does."""

from __future__ import annotations

from pathlib import Path

from stockenh.storage.run_folder import RunFolder


def test_a_run_s_own_parts_go_and_nothing_that_a_stranger_put_there(tmp_path: Path) -> None:
    elsewhere, run = tmp_path / "elsewhere", tmp_path / "run"
    elsewhere.mkdir()
    theirs = elsewhere / ".mine.part"
    theirs.write_text("mine")
    (run / ".a folder.part").mkdir(parents=True)
    (run / ".a link.part").symlink_to(theirs)
    (run / "weights").symlink_to(elsewhere)
    own = run / ".config.yaml.x1y2.part"
    own.write_text("half")
    with RunFolder(run).lock():
        assert not own.exists()
    assert theirs.read_text() == "mine"
    assert (run / ".a folder.part").is_dir() and (run / ".a link.part").is_symlink()
