"""What each subcommand does once its arguments are known: parse, build, call, print."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
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

RESUME_KEYS = ("train.epochs", "device", "data.path")
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
    with _told() as into:
        raw = plain(cfg)
        if raw.pop("resume", None) is not None:
            raise ConfigError("resume=RUN stands on the command line, and not with --multirun")
        for key in ("run", "weights"):
            if raw.pop(key, None) is not None:
                raise ConfigError(f"{key}= belongs to stockenh tta-predict: training makes a run of its own")
        _make_path_absolute(raw)
        _train(parse(raw), RunFolder(into), fresh=True)


def tta_predict(arguments: list[str]) -> None:
    """Forecasts of a finished run, in a folder of their own."""
    given = [parts for a in arguments if (parts := split_override(a))]
    _refuse_old_folder(given)
    folder = _finished_run(arguments)
    compose.run(tta_predict_composed, compose.based_on(_config_of(folder).raw, arguments))


def tta_predict_composed(cfg: DictConfig) -> None:
    """One job of `tta_predict`."""
    from stockenh.run.forecast import forecast_run, open_trained
    from stockenh.terminal import console

    with _told() as into:
        raw = plain(cfg)
        if raw["resume"] is not None:
            raise ConfigError("resume=RUN belongs to stockenh train")
        folder = RunFolder.open(Path(raw["run"]).expanduser())
        _make_path_absolute(raw)
        trained = open_trained(folder, _config_of(folder), raw["weights"])
        forecast_run(parse(raw), trained, into, console())


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
    _make_path_absolute(raw)
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


@contextmanager
def _told() -> Iterator[Path]:
    """Around a job in a folder of Hydra's, which it gives: failures are logged there, a user's also said."""
    job = HydraConfig.get()
    try:
        yield Path(job.runtime.output_dir)
    except StockenhError as error:
        log.error("%s", error)
        if job.mode == RunMode.MULTIRUN:
            raise  # the other jobs of the grid go on, and the failure is told at the end
        _exit(str(error), error.exit_code)
    except Exception:
        log.exception("unexpected failure")
        raise


def _refuse_old_folder(given: list[tuple[str, str]]) -> None:
    for key, value in given:
        if key == "hydra.run.dir":  # before Hydra writes into it
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


def _make_path_absolute(raw: dict[str, Any]) -> None:
    """A run must find its data from whatever folder it is taken up in."""
    node = raw.get("data")
    if isinstance(node, dict) and isinstance(node.get("path"), str) and node["path"] != "???":
        node["path"] = str(Path(node["path"]).expanduser().absolute())


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
