"""Every command of the README and of the tour of the commands works as written."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import types
from pathlib import Path

import processes
import pytest
from torch.distributed import TCPStore
from yahoo_frames import days, prices, yahoo

pytestmark = pytest.mark.usefixtures("pictures")

__all__ = ["yahoo"]  # a fixture

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
TOUR = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```sh\n(.*?)```", README + TOUR, re.DOTALL)
# each once: the README has the first of the tour's
LINES = list(
    dict.fromkeys(
        line.split("  #")[0].strip() for block in BLOCKS for line in block.splitlines() if line.strip()
    )
)
ELSEWHERE = ("=RUN", "data=yahoo", "run_config=")  # these have tests of their own
TRAIN = [
    line
    for line in LINES
    if line.startswith("stockenh train") and not any(word in line for word in ELSEWHERE)
]
SMALL_MODEL = "model=timeformer model.d_model=16 model.layers=1"
QUICK_BENCH = f"bench.parts=[training] bench.seconds=0.01 bench.rounds=3 {SMALL_MODEL}"
EXPLAINED = "run/explain/attributions.png"
DISTILL = ("stockenh distill", "train.epochs=1", "", "outputs/*/*/distillation.json")
# the start of a line, arguments that keep it short, what it prints, the only file of this name that it writes
REPORTS = [
    ("stockenh tta-predict run=RUN data=files", "", "AAA", "outputs/*/*/forecast.csv"),
    ("stockenh evaluate", "evaluate.block=10", "verdict  10 bars", "run/report/evaluation.md"),
    ("stockenh explain", "explain.windows=8 explain.outputs=[up]", "gap, worst window", EXPLAINED),
    ("stockenh audit", "audit.dates=1 audit.shuffles=2", "no leak found", "run/report/audit.png"),
    ("stockenh bench", QUICK_BENCH, "project's loop / plain recipe", "outputs/*/*/bench.png"),
]  # fmt: skip


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> Path:
    """Every test runs in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def trained(small_run, tmp_path_factory) -> Path:
    """A finished run."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    done = processes.run("train", *small_run, f"hydra.run.dir={folder}")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def run(trained, here) -> Path:
    """A copy of it in the test's folder."""
    return Path(shutil.copytree(trained, here / "run"))


def line_of(start: str) -> str:
    """The only line that starts so."""
    (line,) = [line for line in LINES if line.startswith(start)]
    return line


def words_of(line: str, **values: object) -> list[str]:
    """The arguments of a line, with values in place of its capital letters."""
    for name, value in values.items():
        line = line.replace(name, str(value))
    return shlex.split(line)[1:]


def shrunk(line: str, small_run: list[str], folder: Path) -> list[str]:
    """The arguments of a line, and the small test run for everything that they leave open."""
    words = words_of(line, DIR=folder)
    given = {word.split("=")[0] for word in words}
    fill = [w for w in small_run if w.split("=")[0] not in given]
    if any(word.startswith("split=walk_forward") for word in words):
        fill = [w for w in fill if not w.startswith("split.test")] + ["data.horizons=[1,2]"]
    if "data=synthetic" in words:
        fill = [w for w in fill if not w.startswith("data.path")] + ["data.symbols=2", "data.bars=160"]
    if "split=all" in words:
        fill = [w for w in fill if not w.startswith("split.")]
    return words + fill


def test_it_names_the_commands() -> None:
    assert LINES[:2] == ["make train", "make test"]
    assert len(TRAIN) >= 5
    commands = {line.split()[1] for line in LINES if line.startswith("stockenh ")}
    assert {"train", "data", "evaluate", "tta-predict"} <= commands
    assert len(README.split()) < 900  # a front door; depth is in docs/


@pytest.mark.parametrize("target", ["train", "test", "setup", "help", "bench", "lint", "type", "docs"])
def test_make_has_its_targets(target) -> None:
    done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("line", TRAIN)
def test_training(line, stockenh, small_run, bars_folder, here) -> None:
    answer = stockenh(*shrunk(line, small_run, bars_folder))
    assert answer.code == 0, answer.err
    if "--cfg" in line:
        assert "epochs: 1" in answer.out
    elif "--multirun" in line:
        assert len(list(here.glob("outputs/*/*/*/summary.json"))) == 3
    else:
        run = next(here.glob("outputs/*/*/summary.json")).parent
        assert "majority" in answer.out
        again = stockenh("train", f"resume={run}")
        assert again.code == 0 and "is finished" in again.out


@pytest.mark.parametrize(
    ("start", "short", "printed", "file"),
    [
        *(pytest.param(*report, id=report[0].split()[1]) for report in REPORTS),
        pytest.param(*DISTILL, id="distill", marks=pytest.mark.deep),
    ],
)
def test_a_report(start, short, printed, file, stockenh, run, bars_folder, here) -> None:
    answer = stockenh(*words_of(line_of(start), DIR=bars_folder, RUN="run"), *shlex.split(short))
    assert answer.code == 0, answer.err
    assert printed in answer.out and len(list(here.glob(file))) == 1


@pytest.mark.deep
def test_an_export_serves_forecasts(stockenh, run, bars_folder) -> None:
    for start in ("stockenh export", "stockenh tta-predict run=RUN tta.engine=onnx"):
        answer = stockenh(*words_of(line_of(start), RUN="run"))
        assert answer.code == 0, answer.err
    serve = [sys.executable, ROOT / "examples/serve.py", "run/export", bars_folder / "AAA.csv"]
    done = subprocess.run(serve, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.deep
def test_a_search_is_resumed_and_its_best_trial_trained(stockenh, small_run, here) -> None:
    search, resume, *_ = (line for line in LINES if line.startswith("stockenh sweep"))
    space = ["sweep=base", "model.patch=5,10", "sweep.n_trials=2", "sweep.n_workers=1"]
    answer = stockenh(*words_of(search), *small_run, *space)
    assert answer.code == 0, answer.err
    folder = next(here.glob("outputs/*/*/best.yaml")).parent
    (best,) = [line for line in LINES if "run_config=" in line]
    for line in (resume, best):
        answer = stockenh(*words_of(line, DIR=folder))
        assert answer.code == 0, answer.err


@pytest.mark.parametrize("line", [line for line in LINES if "launcher" in line or "postgresql" in line])
def test_a_search_on_a_cluster_composes(line, stockenh, here) -> None:
    answer = stockenh(*words_of(line, DIR=here), "--cfg", "all")
    assert answer.code == 0, answer.err
    assert re.search(r"_target_: hydra_plugins\.stockenh\S*\.OptunaSweeper$", answer.out, re.MULTILINE)
    if "launcher" in line:
        assert f"launcher: {line.split('hydra/launcher=')[1].split()[0]}" in answer.out


@pytest.mark.deep
def test_several_machines(small_run, here) -> None:
    """Machines are agents on this one, with a process each."""
    # bound from here on, so that no other program takes the port; the agents connect to it
    store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    line = line_of("torchrun --nnodes=2").replace("HOST:29500", f"localhost:{store.port}")
    launch, _, own = line.replace("node=8", "node=1").partition(" -m stockenh ")
    words = [sys.executable, "-m", "torch.distributed.run", *launch.split()[1:], "-m", "stockenh"]
    words += shrunk(f"stockenh {own.replace('DIR', 'run')}", small_run, here)
    started = [
        subprocess.Popen(words, cwd=here, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    printed = [process.communicate() for process in started]
    assert [process.returncode for process in started] == [0, 0], printed
    assert "".join(out for out, _ in printed).count("2 processes") == 1
    assert len(list(here.rglob("summary.json"))) == 1


def test_a_download(stockenh, yahoo, small_run) -> None:
    client = yahoo(AAPL=prices(days("2020-01-01", 160)), MSFT=prices(days("2020-01-01", 160), 1))
    fill = [w for w in small_run if not w.startswith(("data=", "data.path"))]
    answer = stockenh(*words_of(line_of("stockenh train data=yahoo")), *fill, "cache_dir=cache")
    assert answer.code == 0, answer.err
    requests = [(ticker, options["start"]) for ticker, options in client.requests]
    assert requests == [("AAPL", "2010-01-01"), ("MSFT", "2010-01-01")]


def test_runs_are_listed_and_started_from(stockenh, small_run, here) -> None:
    assert {"stockenh runs", "stockenh runs DIR loss=huber_bce"} < set(LINES)
    assert stockenh("train", *small_run, "hydra.run.dir=outputs/first").code == 0
    line = line_of("stockenh train init_from=RUN").replace("RUN", "outputs/first")
    answer = stockenh(*shrunk(line, small_run, here))
    assert answer.code == 0 and "start    raw weights of" in answer.out
    for arguments in (["runs"], ["runs", "outputs", "loss=huber_bce"]):
        answer = stockenh(*arguments)
        assert answer.code == 0 and "2 of 2 runs in outputs" in answer.out


def test_find_lr(stockenh, small_run, bars_folder, here) -> None:
    answer = stockenh(*shrunk(line_of("stockenh find-lr"), small_run, bars_folder))
    assert answer.code in (0, 1)  # the curve of a random walk may be flat, which has exit code 1
    assert ("paste    optimizer.lr=" in answer.out) == (answer.code == 0)
    assert len(list(here.glob("outputs/*/*/lr_finder.png"))) == 1


def test_data_check(stockenh, bars_folder) -> None:
    answer = stockenh(*words_of(line_of("stockenh data check"), DIR=bars_folder))
    assert answer.code == 0 and "2 of 2 files usable" in answer.out


def test_a_loss_is_one_file_and_one_yaml(stockenh, small_run, here, monkeypatch) -> None:
    code = re.search(r"```python\n(.*?)```", TOUR, re.DOTALL)
    target = re.search(r"`_target_: (stockenh\.training\.losses\.(\w+)\.(\w+))`", TOUR)
    assert code is not None and target is not None
    module = types.ModuleType(f"stockenh.training.losses.{target[2]}")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(code[1], "readme", "exec"), module.__dict__)
    folder = here / "conf" / "loss"
    folder.mkdir(parents=True)
    settings = f"_target_: {target[1]}\nreturn_weight: 1.0\ndirection_weight: 0.5\n"
    (folder / "squared.yaml").write_text(settings)
    arguments = ["train", "loss=squared", "--config-dir", str(here / "conf"), *small_run]
    answer = stockenh(*arguments)
    assert answer.code == 0, answer.err
    wrong = stockenh(*arguments, "loss.return_weight=much")
    assert wrong.code == 2 and "loss.return_weight=much is not a number" in wrong.err
