"""The verbs for notebooks and scripts: frames in, frames out, errors as exceptions.

A call does what the command of that name does, with the same settings and files, and leaves nothing behind in
the process: threads, random state, logging, working folder and arguments are as before.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import polars as pl
from numpy.typing import NDArray

from stockenh.config.overrides import hydra_text, join_paths
from stockenh.errors import ConfigError, DataError
from stockenh.report.terminal import silence
from stockenh.storage.files import expanded
from stockenh.storage.run_folder import RunFolder

if TYPE_CHECKING:
    import pandas

Frame: TypeAlias = "pl.DataFrame | pandas.DataFrame"
Data: TypeAlias = "Frame | Mapping[str, Frame] | str | Path | None"
Setting: TypeAlias = "str | Mapping[str, object]"
Source: TypeAlias = "Run | str | Path | Sequence[Run | str | Path]"

BARS = "bars.parquet"  # a frame that a run was trained on, in its folder
SYMBOL, ONE_SYMBOL = "symbol", "FRAME"


def train(
    *settings: Setting, data: Data = None, directory: str | Path | None = None, quiet: bool = False
) -> Run:
    """Trains a run and returns it finished, as `stockenh train` does.

    settings: overrides such as "model=timeformer_xl", or mappings such as {"train.epochs": 3}
    data: bars as a long frame with a symbol, a date and OHLCV, a mapping of symbols to frames, or the path of
    a file or folder; None: as the settings say. A frame is kept in the run's folder.
    directory: the run's folder; None: outputs/DATE/TIME. quiet: print nothing.
    Raises ConfigError, DataError, RunFolderError or TrainingError; a stop (KeyboardInterrupt) saves the run.
    """
    from stockenh.commands.train import train as command

    folder = expanded(str(directory)) if directory is not None else _new_folder()
    with _kept(data, folder) as given:
        _call(command, [*given, *_overrides(settings), f"hydra.run.dir={folder}"], quiet)
    return Run.open(folder)


def forecast(run: Source, data: Data = None, *settings: Setting, quiet: bool = True) -> Any:
    """Forecasts the newest bar of every symbol: `symbol date horizon ret up_prob uncertainty confident score
    rank`, and `ret_p10 ret_p90` of models with quantiles; a row per symbol and horizon.

    run: a run, its folder, or several as one; data: see `train`, None: the run's own. The frame is of the
    kind that was given, polars by default. Raises what `train` does.
    """
    from stockenh.commands.finished import tta_predict

    with _temporary(data) as (given, folder):
        arguments = [f"run={_runs(run)}", *given, *_overrides(settings)]
        _call(tta_predict, [*arguments, f"hydra.run.dir={folder / 'forecast'}"], quiet)
        found = pl.read_parquet(folder / "forecast" / "forecast.parquet")
    return _as_given(found, data)


def evaluate(
    run: Source,
    data: Data = None,
    *settings: Setting,
    directory: str | Path | None = None,
    quiet: bool = True,
) -> Evaluation:
    """Judges a run on its test part, or on other bars that it never saw.

    directory: where evaluation.json, the tables and the pictures are left; None: the run's own report folder,
    nowhere for other bars or several runs. Raises what `train` does.
    """
    from stockenh.commands.finished import evaluate as command

    runs = _runs(run)
    with _temporary(data) as (given, folder):
        path = folder / "evaluation"
        if directory is not None:
            path = expanded(str(directory))
        elif data is None and isinstance(run, Run | str | Path):
            path = RunFolder.open(Path(runs)).report
        _call(command, [f"run={runs}", *given, *_overrides(settings), f"hydra.run.dir={path}"], quiet)
        found: dict[str, Any] = RunFolder(path).read_json(path / "evaluation.json", dict[str, Any])
    return Evaluation(found)


@dataclass(frozen=True)
class Run:
    """A finished run. path: its folder, which every command of the program reads, too."""

    path: Path

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """A run that is finished. Raises RunFolderError where it is none."""
        folder = RunFolder.open(expanded(str(path)))
        folder.require_finished()
        return cls(folder.path.absolute())

    @property
    def summary(self) -> dict[str, Any]:
        """summary.json."""
        return dict(RunFolder(self.path).read_summary())

    @property
    def config(self) -> dict[str, Any]:
        """config.yaml: every setting."""
        return RunFolder(self.path).read_config()

    @property
    def scores(self) -> pl.DataFrame:
        """The scores of every part: `part horizon n accuracy majority log_loss auc ...`."""
        rows = [
            {"part": part, "horizon": int(horizon.removeprefix("h")), **scores}
            for part, horizons in self.summary["parts"].items()
            for horizon, scores in horizons.items()
        ]
        return pl.DataFrame(rows, infer_schema_length=None)

    @property
    def history(self) -> pl.DataFrame:
        """A row per epoch: `epoch train_loss val_loss lr windows_per_second`; empty for an ensemble."""
        names = ("epoch", "train_loss", "val_loss", "lr", "windows_per_second")
        lines = RunFolder(self.path).read_metrics()
        rows = [{name: line.get(name) for name in names} for line in lines]
        return pl.DataFrame(rows, schema=list(names), infer_schema_length=None)

    @property
    def verdicts(self) -> list[str]:
        """What the test part says, a sentence per horizon."""
        from stockenh.commands.train.verdict import test_verdicts

        summary = self.summary
        relative = summary.get("target") in ("market_relative", "rank")
        return [text for _, text in test_verdicts(summary["parts"].get("test", {}), relative)]

    @property
    def pictures(self) -> list[Path]:
        """The PNG files of its report."""
        return sorted((self.path / "report").glob("*.png"))

    def forecast(self, data: Data = None, *settings: Setting, quiet: bool = True) -> Any:
        """See `forecast`."""
        return forecast(self, data, *settings, quiet=quiet)

    def evaluate(self, data: Data = None, *settings: Setting, quiet: bool = True) -> Evaluation:
        """See `evaluate`."""
        return evaluate(self, data, *settings, quiet=quiet)

    def resume(self, *settings: Setting, quiet: bool = False) -> Run:
        """Trains on, for example with {"train.epochs": 20}; returns the run. Raises what `train` does."""
        from stockenh.commands.train import train as command

        _call(command, [f"resume={self.path}", *_overrides(settings)], quiet)
        return Run.open(self.path)

    def report(self) -> Path:
        """Writes report.html again and returns its path."""
        from stockenh.commands.report.pages import page_of
        from stockenh.report.page import PAGE, write_page

        return write_page(page_of(self.path), self.path / PAGE)


@dataclass(frozen=True)
class Evaluation:
    """The figures of an evaluation. figures: evaluation.json, see docs/evaluation.md."""

    figures: dict[str, Any]

    @property
    def verdicts(self) -> list[str]:
        """A sentence per horizon."""
        return [str(of["text"]) for of in self.figures["verdict"].values()]

    @property
    def scores(self) -> pl.DataFrame:
        """`horizon forecast` and every score of the model and the baselines with its interval."""
        rows = [
            {"horizon": int(horizon.removeprefix("h")), "forecast": name, **_flat(scores)}
            for horizon, of in self.figures["horizons"].items()
            for name, scores in of["forecasts"].items()
        ]
        return pl.DataFrame(rows, infer_schema_length=None)

    def __str__(self) -> str:
        return "\n".join(self.verdicts)


def _flat(scores: Mapping[str, Any]) -> dict[str, Any]:
    """`rank_ic` and `ic` as figures of their own: `rank_ic_mean`, `rank_ic_low`."""
    found: dict[str, Any] = {}
    for name, value in scores.items():
        if isinstance(value, Mapping):
            found |= {f"{name}_{key}": inner for key, inner in value.items()}
        elif not isinstance(value, list):
            found[name] = value
    return found


def _call(command: Callable[[list[str]], None], arguments: list[str], quiet: bool) -> None:
    with contained(), silence(quiet), warnings.catch_warnings():
        # tqdm, which Optuna brings along, would like widgets in a notebook
        warnings.filterwarnings("ignore", message="IProgress not found")
        command(arguments)


@contextlib.contextmanager
def contained() -> Iterator[None]:
    """Within, a command runs; afterwards the process is as it was before."""
    import torch
    from hydra.core.hydra_config import HydraConfig

    from stockenh.models.cpu.memory import hand_back_freed_memory
    from stockenh.training.checkpoint import unchanged_rng

    root, hydra = logging.getLogger(), HydraConfig.instance()
    handlers, level, argv = list(root.handlers), root.level, list(sys.argv)
    threads, config = torch.get_num_threads(), hydra.cfg
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    try:
        other = torch.device("mps" if torch.backends.mps.is_available() else "cpu")
        with torch.random.fork_rng(devices), unchanged_rng(other):
            yield
    finally:
        for handler in set(root.handlers) - set(handlers):
            handler.close()
        root.handlers[:], hydra.cfg, sys.argv[:] = handlers, config, argv
        root.setLevel(level)
        torch.set_num_threads(threads)
        hand_back_freed_memory()


def _overrides(settings: Sequence[Setting]) -> list[str]:
    """Settings as the command line has them."""
    found: list[str] = []
    for setting in settings:
        if isinstance(setting, str):
            found.append(setting)
        elif isinstance(setting, Mapping):
            found += [f"{key}={_text(value)}" for key, value in setting.items()]
        else:
            raise ConfigError(f"{setting!r}: write settings as KEY=VALUE, or as a mapping of keys to values")
    return found


def _text(value: object) -> str:
    """A value as an override has it; text stays as it is, as on the command line."""
    return value if isinstance(value, str) else hydra_text(str(value) if isinstance(value, Path) else value)


def _new_folder() -> Path:
    now = datetime.now()
    return Path("outputs") / f"{now:%Y-%m-%d}" / f"{now:%H-%M-%S-%f}"


def _runs(run: Source) -> str:
    """What `run=` names."""
    several = [run] if isinstance(run, Run | str | Path) else list(run)
    return join_paths([str(one.path if isinstance(one, Run) else expanded(str(one))) for one in several])


@contextlib.contextmanager
def _kept(data: Data, folder: Path) -> Iterator[list[str]]:
    """The overrides that name the data; a frame is kept in the folder, unless what is within fails."""
    if data is None or isinstance(data, str | Path):
        yield [] if data is None else _of_path(data)
        return
    path = folder / BARS
    if path.exists():
        raise ConfigError(f"{folder} already holds the bars of a run: name another directory")
    fresh = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    long_frame(data).write_parquet(path)
    try:
        yield _of_path(path)
    except BaseException:
        if not RunFolder(folder).config.exists():
            path.unlink(missing_ok=True)
            if fresh:
                with contextlib.suppress(OSError):
                    folder.rmdir()
        raise


@contextlib.contextmanager
def _temporary(data: Data) -> Iterator[tuple[list[str], Path]]:
    """The overrides that name the data, and a folder that is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="stockenh-") as made:
        folder = Path(made)
        if data is None or isinstance(data, str | Path):
            yield ([] if data is None else _of_path(data)), folder
            return
        path = folder / BARS
        long_frame(data).write_parquet(path)
        yield _of_path(path), folder


def _of_path(path: str | Path) -> list[str]:
    return ["data=files", f"data.path={expanded(str(path)).absolute()}"]


def long_frame(data: Frame | Mapping[str, Frame]) -> pl.DataFrame:
    """All symbols below each other, with a column `symbol`; an index of pandas becomes columns.

    Raises DataError where it is no frame, or where a single frame has several rows of a date.
    """
    if isinstance(data, Mapping):
        if not data:
            raise DataError("data: no frame given: write {symbol: frame}")
        each = [_polars(frame).with_columns(pl.lit(str(name)).alias(SYMBOL)) for name, frame in data.items()]
        return pl.concat(each, how="diagonal_relaxed")
    found = _polars(data)
    names = {name.lower() for name in found.columns}
    if names.isdisjoint({SYMBOL, "ticker", "tic", "sym", "code", "instrument", "asset", "stock"}):
        found = found.with_columns(pl.lit(ONE_SYMBOL).alias(SYMBOL))
    return found


def _polars(frame: Frame) -> pl.DataFrame:
    if isinstance(frame, pl.DataFrame):
        return frame
    if not _is_pandas(frame):
        kind = type(frame).__name__
        raise DataError(f"data: a {kind} is no frame: give a polars or pandas DataFrame, or a path")
    plain = frame if _is_counted(frame) else frame.reset_index()
    return pl.DataFrame({str(name): _column(plain[name].to_numpy()) for name in plain.columns})


def _column(values: NDArray[Any]) -> NDArray[Any] | list[str | None]:
    """A column of pandas as polars takes it: times in microseconds, objects as text."""
    if values.dtype == object:
        return [None if value is None or value != value else str(value) for value in values]
    return values.astype("datetime64[us]") if values.dtype.kind == "M" else values


def _is_pandas(frame: object) -> bool:
    module = sys.modules.get("pandas")
    return module is not None and isinstance(frame, module.DataFrame)


def _is_counted(frame: Any) -> bool:
    """Whether the rows of a pandas frame are merely numbered."""
    return type(frame.index).__name__ == "RangeIndex"


def _as_given(found: pl.DataFrame, data: Data) -> Any:
    """The frame in the kind of the data given."""
    one = next(iter(data.values()), None) if isinstance(data, Mapping) else data
    if not _is_pandas(one):
        return found
    import pandas

    return pandas.DataFrame({name: found[name].to_numpy() for name in found.columns})
