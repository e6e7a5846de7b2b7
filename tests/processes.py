"""The program in processes of their own that begin with its imports done: forks of one that has made them.

A fresh interpreter spends seconds of processor time on torch before a test's own subject begins. What is
about the start of the program itself takes a fresh one: conftest's `shell`.
"""

from __future__ import annotations

import atexit
import functools
import gc
import importlib
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from waiting import wait_for

# the slow part of what the program imports; polars and onnxruntime begin threads, which a fork loses
IMPORTS = (
    "torch._dynamo", "torch.distributed", "torch.onnx._internal.exporter._core",
    "onnxscript.function_libs.torch_lib.ops", "matplotlib.figure", "matplotlib.backends.backend_agg", "hydra",
    "optuna.importance", "sklearn.ensemble", "sklearn.linear_model", "scipy.stats", "safetensors.torch",
    "rich.progress", "typer",
)  # fmt: skip


# Arrow, which scikit-learn imports by way of pandas, has a thread of its memory allocator otherwise.
NO_THREADS = {
    "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "JE_ARROW_MALLOC_CONF": "background_thread:false",
}  # fmt: skip

HOLD = Path(__file__).parent / "hold"


@dataclass(frozen=True)
class Hold:
    """A point where runs wait just before they write a file, until the test lets them go or a signal comes.

    folder: an empty one, for this alone; file: its name; epochs: lines that metrics.jsonl has by then;
    write: which of the writes from then on, counted in each process
    """

    folder: Path
    file: str = "metrics.jsonl"
    epochs: int = 0
    write: int = 1

    @property
    def environment(self) -> dict[str, str]:
        """What makes a process, and those that it starts, wait there."""
        path = os.pathsep.join(filter(None, (str(HOLD), os.environ.get("PYTHONPATH"))))
        self.folder.mkdir(parents=True, exist_ok=True)
        return {"PYTHONPATH": path, "HOLD": json.dumps(asdict(self), default=str)}

    def wait_for(self, *processes: Process, number: int = 1) -> list[int]:
        """The ids of the processes that wait there, once there are `number`. Fails if one of these ends."""
        wait_for(lambda: len(list(self.folder.iterdir())) >= number, *processes)
        return [int(path.name) for path in self.folder.iterdir()]

    def release(self) -> None:
        """Lets all go on, also those that come later."""
        (self.folder / "released").touch()


class Process:
    """A run of `stockenh`, with the methods of subprocess.Popen that tests need."""

    def __init__(
        self, arguments: tuple[str, ...], cwd: Path | None, first: str, environment: dict[str, str]
    ) -> None:
        self._folder = Path(tempfile.mkdtemp(dir=_folder()))
        said = {name: str(self._folder / name) for name in ("out", "err")}
        asked = {"arguments": arguments, "cwd": str(cwd or Path.cwd()), "first": first, **said}
        self.returncode: int | None = None
        self.pid = int(_ask({**asked, "environment": {**os.environ, **environment}}))

    def poll(self) -> int | None:
        """The exit code; as Popen's below 0 after a signal, None while it runs."""
        if self.returncode is None:
            self.returncode = _ask({"pid": self.pid})
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kills the process, which must not have ended by itself, and waits for its end."""
        self.send_signal(signal.SIGKILL)
        self.communicate()
        assert self.returncode == -signal.SIGKILL

    def communicate(self) -> tuple[str, str]:
        """Waits for the end; standard output and standard error."""
        wait_for(lambda: self.poll() is not None)
        out, err = ((self._folder / name).read_text(errors="replace") for name in ("out", "err"))
        return out, err


def start(
    *arguments: str, cwd: Path | None = None, first: str = "", hold: Hold | None = None, **environment: str
) -> Process:
    """Begins `stockenh` with these arguments, in this process's folder where none is named.

    first: Python that the process runs before; environment: what it has besides this process's.
    """
    return Process(arguments, cwd, first, environment | (hold.environment if hold else {}))


def run(*arguments: str, cwd: Path | None = None, first: str = "") -> subprocess.CompletedProcess[str]:
    """Runs `stockenh` to its end."""
    process = start(*arguments, cwd=cwd, first=first)
    out, err = process.communicate()
    return subprocess.CompletedProcess(arguments, process.poll() or 0, out, err)


_STORES: list[Any] = []  # for as long as the processes that meet there


def start_pair(*arguments: str, cwd: Path, first: str = "") -> list[Process]:
    """Two processes with the environment that torchrun gives them."""
    from torch.distributed import TCPStore  # the server imports this module before torch

    # bound from here on, as torchrun's own: nobody else can take its port
    store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    _STORES.append(store)
    meeting = {
        "MASTER_ADDR": "localhost", "MASTER_PORT": str(store.port), "WORLD_SIZE": "2",
        "TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0",
    }  # fmt: skip
    return [
        start(*arguments, cwd=cwd, first=first, RANK=rank, LOCAL_RANK=rank, **meeting) for rank in ("0", "1")
    ]


@functools.cache
def _folder() -> Path:
    made = tempfile.mkdtemp(prefix="processes")
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return Path(made)


@functools.cache
def _server() -> subprocess.Popen[str]:
    made = subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, **NO_THREADS},
    )  # fmt: skip
    atexit.register(made.communicate)
    return made


def _ask(question: dict[str, Any]) -> Any:
    server = _server()
    assert server.stdin is not None and server.stdout is not None
    server.stdin.write(json.dumps(question) + "\n")
    server.stdin.flush()
    return json.loads(server.stdout.readline())


def forks() -> bool:
    """Whether processes begin with the imports done; if not, an import has begun a thread."""
    return bool(_ask({}))


def _import_all() -> None:
    for name in IMPORTS:
        importlib.import_module(name)
    gc.freeze()  # forks then share the memory of what is imported


def _serve() -> dict[str, Any] | None:
    """Answers until nobody asks any more; in a fork returns what it is to run."""
    tasks = Path("/proc/self/task")
    alone = tasks.is_dir() and len(list(tasks.iterdir())) == 1
    running: set[int] = set()
    for line in iter(sys.stdin.readline, ""):
        asked = json.loads(line)
        if not asked:
            answer = alone
        elif "pid" in asked:
            pid, status = os.waitpid(asked["pid"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
            running.discard(pid)
        else:
            answer = os.fork()
            if not answer and not alone:  # a fork loses an import's threads, with the locks that they held
                os.execv(sys.executable, [sys.executable, __file__, line])
            if not answer:
                return dict(asked)
            running.add(answer)
        print(json.dumps(answer), flush=True)
    for pid in running:  # what tests that failed have left
        os.kill(pid, signal.SIGKILL)
    return None


def _become(asked: dict[str, Any]) -> None:
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    for stream, name in enumerate((os.devnull, asked["out"], asked["err"])):
        handle = os.open(name, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(handle, stream)
        os.close(handle)
    # as in a terminal: tests that were themselves started in the background would hand on that it is ignored
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if "HOLD" in os.environ:
        runpy.run_path(str(HOLD / "sitecustomize.py"))
    exec(asked["first"], {})
    sys.argv = ["stockenh", *asked["arguments"]]
    runpy.run_module("stockenh", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    sys.path[0] = ""  # as under `python -m`
    if sys.argv[1:]:
        _become(json.loads(sys.argv[1]))
    else:
        _import_all()
        if (request := _serve()) is not None:
            _become(request)
