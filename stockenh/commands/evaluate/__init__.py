"""`stockenh evaluate`: the honest report on a finished run, or on the folds of a walk-forward as one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stockenh.commands.finished import config_for
from stockenh.config import compose
from stockenh.config.overrides import join_paths, split_override, split_paths, value_of
from stockenh.config.schema import EvaluateRunConfig, config_of, to_dict
from stockenh.errors import ConfigError
from stockenh.storage.files import expanded
from stockenh.storage.run_folder import RunFolder


def evaluate(arguments: list[str]) -> None:
    """Leaves the report in RUN/report, of a sweep in SWEEPDIR/report, or where hydra.run.dir says."""
    given = dict(parts for a in arguments if (parts := split_override(a)))
    source, folders = runs_to_evaluate(arguments)
    if "hydra.run.dir" not in given and source is not None:
        arguments = [f"hydra.run.dir={source / 'report'}", *arguments]
    rest = [a for a in arguments if (split_override(a) or ("",))[0] != "run"]
    name = compose.with_run("evaluate", to_dict(config_of(folders[0])), rest)
    compose.run(name, _evaluate, [*rest, f"run={join_paths([str(folder) for folder in folders])}"])


def runs_to_evaluate(arguments: list[str]) -> tuple[Path | None, list[RunFolder]]:
    """The finished runs of run=RUN, run=[RUN,RUN] or run=SWEEPDIR, and the folder named where it is one.

    Raises ConfigError where run= is missing, RunFolderError where one of them is no finished run.
    """
    for argument in arguments:
        if (split_override(argument) or ("",))[0] == "run":
            named = [expanded(path) for path in split_paths(str(value_of(argument)))]
            paths = [run for path in named for run in _runs_of_sweep(path)]
            folders = [RunFolder.open(path) for path in paths]
            for folder in folders:
                folder.require_finished()
            return (named[0] if len(named) == 1 else None), folders
    raise ConfigError(
        "run= must be given: run=RUN, a folder that stockenh train left in outputs/, or run=[RUN,RUN] or "
        "run=SWEEPDIR for the folds of a walk-forward"
    )


def _runs_of_sweep(path: Path) -> list[Path]:
    """The run itself, or the runs that a multirun left in a folder."""
    if (path / "config.yaml").is_file():
        return [path]
    inside = sorted(found.parent for found in path.glob("*/config.yaml"))
    return inside or [path]


def _evaluate(raw: dict[str, Any], folder: RunFolder) -> None:
    from stockenh.commands.evaluate.report import evaluate_runs
    from stockenh.commands.trained import Trained
    from stockenh.report.terminal import console

    folder.refuse_if_run()
    runs = [Trained.open(RunFolder.open(Path(path)), raw["weights"]) for path in split_paths(raw["run"])]
    evaluate_runs(config_for(raw, runs[0].run, EvaluateRunConfig), runs, folder.path, console())
