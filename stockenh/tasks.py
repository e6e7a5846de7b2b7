"""What each subcommand does once its arguments are known: parse, build, call, print."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from rich.console import Console
from rich.markup import escape

from stockenh import compose
from stockenh.config import RunConfig, group_settings, parse, plain, suggest
from stockenh.errors import ConfigError, RunFolderError, StockenhError
from stockenh.overrides import quote_paths, split_override
from stockenh.runfolder import RunFolder

RESUME_KEYS = ("train.epochs", "device", "data.path", "embedding.checkpoint", "embedding.tokenizer")
INTERRUPTED = 130

log = logging.getLogger(__name__)


def train(arguments: list[str]) -> None:
    """A new run, a grid of them, or with resume=RUN an old one."""
    given = [parts for a in arguments if (parts := split_override(a))]
    if any(key == "resume" and value != "null" for key, value in given):
        resume(arguments)
        return
    _refuse_old_folder(given)
    compose.run(train_composed, arguments)


def train_composed(cfg: DictConfig) -> None:
    """One job: what Hydra calls with the composed config, in this process or in a launcher's."""
    _job(cfg, _train_anew)


def _train_anew(raw: dict[str, Any], folder: RunFolder) -> None:
    _refuse_run(raw)
    config = parse(raw)
    if config.weights and not config.init_from:
        raise ConfigError(
            f"weights={config.weights} says which weights of init_from=RUN to begin with, but there is "
            f"no init_from; a run keeps all its own weights and chooses among them on validation"
        )
    _train(config, folder, fresh=True)


def find_lr(arguments: list[str]) -> None:
    """A learning-rate range test, or a grid of them, each in a folder of its own."""
    _refuse_old_folder([parts for a in arguments if (parts := split_override(a))])
    compose.run(find_lr_composed, arguments)


def find_lr_composed(cfg: DictConfig) -> None:
    """One range test: what Hydra calls with the composed config."""
    _job(cfg, _find_lr)


def _find_lr(raw: dict[str, Any], folder: RunFolder) -> None:
    from stockenh import build
    from stockenh.run.find import find_lr as find
    from stockenh.terminal import console

    _refuse_run(raw)
    config = parse(raw)
    folder.refuse_if_run()
    find(config, folder, build.device(config.device), console())


def tta_predict(arguments: list[str]) -> None:
    """Forecasts of a finished run, in a folder of their own."""
    _refuse_old_folder([parts for a in arguments if (parts := split_override(a))])
    folder = _finished_run(arguments)
    compose.run(tta_predict_composed, compose.based_on(_config_of(folder).raw, arguments))


def tta_predict_composed(cfg: DictConfig) -> None:
    """One job of `tta_predict`."""
    _job(cfg, _tta_predict)


def _tta_predict(raw: dict[str, Any], into: RunFolder) -> None:
    from stockenh.run.forecast import forecast_run, open_trained
    from stockenh.terminal import console

    folder = RunFolder.open(Path(raw["run"]).expanduser())
    trained = open_trained(folder, _config_of(folder), raw["weights"])
    forecast_run(parse(raw), trained, into.path, console())


def _job(cfg: DictConfig, task: Callable[[dict[str, Any], RunFolder], None]) -> None:
    """Calls the task with the composed config and Hydra's folder; what a user can mend becomes a line."""
    job = HydraConfig.get()
    try:
        raw = plain(cfg)
        if raw.pop("resume", None) is not None:
            raise ConfigError("resume=RUN is for train, stands on the command line, and not with --multirun")
        _make_paths_absolute(raw)
        task(raw, RunFolder(Path(job.runtime.output_dir)))
    except StockenhError as error:
        log.error("%s", error)
        if job.mode == RunMode.MULTIRUN:
            raise  # the other jobs of the grid go on, and the failure is told at the end
        _exit(str(error), error.exit_code)
    except Exception:
        log.exception("unexpected failure")
        raise


def _refuse_run(raw: dict[str, Any]) -> None:
    if raw["run"] is not None:
        raise ConfigError(
            "run= belongs to commands that work on a finished run, such as stockenh tta-predict; to begin "
            "with a run's weights write init_from=RUN, to continue it stockenh train resume=RUN"
        )


def resume(arguments: list[str]) -> None:
    """Continues a run in its own folder, with its own config and data."""
    overrides = _resume_overrides(arguments)
    folder = RunFolder.open(Path(overrides.pop("resume")).expanduser())
    raw = folder.read_config()
    for key, value in overrides.items():
        node, _, leaf = key.rpartition(".")
        target = raw.get(node) if node else raw
        if not isinstance(target, dict) or leaf not in target:
            raise ConfigError(
                f"{key}: the run's data ({raw.get('data', {}).get('_target_')}) has no such key"
            )
        target[leaf] = value
    _make_paths_absolute(raw)
    try:
        config = parse(raw)
    except ConfigError as error:
        raise RunFolderError(f"{folder.config}: {error}") from None
    if _is_finished(folder, config):
        return
    _log_into(folder)
    log.info("resumed")
    try:
        _train(config, folder, fresh=False, device_given="device" in overrides)
    except StockenhError as error:
        log.error("%s", error)
        raise


def data_check(path: Path, overrides: list[str]) -> None:
    """Prints every finding on a user's bars. Raises SystemExit(2) where nothing of them is usable."""
    from stockenh.data.sources import FilesData
    from stockenh.terminal import console, findings_table

    given = [f"data.path={path}", *overrides]
    if not any(a.startswith("data=") for a in overrides):
        given.insert(0, "data=files")
    settings = group_settings("data", plain(compose.compose(given))["data"])
    if not isinstance(settings, FilesData):
        raise ConfigError("data check looks at bars: data=files")
    result = settings.read()
    out = console()
    if result.findings:
        out.print(findings_table(result.findings))
    symbols = len(set(result.bars.symbols))
    out.print(
        f"{path}: {result.files_used} of {result.files} file{'s' * (result.files != 1)} usable, {symbols} "
        f"symbol{'s' * (symbols != 1)}, {len(result.bars):,} bars",
        markup=False, soft_wrap=True,
    )  # fmt: skip
    if not len(result.bars):
        raise SystemExit(2)


def runs(arguments: list[str]) -> None:
    """Lists the runs below folders, newest first, or sets run folders side by side."""
    from stockenh import runs as reading
    from stockenh import runs_table as tables
    from stockenh.terminal import console

    paths, wanted = _paths_and_values(arguments)
    for path in paths:
        if not path.is_dir():
            raise ConfigError(f"{path}: no such folder; give folders of runs, or KEY=VALUE of their configs")
    folders = paths or [Path("outputs")]
    found = [reading.read(run) for run in dict.fromkeys(run for f in folders for run in reading.find(f))]
    told = " and ".join(str(folder) for folder in folders)
    out = console()
    if not found:
        out.print(f"no runs in {told}; stockenh train makes one", markup=False, soft_wrap=True)
        return
    if len(paths) > 1 and all(map(reading.is_run, paths)):
        side_by_side = reading.matching(map(reading.read, paths), wanted)
        for table in tables.comparison(side_by_side):
            out.print(table)
        if why := tables.incomparable(side_by_side):
            out.print(why)
        return
    kept = sorted(reading.matching(found, wanted), key=lambda run: (run.written, run.path), reverse=True)
    if kept:
        out.print(tables.listing(kept, tables.common_root(folders)))
    out.print(f"{len(kept)} of {len(found)} runs in {told}, newest first", markup=False, soft_wrap=True)


def _paths_and_values(arguments: list[str]) -> tuple[list[Path], dict[str, str]]:
    """The folders among the arguments (also as run=RUN), and the KEY=VALUE."""
    paths, wanted = [], {}
    for argument in arguments:
        parts = split_override(argument)
        if parts is None or Path(argument).exists():
            paths.append(Path(argument).expanduser())
        elif parts[0] == "run":
            paths.append(_unquoted(parts[1]))
        else:
            wanted[parts[0]] = parts[1]
    return paths, wanted


def _refuse_old_folder(given: list[tuple[str, str]]) -> None:
    """Raises ConfigError where the folder asked for holds a run, before Hydra writes into it."""
    for key, value in given:
        if key == "hydra.run.dir":
            RunFolder(_unquoted(value)).refuse_if_run()


def _finished_run(arguments: list[str]) -> RunFolder:
    """The folder of run=RUN, which must hold a whole run."""
    for argument, quoted in zip(arguments, quote_paths(arguments), strict=True):
        if (split_override(argument) or ("",))[0] == "run":
            folder = RunFolder.open(Path(str(_value(argument, quoted))).expanduser())
            folder.require_finished()
            return folder
    raise ConfigError("run= must be given: run=RUN, a folder that stockenh train left in outputs/")


def _config_of(folder: RunFolder) -> RunConfig:
    """A run's own config, checked as any other."""
    try:
        return parse(folder.read_config())
    except ConfigError as error:
        raise RunFolderError(f"{folder.config}: {error}") from None


def _value(argument: str, quoted: str) -> Any:
    try:
        return OverridesParser.create().parse_override(quoted).value()
    except HydraException as error:
        raise ConfigError(f"{argument}: {str(error).splitlines()[0]}") from None


def _train(config: RunConfig, folder: RunFolder, fresh: bool, device_given: bool = True) -> None:
    from stockenh.run.train import train as train_run
    from stockenh.terminal import console
    from stockenh.training.interrupt import Interrupted

    out = console()
    on = _device(config, device_given, out)
    if fresh:
        folder.refuse_if_run()
    try:
        with folder.lock():
            if fresh:
                folder.begin(config.raw)
            train_run(config, folder, on, out)
    except (Interrupted, KeyboardInterrupt) as stop:
        saved = "stopped; its state is saved" if isinstance(stop, Interrupted) else "interrupted at once"
        log.info("%s", saved)
        _exit(f"{saved}. Continue with: stockenh train resume={shlex.quote(str(folder))}", INTERRUPTED)


def _device(config: RunConfig, given: bool, out: Console) -> Any:
    """The config's device; a resumed run whose card is not on this machine goes on without it."""
    from stockenh import build

    try:
        return build.device(config.device)
    except ConfigError:
        if given:
            raise
        found = build.device("auto")
        out.print(f"device={config.device} of the run is not to be had here: going on with {found}")
        return found


def _is_finished(folder: RunFolder, config: RunConfig) -> bool:
    """Says so, with the result again, where a run has nothing left to do."""
    from stockenh.run.result import show_result
    from stockenh.terminal import console

    if not folder.summary.exists():
        return False
    summary = folder.read_json(folder.summary)
    try:
        if not summary["stopped_early"] and summary["epochs"] < config.train.epochs:
            return False
        out = console()
        why = "stopped early: validation had not improved" if summary["stopped_early"] else "all epochs done"
        out.print(f"{escape(str(folder))} is finished ({why}); nothing to resume", soft_wrap=True)
        show_result(folder, summary, sorted(folder.report.glob("*.png")), out)
    except (KeyError, TypeError):
        raise StockenhError(f"{folder.summary} does not hold the summary of a run") from None
    return True


def _resume_overrides(arguments: list[str]) -> dict[str, Any]:
    """The values among the arguments; raises ConfigError where one may not be given on resume."""
    found: dict[str, Any] = {}
    for original, quoted in zip(arguments, quote_paths(arguments), strict=True):
        parts = split_override(original)
        if parts is None or parts[0] not in ("resume", *RESUME_KEYS):
            name = parts[0] if parts else original
            raise ConfigError(
                f"{name} can't be given with resume: a run goes on with its own config; only "
                f"{', '.join(RESUME_KEYS)} may change. {suggest(name, RESUME_KEYS)}"
            )
        found[parts[0]] = _value(original, quoted)
    return found


def _make_paths_absolute(raw: dict[str, Any]) -> None:
    """A run must find its data and what it began with from whatever folder it is taken up in."""
    if isinstance(raw.get("init_from"), str):
        raw["init_from"] = str(Path(raw["init_from"]).expanduser().absolute())
    node = raw.get("data")
    if isinstance(node, dict) and isinstance(node.get("path"), str) and node["path"] != "???":
        node["path"] = str(Path(node["path"]).expanduser().absolute())
    node = raw.get("embedding")
    if isinstance(node, dict):
        # what is no folder may be a Hub id, OWNER/NAME
        for key in {"checkpoint", "tokenizer"} & node.keys():
            path = Path(str(node[key])).expanduser()
            if path.is_dir() or str(node[key]).startswith((".", "~")):
                node[key] = str(path.absolute())


def _log_into(folder: RunFolder) -> None:
    """run.log goes on where Hydra's logging began it."""
    handler = logging.FileHandler(folder.log, encoding="utf-8")
    handler.setFormatter(logging.Formatter("[%(asctime)s][%(name)s][%(levelname)s] - %(message)s"))
    logging.getLogger().addHandler(handler)
    logging.getLogger().setLevel(logging.INFO)


def _unquoted(value: str) -> Path:
    return Path(value.strip("'\"")).expanduser()


def _exit(message: str, code: int) -> None:
    from stockenh.terminal import console

    console(stderr=True).print(f"stockenh: {message}", markup=False, soft_wrap=True)
    raise SystemExit(code)
