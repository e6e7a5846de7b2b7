"""What the README tells a reader to type works as it stands there."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path

import processes
import pytest
from torch.distributed import TCPStore
from yahoo_frames import Answering, days, prices, yahoo

pytestmark = pytest.mark.usefixtures("pictures")

__all__ = ["yahoo"]  # a fixture

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
LINES = [line.split("  #")[0].strip() for block in BLOCKS for line in block.splitlines() if line.strip()]
ELSEWHERE = ("=RUN", "data=yahoo", "experiment=best")  # what has tests of its own
TRAIN = [
    line
    for line in LINES
    if line.startswith("stockenh train") and not any(word in line for word in ELSEWHERE)
]


def shrunk(line: str, small_run: list[str], folder: Path) -> list[str]:
    """The command's own words, and for all that it leaves open the small test run."""
    words = [word.replace("DIR", str(folder)) for word in shlex.split(line)[1:]]
    given = {word.split("=")[0] for word in words}
    fill = [w for w in small_run if w.split("=")[0] not in given]
    if any(word.startswith("split=walk_forward") for word in words):
        fill = [w for w in fill if not w.startswith("split.test")] + ["data.horizons=[1,2]"]
    if "data=synthetic" in words:
        fill = [w for w in fill if not w.startswith("data.path")] + ["data.symbols=2", "data.bars=160"]
    if "split=all" in words:
        fill = [w for w in fill if not w.startswith("split.")]
    return words + fill


@pytest.fixture(scope="module")
def trained(small_run: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    done = processes.run("train", *small_run, f"hydra.run.dir={folder}")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of it in the test's folder."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def test_it_names_the_commands_that_there_are() -> None:
    assert LINES[:2] == ["make train", "make test"]
    assert len(TRAIN) >= 5


@pytest.mark.parametrize("target", ["train", "test", "setup", "help", "bench", "lint", "type"])
def test_make_knows_its_targets(target: str) -> None:
    done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("line", TRAIN)
def test_a_command_does_what_it_says(
    line: str, stockenh: Callable[..., object], small_run: list[str], bars_folder: Path,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    answer = stockenh(*shrunk(line, small_run, bars_folder))
    assert answer.code == 0, answer.err
    if "--cfg" in line:
        assert "epochs: 1" in answer.out
    elif "--multirun" in line:
        assert len(list(tmp_path.glob("outputs/*/*/*/summary.json"))) == 3
    else:
        run = next(tmp_path.glob("outputs/*/*/summary.json")).parent
        assert "majority" in answer.out
        again = stockenh("train", f"resume={run}")
        assert again.code == 0 and "is finished" in again.out


def test_a_search_does_what_it_says(
    stockenh: Callable[..., object], small_run: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    search, resume, *_ = (line for line in LINES if line.startswith("stockenh sweep"))
    space = ["sweep=base", "model.patch=5,10", "sweep.n_trials=2", "sweep.n_workers=1"]
    answer = stockenh(*shlex.split(search)[1:], *small_run, *space)
    assert answer.code == 0, answer.err
    folder = next(tmp_path.glob("outputs/*/*/best.yaml")).parent
    (best,) = [line for line in LINES if line.endswith("experiment=best")]
    for line in (resume, best):
        answer = stockenh(*(word.replace("DIR", str(folder)) for word in shlex.split(line)[1:]))
        assert answer.code == 0, answer.err


@pytest.mark.slow
@pytest.mark.parametrize("line", [line for line in LINES if "--nnodes" in line])
def test_several_processes_do_what_they_say(line: str, small_run: list[str], tmp_path: Path) -> None:
    """Machines are agents of this one, with a process each."""
    # bound from here on, so that nobody else can take its port; agents connect to it
    store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    line = (
        line.replace("HOST:29500", f"localhost:{store.port}")
        .replace("node=8", "node=1")
        .replace("DIR", "run")
    )
    launch, _, own = line.removeprefix("torchrun ").partition(" -m stockenh ")
    if "--rdzv" not in launch:
        launch += " --standalone"
    words = [sys.executable, "-m", "torch.distributed.run", *launch.split(), "-m", "stockenh"]
    words += shrunk(f"stockenh {own}", small_run, tmp_path)
    machines = 2 if "--nnodes=2" in launch else 1
    started = [
        subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(machines)
    ]
    said = [process.communicate() for process in started]
    assert [process.returncode for process in started] == [0] * machines, said
    assert "".join(out for out, _ in said).count("2 processes") == 1
    assert len(list(tmp_path.rglob("summary.json"))) == 1


@pytest.mark.parametrize("line", [line for line in LINES if "launcher" in line or "postgresql" in line])
def test_a_search_on_a_cluster_composes(line: str, stockenh: Callable[..., object], tmp_path: Path) -> None:
    words = [word.replace("DIR", str(tmp_path)) for word in shlex.split(line)[2:]]
    answer = stockenh("sweep", *words, "--cfg", "all")
    assert answer.code == 0, answer.err
    assert "hydra_plugins.stockenh.OptunaSweeper" in answer.out
    if "launcher" in line:
        assert f"launcher: {line.split('hydra/launcher=')[1].split()[0]}" in answer.out


def test_a_download_does_what_it_says(
    stockenh: Callable[..., object], yahoo: Answering, small_run: list[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (line,) = (line for line in LINES if "data=yahoo" in line)
    client = yahoo(AAPL=prices(days("2020-01-01", 160)), MSFT=prices(days("2020-01-01", 160), 1))
    fill = [w for w in small_run if not w.startswith(("data=", "data.path"))]
    answer = stockenh(*shlex.split(line)[1:], *fill, "cache_dir=cache")
    assert answer.code == 0, answer.err
    assert [(ticker, options["start"]) for ticker, options in client.asked] == [
        ("AAPL", "2010-01-01"), ("MSFT", "2010-01-01"),
    ]  # fmt: skip


def test_runs_and_what_goes_on_from_one_do_what_they_say(
    stockenh: Callable[..., object], small_run: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert {"stockenh runs", "stockenh runs DIR loss=huber_bce"} < set(LINES)
    monkeypatch.chdir(tmp_path)
    assert stockenh("train", *small_run, "hydra.run.dir=outputs/first").code == 0
    line = next(line for line in LINES if "init_from=RUN" in line)
    answer = stockenh(*shrunk(line.replace("RUN", "outputs/first"), small_run, tmp_path))
    assert answer.code == 0 and "start    raw weights of" in answer.out
    for arguments in (["runs"], ["runs", "outputs", "loss=huber_bce"]):
        answer = stockenh(*arguments)
        assert answer.code == 0 and "2 of 2 runs in outputs" in answer.out


def test_find_lr_does_what_it_says(
    stockenh: Callable[..., object], small_run: list[str], bars_folder: Path,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (line,) = (line for line in LINES if line.startswith("stockenh find-lr"))
    answer = stockenh(*shrunk(line, small_run, bars_folder))
    assert answer.code in (0, 1)  # on a random walk there may be nothing to learn, and it says so
    assert ("paste    optimizer.lr=" in answer.out) == (answer.code == 0)
    assert len(list(tmp_path.glob("outputs/*/*/lr_finder.png"))) == 1


def test_a_forecast_does_what_it_says(
    stockenh: Callable[..., object], run: Path, bars_folder: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (line,) = [line for line in LINES if line.startswith("stockenh tta-predict") and "DIR" in line]
    words = [w.replace("DIR", str(bars_folder)).replace("RUN", "run") for w in shlex.split(line)[1:]]
    answer = stockenh(*words)
    assert answer.code == 0, answer.err
    assert "AAA" in answer.out and len(list(tmp_path.glob("outputs/*/*/forecast.csv"))) == 1


def test_a_cheaper_model_comes_about_as_it_says(
    stockenh: Callable[..., object], run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    starts = ("stockenh distill", "stockenh export", "stockenh tta-predict run=RUN tta.engine=onnx")
    for start in starts:
        (line,) = [line for line in LINES if line.startswith(start)]
        more = ["train.epochs=1"] if "distill" in line else []
        answer = stockenh(*shlex.split(line.replace("RUN", "run"))[1:], *more)
        assert answer.code == 0, answer.err
    assert len(list(tmp_path.glob("outputs/*/*/distillation.json"))) == 1
    done = subprocess.run(
        [sys.executable, ROOT / "examples/serve.py", "run/export"], capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_an_explanation_does_what_it_says(
    stockenh: Callable[..., object], run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (line,) = [line for line in LINES if line.startswith("stockenh explain")]
    words = shlex.split(line.replace("RUN", "run"))[1:]
    answer = stockenh(*words, "explain.windows=8", "explain.outputs=[up]")
    assert answer.code == 0, answer.err
    assert "gap, worst window" in answer.out and (tmp_path / "run/explain/attributions.png").is_file()


def test_an_audit_does_what_it_says(
    stockenh: Callable[..., object], run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (line,) = [line for line in LINES if line.startswith("stockenh audit")]
    words = shlex.split(line.replace("RUN", "run"))[1:]
    answer = stockenh(*words, "audit.dates=1", "audit.shuffles=2")
    assert answer.code == 0, answer.err
    assert "no leak found" in answer.out and (tmp_path / "run/report/audit.png").is_file()


def test_an_evaluation_does_what_it_says(
    stockenh: Callable[..., object], run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (line,) = [line for line in LINES if line.startswith("stockenh evaluate")]
    answer = stockenh(*shlex.split(line.replace("RUN", "run"))[1:], "evaluate.block=10")
    assert answer.code == 0, answer.err
    assert "verdict  10 bars" in answer.out and (tmp_path / "run/report/evaluation.md").is_file()


def test_a_benchmark_does_what_it_says(
    stockenh: Callable[..., object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (line,) = [line for line in LINES if line.startswith("stockenh bench")]
    words = [*shlex.split(line)[1:], "bench.parts=[training]", "bench.seconds=0.01", "bench.rounds=3"]
    answer = stockenh(*words, "model=timeformer", "model.d_model=16", "model.layers=1")
    assert answer.code == 0, answer.err
    assert "project's loop / plain recipe" in answer.out
    assert len(list(tmp_path.glob("outputs/*/*/bench.png"))) == 1


def test_data_check_does_what_it_says(stockenh: Callable[..., object], bars_folder: Path) -> None:
    assert "stockenh data check DIR" in LINES
    answer = stockenh("data", "check", str(bars_folder))
    assert answer.code == 0 and "2 of 2 files usable" in answer.out


def test_a_loss_is_one_file_and_one_yaml(
    stockenh: Callable[..., object], small_run: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    target = re.search(r"`_target_: (stockenh\.training\.losses\.(\w+)\.(\w+))`", README)
    assert code is not None and target is not None
    module = types.ModuleType(f"stockenh.training.losses.{target[2]}")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(code[1], "readme", "exec"), module.__dict__)
    folder = tmp_path / "conf" / "loss"
    folder.mkdir(parents=True)
    (folder / "squared.yaml").write_text(
        f"_target_: {target[1]}\nreturn_weight: 1.0\ndirection_weight: 0.5\n"
    )
    monkeypatch.chdir(tmp_path)
    arguments = ["train", "loss=squared", "--config-dir", str(tmp_path / "conf"), *small_run]
    answer = stockenh(*arguments)
    assert answer.code == 0, answer.err
    wrong = stockenh(*arguments, "loss.return_weight=much")
    assert wrong.code == 2 and "loss.return_weight=much is not a number" in wrong.err


def test_its_links_and_pictures_are_there() -> None:
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert link.startswith("https://") or (page.parent / link).exists(), f"{page.name}: {link}"


def test_the_data_page_names_every_rule() -> None:
    page = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    source = "".join(p.read_text(encoding="utf-8") for p in sorted((ROOT / "stockenh" / "data").glob("*.py")))
    rules = set(re.findall(r'Finding\(\s*"(?:error|drop|warning)",\s*"([a-z-]+)"', source))
    rules |= set(re.findall(r'(?:RowRule|Reason|_Warning|problem)\(\s*"([a-z-]+)"', source))
    assert len(rules) >= 30
    assert [rule for rule in sorted(rules) if f"`{rule}`" not in page] == []
