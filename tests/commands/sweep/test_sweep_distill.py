"""`experiment=phase3`: a search over how a student is taught."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

TINY = ["model.layers=1", "model.d_model=8", "model.heads=2", "model.ffn=8", "device=cpu"]


@pytest.fixture
def teacher(small_run, stockenh, tmp_path) -> Path:
    folder = tmp_path / "teacher"
    assert stockenh("train", *small_run, f"hydra.run.dir={folder}").code == 0
    return folder


def test_the_best_student_is_found_and_taught_again_by_the_command_told(teacher, stockenh, tmp_path):
    folder = tmp_path / "phase3"
    arguments = [f"teacher={teacher}", "experiment=phase3", *TINY, "train.epochs=2", "sweep.n_trials=2"]
    # small_run's lookback of 20 bars is one patch of the student's
    found = stockenh("sweep", *arguments, "model.patch=10", f"hydra.sweep.dir={folder}")
    assert found.code == 0, found.err
    summaries = [json.loads((folder / str(n) / "summary.json").read_text()) for n in range(2)]
    configs = [(folder / str(n) / "config.yaml").read_text() for n in range(2)]
    assert all(set(s["parts"]) == {"val"} for s in summaries)
    assert all(f"teacher: {teacher}" in text for text in configs)
    assert configs[0] != configs[1]
    assert not list(folder.glob("*/without_teacher"))
    told = next(line for line in found.out.splitlines() if line.startswith("best     stockenh distill"))
    command = shlex.split(told)[2:]
    again = stockenh(*command, f"hydra.run.dir={tmp_path / 'again'}")
    assert again.code == 0, again.err
    summary = json.loads((tmp_path / "again" / "summary.json").read_text())
    assert summary["val_loss"] == min(s["val_loss"] for s in summaries)


def test_a_student_without_a_teacher_is_not_searched(small_run, stockenh, tmp_path):
    answer = stockenh("sweep", *small_run, "sweep=distill", f"hydra.sweep.dir={tmp_path / 'x'}")
    assert answer.code == 2
    assert "teacher=RUN" in answer.err
    single = stockenh("distill", f"teacher={tmp_path}", "experiment=phase3")
    assert single.code == 2
