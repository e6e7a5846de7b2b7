"""What of the command that a folder keeps is followed."""

from __future__ import annotations

from pathlib import Path

import pytest

from stockenh.commands.multirun.command import require_harmless
from stockenh.errors import ConfigError


def test_overrides_of_the_runs_and_of_the_launcher_are_followed_as_they_stand(tmp_path: Path) -> None:
    kept = [
        "model=student", "+train.epochs=3", "hydra/launcher=submitit_slurm", "hydra.launcher.timeout_min=60",
        "hydra.launcher.submitit_folder='${hydra.sweep.dir}/slurm'", "hydra.mode=MULTIRUN",
    ]  # fmt: skip
    assert require_harmless(kept, [], tmp_path) == kept


@pytest.mark.parametrize(
    "argument",
    [
        "hydra.launcher._target_=os.system",
        "hydra.launcher={_target_:os.system}",
        "+hydra.launcher.more={_target_:os.system}",
        "+hydra.launcher.more=${data}",
        "+hydra.launcher.more='${oc.env:HOME}'",
        "++hydra.callbacks.mine._target_=os.system",
        "hydra/launcher=../mine",
        "hydra.searchpath=[file:///tmp]",
        "--config-path=/tmp",
        "-cd",
    ],
)
def test_what_hydra_itself_is_made_of_is_not(argument: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="which a folder must not say: it is not followed"):
        require_harmless(["model=student", argument], [], tmp_path)


def test_options_of_one_s_own_are_followed_where_they_are_given_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, own = ["model=student", f"--config-dir={tmp_path / 'own'}"], f"--config-dir={tmp_path / 'own'}"
    for given in ([], [f"--config-dir={tmp_path / 'owner'}"], ["--config-dir=/"]):
        with pytest.raises(ConfigError, match=f"add {own} if you trust it"):
            require_harmless(kept, given, tmp_path / "sweep")
    monkeypatch.chdir(tmp_path)
    for given in ([own], [own + "/"], ["--config-dir=own"]):
        assert require_harmless(kept, given, tmp_path / "sweep") == ["model=student"]
