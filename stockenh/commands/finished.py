"""The commands on a finished run: its config under theirs, and where they write; imports no torch."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stockenh.config import compose
from stockenh.config.overrides import join_paths, split_override, split_paths, value_of
from stockenh.config.schema import (
    OF_MACHINE,
    AuditRunConfig,
    EvaluateRunConfig,
    ExplainRunConfig,
    ExportRunConfig,
    Kind,
    RunConfig,
    TtaPredictConfig,
    check_values,
    config_of,
    parse,
    to_dict,
)
from stockenh.errors import ConfigError, RunFolderError, counted
from stockenh.storage.files import expanded, json_text
from stockenh.storage.run_folder import RunFolder
from stockenh.storage.untrusted import is_file, require_plain_folder

if TYPE_CHECKING:
    from rich.console import Console

    from stockenh.commands.trained import Trained

_NEAR = 0.6  # how much alike a key and a misspelt one are


def audit(arguments: list[str]) -> None:
    """Leaves audit.md, audit.json and audit.png in RUN/report, or where hydra.run.dir says."""
    # the report folder holds what people read: the composed config is the run's own
    _run("audit", AuditRunConfig, _audit, arguments, lambda run: run.report, ("hydra.output_subdir=null",))


def evaluate(arguments: list[str]) -> None:
    """Leaves the report in RUN/report, of a sweep in SWEEPDIR/report, or where hydra.run.dir says."""
    check_values(arguments, EvaluateRunConfig)
    source, folders = runs_to_evaluate(arguments)
    if source is not None and "hydra.run.dir" not in _keys(arguments):
        arguments = [f"hydra.run.dir={source / 'report'}", *arguments]
    rest = [a for a in arguments if (split_override(a) or ("",))[0] != "run"]
    name = compose.with_run("evaluate", to_dict(config_of(folders[0])), rest)
    compose.run(name, _evaluate, [*rest, f"run={join_paths([str(folder) for folder in folders])}"])


def explain(arguments: list[str]) -> None:
    """Leaves tables and pictures in RUN/explain, or where hydra.run.dir says."""
    _run("explain", ExplainRunConfig, _explain, arguments, lambda run: run.explained)


def export(arguments: list[str]) -> None:
    """Leaves the files in RUN/export, or where hydra.run.dir says."""
    _run("export", ExportRunConfig, _export, arguments, lambda run: run.exported)


def tta_predict(arguments: list[str]) -> None:
    """Forecasts of a finished run, in a folder of their own."""
    _run("tta_predict", TtaPredictConfig, _tta_predict, arguments)


def _audit(raw: dict[str, Any], folder: RunFolder) -> None:
    from stockenh.commands.audit.checks import audit_run

    _call(audit_run, AuditRunConfig, raw, folder)


def _evaluate(raw: dict[str, Any], folder: RunFolder) -> None:
    from stockenh.commands.ensembles import opened
    from stockenh.commands.evaluate.report import evaluate_runs
    from stockenh.report.terminal import console

    folder.refuse_if_run()
    runs = [opened(path, raw["weights"]) for path in split_paths(raw["run"])]
    evaluate_runs(config_for(raw, runs[0].run, EvaluateRunConfig), runs, folder.path, console())


def _explain(raw: dict[str, Any], folder: RunFolder) -> None:
    from stockenh.commands.explain.attributions import explain_run

    require_own_folder(folder, "the explanation")
    _call(explain_run, ExplainRunConfig, raw, folder)


def _export(raw: dict[str, Any], folder: RunFolder) -> None:
    from stockenh.commands.export import export_run

    require_own_folder(folder, "the export")
    _call(export_run, ExportRunConfig, raw, folder)


def _tta_predict(raw: dict[str, Any], folder: RunFolder) -> None:
    from stockenh.commands.tta_predict import forecast_run

    require_own_folder(folder, "the forecast")
    ledger = raw.pop("ledger", None)
    if ledger is not None and (file := expanded(ledger)).exists():
        from stockenh.storage.ledger import read

        read(file)  # what is wrong with it is found before anything is computed
    _call(partial(forecast_run, ledger=ledger), TtaPredictConfig, raw, folder)


def _call(
    work: Callable[[Kind, Trained, Path, Console], object],
    kind: type[Kind],
    raw: dict[str, Any],
    folder: RunFolder,
) -> None:
    """Calls a command's own function with its config, the run that `raw` names, and where it writes."""
    from stockenh.commands.ensembles import opened
    from stockenh.report.terminal import console

    run = opened(raw["run"], raw["weights"])
    work(config_for(raw, run.run, kind), run, folder.path, console())


def _keys(arguments: list[str]) -> list[str]:
    """The keys of the overrides among the arguments."""
    return [parts[0] for a in arguments if (parts := split_override(a))]


def _run(
    root: str,
    kind: type[RunConfig],
    body: compose.Body,
    arguments: list[str],
    directory: Callable[[RunFolder], Path] | None = None,
    more: tuple[str, ...] = (),
) -> None:
    """Composes a root config over the config of run=RUN and calls `body`; see `compose.run`.

    directory: where the command writes, with the overrides in `more`, unless hydra.run.dir is given or there
    are several runs, whose result gets a folder of its own.
    Raises ConfigError where run= is missing, RunFolderError where it is no finished run.
    """
    check_values(arguments, kind)
    run, *others = finished_runs(arguments)
    name = compose.with_run(root, to_dict(config_of(run)), arguments)
    if directory is not None and not others and "hydra.run.dir" not in _keys(arguments):
        arguments = [f"hydra.run.dir={directory(run)}", *more, *arguments]
    compose.run(name, body, arguments)


def config_for(raw: dict[str, Any], run: RunConfig, kind: type[Kind]) -> Kind:
    """The config of a command on a finished run: the run's own but for what the command's config has."""
    own = {key: value for key, value in raw.items() if key != "run"}
    return parse({**to_dict(run), "teacher": None, "init_from": None, **own}, kind)


def require_own_folder(folder: RunFolder, what: str) -> None:
    """Raises ConfigError where the folder to write into holds a run. what: `the export`."""
    if is_file(folder.config):
        raise ConfigError(
            f"hydra.run.dir={folder} holds a run: {what} takes a folder of its own; name another, or leave "
            f"hydra.run.dir out"
        )


def finished_runs(arguments: list[str], name: str = "run") -> list[RunFolder]:
    """The folders of run=RUN or run=[RUN,RUN], or of another override; each holds a whole run."""
    for argument in arguments:
        if (split_override(argument) or ("",))[0] == name:
            paths = split_paths(str(value_of(argument)))
            folders = [RunFolder.open(expanded(path)) for path in paths]
            for folder in folders:
                folder.require_finished()
            if not folders:
                raise ConfigError(f"{name}={paths} names no run: write {name}=RUN or {name}=[RUN,RUN]")
            return folders
    raise ConfigError(_missing(name, _keys(arguments)))


def _missing(name: str, given: list[str]) -> str:
    """The message where the run is not named: the key that was perhaps meant for it."""
    other = {"run": "teacher", "teacher": "run"}[name]
    if other in given:
        return f"{other}= names no run for this command: write {name}=RUN"
    for key in (name, "resume"):
        if near := difflib.get_close_matches(key, given, n=1, cutoff=_NEAR):
            return f"{near[0]}: no such key. Nearest: {key}"
    return f"{name}= must be given: {name}=RUN, a folder that stockenh train left in outputs/"


def _require_folds(path: Path, runs: list[RunFolder]) -> None:
    """Raises ConfigError where a folder holds runs that are no grid or folds, RunFolderError where one of a
    grid's failed or is not finished."""
    if is_file(path / "config.yaml"):
        return
    if not runs:
        if below := sorted(
            [*path.glob("[!.]*/[!.]*/config.yaml"), *path.glob("[!.]*/[!.]*/[!.]*/config.yaml")]
        ):
            raise ConfigError(
                f"{path} is no run, but has {counted(len(below), 'run')} in its folders: name one of these, "
                f"such as run={below[-1].parent}"
            )
        return
    is_grid = is_file(path / "multirun.yaml") and not is_file(path / "sweep.json")
    if len(runs) > 1 and not is_grid and len({_apart_from_fold(run) for run in runs}) > 1:
        raise ConfigError(
            f"{path} holds {counted(len(runs), 'run')} that are no folds of one split: name one of them, "
            f"such as run={runs[-1].path}, or those that are to forecast as one, run=[RUN,RUN]"
        )
    failed = {run.path.name for run in runs if not is_file(run.summary)}
    # a job that failed before its run began left a log alone
    jobs = {file.parent.parent.name for file in path.glob("[!.]*/.hydra/overrides.yaml")}
    logs = jobs - {run.path.name for run in runs} - {RunFolder(path).report.name}
    if failed | logs if is_grid else failed:
        names = sorted(failed | logs, key=lambda name: (len(name), name))
        raise RunFolderError(
            f"{path}: {len(names)} of {counted(len(runs) + len(logs), 'run')} failed or stopped "
            f"({', '.join(names)}; see run.log there). Train these again, or name the others: run=[RUN,RUN]"
        )


def _apart_from_fold(run: RunFolder) -> str:
    """A run's config but for what the folds of one split, and networks of other seeds, differ in."""
    config = run.read_config()
    split = config.get("split")
    if isinstance(split, dict):
        config["split"] = {k: v for k, v in split.items() if k not in ("fold", "combination")}
    return json_text({k: v for k, v in config.items() if k not in ("seed", *OF_MACHINE)})


def runs_to_evaluate(arguments: list[str]) -> tuple[Path | None, list[RunFolder]]:
    """The finished runs of run=RUN, run=[RUN,RUN] or run=SWEEPDIR, and the folder named where it is one.

    Raises ConfigError where run= is missing, RunFolderError where one of them is no finished run.
    """
    for argument in arguments:
        if (split_override(argument) or ("",))[0] == "run":
            named = [expanded(path) for path in split_paths(str(value_of(argument)))]
            paths: list[Path] = []
            for path in named:
                require_plain_folder(path)
                inside = [] if is_file(path / "config.yaml") else path.glob("[!.]*/config.yaml")
                paths += sorted(found.parent for found in inside) or [path]
            for path in named:
                _require_folds(path, [RunFolder(run) for run in paths if run.parent == path])
            folders = [RunFolder.open(path) for path in paths]
            for folder in folders:
                folder.require_finished()
            return (named[0] if len(named) == 1 else None), folders
    raise ConfigError(
        "run= must be given: run=RUN, a folder that stockenh train left in outputs/, or run=[RUN,RUN] or "
        "run=SWEEPDIR for the folds of a walk-forward"
    )
