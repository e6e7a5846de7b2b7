"""What a misspelt key, or one of another command, is answered."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def in_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("command", "given", "said"),
    [
        ("export", ["rnu=x"], "rnu: no such key. Nearest: run"),
        ("explain", ["seed=1", "runs=x"], "runs: no such key. Nearest: run"),
        ("distill", ["teachr=x"], "teachr: no such key. Nearest: teacher"),
        ("distill", ["resum=x"], "resum: no such key. Nearest: resume"),
        ("distill", ["run=x"], "run= names no run for this command: write teacher=RUN"),
        ("tta-predict", ["teacher=x"], "teacher= names no run for this command: write run=RUN"),
        ("tta-predict", ["seed=1"], "run= must be given: run=RUN, a folder that stockenh train left"),
        ("train", ["resum=x"], "resum: no such key. Nearest: resume"),
        ("train", ["run=x"], "to begin with a run's weights write init_from=RUN"),
    ],
)
def test_the_key_of_a_run_may_be_misspelt(
    stockenh: Callable[..., object], command: str, given: list[str], said: str
) -> None:
    answer = stockenh(command, *given)
    assert answer.code == 2 and answer.err.startswith("stockenh: ")
    assert said in answer.err
