"""Fixtures that every test folder shares."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import processes
import pytest
from bars import write_bars
from hypothesis import HealthCheck, settings

# one thread for all that is small, and before torch is imported: more only stand in each other's way
os.environ.setdefault("OMP_NUM_THREADS", "1")
# how long an example takes says how busy the machine is
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@dataclass(frozen=True)
class Answer:
    """What a command left: exit code, standard output and standard error."""

    code: int
    out: str
    err: str


Command = Callable[..., Answer]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first: else one of several workers is left alone with them at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache of the whole session, which keeps the user's own out of every test."""
    root = tmp_path_factory.mktemp("cache")
    os.environ["STOCKENH_CACHE"] = str(root)
    return root


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The test's own folder, as the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def pictures() -> None:
    """For a test that looks at pictures."""


@pytest.fixture(autouse=True)
def undrawn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures are composed but not drawn, which takes as long as a small run; who looks at them says so."""
    if "pictures" not in request.fixturenames:
        monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, *_, **__: None)
        monkeypatch.setattr("stockenh.report.page.Picture.svg", "<svg></svg>")


@pytest.fixture(scope="session")
def bars_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two symbols with 160 daily bars each, as CSV files."""
    folder = tmp_path_factory.mktemp("bars")
    for number, symbol in enumerate(("AAA", "BBB")):
        write_bars(folder / f"{symbol}.csv", seed=number)
    return folder


@pytest.fixture(scope="session")
def small_run(bars_folder: Path) -> list[str]:
    """Overrides of a training run that takes a second and uses every part of the default recipe."""
    return [
        "data=files", f"data.path={bars_folder}", "data.lookback=20", "embedding.width=32", "device=cpu",
        "split.val=0.25", "split.test=0.25", "train.epochs=1", "train.batch_size=64", "model.layers=1",
        "model.d_model=16",
        "model.heads=2", "model.ffn=16",
    ]  # fmt: skip


@pytest.fixture(scope="session")
def finished_run(small_run: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with raw, EMA and SWA weights; who changes it takes a copy."""
    run = tmp_path_factory.mktemp("finished") / "a run (1)"
    done = processes.run("train", *small_run, "averaging=ema_swa", "train.epochs=2", f"hydra.run.dir={run}")
    assert done.returncode == 0, done.stderr
    return run


@pytest.fixture
def stockenh(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs the console script in this process; `code` is the exit code that it must have."""
    from stockenh import cli

    def run(*arguments: str, code: int | None = None) -> Answer:
        monkeypatch.setattr(sys, "argv", ["stockenh", *arguments])
        root = logging.getLogger()
        handlers, level = list(root.handlers), root.level
        capfd.readouterr()
        try:
            cli.main()
            found = 0
        except SystemExit as end:
            found = end.code if isinstance(end.code, int) else int(end.code is not None)
        finally:
            for handler in set(root.handlers) - set(handlers):
                handler.close()
            root.handlers[:] = handlers
            root.setLevel(level)
        captured = capfd.readouterr()
        assert code is None or found == code, captured.out + captured.err
        return Answer(found, captured.out, captured.err)

    return run


@pytest.fixture
def refused(stockenh: Command) -> Callable[..., str]:
    """Runs a command that must end with one line on standard error, and returns that line."""

    def run(*arguments: str, code: int = 2) -> str:
        err: str = stockenh(*arguments, code=code).err
        assert err.startswith("stockenh: ") and len(err.splitlines()) == 1, err
        return err

    return run


@pytest.fixture
def shell(tmp_path: Path) -> Command:
    """Runs the console script in a process of its own, in the test's folder."""

    def run(*arguments: str, **environment: str) -> Answer:
        done = subprocess.run(
            [sys.executable, "-m", "stockenh", *arguments],
            cwd=tmp_path,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
        )
        return Answer(done.returncode, done.stdout, done.stderr)

    return run
