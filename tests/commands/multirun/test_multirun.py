"""How a search and an ablation are begun, stopped and taken up, before Hydra hears of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from stockenh.commands.ablate.folder import AblationFolder
from stockenh.commands.multirun.folder import MultirunFolder
from stockenh.commands.multirun.resume import begun, is_taken_up, stopped, taken_up
from stockenh.commands.sweep.folder import SweepFolder
from stockenh.errors import ConfigError

KINDS = pytest.mark.parametrize("kind", [SweepFolder, AblationFolder])


def test_a_new_one_has_its_default_and_paths_that_hold_from_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bars").mkdir()
    monkeypatch.chdir(tmp_path)
    given = ["data=files", "data.path=bars", "teacher=nowhere", "hydra.sweep.dir=bars"]
    assert begun(given, ["sweep=default"]) == [
        "--multirun", "sweep=default", "data=files", f"data.path={tmp_path}/bars", "teacher=nowhere",
        "hydra.sweep.dir=bars",
    ]  # fmt: skip
    assert begun(["-m", "seed=1"], []) == ["-m", "seed=1"]
    assert begun(["--cfg", "job"], ["ablate=quick"]) == ["ablate=quick", "--cfg", "job"]


@KINDS
def test_what_is_changed_comes_in_place_of_what_the_folder_keeps(
    kind: type[MultirunFolder], tmp_path: Path
) -> None:
    own = f"--config-dir={tmp_path / 'own'}"
    kept = [own, "device=cpu", "model=student", "hydra.sweep.dir=elsewhere"]
    kind(tmp_path).write({"arguments": kept, "command": "train", "base": {}, "recipes": {}})
    given = [f"resume={tmp_path}", own, "device=cuda"]
    assert is_taken_up(given) and not is_taken_up(["resume=null", "device=cuda"])
    assert taken_up(given, kind, ["device"]) == [
        "--multirun", own, "model=student", "hydra.sweep.dir=elsewhere", "device=cuda",
        f"hydra.sweep.dir={tmp_path}",
    ]  # fmt: skip
    in_two_words = [f"resume={tmp_path}", "--config-dir", str(tmp_path / "own"), "device=cuda"]
    assert taken_up(in_two_words, kind, ["device"]) == taken_up(given, kind, ["device"])
    with pytest.raises(ConfigError, match=f"seed can't be given with resume: the {kind.noun} goes on as"):
        taken_up([f"resume={tmp_path}", "seed=1"], kind, ["device"])
    with pytest.raises(ConfigError, match="made with options of its own"):
        taken_up([f"resume={tmp_path}"], kind, ["device"])


@KINDS
def test_a_stop_tells_how_to_go_on(
    kind: type[MultirunFolder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = ["--config-dir", "own", "seed=1", "hydra.sweep.dir='some where'"]
    assert stopped(given, kind, "jobs") == (
        f"stopped; running jobs saved where they are. Continue with: stockenh {kind.command} "
        f"resume='{tmp_path}/some where' --config-dir={tmp_path}/own"
    )
    assert f"Continue with: stockenh {kind.command} resume=DIR, the folder" in stopped(
        ["seed=1"], kind, "jobs"
    )
