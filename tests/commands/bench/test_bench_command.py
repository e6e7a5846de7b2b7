"""`stockenh bench`: its files, and its notes where something can't be measured."""

import json
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
def bench(stockenh, here, monkeypatch):
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)  # of the whole session
    monkeypatch.setattr("stockenh.commands.bench.benchmark.Clock", partial(Clock, turn=0.0))
    monkeypatch.setattr("stockenh.commands.bench.training.BLOCK", {"cpu": 2**20})
    return lambda *arguments, code=0: stockenh("bench", *TINY, *arguments, code=code)


def figures() -> list[dict]:
    return json.loads(Path("made/bench.json").read_text())["figures"]


def test_it_leaves_figures_a_page_and_a_picture(bench, pictures):
    answer = bench("bench.parts=[training,techniques]")
    named = {figure["name"]: figure for figure in figures()}
    for name, unit in {
        "plain recipe": "windows/s",
        "project's loop, fp32": "windows/s",
        "project's loop / plain recipe": "times",
        "share of the floor, project's loop, fp32": "%",
        "fused optimizer": "times",
        "data on the device": "times",
        "gradient accumulation of 4": "times",
    }.items():
        figure = named[f"timeformer: {name}"]
        assert figure["unit"] == unit and 0 < figure["low"] <= figure["value"] <= figure["high"]
    overhead = named["timeformer: loop overhead"]
    assert overhead["aim"] == "at most 5" and 0 < overhead["value"] < 100
    seconds = json.loads(Path("made/bench.json").read_text())["seconds_of"]
    assert seconds.keys() >= {"training of timeformer", "torch.compile"}
    page = Path("made/bench.md").read_text()
    assert "## Techniques" in page and "| timeformer: fused optimizer |" in page
    assert Path("made/bench.png").read_bytes()[:4] == b"\x89PNG"
    assert "student" not in answer.out  # model= measures that one alone
    for skipped in ("CUDA graphs", "everything on a GPU"):
        (line,) = [line for line in page.splitlines() if skipped in line]
        assert "not measured: no CUDA device" in line
    assert "not measured: bench.compile=false" in page


@pytest.mark.deep
def test_peak_memory_is_that_of_processes_of_their_own(bench):
    bench("bench.parts=[memory]")
    plain, own, ratio = (figure["value"] for figure in figures() if figure["part"] == "memory")
    assert min(plain, own) > 100  # torch alone
    assert ratio == pytest.approx(own / plain)


def test_what_the_time_does_not_suffice_for_is_named(bench):
    parts = ["training", "techniques", "inference", "pipeline", "memory"]
    bench("bench.minutes=1e-6", f"bench.parts={json.dumps(parts)}")
    left_out = [f for f in figures() if f["note"] == "not measured: bench.minutes=1e-06 are over"]
    assert {f["part"] for f in left_out} == set(parts)
    assert all(f["value"] is None for f in left_out)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("bench.parts=[trainig]", "bench.parts=trainig: no such parts. Nearest: training."),
        ("bench.seconds=0", "bench.seconds=0 must be above 0"),
        ("bench.rounds=2", "bench.rounds=2 must be at least 3"),
        ("bench=quik", "bench=quik: no such bench. Nearest: quick."),
        ("run=somewhere", "run is not a key of stockenh bench"),
    ],
)
def test_wrong_settings_name_their_key(bench, override, message):
    assert message in bench(override, code=2).err


def test_an_unknown_model_names_the_nearest(stockenh, here):
    err = stockenh("bench", "bench.models=[studnt]", code=2).err
    assert "bench.models=['studnt']: Nearest: student." in err
