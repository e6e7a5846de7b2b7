"""Has workers do all there is to do: as processes of this machine, or as jobs of a Hydra launcher."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hydra.core.plugins import Plugins

from stockenh.errors import StockenhError
from stockenh.multirun.folder import WORKERS
from stockenh.multirun.pool import run_pool
from stockenh.multirun.worker import Worker

BASIC_LAUNCHER = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"


def launch(
    worker: Worker,
    size: int,
    arguments: Sequence[str],
    ended: Callable[[], int],
    remain: Callable[[], bool],
) -> None:
    """Runs `size` workers until nothing remains, or nothing more comes to its end.

    arguments: the overrides of every worker's own job; ended: how many jobs have ended; remain: whether jobs
    wait that a new worker could take. Raises StockenhError where workers fail again and again.
    """
    if not remain():
        return
    if worker.config.hydra.launcher._target_ == BASIC_LAUNCHER:
        run_pool(worker, size, ended, remain)
        return
    _by_launcher(worker, size, arguments, ended, remain)


def _by_launcher(
    worker: Worker,
    size: int,
    arguments: Sequence[str],
    ended: Callable[[], int],
    remain: Callable[[], bool],
) -> None:
    """A launcher that lost some workers is asked again while jobs end."""
    launcher = Plugins.instance().instantiate_launcher(
        hydra_context=worker.context, task_function=worker, config=worker.config
    )
    begun = 0
    while True:
        before = ended()
        jobs = [[*arguments, f"hydra.sweep.subdir={WORKERS}/{begun + i}"] for i in range(size)]
        try:
            for job in launcher.launch(jobs, initial_job_idx=begun):
                _ = job.return_value
        except (StockenhError, KeyboardInterrupt):
            raise
        except Exception as error:
            if not remain() or ended() == before:
                said = str(error).strip().splitlines()
                raise StockenhError(
                    f"the launcher's workers failed: {said[0] if said else type(error).__name__}"
                ) from error
        begun += len(jobs)
        if not remain() or ended() == before:
            return
