"""A run and its export, for every test of this folder."""

import processes
import pytest
from serving import QUICK


@pytest.fixture(scope="session")
def run(small_run, tmp_path_factory):
    """A finished run with raw and EMA weights, its raw ones exported."""
    folder = tmp_path_factory.mktemp("exported") / "a run (1)"
    for arguments in (
        ["train", *small_run, *QUICK, "averaging=ema", "train.epochs=2", f"hydra.run.dir={folder}"],
        ["export", f"run={folder}", "weights=raw", "export.int8=true"],
    ):
        done = processes.run(*arguments)
        assert done.returncode == 0, done.stderr
    return folder
