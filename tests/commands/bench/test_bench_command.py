"""`stockenh bench`: its files, and its notes where something can't be measured."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from stockenh.commands.measure import Clock

TINY = [
    "model=timeformer", "model.layers=1", "model.d_model=16", "model.heads=2", "model.ffn=16", "device=cpu",
    "model.head_hidden=8", "bench=quick", "bench.seconds=0.01", "bench.rounds=3", "hydra.run.dir=made",
]  # fmt: skip


@pytest.fixture
def bench(
    stockenh: Callable[..., object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., object]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)  # of the whole session
    monkeypatch.setattr("stockenh.commands.bench.benchmark.Clock", partial(Clock, turn=0.0))
    monkeypatch.setattr("stockenh.commands.bench.training.BLOCK", {"cpu": 2**20})
    return lambda *arguments: stockenh("bench", *TINY, *arguments)


def test_it_leaves_figures_a_page_and_a_picture(bench: Callable[..., object], pictures: None) -> None:
    answer = bench("bench.parts=[training,techniques]")
    assert answer.code == 0, answer.err
    found = json.loads(Path("made/bench.json").read_text())
    figures = {figure["name"]: figure for figure in found["figures"]}
    for name, unit in {
        "timeformer: plain recipe": "windows/s",
        "timeformer: project's loop, fp32": "windows/s",
        "timeformer: project's loop / plain recipe": "times",
        "timeformer: share of the floor, project's loop, fp32": "%",
        "timeformer: fused optimizer": "times",
        "timeformer: data on the device": "times",
        "timeformer: gradient accumulation of 4": "times",
    }.items():
        figure = figures[name]
        assert figure["unit"] == unit and 0 < figure["low"] <= figure["value"] <= figure["high"]
    assert figures["timeformer: loop overhead"]["aim"] == "at most 5"
    assert found["seconds_of"].keys() >= {"training of timeformer", "torch.compile"}
    page = Path("made/bench.md").read_text()
    assert "## Techniques" in page and "| timeformer: fused optimizer |" in page
    assert Path("made/bench.png").read_bytes()[:4] == b"\x89PNG"
    assert "student" not in answer.out  # model= measures that one alone
    for skipped in ("CUDA graphs", "everything on a GPU"):
        (line,) = [line for line in page.splitlines() if skipped in line]
        assert "not measured: no CUDA device" in line
    assert "not measured: bench.compile=false" in page


@pytest.mark.slow
def test_peak_memory_is_that_of_processes_of_their_own(bench: Callable[..., object]) -> None:
    assert bench("bench.parts=[memory]").code == 0
    figures = [f for f in json.loads(Path("made/bench.json").read_text())["figures"] if f["part"] == "memory"]
    plain, own, ratio = (figure["value"] for figure in figures)
    assert min(plain, own) > 100  # torch alone
    assert ratio == pytest.approx(own / plain)


def test_what_the_time_does_not_suffice_for_is_named(bench: Callable[..., object]) -> None:
    parts = ["training", "techniques", "inference", "pipeline", "memory"]
    answer = bench("bench.minutes=1e-6", f"bench.parts={json.dumps(parts)}")
    assert answer.code == 0, answer.err
    figures = json.loads(Path("made/bench.json").read_text())["figures"]
    left_out = [f for f in figures if f["note"] == "not measured: bench.minutes=1e-06 are over"]
    assert {f["part"] for f in left_out} == set(parts)
    assert all(f["value"] is None for f in left_out)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("bench.parts=[trainig]", "bench.parts=['trainig']: Nearest: training."),
        ("bench.seconds=0", "bench.seconds=0.0 must be above 0"),
        ("bench.rounds=2", "bench.rounds=2 must be at least 3"),
        ("bench=quik", "bench=quik: no such bench. Nearest: quick."),
        ("run=somewhere", "run is not a key of stockenh bench"),
    ],
)
def test_wrong_settings_name_their_key(bench: Callable[..., object], override: str, message: str) -> None:
    answer = bench(override)
    assert answer.code == 2
    assert message in answer.err


def test_an_unknown_model_names_the_nearest(
    stockenh: Callable[..., object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = stockenh("bench", "bench.models=[studnt]")
    assert answer.code == 2
    assert "bench.models=['studnt']: Nearest: student." in answer.err
