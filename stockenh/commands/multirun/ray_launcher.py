"""Runs the jobs of a multirun as tasks of a Ray cluster: one that is there, or one of this machine alone.

Only this module imports Ray, and only when such a multirun begins.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, configure_log, filter_overrides, run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict
from pydantic import Field

from stockenh.commands.multirun.folder import WORKERS
from stockenh.commands.multirun.worker import Worker
from stockenh.config.schema import settings_of
from stockenh.errors import ConfigError, StockenhError, printable_line
from stockenh.storage.untrusted import require_plain_folder
from stockenh.training.stop import STOP_SIGNALS

NODE = "hydra.launcher"
LOOK_SECONDS = 5.0  # between two looks at whether the cluster still has a machine for waiting jobs
MOST_DEATHS = 3  # of one worker, which begins again after each but the last
LONGEST_CAUSE = 300
CONNECT_SECONDS = 10.0

Amount = Annotated[float, Field(ge=0, le=1e6)]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RayConfig:
    """The node hydra.launcher of `hydra/launcher=stockenh_ray`.

    address: of a cluster; null: that of $RAY_ADDRESS, else a cluster of this machine for this command
    num_cpus, num_gpus, resources: of each job; num_gpus=null: a GPU where the cluster has any, unless device
    is another
    runtime_env: as in Ray, such as {env_vars: {NAME: VALUE}}
    """

    address: str | None = None
    num_cpus: Amount = 1.0
    num_gpus: Amount | None = None
    resources: dict[str, Amount] | None = None
    runtime_env: dict[str, Any] | None = None

    def needs(self, has_gpus: bool, device: str) -> dict[str, float]:
        """What a job needs of its machine, by Ray's names."""
        gpus = self.num_gpus
        if gpus is None:
            gpus = float(has_gpus and device.partition(":")[0] in ("auto", "cuda"))
        return {"CPU": self.num_cpus, "GPU": gpus, **(self.resources or {})}


@dataclass
class LostJob(JobReturn):
    """A job whose process or machine died before it ended; its return value is an error that says so."""

    why: str = ""


@dataclass(frozen=True)
class RayJobs:
    """What all jobs of a launch share; sent to their processes.

    directory: the current one of the command, which paths of the config may be relative to
    """

    context: HydraContext
    config: DictConfig
    task: TaskFunction
    directory: str = field(default_factory=os.getcwd)
    state: Any = field(default_factory=Singleton.get_state)

    def run(self, overrides: Sequence[str], number: int) -> JobReturn:
        """Runs a job in the process of a Ray task."""
        try:
            os.chdir(self.directory)
        except OSError:
            raise ConfigError(
                f"the machine {socket.gethostname()} of the Ray cluster has no folder {self.directory}: "
                f"start the command in a folder that all of them share"
            ) from None
        Singleton.set_state(self.state)
        setup_globals()
        config = self.context.config_loader.load_sweep_config(self.config, list(overrides))
        with open_dict(config):
            config.hydra.job.id = config.hydra.job.num = number
        _print_to(Path(str(config.hydra.sweep.dir)) / WORKERS / f"{number}.log")
        return run_job(
            hydra_context=self.context,
            task_function=self.task,
            config=config,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )


def _print_to(path: Path) -> None:
    """Sends what this process prints to a file, which follows no link."""
    require_plain_folder(path.parent, to_write=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)
    handle = os.open(path, flags, 0o666)
    for stream in (1, 2):
        os.dup2(handle, stream)
    os.close(handle)


def launch(
    jobs: RayJobs, settings: Mapping[str, Any], overrides: Sequence[Sequence[str]], first: int
) -> list[JobReturn]:
    """Runs the jobs with these overrides, numbered from `first`, until all have ended or are lost.

    Raises ConfigError where Ray is missing, no cluster answers, or none of its machines is large enough;
    StockenhError where a job could not begin.
    """
    node = {key: OmegaConf.to_container(v) if OmegaConf.is_config(v) else v for key, v in settings.items()}
    asked = settings_of(NODE, RayConfig, node)
    setup_globals()
    configure_log(jobs.config.hydra.hydra_logging, jobs.config.hydra.verbose)
    with _cluster(asked.address) as ray:
        has_gpus = any("GPU" in machine for machine in _machines(ray))
        needs = asked.needs(has_gpus, str(jobs.config.get("device", "auto")))
        _require_room(_machines(ray), needs)
        more = {name: amount for name, amount in needs.items() if name not in ("CPU", "GPU")}
        run = ray.remote(
            num_cpus=needs["CPU"], num_gpus=needs["GPU"], resources=more, runtime_env=asked.runtime_env,
            max_retries=0, max_calls=1, scheduling_strategy="SPREAD",
        )(RayJobs.run)  # fmt: skip
        return _Tasks(ray, run, jobs, needs, overrides, first).results()


@dataclass
class _Tasks:
    """The tasks of a launch."""

    ray: Any
    run: Any  # the remote function
    jobs: RayJobs
    needs: Mapping[str, float]
    overrides: Sequence[Sequence[str]]
    first: int

    def results(self) -> list[JobReturn]:
        """Waits for all, so that one which is lost ends no other; a lost worker begins again elsewhere."""
        for index, given in enumerate(self.overrides):
            log.info("ray #%d: %s", self.first + index, " ".join(filter_overrides(given)))
        shared = self.ray.put(self.jobs)
        deaths, ended = [0] * len(self.overrides), dict[int, JobReturn]()
        running = {self._start(shared, index): index for index in range(len(self.overrides))}
        while running:
            done, _ = self.ray.wait([*running], timeout=LOOK_SECONDS)
            for task in done:
                index = running.pop(task)
                ended[index] = found = self._result(task, index)
                if isinstance(found, LostJob) and isinstance(self.jobs.task, Worker):
                    deaths[index] += 1
                    if deaths[index] < MOST_DEATHS:
                        running[self._start(shared, index)] = index
            if not done and not any(_fits(machine, self.needs) for machine in _machines(self.ray)):
                for task, index in running.items():
                    self.ray.cancel(task, force=True)
                    ended[index] = self._lost(index, "the cluster lost every machine that it could run on")
                break
        return [ended[index] for index in range(len(self.overrides))]

    def _start(self, shared: Any, index: int) -> Any:
        return self.run.remote(shared, list(self.overrides[index]), self.first + index)

    def _result(self, task: Any, index: int) -> JobReturn:
        errors = self.ray.exceptions
        try:
            result: JobReturn = self.ray.get(task)
            return result
        except errors.RayTaskError as error:  # before Hydra took over, or while its result was sent
            cause = error.cause if isinstance(error.cause, Exception) else error
        except errors.RuntimeEnvSetupError as error:
            cause = ConfigError(f"{NODE}.runtime_env: {_line(error)}")
        except errors.RayError as error:
            return self._lost(index, _line(error))
        if not isinstance(cause, StockenhError):
            what = f"{type(cause).__name__}: {_line(cause)}"
            cause = StockenhError(f"a job could not run on the Ray cluster: {what}")
        return JobReturn(self.overrides[index], status=JobStatus.FAILED, _return_value=cause)

    def _lost(self, index: int, why: str) -> LostJob:
        number = self.first + index
        folder = Path(str(self.jobs.config.hydra.sweep.dir)).absolute() / str(number)
        error = StockenhError(f"job {number} was lost: {why}. What it saved is in {folder}")
        return LostJob(self.overrides[index], status=JobStatus.FAILED, _return_value=error, why=why)


def _line(error: BaseException) -> str:
    """The first lines of what Ray says, as one."""
    text = printable_line(str(error).strip()) or type(error).__name__
    return text if len(text) <= LONGEST_CAUSE else f"{text[:LONGEST_CAUSE]}..."


@contextmanager
def _cluster(address: str | None) -> Iterator[Any]:
    """Ray, connected to a cluster for as long as it is entered; a connection that was there stays."""
    try:
        import ray
    except ImportError:
        raise ConfigError("hydra/launcher=stockenh_ray needs Ray: pip install 'stockenh[ray]'") from None
    if ray.is_initialized():
        yield ray
        return
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    is_own = address == "local"
    _require_listener(address)
    dashboard = False if is_own else None
    # Ray lets its workers import from the current folder, which may be anybody's, before all else
    with contextlib.chdir(os.sep), _own_signals():
        try:
            level = logging.ERROR
            ray.init(address, include_dashboard=dashboard, logging_level=level, log_to_driver=False)
        except Exception as error:
            ray.shutdown()
            what = "no Ray cluster can be started here" if is_own else "no Ray cluster answers there"
            raise ConfigError(f"{NODE}.address={address}: {what}: {_line(error)}") from None
    try:
        yield ray
    finally:
        with _own_signals():
            ray.shutdown()


def _require_listener(address: str) -> None:
    """Raises ConfigError where nothing takes a connection there: Ray itself would wait for many minutes."""
    if address in ("local", "auto"):
        return
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    refusal = f"{NODE}.address={address}: no Ray cluster answers there"
    if not (host and colon and port.isdecimal() and int(port) < 2**16):
        raise ConfigError(f"{refusal}: write HOST:PORT, auto or local")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except OSError as error:
        raise ConfigError(f"{refusal}: {_line(error)}") from None


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keeps the command's signal handlers: Ray sets one for SIGTERM that leaves at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    try:
        yield
    except SystemExit:  # by Ray's handler
        raise KeyboardInterrupt from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _machines(ray: Any) -> list[dict[str, float]]:
    """What each living machine of the cluster has in all, by Ray's names."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _fits(machine: Mapping[str, float], needs: Mapping[str, float]) -> bool:
    return all(machine.get(name, 0.0) >= amount for name, amount in needs.items())


def _require_room(machines: Sequence[Mapping[str, float]], needs: Mapping[str, float]) -> None:
    """Raises ConfigError where no machine of the cluster is large enough: a job would wait forever."""
    if any(_fits(machine, needs) for machine in machines):
        return
    asked, most = [], []
    for name, amount in needs.items():
        if amount:
            asked.append(f"{amount:g} {name}")
            most.append(f"{max((m.get(name, 0.0) for m in machines), default=0.0):g} {name}")
    raise ConfigError(
        f"{NODE}: a job is to have {', '.join(asked)} on one machine, and the Ray cluster has none so large "
        f"(at most {', '.join(most)}); change {NODE}.num_cpus, num_gpus or resources"
    )
