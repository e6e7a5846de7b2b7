"""`make gpu` on a machine without a GPU: every part at a small size, parts that fail, no CUDA."""

import importlib
import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from torch import nn
from waiting import wait_for

TOOLS = Path(__file__).resolve().parents[2] / "tools"
CPU = torch.device("cpu")
ONE_PROCESS = (
    "poisoned", "tft", "compiled", "streamed", "embeddings", "waits", "training", "memory", "inference",
    "commands", "one_process",
)  # fmt: skip


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    return importlib.import_module("gpu")


@pytest.fixture
def cheap(gpu, monkeypatch):
    """Without generated C++ and new processes, which take longer than all the rest."""
    compile_ = nn.Module.compile
    monkeypatch.setattr(
        nn.Module, "compile", lambda self, **options: compile_(self, backend="aot_eager", dynamic=False)
    )
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)  # of the whole session
    monkeypatch.setattr("stockenh.commands.bench.training.in_new_process", lambda *arguments: 2**20)
    return gpu


def figures(directory: Path, part: str) -> list[dict]:
    return [json.loads(line) for line in (directory / f"{part}.jsonl").read_text().splitlines()]


QUICK = ("poisoned", "training")


@pytest.mark.parametrize(
    "part", [part if part in QUICK else pytest.param(part, marks=pytest.mark.deep) for part in ONE_PROCESS]
)
def test_every_part_runs_on_a_cpu_and_keeps_its_checks(cheap, here, part):
    cheap.do(part, CPU, here, tiny=True)
    found = figures(here, part)
    assert found and all(figure["part"] == part for figure in found)
    wrong = [figure for figure in found if cheap.is_check(figure) and figure["met"] is False]
    assert wrong == []
    assert all(figure["value"] is not None or "not measured" in figure["note"] for figure in found)


def test_every_part_is_tried_here_and_the_limits_leave_time_for_all(cheap):
    assert {*ONE_PROCESS, "tests", "two_processes"} == cheap.PARTS.keys()
    assert cheap.SECONDS <= 360


def test_the_fp32_that_others_are_compared_with_has_no_tf32_and_one_row_has(cheap, here):
    cheap.do("training", CPU, here, tiny=True)
    named = {figure["name"]: figure for figure in figures(here, "training")}
    assert named["plain recipe with TF32 / plain recipe"]["unit"] == "times"
    for precision in ("fp32", "fp32, compiled"):
        assert f"timeformer_xl, {precision} / plain recipe" in named


@pytest.mark.parametrize("part", ["tests", "two_processes"])
def test_parts_that_start_processes_show_their_exit_code(gpu, here, monkeypatch, part):
    """The processes themselves are those of tests/training and tests/commands/train/test_several."""
    started = []

    def run(command, **options):
        started.append(command)
        return SimpleNamespace(returncode=3, stdout="1 failed, 2 passed", stderr="stockenh: no")

    monkeypatch.setattr(subprocess, "run", run)
    gpu.do(part, CPU, here, tiny=True)
    (figure,) = figures(here, part)
    assert figure["value"] == 3 and figure["met"] is False and len(started) == 1
    assert figure["note"] in ("1 failed, 2 passed", "stockenh: no")


def test_one_gpu_has_no_two_processes_and_without_pytest_its_tests_are_left_out(gpu, here, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    given = []
    for part in ("two_processes", "tests"):
        getattr(gpu.gpu_parts, part)(gpu.Job(torch.device("cuda"), True, given.append))
    assert [figure.note for figure in given] == [
        "not measured: one GPU",
        "not measured: no pytest: pip install -e '.[dev]'",
    ]


def outcome(gpu, part="waits", state="done", value=0.0, error=""):
    figure = {**gpu.gpu_parts._check(part, "steps that wait", value).to_dict()}
    return gpu.Outcome(part, state, 1.0, [figure], error)


@pytest.mark.parametrize(
    ("options", "is_right", "line"),
    [
        ({}, True, None),
        ({"value": 2.0}, False, "wrong    waits: steps that wait"),
        ({"state": "failed", "error": "boom"}, False, "wrong    waits failed: boom"),
        ({"state": "cut off", "error": "after its 20 s"}, False, "wrong    waits cut off: after its 20 s"),
    ],
)
def test_what_is_wrong_is_named_and_the_files_have_it(gpu, here, capsys, options, is_right, line):
    assert gpu.report([outcome(gpu, **options)], CPU, here, 3.0) is is_right
    out = capsys.readouterr().out
    assert line is None or line in out
    found = json.loads((here / "gpu.json").read_text())
    assert (
        found["machine"]["torch"] == torch.__version__
        and {"cuda", "cudnn", "nccl"} <= found["machine"].keys()
    )
    assert found["parts"][0]["state"] == options.get("state", "done")
    assert "steps that wait" in (here / "gpu.md").read_text()


def test_a_missed_aim_of_speed_is_no_failure(gpu, here):
    slow = gpu.Figure("training", "ratio", "times", 2.0, aim=gpu.gpu_parts.Aim(8)).to_dict()
    assert slow["met"] is False
    assert gpu.report([gpu.Outcome("training", "done", 1.0, [slow])], CPU, here, 3.0)


STAND_IN = """
import json, sys
part = sys.argv[sys.argv.index("--part") + 1]
folder = sys.argv[sys.argv.index("--directory") + 1]
if part == "tft":
    sys.exit("no such GPU")
with open(f"{folder}/{part}.jsonl", "w") as file:
    file.write(json.dumps({"name": "found before"}) + "\\n")
"""


def test_a_part_that_fails_or_takes_too_long_is_named_and_the_others_go_on(gpu, here, monkeypatch):
    (here / "stand_in.py").write_text(STAND_IN)
    monkeypatch.setattr(gpu, "__file__", str(here / "stand_in.py"))
    monkeypatch.setattr(gpu, "PARTS", {"tft": 300, "compiled": 20, "waits": 300})
    run = gpu.run_command

    def timed(command, output, seconds):
        code = run(command, output, 300)
        return None if seconds == 20 else code

    monkeypatch.setattr(gpu, "run_command", timed)
    outcomes = gpu.run_all("cpu", here / "out", list(gpu.PARTS), True, 1000.0)
    assert [(o.part, o.state) for o in outcomes] == [
        ("tft", "failed"), ("compiled", "cut off"), ("waits", "done"),
    ]  # fmt: skip
    assert [o.error for o in outcomes] == ["no such GPU", "after its 20 s", ""]
    assert [o.figures for o in outcomes] == [[], [{"name": "found before"}], [{"name": "found before"}]]


def test_what_a_part_has_started_ends_with_it(gpu, here):
    program = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "open('child', 'w').write(f'{child.pid} ')\n"
        "child.wait()\n"
    )

    class Process(subprocess.Popen):
        def wait(self, timeout=None):
            """Takes too long as soon as the child is there."""
            if timeout is None:
                return super().wait()
            wait_for(lambda: Path("child").exists() and Path("child").read_text().endswith(" "))
            raise subprocess.TimeoutExpired(self.args, timeout)

    with pytest.MonkeyPatch.context() as patched, open("log", "w") as log:
        patched.setattr(subprocess, "Popen", Process)
        assert gpu.run_command([sys.executable, "-c", program], log, 9.0) is None
    child = int(Path("child").read_text())
    wait_for(lambda: not psutil.pid_exists(child) or psutil.Process(child).status() == "zombie")


def test_the_time_of_all_parts_is_bounded(gpu, here):
    began = time.monotonic()
    outcomes = gpu.run_all("cpu", here, list(gpu.PARTS), True, 0.0)
    assert {o.state for o in outcomes} == {"cut off"} and time.monotonic() - began < 60


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_in_a_line(here):
    done = subprocess.run([sys.executable, str(TOOLS / "gpu.py")], capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and "no CUDA device" in done.stderr
