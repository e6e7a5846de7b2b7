"""A Ray cluster of two machines, which are processes of this one; it ends with the process that began it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import psutil

SLOT = "slot"  # each machine has one, and each job is to ask for one
PROGRAM = Path(__file__).resolve().parents[1]


class Nodes:
    """Runs for as long as it is entered. A machine is known by the process id of its raylet."""

    address: str

    def __enter__(self) -> Nodes:
        self.folder = Path(tempfile.mkdtemp(prefix="ray"))
        path = os.pathsep.join(filter(None, (str(PROGRAM), os.environ.get("PYTHONPATH"))))
        # its own folder, so that another cluster of this machine keeps its address
        environment = {
            "PYTHONPATH": path, "RAY_TMPDIR": str(self.folder), "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",  # else workers wait for all other processes of this machine
        }  # fmt: skip
        self._log = (self.folder / "cluster.log").open("w")
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log,
            text=True, env={**os.environ, **environment}, start_new_session=True,
        )  # fmt: skip
        try:
            self.address, self.first = self._add()
            _, self.second = self._add()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        family = psutil.Process(self._process.pid).children(recursive=True)
        self._process.communicate()
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._log.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def of(self, pid: int) -> int:
        """The machine that a worker runs on."""
        (machine,) = {self.first, self.second} & {parent.pid for parent in psutil.Process(pid).parents()}
        return machine

    def replace_second(self) -> None:
        """Kills the second machine with all that runs on it, and adds another."""
        raylet = psutil.Process(self.second)
        for process in (raylet, *raylet.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        _, self.second = self._add()

    def _add(self) -> Any:
        """The cluster's address, and another machine."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, (self.folder / "cluster.log").read_text()
        return json.loads(answer)


def _serve() -> None:
    """Answers until nobody asks any more."""
    from ray._private import ray_constants
    from ray.cluster_utils import Cluster

    answers, sys.stdout = sys.stdout, sys.stderr
    for name in ("SIGINT", "SIGTERM"):
        signal.signal(getattr(signal, name), signal.default_int_handler)
    cluster = Cluster()
    try:
        for _ in sys.stdin:
            node = cluster.add_node(include_dashboard=False, num_cpus=1, num_gpus=0, resources={SLOT: 1})
            (raylet,) = node.all_processes[ray_constants.PROCESS_TYPE_RAYLET]
            print(json.dumps([cluster.address, raylet.process.pid]), file=answers, flush=True)
    finally:
        for node in cluster.list_all_nodes():
            node.kill_all_processes(check_alive=False, allow_graceful=False)


if __name__ == "__main__":
    _serve()
