"""A Slurm cluster of one node, this machine, by Debian's packages: munged, slurmctld, slurmd."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from contextlib import ExitStack
from pathlib import Path

import psutil
from waiting import wait_for

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scancel", "scontrol", "sinfo", "squeue", "srun")
PACKAGES = "apt-get install slurmd slurmctld slurm-client munge"
CONFIG = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
SchedulerParameters=batch_sched_delay=0,sched_interval=1
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=1000 State=UNKNOWN
PartitionName=tests Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def why_not() -> str | None:
    """Why no cluster can be started here, or None."""
    missing = [name for name in PROGRAMS if _program(name) is None]
    if missing:
        return f"Slurm is not installed here, {', '.join(missing)} (Debian: {PACKAGES})"
    return None if os.geteuid() == 0 else "slurmd runs jobs for any user and must be started by root"


class Cluster:
    """Runs for as long as it is entered."""

    def __init__(self) -> None:
        self._over = ExitStack()

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to use this cluster."""
        return {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def __enter__(self) -> Cluster:
        self.folder = Path(tempfile.mkdtemp(prefix="slurm"))
        self._over.callback(shutil.rmtree, self.folder, ignore_errors=True)
        self.folder.chmod(0o755)
        for name in ("state", "spool"):
            (self.folder / name).mkdir()
        key = self.folder / "munge.key"
        key.touch(0o600)
        key.write_bytes(secrets.token_bytes(128))
        # bound together, so that they differ
        with socket.socket() as one, socket.socket() as two:
            for each in (one, two):
                each.bind(("127.0.0.1", 0))
            ports = [each.getsockname()[1] for each in (one, two)]
        host = socket.gethostname().partition(".")[0]
        (self.folder / "slurm.conf").write_text(CONFIG.format(host=host, ports=ports, folder=self.folder))
        munge = {"key": "key", "socket": "socket", "pid": "pid", "log": "log", "seed": "seed"}
        files = [
            f"--{name}{'' if name == 'socket' else '-file'}={self.folder}/munge.{end}"
            for name, end in munge.items()
        ]
        try:
            self._daemon("munged", "munge.pid", "--force", *files)
            self._daemon("slurmctld", "slurmctld.pid")
            self._daemon("slurmd", "slurmd.pid")
            wait_for(lambda: self.run("sinfo", "-h", "-o", "%T") in ("idle", "mixed", "allocated"))
        except BaseException:
            self._over.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.run("scancel", "--user=root", "--full")
        wait_for(lambda: not self.jobs())
        self._over.close()

    def run(self, program: str, *arguments: str) -> str:
        """What one of Slurm's programs prints; empty where the controller does not answer yet."""
        done = subprocess.run(
            [str(_program(program)), *arguments],
            capture_output=True,
            text=True,
            env={**os.environ, **self.environment},
        )
        return done.stdout.strip()

    def jobs(self) -> list[str]:
        """The ids of the jobs that wait or run."""
        return self.run("squeue", "-h", "-o", "%A").split()

    def restarts(self, job: str) -> int:
        """How often a job was requeued."""
        words = self.run("scontrol", "show", "job", job).split()
        return next((int(word.partition("=")[2]) for word in words if word.startswith("Restarts=")), 0)

    def hasten(self, job: str) -> None:
        """Lets a requeued job begin in seconds, not minutes; at once, its revoked credential would end it."""

        def is_pending() -> bool:
            return self.run("squeue", "-h", "-o", "%T", "-j", job) == "PENDING"

        wait_for(is_pending)
        self.run("scontrol", "update", f"JobId={job}", "StartTime=now+5seconds")

    def _daemon(self, program: str, pid_file: str, *arguments: str) -> None:
        """Starts a program that becomes a daemon, and stops it in the end."""
        log, path = self.folder / f"{program}.out", self.folder / pid_file
        with log.open("w") as out:
            subprocess.run(
                [str(_program(program)), *arguments], check=True, stdout=out, stderr=out,
                env={**os.environ, **self.environment},
            )  # fmt: skip
        wait_for(lambda: path.exists() and path.read_text().strip().isdecimal())
        process = psutil.Process(int(path.read_text()))
        self._over.callback(_end, process)


def _end(process: psutil.Process) -> None:
    try:
        process.send_signal(signal.SIGTERM)
        process.wait()
    except psutil.NoSuchProcess:
        pass


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
