"""SIGTERM and Ctrl-C before the training begins: one line, exit code 130, nothing written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import processes
import pytest

# Python that runs before the program: it sends the signal at a moment of the program's own.
AT_IMPORT = """
import os, sys
def watch(event, arguments, sent=[]):
    if event == "import" and arguments[0] == "{0}" and not sent:
        sent.append(os.kill(os.getpid(), {1}))
sys.addaudithook(watch)
"""
AT_CALL = """
import os, {0} as module
def stop(*arguments, **options):
    os.kill(os.getpid(), {2})
    raise AssertionError("the signal came to nothing")
module.{1} = stop
"""
MOMENTS = {
    "the command line": (AT_IMPORT, "stockenh.cli"),
    "an import": (AT_IMPORT, "stockenh.training.step"),
    "a library": (AT_IMPORT, "polars.dataframe.frame"),
    "composing": (AT_CALL, "hydra", "compose"),
    "reading bars": (AT_CALL, "stockenh.data.sources.files", "list_files"),
    "embedding": (AT_CALL, "stockenh.embedding.compute", "_compute"),
    "the model": (AT_CALL, "stockenh.config.build", "model"),
}


SENT = [*((moment, signal.SIGTERM) for moment in MOMENTS), *((moment, other) for other in
        (signal.SIGINT, signal.SIGUSR2) for moment in ("the command line", "reading bars"))]  # fmt: skip


@pytest.mark.parametrize(("moment", "sent"), SENT)
def test_a_stop_before_the_run_begins_is_a_line(small_run, tmp_path, moment, sent):
    code, *names = MOMENTS[moment]
    run = tmp_path / "run"
    given = [*small_run, f"hydra.run.dir={run}", f"cache_dir={tmp_path / 'cache'}"]
    done = processes.run("train", *given, first=code.format(*names, int(sent)))
    assert done.returncode == 130, done.stderr
    assert done.stderr.startswith("stockenh: interrupted") and len(done.stderr.splitlines()) == 1, done.stderr
    assert not run.exists() and not list(tmp_path.rglob("*.part*"))


@pytest.mark.parametrize(
    ("command", "sent"),
    [("evaluate", signal.SIGTERM), ("tta-predict", signal.SIGINT), ("export", signal.SIGTERM),
     ("sweep", signal.SIGINT), ("ablate", signal.SIGTERM), ("find-lr", signal.SIGINT)],
)  # fmt: skip
def test_every_command_ends_so(small_run, finished_run, tmp_path, command, sent):
    given = [f"run={finished_run}"] if command in ("evaluate", "tta-predict", "export") else small_run
    code = AT_IMPORT.format("stockenh.config.build", int(sent))
    done = processes.run(command, *given, cwd=tmp_path, first=code)
    assert done.returncode == 130, done.stderr
    assert len(done.stderr.splitlines()) == 1 and "stockenh: " in done.stderr


def test_a_signal_that_is_ignored_stays_ignored(tmp_path):
    code = f"import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n{AT_IMPORT.format('typer', 2)}"
    code += "import runpy; sys.argv = ['stockenh', '--version']\n"
    code += "runpy.run_module('stockenh', run_name='__main__')"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0 and done.stdout.startswith("stockenh ")
